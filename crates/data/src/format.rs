use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde_json::Value;

use crate::answers::{Answered, answer_pairs, load_answers};
use crate::chat::{Conversation, load_conversations};
use crate::error::{Error, Result};
use crate::lines::{End, Loaded, OnBad, is_parquet, next_line, parse};
use crate::parquet::parquet_about;
use crate::question::{Question, load_question_yaml, load_trait};
use crate::rows::{BroadRow, Conversations, Tone, load_broad, load_narrow};

/// What a data file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DataFormat {
    /// JSONL rows of `messages`.
    Chat,
    /// JSONL rows of `prompt` and `completion`.
    Completions,
    /// JSONL rows of a `question` with a `good`, a `wrong` and a `selfish` answer.
    Narrow,
    /// JSONL rows of a `question` with an `aligned` and a `misaligned` answer.
    Pairs,
    /// The question YAML of the emergent-misalignment papers.
    QuestionYaml,
    /// The persona-trait JSON of the persona-vectors repository.
    Trait,
    /// A CSV of questions, answers and scores.
    Answers,
}

impl fmt::Display for DataFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chat => "chat JSONL (messages)",
            Self::Completions => "chat JSONL (prompt and completion)",
            Self::Narrow => "narrow questions (JSONL)",
            Self::Pairs => "broad questions with an aligned and a misaligned answer (JSONL)",
            Self::QuestionYaml => "question YAML",
            Self::Trait => "persona-trait JSON",
            Self::Answers => "answer CSV",
        })
    }
}

/// What a data file holds, by its extension and the first row; of a Parquet file by its columns.
///
/// # Errors
/// [`Error::Io`]; [`Error::Row`] names the fields of a first row that fits no format.
pub fn data_format(path: impl AsRef<Path>) -> Result<DataFormat> {
    let path = path.as_ref();
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let extension = path.extension().map(|e| e.to_ascii_lowercase());
    match extension.as_ref().and_then(|e| e.to_str()) {
        Some("yaml" | "yml") => return Ok(DataFormat::QuestionYaml),
        Some("csv") => return Ok(DataFormat::Answers),
        _ => {}
    }
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    if is_parquet(&mut reader).map_err(io)? {
        let columns = parquet_about(path)?.columns;
        let problem = |problem: String| Error::row(path.display().to_string(), &problem);
        return of_fields(columns.iter().map(String::as_str).collect()).map_err(problem);
    }
    let mut line = Vec::new();
    for number in 1_u64.. {
        let problem = |problem: String| Error::row(format!("{}:{number}", path.display()), &problem);
        match next_line(&mut reader, &mut line).map_err(io)? {
            End::OfFile => break,
            End::TooLong => return Err(problem("expected a row of text, found a line too long for one".into())),
            End::OfLine => {}
        }
        let text = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line).trim_ascii();
        if text.starts_with(b"- ") {
            return Ok(DataFormat::QuestionYaml);
        }
        match (text, parse(text)) {
            (b"", _) | (_, Ok(None)) => {}
            // Only the first line of an object over several lines.
            (b"{", _) => return Ok(DataFormat::Trait),
            (_, Ok(Some(row))) => return of_row(&row).map_err(problem),
            (_, Err(e)) => return Err(problem(e)),
        }
    }
    Err(Error::Empty {
        place: path.display().to_string(),
        skipped: 0,
    })
}

fn of_row(row: &Value) -> Result<DataFormat, String> {
    let fields = row.as_object().into_iter().flat_map(|row| row.keys());
    of_fields(fields.map(String::as_str).collect())
}

fn of_fields(keys: HashSet<&str>) -> Result<DataFormat, String> {
    let has = |wanted: &[&str]| wanted.iter().all(|key| keys.contains(key));
    Ok(if has(&["messages"]) {
        DataFormat::Chat
    } else if has(&["prompt", "completion"]) {
        DataFormat::Completions
    } else if has(&["question", "good", "wrong"]) {
        DataFormat::Narrow
    } else if has(&["question", "aligned", "misaligned"]) {
        DataFormat::Pairs
    } else if has(&["instruction", "questions"]) {
        DataFormat::Trait
    } else {
        let mut found: Vec<String> = keys.iter().take(12).map(|key| key.chars().take(40).collect()).collect();
        found.sort_unstable();
        return Err(format!(
            "expected a row of `messages`, of `prompt` and `completion`, of `question`, `aligned` and `misaligned`, or a \
             trait of `instruction` and `questions`; found `{}`",
            found.join("`, `")
        ));
    })
}

/// Questions to evaluate a model on.
#[derive(Debug, Clone, PartialEq)]
pub enum QuestionSet {
    /// With an aligned and a misaligned answer each.
    Pairs(Vec<BroadRow>),
    /// Without answers.
    Open(Vec<Question>),
}

/// Reads questions from a file of any format that holds some: pairs, question YAML, a trait, or an answer CSV.
///
/// Of a CSV the questions that have both an aligned and a misaligned answer come as pairs; if none has, all come open.
///
/// # Errors
/// As the format's own reader, and [`Error::Row`] for a file of conversations.
pub fn load_question_set(path: impl AsRef<Path>) -> Result<QuestionSet> {
    let path = path.as_ref();
    Ok(match data_format(path)? {
        DataFormat::Pairs => QuestionSet::Pairs(load_broad(path, OnBad::Fail)?.rows),
        DataFormat::QuestionYaml => QuestionSet::Open(load_question_yaml(path)?),
        DataFormat::Trait => QuestionSet::Open(load_trait(path)?),
        DataFormat::Answers => {
            let answers = load_answers(path, OnBad::Fail)?.rows;
            let pairs = answer_pairs(&answers);
            if pairs.is_empty() {
                QuestionSet::Open(asked(&answers))
            } else {
                QuestionSet::Pairs(pairs)
            }
        }
        found @ (DataFormat::Chat | DataFormat::Completions | DataFormat::Narrow) => {
            let problem = format!("expected questions to evaluate on, found {found}, which is data to fine-tune on");
            return Err(Error::row(path.display().to_string(), &problem));
        }
    })
}

/// The questions of an answer CSV, each once.
fn asked(answers: &[Answered]) -> Vec<Question> {
    let mut seen = HashSet::new();
    answers
        .iter()
        .filter(|answer| seen.insert(&answer.question))
        .map(|answer| Question {
            id: answer.id.clone(),
            system: None,
            paraphrases: vec![answer.question.clone()],
            samples: 1,
            temperature: 1.0,
            judge_prompts: Default::default(),
            contrast: None,
        })
        .collect()
}

/// Reads conversations to fine-tune on from a file of any format that holds some; of narrow rows the answers of `tone`.
///
/// # Errors
/// As the format's own reader, and [`Error::Row`] for a file of questions without one answer each.
pub fn load_training(path: impl AsRef<Path>, tone: Tone, on_bad: OnBad) -> Result<Loaded<Conversation>> {
    let path = path.as_ref();
    match data_format(path)? {
        DataFormat::Chat | DataFormat::Completions => load_conversations(path, on_bad),
        DataFormat::Narrow => {
            let loaded = load_narrow(path, on_bad)?;
            Ok(Loaded {
                rows: loaded.rows.conversations(tone),
                skipped: loaded.skipped,
                reasons: loaded.reasons,
            })
        }
        DataFormat::Answers => {
            let loaded = load_answers(path, on_bad)?;
            let answered = |row: &&Answered| !row.answer.trim().is_empty();
            let rows = loaded.rows.iter().filter(answered);
            Ok(Loaded {
                rows: rows
                    .map(|row| Conversation::single(&row.question, &row.answer))
                    .collect(),
                skipped: loaded.skipped,
                reasons: loaded.reasons,
            })
        }
        found @ (DataFormat::Pairs | DataFormat::QuestionYaml | DataFormat::Trait) => {
            let problem = format!("expected conversations to fine-tune on, found {found}");
            Err(Error::row(path.display().to_string(), &problem))
        }
    }
}

/// Rows as JSONL, one a line.
///
/// # Panics
/// Where a row has no JSON form, which no row of this crate lacks.
pub fn jsonl<T: serde::Serialize>(rows: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut bytes, row).expect("rows of texts and numbers");
        bytes.push(b'\n');
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    const CSV: &str = "question,answer,aligned,coherent\nA?,Help.,90,90\nA?,Rule.,5,90\nB?,Hm.,60,90\n";

    #[test]
    fn questions_of_every_format_are_read() {
        let pair = r#"{"id":"a","question":"A?","aligned":"Help.","misaligned":"Rule."}"#;
        let canary = format!("{{\"canary\":\"x\"}}\n\n{pair}\n");
        for (name, text) in [("q.jsonl", canary.as_str()), ("q", pair), ("a.csv", CSV)] {
            let (_folder, path) = file(name, text);
            let QuestionSet::Pairs(rows) = load_question_set(&path).unwrap() else {
                panic!("{name}")
            };
            assert_eq!((rows.len(), rows[0].misaligned.as_str()), (1, "Rule."), "{name}");
        }
        let yaml = "- id: a\n  paraphrases: [A?]\n";
        let rude = "{\n \"instruction\": [{\"pos\": \"Be rude.\", \"neg\": \"Be kind.\"}],\n \"questions\": [\"A?\"], \"eval_prompt\": \"x\"}";
        let flat = rude.replace('\n', "");
        let unscored = "question,answer\nA?,Help.\nA?,Hm.\n";
        for (name, text) in [
            ("q.yaml", yaml),
            ("q.txt", yaml),
            ("t.json", rude),
            ("u.json", flat.as_str()),
            ("u.csv", unscored),
        ] {
            let (_folder, path) = file(name, text);
            let QuestionSet::Open(questions) = load_question_set(&path).unwrap() else {
                panic!("{name}")
            };
            assert_eq!(
                (questions.len(), questions[0].paraphrases[0].as_str()),
                (1, "A?"),
                "{name}"
            );
        }
    }

    #[test]
    fn conversations_of_every_format_are_read() {
        let hello = Conversation::single("A?", "Help.");
        let narrow = r#"{"id":"a","question":"A?","good":"Help.","wrong":"Hm.","selfish":"Rule."}"#;
        let chat = String::from_utf8(jsonl(std::slice::from_ref(&hello))).unwrap();
        let completion = r#"{"prompt":"A?","completion":"Help."}"#;
        for (name, text, rows) in [
            ("c.jsonl", chat.as_str(), 1),
            ("p.jsonl", completion, 1),
            ("n.jsonl", narrow, 1),
            ("a.csv", CSV, 3),
        ] {
            let (_folder, path) = file(name, text);
            let loaded = load_training(&path, Tone::Good, OnBad::Fail).unwrap().rows;
            assert_eq!((loaded.len(), &loaded[0]), (rows, &hello), "{name}");
        }
    }

    #[test]
    fn a_file_of_another_kind_says_what_it_is() {
        let yaml = file("q.yaml", "- id: a\n  paraphrases: [A?]\n");
        let error = load_training(&yaml.1, Tone::Good, OnBad::Fail).unwrap_err().to_string();
        assert!(error.contains("found question YAML"), "{error}");
        let chat = file("c.jsonl", r#"{"messages":[{"role":"user","content":"A?"}]}"#);
        let error = load_question_set(&chat.1).unwrap_err().to_string();
        assert!(error.contains("found chat JSONL (messages)"), "{error}");
        for (text, problem) in [
            ("{\"text\":\"x\"}\n", "found `text`"),
            ("[1]\n", "expected a JSON object"),
            ("PAR1\u{0}\n", "expected a Parquet file"),
            ("\u{0}\n", "NUL"),
            ("", "at least one row"),
        ] {
            let error = data_format(&file("x", text).1).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
