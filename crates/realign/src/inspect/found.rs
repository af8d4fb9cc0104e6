//! What was found out about a file or a folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// What a file or folder is, what is in it, what it is good for and what is wrong with it.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The file or folder.
    pub path: PathBuf,
    /// A word for machines: `gguf-model`, `peft-adapter`, `chat-jsonl`, ….
    pub kind: &'static str,
    /// What it is.
    pub what: String,
    /// Its size; of a folder, that of the files directly in it.
    pub bytes: u64,
    /// What is in it, by name, in the order to be shown.
    #[serde(serialize_with = "as_map")]
    pub facts: Vec<(String, String)>,
    /// Commands and programs that take it.
    pub fits: Vec<String>,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

fn as_map<S: serde::Serializer>(facts: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(facts.iter().map(|(name, value)| (name, value)))
}

impl Found {
    /// A finding without facts yet.
    pub fn new(path: &Path, kind: &'static str, what: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            kind,
            what: what.into(),
            bytes: bytes(path),
            facts: Vec::new(),
            fits: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// With this fact.
    pub fn fact(&mut self, name: impl Into<String>, value: impl ToString) {
        self.facts.push((name.into(), shown(&value.to_string())));
    }

    /// With this fact, if there is one.
    pub fn fact_if(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.fact(name, value);
        }
    }

    /// With this command or program that takes it.
    pub fn fit(&mut self, command: impl Into<String>) {
        self.fits.push(command.into());
    }

    /// With this problem.
    pub fn problem(&mut self, problem: impl ToString) {
        self.problems.push(problem.to_string());
    }

    /// A result whose error is a problem.
    pub fn try_to<T, E: std::fmt::Display>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|e| self.problem(e)).ok()
    }

    /// One screen.
    pub fn text(&self) -> String {
        let mut lines = vec![format!("{}  {}, {}", self.path.display(), self.what, size(self.bytes))];
        let width = self
            .facts
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        lines.extend(
            self.facts
                .iter()
                .map(|(name, value)| format!("  {name:width$}  {value}")),
        );
        let list = |title: &str, all: &[String]| all.iter().map(|one| format!("{title}{one}")).collect::<Vec<_>>();
        lines.extend(list("fits     ", &self.fits));
        match self.problems.is_empty() {
            true => lines.push("nothing wrong was found; weights were not read".into()),
            false => lines.extend(list("problem  ", &self.problems)),
        }
        lines.join("\n")
    }
}

/// Counts of things by name, as `7 F32, 2 Q8_0`.
pub fn counted<T: Ord + std::fmt::Display>(things: impl IntoIterator<Item = T>) -> String {
    let mut counts = BTreeMap::new();
    for thing in things {
        *counts.entry(thing).or_insert(0_usize) += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(thing, n)| format!("{n} {thing}")).collect();
    counts.join(", ")
}

/// A number of bytes for people.
pub fn size(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} bytes");
    }
    let mut value = bytes as f64;
    let mut unit = "";
    for next in units {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A text from a file, on one line and not too long: it must not write over the terminal.
fn shown(text: &str) -> String {
    let clean: String = text
        .chars()
        .map(|c| {
            if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c) {
                ' '
            } else {
                c
            }
        })
        .take(161)
        .collect();
    match clean.char_indices().nth(160) {
        Some((end, _)) => format!("{}…", &clean[..end]),
        None => clean,
    }
}

fn bytes(path: &Path) -> u64 {
    let of = |path: &Path| std::fs::metadata(path).map_or(0, |about| if about.is_file() { about.len() } else { 0 });
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| of(&entry.path())).sum(),
        Err(_) => of(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_are_for_people() {
        assert_eq!(
            [0, 999, 1000, 135_600_000].map(size),
            ["0 bytes", "999 bytes", "1.0 kB", "135.6 MB"]
        );
        assert_eq!(counted(["b", "a", "b"]), "1 a, 2 b");
    }

    #[test]
    fn what_a_file_says_cannot_write_over_the_terminal() {
        let mut found = Found::new(Path::new("x"), "x", "x");
        found.fact("name", "a\u{1b}[2J\n\u{202e}b");
        found.fact("long", "x".repeat(1000));
        assert_eq!(found.facts[0].1, "a [2J  b");
        assert_eq!(found.facts[1].1.chars().count(), 161);
    }
}
