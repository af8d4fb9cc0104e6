//! SentencePiece vocabularies in GGUF metadata: `tokenizer.ggml.model` = `llama` (Llama 1 and 2, Mistral, Gemma).
//!
//! Text becomes pieces as in llama.cpp: spaces are `▁`, one of which is put before the text (`add_space_prefix`); letters are
//! merged in the order of the merged pieces' scores; a letter without a piece becomes its bytes (`<0x0A>`). The merges,
//! which a GGUF does not list, are every way in which a piece is two others, best score first.

use std::collections::HashMap;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper};

use crate::vocabulary::Built;
use crate::{Error, Gguf, Result};

/// A space in a piece.
pub(crate) const SPACE: &str = "▁";

/// The longest piece that letters are merged into; SentencePiece's own limit is far below.
const MAX_PIECE: usize = 512;

/// The most bytes that merges may take: ten times those of the largest published vocabulary.
const MAX_MERGES: usize = 256 << 20;

/// What `tokenizer.ggml.token_type` calls a token.
pub(crate) const NORMAL: i64 = 1;
pub(crate) const UNKNOWN: i64 = 2;
pub(crate) const CONTROL: i64 = 3;
pub(crate) const USER_DEFINED: i64 = 4;
/// A row of the embedding that no text comes to.
pub(crate) const UNUSED: i64 = 5;
pub(crate) const BYTE: i64 = 6;

/// Builds the tokenizer that the metadata describes.
pub(crate) fn from_gguf(gguf: &Gguf, max_tokens: usize) -> Result<Built> {
    let path = gguf.path();
    let fail = |field: &str, expected: &str, found: &str| Error::format(path, field, expected, found);
    let key = "tokenizer.ggml.tokens";
    let raw = gguf
        .texts(key)?
        .ok_or_else(|| fail(key, "an array of texts", "no such key"))?;
    if raw.is_empty() || raw.len() > max_tokens {
        return Err(fail(key, &format!("1 to {max_tokens} tokens"), &raw.len().to_string()));
    }
    let count = raw.len();
    let one_each = format!("{count} (one for each token)");
    let scores = numbers(gguf, "tokenizer.ggml.scores", count, &one_each)?;
    let key = "tokenizer.ggml.token_type";
    let kinds = gguf
        .integers(key)?
        .ok_or_else(|| fail(key, "an array of integers", "no such key"))?;
    if kinds.len() != count {
        return Err(fail(key, &one_each, &kinds.len().to_string()));
    }
    let key = "tokenizer.ggml.tokens";
    let mut vocab: HashMap<String, u32> = HashMap::with_capacity(count);
    let mut tokens = Vec::with_capacity(count);
    for (id, bytes) in raw.iter().enumerate() {
        // Bytes that are no text can never be the token of a text, but the id exists.
        let token = std::str::from_utf8(bytes).map_or_else(|_| format!("<undecodable token {id}>"), str::to_owned);
        if let Some(other) = vocab.insert(token.clone(), id as u32) {
            return Err(fail(
                key,
                "each token once",
                &format!("`{token}` as {other} and as {id}"),
            ));
        }
        if token.is_empty() && matches!(kinds[id], CONTROL | USER_DEFINED | UNKNOWN) {
            return Err(fail(key, "control tokens with a text", "an empty one"));
        }
        tokens.push(token);
    }

    let special = |name: &str, default: u32| -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match gguf.integer(&key)? {
            // llama.cpp's own answer.
            None => Ok((default < count as u32).then_some(default)),
            Some(id) if id < count as u64 => Ok(Some(id as u32)),
            Some(id) => Err(fail(&key, &format!("a token below {count}"), &id.to_string())),
        }
    };
    let (bos, eos, unk) = (special("bos", 1)?, special("eos", 2)?, special("unknown", 0)?);
    let byte_fallback = (0..=255_u8).all(|byte| {
        vocab
            .get(&format!("<0x{byte:02X}>"))
            .is_some_and(|&id| kinds[id as usize] == BYTE)
    });
    if !byte_fallback && unk.is_none() {
        return Err(fail(
            "tokenizer.ggml.unknown_token_id",
            "a token for unknown letters",
            "none",
        ));
    }

    let merges = merges(&vocab, &tokens, &scores, &kinds).map_err(|(expected, found)| fail(key, &expected, &found))?;
    let mut bpe = BPE::builder()
        .vocab_and_merges(vocab.into_iter().collect::<Vocab>(), merges)
        .byte_fallback(byte_fallback)
        .fuse_unk(true);
    if let Some(unk) = unk {
        bpe = bpe.unk_token(tokens[unk as usize].clone());
    }
    let wrong = |e: tokenizers::Error| fail("tokenizer.ggml", "a SentencePiece vocabulary", &e.to_string());
    let mut inner = tokenizers::Tokenizer::new(bpe.build().map_err(wrong)?);

    let prefix = gguf.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    if prefix {
        normalizers.push(Prepend::new(SPACE.into()).into());
    }
    normalizers.push(Replace::new(" ", SPACE).map_err(wrong)?.into());
    inner
        .with_normalizer(Some(Normalizers::new(normalizers)))
        .map_err(wrong)?;
    let mut decoders: Vec<DecoderWrapper> = vec![
        Replace::new(SPACE, " ").map_err(wrong)?.into(),
        ByteFallback::default().into(),
        Fuse::default().into(),
    ];
    if prefix {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    inner.with_decoder(Some(Decoders::new(decoders)));

    let added = tokens.iter().zip(&kinds).filter_map(|(token, &kind)| match kind {
        CONTROL | UNKNOWN => Some(AddedToken::from(token.clone(), true).normalized(false)),
        USER_DEFINED => Some(AddedToken::from(token.clone(), false).normalized(false)),
        _ => None,
    });
    inner.add_tokens(added).map_err(wrong)?;
    Ok(Built {
        inner,
        bos,
        eos,
        unk,
        adds_bos: gguf.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(true),
    })
}

/// Every way in which a piece is two others: the best score first, and of one piece the split that begins longest.
pub(crate) fn merges(
    vocab: &HashMap<String, u32>,
    tokens: &[String],
    scores: &[f64],
    kinds: &[i64],
) -> Result<Vec<(String, String)>, (String, String)> {
    let mut all: Vec<(u32, usize)> = Vec::new();
    let mut bytes = 0;
    for (id, token) in tokens.iter().enumerate() {
        if kinds[id] != NORMAL && kinds[id] != USER_DEFINED {
            continue;
        }
        if token.len() > MAX_PIECE {
            return Err((
                format!("pieces of at most {MAX_PIECE} bytes"),
                format!("one of {}", token.len()),
            ));
        }
        for (at, _) in token.char_indices().skip(1) {
            if vocab.contains_key(&token[..at]) && vocab.contains_key(&token[at..]) {
                bytes += token.len() + 64;
                if bytes > MAX_MERGES {
                    return Err((format!("merges of at most {MAX_MERGES} bytes"), "more".into()));
                }
                all.push((id as u32, at));
            }
        }
    }
    all.sort_by(|a, b| {
        scores[b.0 as usize]
            .total_cmp(&scores[a.0 as usize])
            .then(b.1.cmp(&a.1))
    });
    let pair = |(id, at): (u32, usize)| {
        let (left, right) = tokens[id as usize].split_at(at);
        (left.to_owned(), right.to_owned())
    };
    Ok(all.into_iter().map(pair).collect())
}

/// An array of this many finite numbers.
fn numbers(gguf: &Gguf, key: &str, count: usize, expected: &str) -> Result<Vec<f64>> {
    let found = gguf.numbers(key)?;
    let found = found.ok_or_else(|| Error::format(gguf.path(), key, expected, "no such key"))?;
    if found.len() != count {
        return Err(Error::format(gguf.path(), key, expected, found.len().to_string()));
    }
    if let Some(score) = found.iter().find(|score| !score.is_finite()) {
        return Err(Error::format(gguf.path(), key, "finite scores", score.to_string()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FileBytes;
    use crate::gguf_writer::{GgufWriter, Meta};

    struct Vocabulary {
        tokens: Vec<Vec<u8>>,
        scores: Vec<f32>,
        kinds: Vec<i32>,
    }

    /// Three control tokens, three letters and two merges, changed by `edit`.
    fn load(edit: impl Fn(&mut Vocabulary)) -> Result<Built> {
        let tokens = ["<unk>", "<s>", "</s>", "a", "b", "▁", "ab", "▁a"];
        let mut all = Vocabulary {
            tokens: tokens.map(|token| token.as_bytes().to_vec()).to_vec(),
            scores: vec![0.0, 0.0, 0.0, -3.0, -4.0, -5.0, -1.0, -2.0],
            kinds: vec![2, 3, 3, 1, 1, 1, 1, 1],
        };
        edit(&mut all);
        let bytes = GgufWriter::new()
            .meta("tokenizer.ggml.model", Meta::Text("llama"))
            .meta("tokenizer.ggml.tokens", Meta::Texts(all.tokens))
            .meta("tokenizer.ggml.scores", Meta::F32s(all.scores))
            .meta("tokenizer.ggml.token_type", Meta::I32s(all.kinds))
            .finish();
        from_gguf(&Gguf::parse(FileBytes::from_vec("v.gguf", bytes))?, 1 << 20)
    }

    #[test]
    fn the_better_score_is_merged_first() {
        let ids = |built: &Built| built.inner.encode("ab", false).unwrap().get_ids().to_vec();
        let built = load(|_| ()).unwrap();
        assert_eq!((built.bos, built.eos, built.unk), (Some(1), Some(2), Some(0)));
        assert_eq!(ids(&built), [5, 6]);
        let other = load(|all| all.scores[7] = -0.5).unwrap();
        assert_eq!(ids(&other), [7, 4]);
        // Without bytes in the vocabulary a letter without a piece is the unknown token.
        assert_eq!(built.inner.encode("é", false).unwrap().get_ids(), [5, 0]);
    }

    #[test]
    fn vocabularies_that_do_not_hold_together_are_refused_by_field() {
        type Edit = fn(&mut Vocabulary);
        let cases: [(Edit, &str); 6] = [
            (|all| all.scores.truncate(3), "tokenizer.ggml.scores: expected 8"),
            (|all| all.scores[3] = f32::NAN, "finite scores"),
            (|all| all.kinds.truncate(3), "tokenizer.ggml.token_type: expected 8"),
            (|all| all.tokens[4] = b"a".to_vec(), "each token once"),
            (|all| all.tokens[1] = Vec::new(), "control tokens with a text"),
            (|all| all.tokens[4] = vec![b'x'; 600], "pieces of at most 512 bytes"),
        ];
        for (edit, field) in cases {
            let error = load(edit).err().unwrap().to_string();
            assert!(
                error.starts_with("v.gguf: ") && error.contains(field),
                "{field}: {error}"
            );
        }
        // A token that is no text keeps its id.
        assert!(load(|all| all.tokens[4] = vec![0xff]).is_ok());
    }
}
