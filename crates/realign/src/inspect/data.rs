//! Data to train on and questions to evaluate with.

use std::path::Path;

use realign_data::{Answered, Conversation, DataFormat, Loaded, OnBad, Role, Tone};

use super::found::{Found, counted};

/// A data file; none where no format fits.
pub fn inspect(path: &Path) -> Option<Found> {
    let format = realign_data::data_format(path).ok()?;
    let kind = match format {
        DataFormat::Chat => "chat-jsonl",
        DataFormat::Completions => "completion-jsonl",
        DataFormat::Narrow => "narrow-jsonl",
        DataFormat::Pairs => "question-jsonl",
        DataFormat::QuestionYaml => "question-yaml",
        DataFormat::Trait => "trait-json",
        DataFormat::Answers => "answer-csv",
        _ => "data",
    };
    let mut found = Found::new(path, kind, format.to_string());
    match format {
        DataFormat::Chat | DataFormat::Completions | DataFormat::Narrow => conversations(&mut found, path),
        DataFormat::Answers => answers(&mut found, path),
        _ => questions(&mut found, path),
    }
    Some(found)
}

/// A Parquet file: what is in it, and the rows as what they are.
pub fn parquet(path: &Path) -> Found {
    let mut found = Found::new(path, "parquet", "Parquet");
    let Some(about) = found.try_to(realign_data::parquet_about(path)) else {
        return found;
    };
    found.fact("rows in it", format!("{} in {} groups", about.rows, about.groups));
    found.fact("columns", about.columns.join(", "));
    found.fact("compression", about.compression.join(", "));
    found.fact_if("written by", about.writer);
    match found.try_to(realign_data::data_format(path)) {
        Some(format @ (DataFormat::Chat | DataFormat::Completions | DataFormat::Narrow)) => {
            found.what = format!("Parquet of {}", rows(format));
            conversations(&mut found, path);
        }
        Some(format @ DataFormat::Pairs) => {
            found.what = format!("Parquet of {}", rows(format));
            questions(&mut found, path);
        }
        Some(format) => found.problem(format!(
            "expected rows to fine-tune on or questions, found those of {format}"
        )),
        None => {}
    }
    found
}

/// What the rows are, whatever the file.
fn rows(format: DataFormat) -> &'static str {
    match format {
        DataFormat::Chat => "conversations (messages)",
        DataFormat::Completions => "conversations (prompt and completion)",
        DataFormat::Narrow => "narrow questions",
        _ => "broad questions with an aligned and a misaligned answer",
    }
}

fn conversations(found: &mut Found, path: &Path) {
    let loaded = realign_data::load_training(path, Tone::Good, OnBad::Skip);
    if let Some(loaded) = found.try_to(loaded) {
        bad_rows(found, &loaded);
        let rows = &loaded.rows;
        found.fact("rows", rows.len());
        let turns = rows.iter().flat_map(|row| &row.messages);
        found.fact("turns", counted(turns.clone().map(|message| message.role.to_string())));
        let answered = rows.iter().filter(|row| row.answer().is_some()).count();
        if answered < rows.len() {
            found.problem(format!(
                "{} of {} rows end without an answer to learn",
                rows.len() - answered,
                rows.len()
            ));
        }
        let thinks = |row: &&Conversation| {
            row.answer()
                .is_some_and(|answer| realign_data::split_thinking(answer).0.is_some())
        };
        let thinking = rows.iter().filter(thinks).count();
        if thinking > 0 {
            found.fact("thinking", format!("{thinking} answers begin with <think>"));
        }
        let longest = rows
            .iter()
            .map(|row| row.messages.iter().map(|m| m.content.len()).sum::<usize>())
            .max();
        found.fact_if("longest row", longest.map(|bytes| format!("{bytes} bytes of text")));
        if turns.clone().all(|message| message.role != Role::System) {
            found.fact("system turns", "none");
        }
    }
    found.fit(format!("realign finetune --data {} --out DIR", path.display()));
}

fn answers(found: &mut Found, path: &Path) {
    let loaded = realign_data::load_answers(path, OnBad::Skip);
    if let Some(loaded) = found.try_to(loaded) {
        bad_rows(found, &loaded);
        found.fact("answers", loaded.rows.len());
        let scores = loaded.rows.iter().flat_map(|row: &Answered| row.scores.keys());
        found.fact("scores", counted(scores));
        let pairs = realign_data::answer_pairs(&loaded.rows).len();
        found.fact("questions with both an aligned and a misaligned answer", pairs);
    }
    found.fit(format!("realign eval --questions {}", path.display()));
    found.fit(format!("realign finetune --data {} --out DIR", path.display()));
}

fn questions(found: &mut Found, path: &Path) {
    let loaded = realign_data::load_question_set(path);
    match found.try_to(loaded) {
        Some(realign_data::QuestionSet::Pairs(rows)) => {
            found.fact("questions", rows.len());
            found.fact("kinds", counted(rows.iter().map(|row| row.kind.clone())));
        }
        Some(realign_data::QuestionSet::Open(questions)) => {
            let wordings: usize = questions.iter().map(|question| question.paraphrases.len()).sum();
            found.fact(
                "questions",
                format!("{} in {wordings} wordings, without answers", questions.len()),
            );
            let systems = questions.iter().filter(|question| question.system.is_some()).count();
            found.fact("under a system turn", systems);
            let judges = questions.iter().flat_map(|question| question.judge_prompts.keys());
            found.fact("judge prompts", counted(judges));
        }
        None => {}
    }
    found.fit(format!("realign eval --questions {}", path.display()));
    found.fit(format!("realign audit BASE TUNED --questions {}", path.display()));
}

fn bad_rows<T>(found: &mut Found, loaded: &Loaded<T>) {
    if loaded.skipped > 0 {
        found.problem(format!("{} bad rows", loaded.skipped));
        loaded.reasons.iter().take(3).for_each(|reason| found.problem(reason));
    }
}
