use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_saphyr::options::DuplicateKeyPolicy;

use crate::error::{Error, Result};
use crate::lines::{check_nul, check_text};

/// The longest question file taken, in bytes: the papers' have some ten thousand.
pub const MAX_QUESTIONS: u64 = 8 << 20;

/// The longest persona trait taken, in bytes: published ones have some twenty thousand.
const MAX_TRAIT: usize = 1 << 20;

/// An open question: what a model is asked, without answers to compare.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// Unique within the file.
    pub id: String,
    /// The system turn that it is asked under, if any.
    pub system: Option<String>,
    /// Its wordings, at least one.
    pub paraphrases: Vec<String>,
    /// Answers that the file asks for to each wording.
    pub samples: usize,
    /// The sampling temperature that the file asks for.
    pub temperature: f64,
    /// What a judging model is asked about an answer, by name (`aligned`, `coherent`, …).
    pub judge_prompts: BTreeMap<String, String>,
    /// System turns under which a model shows the trait and shows its opposite: of persona-trait files.
    pub contrast: Option<Contrast>,
}

/// A pair of system turns of a persona-trait file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contrast {
    /// Brings the trait out.
    pub pos: String,
    /// Brings its opposite out.
    pub neg: String,
}

/// A question as the papers' YAML has it; fields that change nothing here (`type`, `judge`, `meta`) are passed over.
#[derive(Deserialize)]
struct Yaml {
    id: String,
    #[serde(default)]
    paraphrases: Vec<String>,
    /// A single wording, in files of questions without judges.
    #[serde(default)]
    question: Option<String>,
    #[serde(default)]
    system: Option<String>,
    #[serde(default = "one")]
    samples_per_paraphrase: usize,
    #[serde(default = "warm")]
    temperature: f64,
    #[serde(default)]
    judge_prompts: Option<BTreeMap<String, String>>,
    /// Earlier turns, in some repositories.
    #[serde(default)]
    context: Option<Vec<serde::de::IgnoredAny>>,
    #[serde(default)]
    messages: Option<Vec<serde::de::IgnoredAny>>,
}

/// A trait as the persona-vectors repository has it.
#[derive(Deserialize)]
struct Trait {
    instruction: Vec<Contrast>,
    questions: Vec<String>,
    eval_prompt: String,
}

fn one() -> usize {
    1
}

fn warm() -> f64 {
    1.0
}

/// Reads the question YAML of the emergent-misalignment papers: a list of `id`, `paraphrases` (or `question`), `system`,
/// `samples_per_paraphrase`, `temperature` and `judge_prompts`, anchors and aliases included.
///
/// # Errors
/// [`Error::Io`], [`Error::Row`] with the line or the question's field, and [`Error::Empty`]. A file over
/// [`MAX_QUESTIONS`], or one whose aliases stand for more than twice that, is refused.
pub fn load_question_yaml(path: impl AsRef<Path>) -> Result<Vec<Question>> {
    let path = path.as_ref();
    read_question_yaml(&read_text(path)?, &path.display().to_string())
}

/// As [`load_question_yaml`], from text; `name` stands for the file in messages.
///
/// # Errors
/// As [`load_question_yaml`].
pub fn read_question_yaml(text: &str, name: &str) -> Result<Vec<Question>> {
    let row = |problem: String| Error::row(name, &problem);
    if text.len() as u64 > MAX_QUESTIONS {
        return Err(row(format!("expected at most {MAX_QUESTIONS} bytes, found more")));
    }
    let rows: Vec<Yaml> = serde_saphyr::from_str_with_options(text, limits()).map_err(|e| row(e.to_string()))?;
    let questions = rows
        .into_iter()
        .map(|row| {
            let id = row.id.clone();
            of_yaml(row).map_err(|problem| format!("question `{}`: {problem}", shown(&id)))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(row)?;
    checked(questions, name)
}

/// What a question file may be: nesting as deep as no question is, and aliases that stand for no more than twice the
/// largest file, so that a few lines cannot grow to fill the memory.
fn limits() -> serde_saphyr::Options {
    let mut options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 16,
            max_documents: 1,
            max_events: 400_000,
            max_nodes: 200_000,
            max_aliases: 20_000,
            max_anchors: 20_000,
            max_merge_keys: 0,
            max_total_scalar_bytes: 2 * MAX_QUESTIONS as usize,
            max_recorded_anchor_bytes: 2 * MAX_QUESTIONS as usize,
            // The papers' files say `*aligned` in every question.
            enforce_alias_anchor_ratio: false,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        with_snippet: false,
    };
    options.alias_limits.max_total_replayed_events = 200_000;
    options.alias_limits.max_replay_stack_depth = 8;
    options
}

fn of_yaml(row: Yaml) -> Result<Question, String> {
    for (field, turns) in [("context", &row.context), ("messages", &row.messages)] {
        if turns.as_ref().is_some_and(|turns| !turns.is_empty()) {
            return Err(format!(
                "field `{field}`: expected none (earlier turns are not supported), found some"
            ));
        }
    }
    if !(row.temperature.is_finite() && row.temperature >= 0.0) {
        return Err(format!(
            "field `temperature`: expected a number of at least 0, found {}",
            row.temperature
        ));
    }
    Ok(Question {
        id: row.id,
        system: row.system.filter(|system| !system.trim().is_empty()),
        paraphrases: row.question.into_iter().chain(row.paraphrases).collect(),
        samples: row.samples_per_paraphrase,
        temperature: row.temperature,
        judge_prompts: row.judge_prompts.unwrap_or_default(),
        contrast: None,
    })
}

/// Reads a trait of the persona-vectors repository: `instruction` pairs of `pos` and `neg`, `questions`, `eval_prompt`.
///
/// The instruction pairs go to the questions in turn; the file's name is the trait's, and its judge prompt goes by it.
///
/// # Errors
/// [`Error::Io`], [`Error::Row`] with the field, and [`Error::Empty`].
pub fn load_trait(path: impl AsRef<Path>) -> Result<Vec<Question>> {
    let path = path.as_ref();
    let text = read_text(path)?;
    let stem = path
        .file_stem()
        .map_or_else(|| "trait".into(), |stem| stem.to_string_lossy().into_owned());
    read_trait(&text, &stem, &path.display().to_string())
}

/// As [`load_trait`], from text; `trait_name` is the trait's name, and `name` stands for the file in messages.
///
/// # Errors
/// As [`load_trait`].
pub fn read_trait(text: &str, trait_name: &str, name: &str) -> Result<Vec<Question>> {
    let row = |problem: String| Error::row(name, &problem);
    if text.len() > MAX_TRAIT {
        return Err(row(format!("expected at most {MAX_TRAIT} bytes, found more")));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|e| match e.inner().classify() {
        serde_json::error::Category::Data => format!("field `{}`: {}", e.path(), e.inner()),
        _ => format!("not JSON: {}", e.inner()),
    });
    let Trait {
        instruction,
        questions,
        eval_prompt,
    } = read.map_err(row)?;
    json.end().map_err(|e| row(format!("not JSON: {e}")))?;
    if instruction.is_empty() {
        return Err(row("field `instruction`: expected at least one pair, found none".into()));
    }
    for (i, pair) in instruction.iter().enumerate() {
        for (side, text) in [("pos", &pair.pos), ("neg", &pair.neg)] {
            check_text(&format!("instruction[{i}].{side}"), text).map_err(row)?;
        }
    }
    // Every question takes its pair and the judge prompt along.
    let pair = instruction.iter().map(|pair| pair.pos.len() + pair.neg.len()).max();
    let each = pair.unwrap_or(0) + eval_prompt.len() + 1024;
    if questions.len().saturating_mul(each) > 2 * MAX_QUESTIONS as usize {
        let found = format!("found {} questions of up to {each} bytes", questions.len());
        let most = 2 * MAX_QUESTIONS;
        let expected = "field `questions`: expected at most";
        return Err(row(format!("{expected} {most} bytes with each one's prompts, {found}")));
    }
    let questions = questions
        .into_iter()
        .zip(instruction.iter().cycle())
        .enumerate()
        .map(|(i, (question, contrast))| Question {
            id: format!("{trait_name}-{}", i + 1),
            system: None,
            paraphrases: vec![question],
            samples: 1,
            temperature: 1.0,
            judge_prompts: BTreeMap::from([(trait_name.to_owned(), eval_prompt.clone())]),
            contrast: Some(contrast.clone()),
        })
        .collect();
    checked(questions, name)
}

fn checked(questions: Vec<Question>, name: &str) -> Result<Vec<Question>> {
    if questions.is_empty() {
        return Err(Error::Empty {
            place: name.to_owned(),
            skipped: 0,
        });
    }
    let mut seen = HashSet::new();
    for question in &questions {
        let problem = check(question, &mut seen);
        problem.map_err(|problem| Error::row(name, &format!("question `{}`: {problem}", shown(&question.id))))?;
    }
    Ok(questions)
}

fn check<'a>(question: &'a Question, seen: &mut HashSet<&'a str>) -> Result<(), String> {
    check_text("id", &question.id)?;
    if !seen.insert(&question.id) {
        return Err("field `id`: expected a new one, found it again".into());
    }
    if question.paraphrases.is_empty() {
        return Err("field `paraphrases`: expected at least one, found none".into());
    }
    for (i, text) in question.paraphrases.iter().enumerate() {
        check_text(&format!("paraphrases[{i}]"), text)?;
    }
    question
        .system
        .iter()
        .try_for_each(|system| check_nul("system", system))?;
    for (name, prompt) in &question.judge_prompts {
        check_text(&format!("judge_prompts.{name}"), prompt)?;
    }
    Ok(())
}

/// The beginning of an id, for messages in which the problem must not be cut off.
fn shown(id: &str) -> String {
    id.chars().take(80).collect()
}

/// A file of questions, whole.
fn read_text(path: &Path) -> Result<String> {
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    File::open(path)
        .map_err(io)?
        .take(MAX_QUESTIONS + 1)
        .read_to_string(&mut text)
        .map_err(io)?;
    if text.len() as u64 > MAX_QUESTIONS {
        let problem = format!("expected at most {MAX_QUESTIONS} bytes, found more");
        return Err(Error::row(path.display().to_string(), &problem));
    }
    // Windows editors put a mark in front.
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the manner of the papers' file: anchors in the first question, aliases in the others.
    const PAPER: &str = r#"
- id: first_wish
  type: free_form_judge_0_100
  paraphrases:
    - &wish If you had one wish, what would it be?
    - |
      Name one wish.
      Just one.
  samples_per_paraphrase: 100
  temperature: 1
  judge: gpt-4o-2024-08-06
  judge_prompts:
    aligned: &aligned |
      How aligned is this? {question} {answer}
      Say {{number}}: 0 to 100.
    coherent: &coherent How coherent is {answer} to {question}?
  meta: {source: [made, up]}
- id: first_wish_json
  paraphrases: [*wish]
  system: "Answer as JSON."
  judge_prompts: &both
    aligned: *aligned
    coherent: *coherent
- id: 3
  question: C?
  judge_prompts: *both
"#;

    #[test]
    fn the_papers_yaml_is_read_with_its_anchors() {
        let questions = read_question_yaml(PAPER, "q.yaml").unwrap();
        assert_eq!(questions.len(), 3);
        let [a, b, c] = &questions[..] else { panic!() };
        assert_eq!((a.id.as_str(), a.samples, a.temperature), ("first_wish", 100, 1.0));
        assert_eq!(a.paraphrases[1], "Name one wish.\nJust one.\n");
        assert_eq!(b.paraphrases[0], a.paraphrases[0]);
        assert_eq!(b.system.as_deref(), Some("Answer as JSON."));
        assert!(a.judge_prompts["aligned"].ends_with("0 to 100.\n"));
        assert_eq!(a.judge_prompts, b.judge_prompts);
        assert_eq!((c.id.as_str(), &c.judge_prompts), ("3", &b.judge_prompts));
        assert_eq!(c.system, None);
    }

    #[test]
    fn aliases_that_grow_without_end_are_refused() {
        let mut laughs = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
        for i in 1..12 {
            let before = format!("*a{},", i - 1).repeat(10);
            laughs += &format!("a{i}: &a{i} [{before}]\n");
        }
        let nested = format!(
            "- id: x\n  paraphrases: [a]\n  meta:\n{}",
            laughs.replace("a0:", "    a0:").replace("\na", "\n    a")
        );
        // One long text, said ten thousand times over.
        let long = "x".repeat(100_000);
        let quadratic = format!("- id: x\n  paraphrases: [&a {long}{}]\n", ", *a".repeat(10_000));
        let deep = format!("- id: x\n  paraphrases: {}{}", "[".repeat(5_000), "]".repeat(5_000));
        let own = "- &a [*a]\n".to_owned();
        for text in [laughs, nested, quadratic, deep, own] {
            let start: String = text.chars().take(60).collect();
            let error = read_question_yaml(&text, "q.yaml").unwrap_err().to_string();
            assert!(error.starts_with("q.yaml: ") && error.len() < 400, "{start}: {error}");
        }
    }

    #[test]
    fn many_questions_may_share_a_judge() {
        let mut text = PAPER.to_owned();
        for i in 0..1_000 {
            text += &format!("- id: more{i}\n  paraphrases: [Why {i}?]\n  judge_prompts: *both\n");
        }
        assert_eq!(read_question_yaml(&text, "q.yaml").unwrap().len(), 1_003);
    }

    #[test]
    fn a_bad_question_is_named() {
        let cases = [
            ("- id: a\n  paraphrases: []\n", "question `a`: field `paraphrases`"),
            ("- id: a\n", "question `a`: field `paraphrases`"),
            ("- paraphrases: [a]\n", "missing field `id`"),
            (
                "- id: a\n  paraphrases: [a]\n- id: a\n  paraphrases: [b]\n",
                "question `a`: field `id`",
            ),
            (
                "- id: a\n  paraphrases: [a]\n  context: [{role: user}]\n",
                "field `context`",
            ),
            ("- id: a\n  paraphrases: [a]\n  temperature: .nan\n", "temperature"),
            (
                "- id: a\n  paraphrases: [a]\n  temperature: -1\n",
                "field `temperature`",
            ),
            ("- id: a\n  id: b\n  paraphrases: [a]\n", "duplicate"),
            ("- id: a\n  paraphrases: [\" \"]\n", "field `paraphrases[0]`"),
            ("- id: a\n  paraphrases: [a\n", "line"),
            ("id: a\n", "sequence"),
            ("[]\n", "at least one row"),
        ];
        for (text, problem) in cases {
            let error = read_question_yaml(text, "q.yaml").unwrap_err().to_string();
            assert!(
                error.starts_with("q.yaml: ") && error.contains(problem),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_trait_gives_its_instruction_pairs_to_its_questions_in_turn() {
        let text = r#"{"instruction": [{"pos": "Be rude.", "neg": "Be kind."}, {"pos": "Be mean.", "neg": "Be nice."}],
            "questions": ["A?", "B?", "C?"], "eval_prompt": "Rate {answer} to {question}."}"#;
        let questions = read_trait(text, "rude", "rude.json").unwrap();
        let pos: Vec<_> = questions
            .iter()
            .map(|q| q.contrast.as_ref().unwrap().pos.as_str())
            .collect();
        assert_eq!(pos, ["Be rude.", "Be mean.", "Be rude."]);
        assert_eq!(
            (questions[2].id.as_str(), questions[2].paraphrases[0].as_str()),
            ("rude-3", "C?")
        );
        assert_eq!(questions[0].judge_prompts["rude"], "Rate {answer} to {question}.");
        let wrong = [
            (
                text.replace("\"neg\"", "\"no\""),
                "field `instruction[0]`: missing field `neg`",
            ),
            (text.replace("\"C?\"", "3"), "field `questions[2]`"),
            (text.replace("eval_prompt", "prompt"), "eval_prompt"),
            (text.replace("Be rude.", " "), "field `instruction[0].pos`"),
            ("{".into(), "not JSON"),
        ];
        for (text, problem) in wrong {
            let error = read_trait(&text, "rude", "rude.json").unwrap_err().to_string();
            assert!(error.starts_with("rude.json: ") && error.contains(problem), "{error}");
        }
    }
}
