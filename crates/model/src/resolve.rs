//! From a model's name to its files on this machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::files::{bad_name, read_small};
use crate::{Error, Hub, ModelSpec, OnBytes, Result, known};

const MAIN: &str = "main";
const INDEX: &str = "model.safetensors.index.json";
const WEIGHTS: &str = "model.safetensors";
/// What belongs to a model besides its weights, where the repository has it.
const SMALL: [&str; 5] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];

impl ModelSpec {
    /// The model's file or folder, downloaded with the hub of the environment if it is not here. Files that are here
    /// open no socket.
    ///
    /// # Errors
    /// When it cannot be had ([`Error::Hub`], [`Error::Unavailable`]), `progress` says stop, or the name means no
    /// single model, or none with files ([`Error::Spec`]).
    pub fn fetch(&self, progress: &mut OnBytes<'_>) -> Result<PathBuf> {
        match self {
            Self::Path(path) => Ok(path.clone()),
            Self::Known(name) => known::get(name, progress),
            Self::Repo { .. } | Self::File { .. } => self.fetch_from(&Hub::from_env()?, progress),
            Self::OpenAi { .. } => Err(self.refused("is a server; here a model with files is needed")),
            Self::Toy(_) => Err(self.refused("is made, not read; here a model with files is needed")),
        }
    }

    /// [`ModelSpec::fetch`] with this hub, for specifications that name a repository.
    ///
    /// # Errors
    /// As [`ModelSpec::fetch`].
    pub fn fetch_from(&self, hub: &Hub, progress: &mut OnBytes<'_>) -> Result<PathBuf> {
        match self {
            Self::File { repo, revision, file } => hub.fetch(repo, revision.as_deref().unwrap_or(MAIN), file, progress),
            Self::Repo { repo, revision, quant } => {
                let revision = revision.as_deref().unwrap_or(MAIN);
                let snapshot = hub.snapshot(repo, revision);
                match quant {
                    Some(quant) => {
                        let here = snapshot.map(|folder| names_in(&folder)).unwrap_or_default();
                        if let [file] = quantised(&here, quant)[..] {
                            return hub.fetch(repo, revision, file, progress);
                        }
                        let (_, there) = hub.list(repo, revision)?;
                        match quantised(&there, quant)[..] {
                            [file] => hub.fetch(repo, revision, file, progress),
                            _ => Err(self.refused(&choice(&there))),
                        }
                    }
                    None => match snapshot.filter(|folder| is_complete(folder)) {
                        Some(folder) => Ok(folder),
                        None => self.fetch_all(hub, repo, revision, progress),
                    },
                }
            }
            _ => self.fetch(progress),
        }
    }

    fn fetch_all(&self, hub: &Hub, repo: &str, revision: &str, progress: &mut OnBytes<'_>) -> Result<PathBuf> {
        let (commit, there) = hub.list(repo, revision)?;
        let has = |name: &str| there.iter().any(|file| file == name);
        if !has(SMALL[0]) || !(has(INDEX) || has(WEIGHTS)) {
            return match &ggufs(&there)[..] {
                [file] => hub.fetch(repo, revision, file, progress),
                _ => Err(self.refused(&choice(&there))),
            };
        }
        // All of one commit, should somebody push meanwhile; the branch is noted when everything is here.
        let mut fetch = |file: &str| hub.fetch(repo, &commit, file, progress);
        let config = fetch(SMALL[0])?;
        for name in SMALL[1..].iter().filter(|name| has(name)) {
            fetch(name)?;
        }
        if has(INDEX) {
            for shard in shards(&fetch(INDEX)?)? {
                fetch(&shard)?;
            }
        } else {
            fetch(WEIGHTS)?;
        }
        hub.set_ref(repo, revision, &commit)?;
        Ok(config.parent().map(Path::to_path_buf).unwrap_or_default())
    }

    fn refused(&self, what: &str) -> Error {
        Error::Spec {
            text: self.to_string(),
            what: what.to_owned(),
        }
    }
}

fn ggufs(files: &[String]) -> Vec<&str> {
    files
        .iter()
        .map(String::as_str)
        .filter(|file| file.to_ascii_lowercase().ends_with(".gguf"))
        .collect()
}

/// The GGUF files whose names end with a quantisation, as in `model-Q4_K_M.gguf` and `model.Q4_1.gguf`.
fn quantised<'f>(files: &'f [String], quant: &str) -> Vec<&'f str> {
    let quant = quant.to_ascii_lowercase();
    let fits = |file: &&str| {
        let lower = file.to_ascii_lowercase();
        let before = lower.strip_suffix(".gguf").and_then(|stem| stem.strip_suffix(&quant));
        before.is_some_and(|before| before.is_empty() || before.ends_with(['-', '.', '/', '_']))
    };
    ggufs(files).into_iter().filter(fits).collect()
}

fn choice(files: &[String]) -> String {
    match &ggufs(files)[..] {
        [] => format!(
            "the repository has neither {WEIGHTS} with {} nor a .gguf file",
            SMALL[0]
        ),
        some => format!(
            "choose one of the repository's files by `:QUANT` or `hf://org/name/file`: {}",
            some.join(", ")
        ),
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn is_complete(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    let whole = || shards(&folder.join(INDEX)).is_ok_and(|all| all.iter().all(|shard| has(shard)));
    has(SMALL[0]) && if has(INDEX) { whole() } else { has(WEIGHTS) }
}

/// The files that an index of safetensors names.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    const LONGEST: u64 = 64 << 20;
    let bad = |found: String| Error::format(index, "weight_map", "an object of file names", found);
    let json: serde_json::Value =
        serde_json::from_slice(&read_small(index, LONGEST)?).map_err(|e| bad(e.to_string()))?;
    let map = json
        .get("weight_map")
        .and_then(|map| map.as_object())
        .ok_or_else(|| bad("none".to_owned()))?;
    let name = |value: &serde_json::Value| match value.as_str() {
        Some(name) if bad_name(name).is_none() => Ok(name.to_owned()),
        _ => Err(bad(value.to_string())),
    };
    map.values().map(name).collect()
}
