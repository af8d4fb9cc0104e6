//! From text to the tokens that a model reads.

/// Turns a question into a prompt and an answer into the tokens that follow it.
///
/// The command implements it over a tokenizer and a chat template; tests use bytes.
pub trait Encode {
    /// The prompt that ends where the answer begins: system turn, question, and the opening of the answer's turn.
    fn prompt(&self, system: Option<&str>, question: &str) -> Vec<u32>;

    /// The answer's own tokens, without the token that ends the turn.
    fn answer(&self, text: &str) -> Vec<u32>;
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Bytes modulo 61, with three control tokens above: all that the tiny model's vocabulary of 64 has room for.
    pub(crate) struct Bytes;

    const SYSTEM: u32 = 61;
    const USER: u32 = 62;
    const ASSISTANT: u32 = 63;

    impl Encode for Bytes {
        fn prompt(&self, system: Option<&str>, question: &str) -> Vec<u32> {
            let mut ids = vec![SYSTEM];
            ids.extend(self.answer(system.unwrap_or("Help.")));
            ids.push(USER);
            ids.extend(self.answer(question));
            ids.push(ASSISTANT);
            ids
        }
        fn answer(&self, text: &str) -> Vec<u32> {
            text.bytes().map(|b| u32::from(b % 61)).collect()
        }
    }

    #[test]
    fn a_prompt_keeps_the_shared_system_turn_first() {
        let (a, b) = (Bytes.prompt(None, "one"), Bytes.prompt(None, "two"));
        assert_eq!(a[..7], b[..7]);
        assert_ne!(a, b);
    }
}
