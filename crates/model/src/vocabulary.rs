//! A byte-pair vocabulary, checked before `tokenizers` is given it.
//!
//! `tokenizers` 0.23.2 panics on merges that make a token longer than any vocabulary entry, and on
//! prefixes longer than a token (huggingface/tokenizers#2094). Whatever can trip it is refused here.

use crate::files::read_small;
use crate::{Error, Gguf, Result, sentencepiece};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, Model as _};

const MAX_JSON_BYTES: u64 = 64 << 20;
const MAX_TOKEN_ID: u32 = 1 << 24;
/// Tokens, or merges: four times the largest vocabularies that are published.
const MAX_TOKENS: usize = 1 << 20;

/// Texts on which a pattern with nested repetitions does not end: each is a run and something that breaks it off.
const HARD: [&str; 4] = [
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!",
    "                                                                             a",
    "11111111111111111111111111111111111111111111111111111111111111111111111111111a",
    "aA1 aA1 aA1 aA1 aA1 aA1 aA1 aA1 aA1 aA1 aA1 aA1 aA1 aA1 aA1 aA1 aA1 aA1 aA1 \n",
];

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The `tokenizers` object and the two tokens that frame a text.
pub(crate) struct Built {
    pub(crate) inner: tokenizers::Tokenizer,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) unk: Option<u32>,
    pub(crate) adds_bos: bool,
}

/// The parts of `tokenizer.json` that must be right before it is loaded.
#[derive(Deserialize)]
struct Json {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Model {
    /// Old files leave it out for BPE.
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: serde_json::Value,
    #[serde(default)]
    merges: Merges,
    unk_token: Option<String>,
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

/// Merges as pairs, or as the older `"a b"`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merges {
    Pairs(Vec<(String, String)>),
    Lines(Vec<String>),
}

impl Default for Merges {
    fn default() -> Self {
        Self::Pairs(Vec::new())
    }
}

/// Beside `tokenizer.json`: which tokens frame a text.
#[derive(Deserialize, Default)]
struct Framing {
    bos_token: Option<serde_json::Value>,
    eos_token: Option<serde_json::Value>,
    unk_token: Option<serde_json::Value>,
    bos_token_id: Option<serde_json::Value>,
    eos_token_id: Option<serde_json::Value>,
}

pub(crate) fn from_file(path: &Path) -> Result<Built> {
    let bytes = read_small(path, MAX_JSON_BYTES)?;
    let fail = |field: &str, expected: &str, found: String| Error::format(path, field, expected, found);
    check_keys(&bytes).map_err(|e| fail("JSON", "each key once, and a limit to all", e))?;
    let mut json = serde_json::Deserializer::from_slice(&bytes);
    let json: Json = serde_path_to_error::deserialize(&mut json)
        .map_err(|e| fail(&e.path().to_string(), "a tokenizer.json", e.inner().to_string()))?;
    let unk_token = json.model.unk_token.clone();
    json.check(path)?;

    // The second fence: a panic in there must not become ours.
    let loaded = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(&bytes));
    let mut inner = match loaded {
        Ok(Ok(inner)) => inner,
        Ok(Err(e)) => return Err(fail("tokenizer", "one that loads", e.to_string())),
        Err(_) => {
            return Err(fail(
                "tokenizer",
                "one that loads",
                "one that makes tokenizers panic".into(),
            ));
        }
    };
    // The library numbers tokens that the vocabulary lacks by how many there are, which in one with gaps may be another's id.
    for (id, token) in inner.get_added_tokens_decoder() {
        if let Some(other) = inner
            .get_model()
            .id_to_token(id)
            .filter(|other| *other != token.content)
        {
            let field = format!("added_tokens.{}", token.content);
            return Err(fail(
                &field,
                "an id of its own",
                format!("{id}, which is `{other}` in the vocabulary"),
            ));
        }
    }
    if std::panic::catch_unwind(AssertUnwindSafe(|| HARD.map(|text| inner.encode(text, false).is_ok()))).is_err() {
        let expected = "patterns that end within a bound of steps";
        return Err(fail(
            "pre_tokenizer",
            expected,
            "one that backtracks without end".into(),
        ));
    }
    let mut adds_bos = false;
    if let Ok(framed) = inner.encode("", true) {
        adds_bos = !framed.get_ids().is_empty();
    }
    let not_set = "no truncation, no padding";
    inner
        .with_truncation(None)
        .map_err(|e| fail("truncation", not_set, e.to_string()))?;
    inner.with_padding(None);
    // It only frames texts and trims offsets; the chat template and the caller do the first.
    inner.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
    let framing = Framing::beside(path)?;
    let unk_token = unk_token.or(token_text(framing.unk_token.clone()));
    let unk = unk_token.and_then(|token| Some((inner.token_to_id(&token)?, token)));
    never_drop_bytes(&mut inner, unk.as_ref().map(|(_, token)| token.clone()));
    let known = |id: &u32| inner.id_to_token(*id).is_some();
    let pick = |token: Option<serde_json::Value>, id: Option<serde_json::Value>| {
        let named = token_text(token).and_then(|text| inner.token_to_id(&text));
        named.or_else(|| first_id(id)).filter(known)
    };
    let bos = pick(framing.bos_token, framing.bos_token_id);
    let eos = pick(framing.eos_token, framing.eos_token_id);
    Ok(Built {
        inner,
        bos,
        eos,
        unk: unk.map(|(id, _)| id),
        adds_bos,
    })
}

/// Gives a byte-level vocabulary with gaps the unknown token that the configuration names:
/// `tokenizers` drops bytes that have no token when the model itself names none.
fn never_drop_bytes(inner: &mut tokenizers::Tokenizer, unk: Option<String>) {
    let byte_level = matches!(inner.get_decoder(), Some(tokenizers::DecoderWrapper::ByteLevel(_)));
    let tokenizers::ModelWrapper::BPE(bpe) = inner.get_model() else {
        return;
    };
    let complete = || {
        ByteLevel::alphabet()
            .iter()
            .all(|byte| inner.token_to_id(&byte.to_string()).is_some())
    };
    if !byte_level || bpe.unk_token.is_some() || complete() {
        return;
    }
    match unk.filter(|unk| bpe.get_vocab().contains_key(unk)) {
        Some(unk) => {
            let mut bpe = bpe.clone();
            bpe.unk_token = Some(unk);
            inner.with_model(bpe);
        }
        None => tracing::warn!("the tokenizer has no token for some bytes: they will be dropped"),
    }
}

impl Json {
    fn check(self, path: &Path) -> Result<()> {
        let fail = |field: String, expected: &str, found: String| Err(Error::format(path, field, expected, found));
        let model = self.model;
        if let Some(kind) = model.kind.filter(|kind| kind != "BPE") {
            return fail("model.type".into(), "`BPE`", kind);
        }
        if let Some(rate) = model.dropout.filter(|&rate| rate != 0.0) {
            return fail("model.dropout".into(), "none: it makes ids random", rate.to_string());
        }
        for (field, affix) in [
            ("continuing_subword_prefix", model.continuing_subword_prefix),
            ("end_of_word_suffix", model.end_of_word_suffix),
        ] {
            if let Some(affix) = affix.filter(|affix| !affix.is_empty()) {
                return fail(format!("model.{field}"), "none (not implemented)", affix);
            }
        }
        let serde_json::Value::Object(map) = model.vocab else {
            return fail(
                "model.vocab".into(),
                "an object of tokens and ids",
                "another type".into(),
            );
        };
        let mut vocab = HashMap::with_capacity(map.len());
        for (token, id) in map {
            match id.as_u64().filter(|&id| id < u64::from(MAX_TOKEN_ID)) {
                Some(id) => vocab.insert(token, id as u32),
                None => {
                    return fail(format!("model.vocab.{token}"), "an id below 2^24", id.to_string());
                }
            };
        }
        if vocab.is_empty() {
            return fail("model.vocab".into(), "at least one token", "none".into());
        }
        let merges = match model.merges {
            Merges::Pairs(pairs) => pairs,
            Merges::Lines(lines) => split_merges(
                lines.into_iter().filter(|line| !line.starts_with("#version")),
                path,
                "model.merges",
            )?,
        };
        check_bpe(&vocab, &merges, path, "model")?;
        if let Some(unk) = model.unk_token.filter(|unk| !vocab.contains_key(unk)) {
            return fail("model.unk_token".into(), "a token of the vocabulary", unk);
        }
        let mut added = HashMap::new();
        for Added { id, content } in self.added_tokens {
            if content.is_empty() {
                return fail(format!("added_tokens.{id}"), "some content", "none".into());
            }
            let elsewhere = vocab.get(&content).is_some_and(|&known| known != id);
            if id >= MAX_TOKEN_ID || elsewhere || added.insert(id, content.clone()).is_some() {
                let expected = "an id below 2^24 of its own";
                return fail(format!("added_tokens.{content}"), expected, id.to_string());
            }
        }
        Ok(())
    }
}

/// Builds the tokenizer that a GGUF's metadata describes.
pub(crate) fn from_gguf(gguf: &Gguf) -> Result<Built> {
    let path = gguf.path();
    let fail = |field: &str, expected: &str, found: &str| Error::format(path, field, expected, found);
    let kind = "tokenizer.ggml.model";
    match gguf.text(kind)? {
        Some("gpt2") => {}
        Some("llama") => return sentencepiece::from_gguf(gguf, MAX_TOKEN_ID as usize),
        other => {
            let expected = "`gpt2` (byte-level BPE) or `llama` (SentencePiece)";
            return Err(fail(kind, expected, other.unwrap_or("no such key")));
        }
    }
    let pre = gguf.text("tokenizer.ggml.pre")?.unwrap_or("no such key");
    let (pre_tokenizer, ignore_merges, nfc) =
        pre_tokenizer(pre).ok_or_else(|| fail("tokenizer.ggml.pre", &PRE_TOKENIZERS.join(", "), pre))?;

    let key = "tokenizer.ggml.tokens";
    let raw = gguf
        .texts(key)?
        .ok_or_else(|| fail(key, "an array of texts", "no such key"))?;
    if raw.is_empty() || raw.len() > MAX_TOKENS {
        return Err(fail(key, &format!("1 to {MAX_TOKENS} tokens"), &raw.len().to_string()));
    }
    let mut vocab = HashMap::with_capacity(raw.len());
    let mut tokens = Vec::with_capacity(raw.len());
    for (id, bytes) in raw.iter().enumerate() {
        // Bytes that are no text can never be the token of a text, but the id exists.
        let token = std::str::from_utf8(bytes).map_or_else(|_| format!("<undecodable token {id}>"), str::to_owned);
        if let Some(other) = vocab.insert(token.clone(), id as u32) {
            let found = format!("`{token}` as {other} and as {id}");
            return Err(fail(key, "each token once", &found));
        }
        tokens.push(token);
    }
    let key = "tokenizer.ggml.merges";
    let lines = gguf
        .texts(key)?
        .ok_or_else(|| fail(key, "an array of texts", "no such key"))?;
    let lines = lines.into_iter().map(|line| String::from_utf8_lossy(line).into_owned());
    let merges = split_merges(lines, path, key)?;
    check_bpe(&vocab, &merges, path, "tokenizer.ggml")?;

    let special = |name: &str| -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match gguf.integer(&key)? {
            None => Ok(None),
            Some(id) if id < tokens.len() as u64 => Ok(Some(id as u32)),
            Some(id) => Err(fail(&key, &format!("a token below {}", tokens.len()), &id.to_string())),
        }
    };
    let (bos, eos, unk) = (special("bos")?, special("eos")?, special("unknown")?);
    let missing: Vec<String> = ByteLevel::alphabet()
        .iter()
        .filter(|byte| !vocab.contains_key(&byte.to_string()))
        .map(|byte| byte.to_string())
        .collect();
    if !missing.is_empty() && unk.is_none() {
        // Without one, text with these bytes would lose them without a word.
        let found = format!("none, and {} bytes without a token", missing.len());
        return Err(fail(
            "tokenizer.ggml.unknown_token_id",
            "a token for unknown bytes",
            &found,
        ));
    }
    let added = added_tokens(gguf, &tokens)?;

    let mut bpe = BPE::builder()
        .vocab_and_merges(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .ignore_merges(ignore_merges);
    if let Some(unk) = unk {
        bpe = bpe.unk_token(tokens[unk as usize].clone());
    }
    let wrong = |e: tokenizers::Error| fail("tokenizer.ggml", "a byte-pair vocabulary", &e.to_string());
    let mut inner = tokenizers::Tokenizer::new(bpe.build().map_err(wrong)?);
    inner.with_pre_tokenizer(Some(pre_tokenizer));
    inner.with_decoder(Some(ByteLevel::default()));
    if nfc {
        inner.with_normalizer(Some(NFC)).map_err(wrong)?;
    }
    inner.add_tokens(added).map_err(wrong)?;
    let adds_bos = gguf.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(false);
    Ok(Built {
        inner,
        bos,
        eos,
        unk,
        adds_bos,
    })
}

/// The ways to cut text before merging that are known, by the name that GGUF gives them.
pub(crate) const PRE_TOKENIZERS: [&str; 5] = ["smollm", "gpt-2", "llama-bpe", "qwen2", "dbrx"];

/// How text is cut before merging, whether whole words skip the merges, whether text is composed.
pub(crate) fn pre_tokenizer(name: &str) -> Option<(PreTokenizerWrapper, bool, bool)> {
    let bytes = |use_regex| PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, use_regex));
    let cut = |regex: &str| {
        let pattern = SplitPattern::Regex(regex.into());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).ok()?;
        Some(PreTokenizerWrapper::Sequence(Sequence::new(vec![
            split.into(),
            bytes(false),
        ])))
    };
    match name {
        "gpt-2" => Some((bytes(true), false, false)),
        "smollm" => {
            let parts = vec![Digits::new(true).into(), bytes(true)];
            Some((PreTokenizerWrapper::Sequence(Sequence::new(parts)), false, false))
        }
        "llama-bpe" => Some((cut(LLAMA_3)?, true, false)),
        // Llama 3's pattern with merges inside of whole words (OLMo 2).
        "dbrx" => Some((cut(LLAMA_3)?, false, false)),
        "qwen2" => Some((cut(QWEN_2)?, false, true)),
        _ => None,
    }
}

/// Control tokens (type 3) are special; a user's own (type 4) are cut out of text like them.
fn added_tokens(gguf: &Gguf, tokens: &[String]) -> Result<Vec<AddedToken>> {
    let key = "tokenizer.ggml.token_type";
    let Some(kinds) = gguf.integers(key)? else {
        return Ok(Vec::new());
    };
    if kinds.len() != tokens.len() {
        let expected = format!("{} (one for each token)", tokens.len());
        return Err(Error::format(gguf.path(), key, expected, kinds.len().to_string()));
    }
    let mut added = Vec::new();
    for (token, kind) in tokens.iter().zip(kinds) {
        match kind {
            3 | 4 if token.is_empty() => {
                return Err(Error::format(
                    gguf.path(),
                    key,
                    "control tokens with a text",
                    "an empty one",
                ));
            }
            3 | 4 => added.push(AddedToken::from(token.clone(), kind == 3).normalized(false)),
            _ => {}
        }
    }
    Ok(added)
}

fn split_merges(lines: impl Iterator<Item = String>, path: &Path, field: &str) -> Result<Vec<(String, String)>> {
    lines
        .enumerate()
        .map(|(rank, line)| match line.split_once(' ') {
            Some((a, b)) if !b.contains(' ') => Ok((a.to_owned(), b.to_owned())),
            _ => Err(Error::format(
                path,
                format!("{field}[{rank}]"),
                "two tokens and a space",
                line,
            )),
        })
        .collect()
}

/// Every id once; of every merge both parts and their product in the vocabulary.
fn check_bpe(vocab: &HashMap<String, u32>, merges: &[(String, String)], path: &Path, field: &str) -> Result<()> {
    let mut ids = HashSet::with_capacity(vocab.len());
    for (token, id) in vocab {
        if !ids.insert(id) {
            let found = format!("{id} a second time, for `{token}`");
            return Err(Error::format(
                path,
                format!("{field} vocabulary"),
                "each id once",
                found,
            ));
        }
    }
    let mut product = String::new();
    for (rank, (a, b)) in merges.iter().enumerate() {
        product.clear();
        product.push_str(a);
        product.push_str(b);
        for token in [a, b, &product] {
            if !vocab.contains_key(token.as_str()) {
                let field = format!("{field}.merges[{rank}]");
                return Err(Error::format(path, field, "tokens of the vocabulary", token.as_str()));
            }
        }
    }
    Ok(())
}

impl Framing {
    /// From the files beside `tokenizer.json`, the first that names a token.
    fn beside(path: &Path) -> Result<Self> {
        let mut all = Self::default();
        for name in ["tokenizer_config.json", "config.json"] {
            let file = path.with_file_name(name);
            if !file.exists() {
                continue;
            }
            let json = read_small(&file, MAX_JSON_BYTES)?;
            let one: Self =
                serde_json::from_slice(&json).map_err(|e| Error::format(&file, "JSON", "an object", e.to_string()))?;
            all = Self {
                bos_token: all.bos_token.or(one.bos_token),
                eos_token: all.eos_token.or(one.eos_token),
                unk_token: all.unk_token.or(one.unk_token),
                bos_token_id: all.bos_token_id.or(one.bos_token_id),
                eos_token_id: all.eos_token_id.or(one.eos_token_id),
            };
        }
        Ok(all)
    }
}

/// A token in a configuration: its text, or an object that holds it.
pub(crate) fn token_text(value: Option<serde_json::Value>) -> Option<String> {
    match value? {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Object(map) => map.get("content")?.as_str().map(str::to_owned),
        _ => None,
    }
}

fn first_id(value: Option<serde_json::Value>) -> Option<u32> {
    let value = value?;
    value
        .as_array()
        .map_or(Some(&value), |list| list.first())?
        .as_u64()?
        .try_into()
        .ok()
}

/// Refuses a key that appears twice in one object, of which the last would silently win, and objects and lists too long to
/// be a vocabulary or its merges.
fn check_keys(json: &[u8]) -> Result<(), String> {
    /// Text of the file itself where nothing in it is escaped.
    #[derive(Deserialize, PartialEq, Eq, Hash)]
    struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

    struct Unique;

    impl<'de> Deserialize<'de> for Unique {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(Self)
        }
    }

    impl<'de> Visitor<'de> for Unique {
        type Value = Self;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("JSON")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
            let mut seen = HashSet::new();
            while let Some((key, Self)) = map.next_entry::<Key<'de>, Self>()? {
                if seen.len() == MAX_TOKENS {
                    return Err(serde::de::Error::custom(format!(
                        "more than {MAX_TOKENS} keys in one object"
                    )));
                }
                if let Some(Key(key)) = seen.replace(key) {
                    return Err(serde::de::Error::custom(format!("the key `{key}` twice")));
                }
            }
            Ok(self)
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
            let mut len = 0;
            while seq.next_element::<Self>()?.is_some() {
                len += 1;
                if len > MAX_TOKENS {
                    return Err(serde::de::Error::custom(format!(
                        "more than {MAX_TOKENS} elements in one list"
                    )));
                }
            }
            Ok(self)
        }

        fn visit_unit<E>(self) -> Result<Self, E> {
            Ok(self)
        }

        fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
            Ok(self)
        }

        fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
            Ok(self)
        }

        fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
            Ok(self)
        }

        fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
            Ok(self)
        }

        fn visit_str<E>(self, _: &str) -> Result<Self, E> {
            Ok(self)
        }
    }

    serde_json::from_slice::<Unique>(json)
        .map(drop)
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `tokenizer.json` of three letters and one merge, changed by `edit`.
    fn load(edit: impl Fn(&str) -> String) -> Result<Built> {
        let json = r#"{"version": "1.0", "truncation": {"max_length": 2, "strategy": "LongestFirst",
            "stride": 0, "direction": "Right"}, "padding": null, "normalizer": null,
            "added_tokens": [{"id": 4, "content": "<end>", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
                "byte_fallback": false, "ignore_merges": false,
                "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3}, "merges": [["a", "b"]]}}"#;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokenizer.json");
        std::fs::write(&file, edit(json)).unwrap();
        std::fs::write(folder.path().join("config.json"), r#"{"eos_token_id": [4, 2]}"#).unwrap();
        std::fs::write(
            folder.path().join("tokenizer_config.json"),
            r#"{"bos_token": {"content": "c"}, "eos_token": null}"#,
        )
        .unwrap();
        from_file(&file)
    }

    #[test]
    fn a_sound_file_loads_and_knows_what_frames_a_text() {
        for old in [false, true] {
            let built = load(|json| match old {
                true => json.replace(r#"["a", "b"]"#, r#""a b""#),
                false => json.to_owned(),
            })
            .unwrap();
            assert_eq!((built.bos, built.eos, built.adds_bos), (Some(2), Some(4), false));
            // Not cut after two tokens, although the file says so.
            assert_eq!(built.inner.encode("abcab", false).unwrap().get_ids(), [3, 2, 3]);
        }
    }

    #[test]
    fn files_that_make_tokenizers_panic_are_refused() {
        let long = "x".repeat(100);
        for (from, to, word) in [
            // A merge whose product is longer than any token; parts that are no tokens.
            (r#"["a", "b"]"#, r#"["ab", "ab"]"#.to_owned(), "model.merges[0]"),
            (r#"["a", "b"]"#, format!(r#"["a", "{long}"]"#), "model.merges[0]"),
            (r#"["a", "b"]"#, r#""a b c""#.into(), "two tokens and a space"),
            // A prefix longer than a token, or one that cuts a code point.
            (
                r#"_prefix": null"#,
                r#"_prefix": "longer""#.into(),
                "continuing_subword_prefix",
            ),
            (r#"_suffix": null"#, r#"_suffix": "é""#.into(), "end_of_word_suffix"),
            (r#""b": 1"#, r#""b": 0"#.into(), "each id once"),
            (r#""b": 1"#, r#""b": 4294967295"#.into(), "an id below 2^24"),
            (r#""b": 1"#, r#""b": -1"#.into(), "an id below 2^24"),
            (r#""b": 1"#, r#""a": 1"#.into(), "the key `a` twice"),
            (r#""<end>""#, r#""""#.into(), "some content"),
            (r#""id": 4"#, r#""id": 4294967295"#.into(), "an id below 2^24"),
            (
                r#""unk_token": null"#,
                r#""unk_token": "?""#.into(),
                "a token of the vocabulary",
            ),
            (
                r#""type": "BPE""#,
                r#""type": "WordPiece""#.into(),
                "`BPE`, found WordPiece",
            ),
            (r#""dropout": null"#, r#""dropout": 0.5"#.into(), "random"),
            (r#""version""#, "[".repeat(1 << 16), "JSON"),
        ] {
            let error = load(|json| json.replace(from, &to)).err().map(|e| e.to_string());
            let error = error.unwrap_or_else(|| panic!("{to} was accepted"));
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}
