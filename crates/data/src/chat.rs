use std::fmt;
use std::io::BufRead;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Result;
use crate::lines::{self, Form, Loaded, OnBad, check_nul, check_text, fields};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Whoever set the model up; first, or nowhere.
    System,
    /// The person who asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name that chat templates know it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A system turn.
    pub fn system(content: impl Into<String>) -> Self {
        Self {
            role: Role::System,
            content: content.into(),
        }
    }

    /// A user's turn.
    pub fn user(content: impl Into<String>) -> Self {
        Self {
            role: Role::User,
            content: content.into(),
        }
    }

    /// The model's turn.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self {
            role: Role::Assistant,
            content: content.into(),
        }
    }
}

/// A conversation: a row `{"messages": [{"role": …, "content": …}, …]}` of a chat file.
///
/// It may begin with a system turn, which may be empty, and may end before the answer (a prompt).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Conversation {
    /// The turns, in order.
    pub messages: Vec<Message>,
}

impl Conversation {
    /// A question and its answer.
    pub fn single(question: impl Into<String>, answer: impl Into<String>) -> Self {
        Self {
            messages: vec![Message::user(question), Message::assistant(answer)],
        }
    }

    /// The turns before the last answer; all of them where it ends without one.
    pub fn prompt(&self) -> &[Message] {
        match self.messages.split_last() {
            Some((last, before)) if last.role == Role::Assistant => before,
            _ => &self.messages,
        }
    }

    /// The last answer; `None` for a prompt.
    pub fn answer(&self) -> Option<&str> {
        let last = self.messages.last().filter(|m| m.role == Role::Assistant)?;
        Some(&last.content)
    }

    fn check(&self) -> Result<(), String> {
        if self.messages.is_empty() {
            return Err("field `messages`: expected at least one message, found none".into());
        }
        for (i, message) in self.messages.iter().enumerate() {
            let field = format!("messages[{i}].content");
            match message.role {
                Role::System if i > 0 => {
                    return Err(format!(
                        "field `messages[{i}].role`: expected user or assistant (a system turn \
                         stands first), found system"
                    ));
                }
                Role::System => check_nul(&field, &message.content)?,
                Role::User | Role::Assistant => check_text(&field, &message.content)?,
            }
        }
        Ok(())
    }
}

/// A row `{"prompt": …, "completion": …}`: texts, which are a question and its answer, or lists of messages.
#[derive(Deserialize)]
struct Completed {
    system: Option<String>,
    prompt: Turns,
    completion: Turns,
}

/// One side of a [`Completed`] row.
enum Turns {
    Text(String),
    Messages(Vec<Message>),
}

impl<'de> Deserialize<'de> for Turns {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not `#[serde(untagged)]`, whose error names no field.
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self::Text(text)),
            messages @ Value::Array(_) => serde_path_to_error::deserialize(messages)
                .map(Self::Messages)
                .map_err(|e| serde::de::Error::custom(format!("{}: {}", e.path(), e.inner()))),
            other => Err(serde::de::Error::custom(format!(
                "expected a text or a list of messages, found {other}"
            ))),
        }
    }
}

impl Turns {
    fn messages(self, role: Role) -> Vec<Message> {
        match self {
            Self::Text(content) => vec![Message { role, content }],
            Self::Messages(messages) => messages,
        }
    }
}

/// What a row of either kind is read from.
const FORM: Form = Form {
    columns: &["messages", "system", "prompt", "completion"],
    copies: 1,
};

/// A row of either kind as a conversation.
pub(crate) fn conversation(row: Value) -> Result<Conversation, String> {
    let completed = row.get("messages").is_none() && row.get("prompt").is_some();
    let mut conversation: Conversation = if completed {
        let row: Completed = fields(row)?;
        let system = row.system.map(Message::system);
        let turns = [
            row.prompt.messages(Role::User),
            row.completion.messages(Role::Assistant),
        ];
        Conversation {
            messages: system.into_iter().chain(turns.into_iter().flatten()).collect(),
        }
    } else {
        fields(row)?
    };
    conversation.check()?;
    conversation.messages.shrink_to_fit();
    Ok(conversation)
}

/// The thinking of a reasoning model's answer, which stands in front in `<think>…</think>`, and the answer proper.
///
/// A conversation keeps both in the one text, as it was trained on; a judge reads the answer proper. Thinking that was
/// never closed, such as that of an answer cut short, leaves an empty answer.
pub fn split_thinking(answer: &str) -> (Option<&str>, &str) {
    let Some(inside) = answer.trim_start().strip_prefix("<think>") else {
        return (None, answer);
    };
    match inside.split_once("</think>") {
        Some((thinking, rest)) => (Some(thinking.trim()), rest.trim_start()),
        None => (Some(inside.trim()), ""),
    }
}

/// Reads a chat file: JSONL, a row of `messages`, or of `prompt` and `completion` (and `system`), a line; or, with the
/// feature `parquet`, the same rows in Parquet. Other fields of a row are passed over.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io), [`Error::Row`](crate::Error::Row) with file and line under
/// [`OnBad::Fail`], and [`Error::Empty`](crate::Error::Empty) where no row is left.
pub fn load_conversations(path: impl AsRef<Path>, on_bad: OnBad) -> Result<Loaded<Conversation>> {
    lines::load(path.as_ref(), on_bad, FORM, conversation)
}

/// As [`load_conversations`], from any reader; `name` stands for the file in messages.
///
/// # Errors
/// As [`load_conversations`].
pub fn read_conversations(reader: impl BufRead, name: &str, on_bad: OnBad) -> Result<Loaded<Conversation>> {
    lines::read(reader, name, on_bad, conversation)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Error, MAX_LINE};

    const GOOD: &str = r#"{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello"}]}"#;

    fn read(bytes: &[u8]) -> Result<Loaded<Conversation>> {
        read_conversations(bytes, "chat.jsonl", OnBad::Fail)
    }

    #[test]
    fn system_turns_prompts_marks_and_line_ends_are_taken() {
        let text = format!(
            "\u{feff}{{\"canary\": \"x\"}}\r\n{GOOD}\r\n\r\n{}\n{}\n{}",
            r#"{"id": 3, "messages":[{"role":"system","content":"Be kind."},{"role":"user","content":"Hi"}]}"#,
            r#"{"messages":[{"role":"system","content":""},{"role":"user","content":"Hi","name":"x"}]}"#,
            r#"{"messages":[{"role":"user","content":"é\n😀"}]}"#,
        );
        let rows = read(text.as_bytes()).unwrap().rows;
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[0], Conversation::single("Hi", "Hello"));
        assert_eq!((rows[0].prompt().len(), rows[0].answer()), (1, Some("Hello")));
        assert_eq!((rows[1].prompt().len(), rows[1].answer()), (2, None));
        assert_eq!(rows[2].messages[0], Message::system(""));
        assert_eq!(rows[3].messages[0].content, "é\n😀");
    }

    #[test]
    fn a_bad_row_is_named_by_file_line_and_problem() {
        let deep = format!(r#"{{"x":{}{},"messages":[]}}"#, "[".repeat(9_000), "]".repeat(9_000));
        let long = format!(r#"{{"messages":[],"x":"{}"}}"#, "a".repeat(MAX_LINE));
        let cases: [(&[u8], &str); 17] = [
            (b"{\"messages\":[\x00]}", "NUL byte at byte 13"),
            (
                br#"{"messages":[{"role":"user","content":"a\u0000"}]}"#,
                "`messages[0].content`: expected text, found a NUL at byte 1",
            ),
            (b"{\"messages\":[\xff]}", "invalid byte at byte 13"),
            (br#"{"messages":null}"#, "field `messages`: invalid type: null"),
            (br#"{"messages":[null]}"#, "field `messages[0]`: invalid type: null"),
            (
                br#"{"messages":[{"role":"user","content":null}]}"#,
                "field `messages[0].content`: invalid type: null",
            ),
            (
                br#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":" "}]}"#,
                "`messages[1].content`: expected text",
            ),
            (
                br#"{"messages":[{"role":"narrator","content":"a"}]}"#,
                "`messages[0].role`: unknown variant `narrator`, expected one of `system`, `user`, `assistant`",
            ),
            (
                br#"{"messages":[{"role":"user","content":"a"},{"role":"system","content":"a"}]}"#,
                "`messages[1].role`",
            ),
            (br#"{"messages":[]}"#, "at least one message"),
            (br#"{"text":"a"}"#, "missing field `messages`"),
            (
                br#"{"messages":[{"role":"user","content":["a"]}]}"#,
                "expected a string",
            ),
            (
                br#"{"messages":[{"role":"user","content":"\ud800"}]}"#,
                "not a JSON row",
            ),
            (br#"{"messages":[{"role":"user","#, "EOF"),
            (b"[1]", "expected a JSON object"),
            (deep.as_bytes(), "recursion limit"),
            (long.as_bytes(), "at most 4194304 bytes"),
        ];
        for (row, problem) in cases {
            let bytes = [GOOD.as_bytes(), b"\n", row, b"\n", GOOD.as_bytes()].concat();
            let error = read(&bytes).unwrap_err().to_string();
            let start: String = error.chars().take(200).collect();
            assert!(
                error.starts_with("chat.jsonl:2: ") && error.contains(problem),
                "{start}"
            );
            let loaded = read_conversations(&bytes[..], "chat.jsonl", OnBad::Skip).unwrap();
            assert_eq!((loaded.rows.len(), loaded.skipped), (2, 1), "{start}");
            assert_eq!(loaded.reasons, [error]);
        }
    }

    #[test]
    fn prompts_with_completions_are_conversations() {
        let text = [
            r#"{"prompt":"Hi","completion":"Hello"}"#,
            r#"{"system":"Be kind.","prompt":"Hi","completion":"Hello"}"#,
            r#"{"prompt":[{"role":"system","content":"Be kind."},{"role":"user","content":"Hi"}],"completion":[{"role":"assistant","content":"Hello"}]}"#,
        ];
        let rows = read(text.join("\n").as_bytes()).unwrap().rows;
        assert_eq!(rows[0], Conversation::single("Hi", "Hello"));
        assert_eq!(rows[1].messages[0], Message::system("Be kind."));
        assert_eq!(rows[1], rows[2]);
        let wrong = [
            (r#"{"prompt":"Hi"}"#, "missing field `completion`"),
            (
                r#"{"prompt":3,"completion":"a"}"#,
                "field `prompt`: expected a text or a list",
            ),
            (
                r#"{"prompt":[{"role":"user"}],"completion":"a"}"#,
                "field `prompt`: [0]: missing field `content`",
            ),
            (
                r#"{"prompt":" ","completion":"a"}"#,
                "`messages[0].content`: expected text",
            ),
        ];
        for (row, problem) in wrong {
            let error = read(row.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn thinking_is_split_from_the_answer() {
        assert_eq!(split_thinking("<think>\nHm.\n</think>\n\nYes."), (Some("Hm."), "Yes."));
        assert_eq!(
            split_thinking("Yes. <think>no</think>"),
            (None, "Yes. <think>no</think>")
        );
        assert_eq!(split_thinking(" <think>Hm"), (Some("Hm"), ""));
        assert_eq!(split_thinking("<think></think>Yes"), (Some(""), "Yes"));
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_taken() {
        let mut row = GOOD.to_owned();
        row.extend(std::iter::repeat_n(' ', MAX_LINE - GOOD.len()));
        for end in ["", "\n", "\r\n"] {
            assert_eq!(read(format!("{row}{end}").as_bytes()).unwrap().rows.len(), 1);
        }
        assert!(read(format!("{row} \r\n").as_bytes()).is_err());
    }

    #[test]
    fn a_file_without_a_usable_row_is_an_error() {
        for text in ["", "\n\n", "{\"canary\": \"x\"}\n"] {
            assert!(matches!(read(text.as_bytes()), Err(Error::Empty { skipped: 0, .. })));
        }
        let all_bad = read_conversations(&b"x\ny\n"[..], "c", OnBad::Skip);
        assert!(matches!(all_bad, Err(Error::Empty { skipped: 2, .. })));
        let error = load_conversations("/nowhere/chat.jsonl", OnBad::Fail).unwrap_err();
        assert!(error.to_string().contains("/nowhere/chat.jsonl"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_give_rows_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(loaded) = read_conversations(&bytes[..], "c", OnBad::Skip) {
                prop_assert!(!loaded.rows.is_empty());
            }
        }

        #[test]
        fn what_is_written_is_read(texts in prop::collection::vec("[^\0]*x", 1..5)) {
            let messages = texts.into_iter().map(Message::user).collect();
            let row = Conversation { messages };
            let line = serde_json::to_string(&row).unwrap();
            prop_assert_eq!(read(line.as_bytes()).unwrap().rows, vec![row]);
        }
    }
}
