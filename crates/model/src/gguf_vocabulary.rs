//! A tokenizer as GGUF metadata: what [`crate::Tokenizer::from_gguf`] reads.
//!
//! A GGUF names one of some ways to cut text and lists tokens; a `tokenizer.json` describes any. What is one of those ways is
//! written, and the rest is refused by the field at fault. Two things that a GGUF cannot say are left to who reads it: white
//! space that belongs to a special token, and the composition of Unicode (NFC), which llama.cpp does for no vocabulary.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde_json::Value;

use crate::gguf_writer::{GgufWriter, Meta};
use crate::sentencepiece::{BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED, merges};
use crate::vocabulary::{PRE_TOKENIZERS, pre_tokenizer};
use crate::{Error, Result, Tokenizer};

/// Adds the metadata of the tokenizer that was read from `file`, for an embedding of so many rows.
///
/// # Errors
/// Names the field of the `tokenizer.json` that a GGUF cannot say.
pub(crate) fn write(tokenizer: &Tokenizer, file: &Path, rows: usize, writer: GgufWriter) -> Result<GgufWriter> {
    let fail = |field: &str, expected: &str, found: &str| Error::format(file, field, expected, found);
    let json = tokenizer.to_json().map_err(|e| fail("JSON", "a tokenizer", &e))?;
    let json: Value = serde_json::from_str(&json).map_err(|e| fail("JSON", "a tokenizer", &e.to_string()))?;
    let source = Source {
        tokenizer,
        file,
        json: &json,
        rows,
    };
    let tokens = source.tokens()?;
    let byte_level = json["decoder"]["type"] == "ByteLevel";
    let writer = match byte_level {
        true => source.byte_level(&tokens, writer)?,
        false => source.sentencepiece(&tokens, writer)?,
    };
    let special = [
        ("bos", tokenizer.bos()),
        ("eos", tokenizer.eos()),
        ("unknown", tokenizer.unk()),
    ];
    let special = special.into_iter().filter_map(|(name, id)| Some((name, id?)));
    let writer = special.fold(writer, |writer, (name, id)| {
        writer.meta(&format!("tokenizer.ggml.{name}_token_id"), Meta::U32(id))
    });
    Ok(writer.meta("tokenizer.ggml.add_bos_token", Meta::Bool(tokenizer.adds_bos())))
}

/// A `tokenizer.json` that was read.
struct Source<'a> {
    tokenizer: &'a Tokenizer,
    file: &'a Path,
    json: &'a Value,
    rows: usize,
}

/// Every row of the embedding: its token, and what kind of token it is.
struct Tokens {
    texts: Vec<String>,
    kinds: Vec<i64>,
}

impl Source<'_> {
    fn fail(&self, field: &str, expected: impl Into<String>, found: impl ToString) -> Error {
        Error::format(self.file, field, expected, found.to_string())
    }

    fn tokens(&self) -> Result<Tokens> {
        let size = self.tokenizer.vocab_size();
        if size > self.rows {
            let expected = format!("ids below {} (the embedding's rows)", self.rows);
            return Err(self.fail("model.vocab", expected, size - 1));
        }
        let mut all = Tokens {
            texts: (0..self.rows).map(|id| format!("[PAD{id}]")).collect(),
            kinds: vec![UNUSED; self.rows],
        };
        let inner = self.tokenizer.inner();
        for (token, id) in inner.get_vocab(true) {
            let id = id as usize;
            let byte = token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
            all.kinds[id] = match byte && self.json["model"]["byte_fallback"] == true {
                true => BYTE,
                false => NORMAL,
            };
            all.texts[id] = token;
        }
        for (id, token) in inner.get_added_tokens_decoder() {
            let kind = if token.special { CONTROL } else { USER_DEFINED };
            all.kinds[id as usize] = kind;
            if token.lstrip || token.rstrip {
                tracing::warn!(
                    "a GGUF cannot say that white space beside `{}` belongs to it",
                    token.content
                );
            }
        }
        let mut seen = BTreeSet::new();
        match all.texts.iter().find(|text| !seen.insert(text.as_str())) {
            Some(twice) => Err(self.fail("model.vocab", "each token once", twice)),
            None => Ok(all),
        }
    }

    /// What both kinds of vocabulary say of their tokens.
    fn listed(&self, tokens: &Tokens, model: &str, writer: GgufWriter) -> GgufWriter {
        let texts = tokens.texts.iter().map(|text| text.clone().into_bytes());
        let kinds = tokens.kinds.iter().map(|&kind| kind as i32);
        writer
            .meta("tokenizer.ggml.model", Meta::Text(model))
            .meta("tokenizer.ggml.tokens", Meta::Texts(texts.collect()))
            .meta("tokenizer.ggml.token_type", Meta::I32s(kinds.collect()))
    }

    fn merges(&self) -> Result<Vec<(String, String)>> {
        let merges = serde_json::from_value(self.json["model"]["merges"].clone());
        merges.map_err(|e| self.fail("model.merges", "pairs of tokens", e))
    }

    fn byte_level(&self, tokens: &Tokens, writer: GgufWriter) -> Result<GgufWriter> {
        let composed = match &self.json["normalizer"] {
            Value::Null => false,
            Value::Object(normalizer) if normalizer.get("type").is_some_and(|kind| kind == "NFC") => true,
            other => return Err(self.fail("normalizer", "none or NFC, of a byte-level vocabulary", other)),
        };
        let whole_words = self.json["model"]["ignore_merges"] == true;
        let cuts = plain_offsets(&self.json["pre_tokenizer"]);
        let known = PRE_TOKENIZERS.into_iter().filter(|name| {
            let Some((pre, whole, _)) = pre_tokenizer(name) else {
                return false;
            };
            whole == whole_words && serde_json::to_value(pre).is_ok_and(|pre| plain_offsets(&pre) == cuts)
        });
        let Some(pre) = known.into_iter().next() else {
            let expected = format!(
                "that of {}, with `ignore_merges` {whole_words}",
                PRE_TOKENIZERS.join(", ")
            );
            return Err(self.fail("pre_tokenizer", expected, &self.json["pre_tokenizer"]));
        };
        if composed && !pre_tokenizer(pre).is_some_and(|(_, _, nfc)| nfc) {
            tracing::warn!("a GGUF cannot say that text is composed (NFC) before `{pre}` cuts it");
        }
        let lines = self.merges()?.into_iter().map(|(a, b)| format!("{a} {b}").into_bytes());
        Ok(self
            .listed(tokens, "gpt2", writer)
            .meta("tokenizer.ggml.pre", Meta::Text(pre))
            .meta("tokenizer.ggml.merges", Meta::Texts(lines.collect())))
    }

    fn sentencepiece(&self, tokens: &Tokens, writer: GgufWriter) -> Result<GgufWriter> {
        let prefix = self.space_prefix()?;
        let mut kinds = tokens.kinds.clone();
        if let Some(unk) = self.tokenizer.unk() {
            kinds[unk as usize] = UNKNOWN;
        }
        let tokens = Tokens {
            texts: tokens.texts.clone(),
            kinds,
        };
        let scores = self.scores(&tokens)?;
        Ok(self
            .listed(&tokens, "llama", writer)
            .meta("tokenizer.ggml.pre", Meta::Text("default"))
            .meta("tokenizer.ggml.scores", Meta::F32s(scores))
            .meta("tokenizer.ggml.add_space_prefix", Meta::Bool(prefix)))
    }

    /// Whether a space is put before a text, where spaces become `▁` and nothing else happens to it.
    fn space_prefix(&self) -> Result<bool> {
        let (normalizer, pre) = (&self.json["normalizer"], &self.json["pre_tokenizer"]);
        let parts = |value: &Value, list: &str| match value[list].as_array() {
            Some(parts) => parts.clone(),
            None if value.is_null() => Vec::new(),
            None => vec![value.clone()],
        };
        let is_replace =
            |part: &Value| part["type"] == "Replace" && part["pattern"]["String"] == " " && part["content"] == SPACE;
        let is_prepend = |part: &Value| part["type"] == "Prepend" && part["prepend"] == SPACE;
        // Gemma's, which finds no space any more.
        let is_idle = |part: &Value| part["type"] == "Split" && part["pattern"]["String"] == " ";
        let normalizers = parts(normalizer, "normalizers");
        let pres = parts(pre, "pretokenizers");
        let idle = pres.iter().all(is_idle);
        match (&normalizers[..], &pres[..]) {
            ([replace], _) if idle && is_replace(replace) => Ok(false),
            ([prepend, replace], _) if idle && is_prepend(prepend) && is_replace(replace) => Ok(true),
            ([], [meta]) if meta["type"] == "Metaspace" && meta["replacement"] == SPACE && meta["split"] == false => {
                Ok(meta["prepend_scheme"] != "never")
            }
            _ => {
                let expected = "ByteLevel's, or SentencePiece's (spaces become `▁`, one may be put before the text)";
                let found = format!("normalizer {normalizer}, pre-tokenizer {pre}");
                Err(self.fail("normalizer", expected, found))
            }
        }
    }

    /// A score for each token: higher for pieces that are merged earlier, which is all that scores are for.
    fn scores(&self, tokens: &Tokens) -> Result<Vec<f32>> {
        let theirs = self.merges()?;
        let piece = |(left, right): &(String, String)| [left.as_str(), right].concat();
        let last: HashMap<String, usize> = theirs.iter().map(piece).zip(0..).collect();
        // A piece's merges lie together; pieces between whose merges others lie have one score.
        let (mut blocks, mut rank, mut end) = (vec![std::ops::Range::default()], HashMap::new(), 0);
        for (at, merge) in theirs.iter().enumerate() {
            let piece = piece(merge);
            if at == end {
                blocks.push(at..at);
            }
            end = end.max(last[&piece] + 1);
            rank.entry(piece).or_insert(blocks.len());
            if let Some(block) = blocks.last_mut() {
                block.end = at + 1;
            }
        }
        let lowest = blocks.len() + 1;
        let scores = tokens
            .texts
            .iter()
            .map(|text| -(*rank.get(text).unwrap_or(&lowest) as f32));
        let scores: Vec<f32> = scores.collect();

        // What a reader makes of them.
        let vocab: HashMap<String, u32> = tokens.texts.iter().cloned().zip(0..).collect();
        let wide: Vec<f64> = scores.iter().map(|&score| f64::from(score)).collect();
        let ours = merges(&vocab, &tokens.texts, &wide, &tokens.kinds);
        let ours = ours.map_err(|(expected, found)| self.fail("model.vocab", expected, found))?;
        if ours.len() != theirs.len() {
            let expected = format!(
                "SentencePiece's: every way in which a piece is two others ({})",
                ours.len()
            );
            return Err(self.fail("model.merges", expected, theirs.len()));
        }
        for block in blocks {
            let (mut ours, mut theirs) = (ours[block.clone()].to_vec(), theirs[block].to_vec());
            // The order in which one piece is made does not matter.
            if theirs.iter().all(|merge| piece(merge) == piece(&theirs[0])) {
                ours.sort();
                theirs.sort();
            }
            if let Some((_, found)) = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs) {
                let expected = "SentencePiece's: pieces by score, and by the length of their first part";
                return Err(self.fail("model.merges", expected, format!("`{}` out of its place", piece(found))));
            }
        }
        Ok(scores)
    }
}

/// A pre-tokenizer without what changes offsets only.
fn plain_offsets(pre: &Value) -> Value {
    match pre {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, _)| *name != "trim_offsets");
            kept.map(|(name, value)| (name.clone(), plain_offsets(value))).collect()
        }
        Value::Array(parts) => parts.iter().map(plain_offsets).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::tests::tiny;
    use crate::{Access, FileBytes, Gguf};

    /// A tokenizer as `tokenizer.json`, changed by `edit` and read.
    fn from_json(tokenizer: &Tokenizer, edit: impl Fn(&mut Value)) -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokenizer.json");
        let mut json: Value = serde_json::from_str(&tokenizer.to_json().unwrap()).unwrap();
        edit(&mut json);
        std::fs::write(&file, json.to_string()).unwrap();
        Tokenizer::from_file(&file).unwrap()
    }

    fn rewritten(tokenizer: &Tokenizer, rows: usize) -> Result<Tokenizer> {
        let writer = write(tokenizer, Path::new("tokenizer.json"), rows, GgufWriter::new())?;
        Tokenizer::from_gguf(&Gguf::parse(FileBytes::from_vec("t.gguf", writer.finish()))?)
    }

    #[test]
    fn byte_level_vocabularies_are_the_same_in_a_gguf() {
        for pre in PRE_TOKENIZERS {
            let tokenizer = from_json(&tiny(pre), |_| ());
            let rows = tokenizer.vocab_size();
            let again = rewritten(&tokenizer, rows).unwrap();
            assert_eq!(again.hash(), tokenizer.hash(), "{pre}");
            assert_eq!(again.adds_bos(), tokenizer.adds_bos());
            // More rows than tokens: the others are no tokens of any text.
            let wider = rewritten(&tokenizer, rows + 3).unwrap();
            assert_eq!(wider.differs_from(&tokenizer), None, "{pre}");
            assert_eq!(wider.vocab_size(), rows + 3);
        }
    }

    #[test]
    fn sentencepiece_vocabularies_cut_awkward_texts_alike_in_a_gguf() {
        for name in ["llama", "gemma"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf_files");
            let file = folder.join(format!("sentencepiece_{name}.gguf"));
            let gguf = Gguf::parse(FileBytes::open(&file, Access::Read).unwrap()).unwrap();
            let tokenizer = from_json(&Tokenizer::from_gguf(&gguf).unwrap(), |_| ());
            let again = rewritten(&tokenizer, tokenizer.vocab_size()).unwrap();
            assert!(tokenizer.adds_bos() && again.adds_bos());
            let texts = std::fs::read(file.with_extension("json")).unwrap();
            let texts: Value = serde_json::from_slice(&texts).unwrap();
            for row in texts["texts"].as_array().unwrap() {
                let text = row["text"].as_str().unwrap();
                let ids: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
                assert_eq!(again.encode_text(text), ids, "{name}: {text:?}");
            }
        }
    }

    #[test]
    fn what_a_gguf_cannot_say_of_a_tokenizer_is_refused_by_field() {
        let message = |tokenizer: &Tokenizer| rewritten(tokenizer, 1000).err().unwrap().to_string();
        let bytes = tiny("gpt-2");
        let other = from_json(&bytes, |json| json["pre_tokenizer"]["add_prefix_space"] = true.into());
        assert!(
            message(&other).contains("pre_tokenizer: expected that of smollm"),
            "{}",
            message(&other)
        );
        let other = from_json(&bytes, |json| {
            json["normalizer"] = serde_json::json!({"type": "Lowercase"})
        });
        assert!(
            message(&other).contains("normalizer: expected none or NFC"),
            "{}",
            message(&other)
        );
        let error = rewritten(&bytes, 7).err().unwrap().to_string();
        assert!(error.contains("model.vocab: expected ids below 7"), "{error}");

        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf_files/sentencepiece_llama.gguf");
        let gguf = Gguf::parse(FileBytes::open(&file, Access::Read).unwrap()).unwrap();
        let pieces = Tokenizer::from_gguf(&gguf).unwrap();
        let fewer = from_json(&pieces, |json| {
            drop(json["model"]["merges"].as_array_mut().unwrap().remove(40))
        });
        assert!(
            message(&fewer).contains("model.merges: expected SentencePiece's"),
            "{}",
            message(&fewer)
        );
        let other = from_json(&pieces, |json| json["normalizer"] = serde_json::json!({"type": "NFKC"}));
        assert!(
            message(&other).contains("normalizer: expected ByteLevel's"),
            "{}",
            message(&other)
        );
    }
}
