//! Text to token ids and back.

use crate::checkpoint::hex;
use crate::vocabulary::{self, Built};
use crate::{Gguf, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tokenizers::{DecoderWrapper, PostProcessorWrapper};

/// Encoded along with the vocabulary into [`Tokenizer::hash`], so that tokenizers that cut text
/// differently differ.
const PROBE: &str = "It's 12345 naïve\tcafés, 3.14\n\n  and  “more” — नमस्ते 👋🏽 C'EST!\r\n";

/// Characters of a text on which no pattern can take long.
const PART: usize = 16;

/// A byte-pair tokenizer.
///
/// A special token's *text* means nothing in [`Tokenizer::encode_text`]: what a user writes cannot
/// become a control token.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Special tokens by their text, longest first.
    specials: Vec<Special>,
    /// What special tokens begin with: most bytes of a text need no further look.
    first_bytes: Vec<u8>,
    bos: Option<u32>,
    eos: Option<u32>,
    unk: Option<u32>,
    adds_bos: bool,
    size: usize,
    hash: OnceLock<String>,
}

struct Special {
    text: String,
    id: u32,
    /// Whether white space before and after the token belongs to it.
    strips: (bool, bool),
}

/// A special token in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) id: u32,
    /// The token itself.
    pub(crate) range: Range<usize>,
    /// The token with the white space that belongs to it.
    pub(crate) outer: Range<usize>,
}

/// A token and the bytes of text that it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) id: u32,
    pub(crate) range: Range<usize>,
}

impl Tokenizer {
    /// Reads a Hugging Face `tokenizer.json` (BPE), and which tokens begin and end a text from
    /// `tokenizer_config.json` or `config.json` beside it.
    ///
    /// # Errors
    /// When the vocabulary, merges or added tokens do not hold together, or an option is not
    /// implemented.
    pub fn from_file(path: &Path) -> Result<Self> {
        vocabulary::from_file(path).map(Self::new)
    }

    /// Builds the tokenizer in a GGUF's metadata: `tokenizer.ggml.model` = `gpt2` with
    /// `tokenizer.ggml.pre` one of `smollm`, `gpt-2`, `llama-bpe`, `qwen2`, or `llama` (SentencePiece).
    ///
    /// # Errors
    /// Another kind is refused by name; so is a vocabulary that does not hold together.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        vocabulary::from_gguf(gguf).map(Self::new)
    }

    fn new(built: Built) -> Self {
        let Built {
            mut inner,
            bos,
            eos,
            unk,
            adds_bos,
        } = built;
        // Special tokens are found here, where it is known who wrote the text, and never in there.
        inner.set_encode_special_tokens(true);
        let added = inner.get_added_tokens_decoder();
        let mut specials: Vec<Special> = added
            .iter()
            .filter(|(_, token)| token.special)
            .map(|(&id, token)| Special {
                text: token.content.clone(),
                id,
                strips: (token.lstrip, token.rstrip),
            })
            .collect();
        specials.sort_by(|a, b| b.text.len().cmp(&a.text.len()).then(a.text.cmp(&b.text)));
        let top = inner.get_vocab(true).into_values().max().unwrap_or(0);
        let size = top as usize + 1;
        let mut first_bytes: Vec<u8> = specials.iter().map(|s| s.text.as_bytes()[0]).collect();
        first_bytes.sort_unstable();
        first_bytes.dedup();
        Self {
            inner,
            specials,
            first_bytes,
            bos,
            eos,
            unk,
            adds_bos,
            size,
            hash: OnceLock::new(),
        }
    }

    /// Token ids of a text. A special token's text in it is encoded as the letters that it is; a
    /// byte without a token becomes the unknown token, and nothing is dropped.
    pub fn encode_text(&self, text: &str) -> Vec<u32> {
        self.pieces(text, 0).into_iter().map(|piece| piece.id).collect()
    }

    /// Token ids of a text in which the text of a special token stands for that token. For text
    /// that the program wrote, never for what came from outside.
    pub fn encode_with_special(&self, text: &str) -> Vec<u32> {
        let found = self.find_special(text, &[]);
        self.encode_around(text, &found)
            .into_iter()
            .map(|piece| piece.id)
            .collect()
    }

    /// The text of some tokens. Control tokens are left out, bytes that are no UTF-8 replaced by
    /// `�`, ids outside of the vocabulary ignored.
    pub fn decode(&self, ids: &[u32]) -> String {
        // The decoders that a checked tokenizer can have do not fail on tokens of its vocabulary.
        self.inner.decode(ids, true).unwrap_or_default()
    }

    /// One token for display, control tokens included; empty outside of the vocabulary.
    pub fn token_text(&self, id: u32) -> String {
        let Some(token) = self.inner.id_to_token(id) else {
            return String::new();
        };
        if self.specials.iter().any(|special| special.id == id) {
            return token;
        }
        match self.inner.get_decoder() {
            // These join words with spaces or strip the first one, which one token alone must keep.
            Some(DecoderWrapper::ByteLevel(_)) => self.inner.decode(&[id], false).unwrap_or(token),
            _ => match byte(&token) {
                Some(byte) => String::from_utf8_lossy(&[byte]).into_owned(),
                None => token.replace('▁', " "),
            },
        }
    }

    /// The id of a token, given as it stands in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether a token is a control token.
    pub fn is_special(&self, id: u32) -> bool {
        self.specials.iter().any(|special| special.id == id)
    }

    /// The token that ends a turn or a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token for bytes that have none.
    pub fn unk(&self) -> Option<u32> {
        self.unk
    }

    /// Whether the model expects [`Tokenizer::bos`] before a raw text. No `encode_*` adds it, and a
    /// chat template writes its own.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// One more than the largest id. The embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.size
    }

    /// The library's own object.
    pub(crate) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    /// As the text of a Hugging Face `tokenizer.json`, or why it cannot be.
    pub(crate) fn to_json(&self) -> std::result::Result<String, String> {
        let mut inner = self.inner.clone();
        if let Some(bos) = self.bos.filter(|_| self.adds_bos) {
            let token = self.token_text(bos);
            let framed = |text: &[&str]| -> Vec<Value> {
                let parts = text.iter().enumerate();
                let parts = parts.flat_map(|(i, text)| {
                    [
                        json!({"SpecialToken": {"id": token, "type_id": i}}),
                        json!({"Sequence": {"id": text, "type_id": i}}),
                    ]
                });
                parts.collect()
            };
            let processor = json!({
                "type": "TemplateProcessing", "single": framed(&["A"]), "pair": framed(&["A", "B"]),
                "special_tokens": {&token: {"id": token, "ids": [bos], "tokens": [token]}},
            });
            let processor: PostProcessorWrapper = serde_json::from_value(processor).map_err(|e| e.to_string())?;
            inner.with_post_processor(Some(processor));
        }
        inner.to_string(false).map_err(|e| e.to_string())
    }

    /// A text that the other tokenizer, which is to be the same, cuts in another way.
    pub(crate) fn differs_from(&self, other: &Self) -> Option<&'static str> {
        [
            PROBE,
            " leading",
            "trailing ",
            "  two  spaces",
            "\n",
            "a\u{301}\u{0}\u{7f}\u{10ffff}",
        ]
        .into_iter()
        .find(|text| self.encode_text(text) != other.encode_text(text))
    }

    /// A hash of the vocabulary, its special tokens, and how a probe text is cut: equal for equal
    /// tokenizers, whether they came from a GGUF or from `tokenizer.json`.
    pub fn hash(&self) -> &str {
        self.hash.get_or_init(|| {
            let mut hasher = Sha256::new();
            let by_id: BTreeMap<u32, String> = self
                .inner
                .get_vocab(true)
                .into_iter()
                .map(|(token, id)| (id, token))
                .collect();
            for (id, token) in by_id {
                hasher.update(id.to_le_bytes());
                hasher.update((token.len() as u64).to_le_bytes());
                hasher.update(token.as_bytes());
                hasher.update([u8::from(self.is_special(id))]);
            }
            self.encode_text(PROBE)
                .iter()
                .for_each(|id| hasher.update(id.to_le_bytes()));
            hex(&hasher.finalize())
        })
    }

    /// The texts of all special tokens, longest first.
    pub(crate) fn special_texts(&self) -> impl Iterator<Item = &str> {
        self.specials.iter().map(|special| special.text.as_str())
    }

    /// The special tokens in a text, leftmost and longest first, none of which touches a range of
    /// `forbidden` (sorted, disjoint).
    pub(crate) fn find_special(&self, text: &str, forbidden: &[Range<usize>]) -> Vec<Found> {
        let mut found: Vec<Found> = Vec::new();
        let (mut at, mut done) = (0, 0);
        while at < text.len() {
            if !self.first_bytes.contains(&text.as_bytes()[at]) {
                at += 1;
                continue;
            }
            let here = self.specials.iter().find(|special| {
                let end = at + special.text.len();
                let next = forbidden.partition_point(|range| range.end <= at);
                text.as_bytes()[at..].starts_with(special.text.as_bytes())
                    && forbidden.get(next).is_none_or(|range| range.start >= end)
            });
            let Some(special) = here else {
                at += 1;
                continue;
            };
            let range = at..at + special.text.len();
            let mut outer = range.clone();
            if special.strips.0 {
                outer.start = done + text[done..at].trim_end().len();
            }
            if special.strips.1 {
                let rest = &text[range.end..];
                outer.end += rest.len() - rest.trim_start().len();
            }
            (at, done) = (outer.end, outer.end);
            found.push(Found {
                id: special.id,
                range,
                outer,
            });
        }
        found
    }

    /// The tokens of a text whose special tokens are known.
    pub(crate) fn encode_around(&self, text: &str, found: &[Found]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut at = 0;
        for special in found {
            pieces.extend(self.pieces(&text[at..special.outer.start], at));
            pieces.push(Piece {
                id: special.id,
                range: special.range.clone(),
            });
            at = special.outer.end;
        }
        pieces.extend(self.pieces(&text[at..], at));
        pieces
    }

    fn pieces(&self, text: &str, offset: usize) -> Vec<Piece> {
        if text.is_empty() {
            return Vec::new();
        }
        if let Some(pieces) = self.try_pieces(text, offset) {
            return pieces;
        }
        // The file's own pattern backtracks without end on this text, which Python answers with an exception. In short
        // parts it ends, so that the text keeps all of its bytes.
        tracing::warn!(
            "the tokenizer's pattern gives up on a text of {} bytes, which is cut into parts",
            text.len()
        );
        let starts: Vec<usize> = text.char_indices().step_by(PART).map(|(start, _)| start).collect();
        let ends = starts.iter().skip(1).copied().chain([text.len()]);
        starts
            .iter()
            .zip(ends)
            .flat_map(|(&start, end)| self.try_pieces(&text[start..end], offset + start).unwrap_or_default())
            .collect()
    }

    /// None where the library gives up: it panics when a pattern takes too many steps.
    fn try_pieces(&self, text: &str, offset: usize) -> Option<Vec<Piece>> {
        let encoded = std::panic::catch_unwind(AssertUnwindSafe(|| self.inner.encode(text, false)));
        let encoding = encoded.ok()?.ok()?;
        let offsets = encoding.get_offsets().iter();
        let ids = encoding.get_ids().iter();
        let pieces = ids.zip(offsets).map(|(&id, &(start, end))| Piece {
            id,
            range: offset + start..offset + end,
        });
        Some(pieces.collect())
    }
}

/// The byte that a SentencePiece token `<0x0A>` stands for.
fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.size)
            .field("specials", &self.specials.len())
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::FileBytes;
    use crate::gguf_writer::{GgufWriter, Meta};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    /// All single bytes but 0xfd, which no UTF-8 has, four merges, and the special tokens that end the list.
    pub(crate) const SPECIALS: [&str; 4] = ["<unk>", "<|im_start|>", "<|im_end|>", "<|im_end|>!"];

    pub(crate) fn tokens() -> Vec<Vec<u8>> {
        let mut alphabet: Vec<String> = ByteLevel::alphabet()
            .into_iter()
            .filter(|c| *c != 'ý')
            .map(String::from)
            .collect();
        alphabet.sort();
        let merged = ["ĊĊ", "hi", "Ġhi", "12"].map(str::to_owned);
        let all = alphabet.into_iter().chain(merged).chain(SPECIALS.map(str::to_owned));
        all.map(String::into_bytes).collect()
    }

    fn writer(pre: &'static str, merges: &[&str], tokens: Vec<Vec<u8>>) -> GgufWriter {
        let n = tokens.len();
        let kinds = (0..n).map(|id| if id + SPECIALS.len() >= n { 3 } else { 1 }).collect();
        GgufWriter::new()
            .meta("tokenizer.ggml.model", Meta::Text("gpt2"))
            .meta("tokenizer.ggml.pre", Meta::Text(pre))
            .meta("tokenizer.ggml.tokens", Meta::Texts(tokens))
            .meta("tokenizer.ggml.token_type", Meta::I32s(kinds))
            .meta("tokenizer.ggml.add_bos_token", Meta::Bool(false))
            .meta(
                "tokenizer.ggml.merges",
                Meta::Texts(merges.iter().map(|merge| merge.as_bytes().to_vec()).collect()),
            )
    }

    fn build(writer: GgufWriter) -> Result<Tokenizer> {
        Tokenizer::from_gguf(&Gguf::parse(FileBytes::from_vec("t.gguf", writer.finish()))?)
    }

    const MERGES: [&str; 4] = ["Ċ Ċ", "h i", "Ġ hi", "1 2"];

    /// A tokenizer small enough to think about.
    pub(crate) fn tiny(pre: &'static str) -> Tokenizer {
        let n = tokens().len() as u32;
        let writer = writer(pre, &MERGES, tokens())
            .meta("tokenizer.ggml.unknown_token_id", Meta::U32(n - 4))
            .meta("tokenizer.ggml.bos_token_id", Meta::U32(n - 3))
            .meta("tokenizer.ggml.eos_token_id", Meta::U32(n - 2));
        build(writer).unwrap()
    }

    fn show(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        ids.iter().map(|&id| tokenizer.token_text(id)).collect()
    }

    #[test]
    fn special_tokens_are_letters_in_text_and_tokens_where_the_program_says_so() {
        let tokenizer = tiny("gpt-2");
        let text = "hi<|im_end|>";
        let plain = tokenizer.encode_text(text);
        assert_eq!(show(&tokenizer, &plain).concat(), text);
        assert!(plain.iter().all(|&id| !tokenizer.is_special(id)));
        let special = tokenizer.encode_with_special(text);
        assert_eq!(show(&tokenizer, &special), ["hi", "<|im_end|>"]);
        assert_eq!(special[1], tokenizer.eos().unwrap());
        assert_eq!(tokenizer.decode(&special), "hi");
        // The longest of two that begin alike.
        let long = tokenizer.encode_with_special("<|im_end|>!");
        assert_eq!(show(&tokenizer, &long), ["<|im_end|>!"]);
    }

    #[test]
    fn each_pre_tokenizer_cuts_in_its_own_way() {
        for (pre, want) in [
            ("gpt-2", &["12", " hi"][..]),
            ("smollm", &["1", "2", " hi"]),
            ("llama-bpe", &["12", " hi"]),
            ("qwen2", &["1", "2", " hi"]),
        ] {
            let tokenizer = tiny(pre);
            assert_eq!(show(&tokenizer, &tokenizer.encode_text("12 hi")), want, "{pre}");
        }
        let hashes: std::collections::BTreeSet<String> =
            ["gpt-2", "smollm"].map(|pre| tiny(pre).hash().to_owned()).into();
        assert_eq!(hashes.len(), 2);
    }

    #[test]
    fn a_byte_without_a_token_is_unknown_and_never_dropped() {
        let tokenizer = tiny("smollm");
        let without_a: Vec<_> = tokens().into_iter().filter(|token| token != b"a").collect();
        let n = without_a.len() as u32;
        let no_a = writer("smollm", &MERGES, without_a).meta("tokenizer.ggml.unknown_token_id", Meta::U32(n - 4));
        let no_a = build(no_a).unwrap();
        assert_eq!(show(&no_a, &no_a.encode_text("bab")), ["b", "<unk>", "b"]);
        assert_eq!(show(&tokenizer, &tokenizer.encode_text("bab")), ["b", "a", "b"]);
        let error = build(writer("smollm", &MERGES, tokens())).unwrap_err().to_string();
        assert!(error.contains("unknown_token_id"), "{error}");
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let error = build(writer("jais-2", &MERGES, tokens())).unwrap_err().to_string();
        assert!(error.contains("tokenizer.ggml.pre: expected smollm") && error.contains("jais-2"));
        let error = build(writer("gpt-2", &["h o"], tokens())).unwrap_err().to_string();
        assert!(
            error.contains("merges[0]: expected tokens of the vocabulary, found ho"),
            "{error}"
        );
        let error = build(writer("gpt-2", &["hi"], tokens())).unwrap_err().to_string();
        assert!(error.contains("merges[0]: expected two tokens and a space"), "{error}");
        let twice = [tokens(), tokens()].concat();
        let error = build(writer("gpt-2", &MERGES, twice)).unwrap_err().to_string();
        assert!(error.contains("each token once"), "{error}");
    }

    #[test]
    fn special_tokens_do_not_touch_what_is_forbidden() {
        let tokenizer = tiny("gpt-2");
        let text = "<|im_end|><|im_end|>";
        assert_eq!(tokenizer.find_special(text, &[]).len(), 2);
        let second = &tokenizer.find_special(text, std::slice::from_ref(&(3..4)))[0];
        assert_eq!(second.range, 10..20);
        assert!(tokenizer.find_special(text, std::slice::from_ref(&(5..15))).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn text_survives_its_tokens(text in "\\PC{0,40}") {
            let tokenizer = tiny("smollm");
            proptest::prop_assert_eq!(tokenizer.decode(&tokenizer.encode_text(&text)), text);
        }
    }
}
