//! A checkpoint: tensors by name, whatever file they lie in.

use crate::files::{bad_name, read_small};
use crate::shard::Shard;
use crate::{Access, Error, FileBytes, Gguf, GgufTensor, LlamaConfig, Result, gguf_pack};
use realign_tensor::Packed;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const MAX_INDEX_BYTES: u64 = 64 << 20;

/// A model's weights on disk: one GGUF, or one or more safetensors files.
///
/// Tensors are asked for by their Hugging Face names and come as row-major `f32`, linear weights
/// as `[out, in]`. A GGUF's names and its row order of queries and keys are translated.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    source: Source,
    sha256: OnceLock<String>,
}

#[derive(Debug)]
enum Source {
    Gguf { gguf: Gguf, config: LlamaConfig },
    Safetensors(Vec<Shard>),
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a `.gguf` file, a `.safetensors` file, or a folder with `model.safetensors`,
    /// `model.safetensors.index.json` or a single `.gguf`. Files are mapped, see [`Access`].
    ///
    /// # Errors
    /// When there is no such file or its tables do not hold together; nothing is decoded yet.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, Access::Map)
    }

    /// Opens as [`Checkpoint::open`] does, with a choice of how bytes are held.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_with(path: &Path, access: Access) -> Result<Self> {
        let file = weights_file(path)?;
        let source = match extension(&file).as_str() {
            "gguf" => {
                let gguf = Gguf::parse(FileBytes::open(&file, access)?)?;
                let config = LlamaConfig::from_gguf(&gguf)?;
                Source::Gguf { gguf, config }
            }
            "json" => Source::Safetensors(open_shards(&file, access)?),
            _ => Source::Safetensors(vec![Shard::parse(FileBytes::open(&file, access)?)?]),
        };
        Ok(Self {
            path: file,
            source,
            sha256: OnceLock::new(),
        })
    }

    /// The file of the weights, or their index.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The GGUF, where that is what this is: it carries a tokenizer and a chat template too.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.source {
            Source::Gguf { gguf, .. } => Some(gguf),
            Source::Safetensors(_) => None,
        }
    }

    /// The model's shape: from GGUF metadata, or from the `config.json` beside the weights.
    ///
    /// # Errors
    /// As [`LlamaConfig::from_file`].
    pub fn config(&self) -> Result<LlamaConfig> {
        match &self.source {
            Source::Gguf { config, .. } => Ok(config.clone()),
            Source::Safetensors(_) => LlamaConfig::from_file(&self.path.with_file_name("config.json")),
        }
    }

    /// Every tensor's Hugging Face name, sorted. What has none keeps the file's own.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match &self.source {
            Source::Gguf { gguf, .. } => gguf
                .tensors()
                .map(|(name, _)| hf_name(name).unwrap_or_else(|| name.into()))
                .collect(),
            Source::Safetensors(shards) => shards.iter().flat_map(|shard| shard.tensors.keys().cloned()).collect(),
        };
        names.sort();
        names
    }

    /// Shape and elements of the tensor with this Hugging Face name.
    ///
    /// # Shapes
    /// Row-major; a linear layer's weight is `[out, in]`.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn tensor(&self, hf_name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        match &self.source {
            Source::Gguf { gguf, config } => {
                let (tensor, d_head) = self.in_gguf(gguf, config, hf_name)?;
                let values = match d_head {
                    None => gguf.dequantise(tensor, |row| row),
                    Some(d_head) => gguf.dequantise(tensor, |row| interleaved_row(row, d_head)),
                };
                Ok((tensor.shape.clone(), values))
            }
            Source::Safetensors(shards) => shards
                .iter()
                .find_map(|shard| {
                    let tensor = shard.tensors.get(hf_name)?;
                    Some((tensor.shape.clone(), shard.values(tensor)))
                })
                .ok_or_else(|| self.missing(hf_name)),
        }
    }

    /// The matrix with this Hugging Face name in the bits that the file stores it in; none where those are no fewer than
    /// this crate computes in (F32, F16, safetensors).
    ///
    /// # Shapes
    /// `[out, in]`.
    ///
    /// # Errors
    /// When there is no such tensor, or a scale in it is not finite.
    pub fn packed(&self, hf_name: &str) -> Result<Option<Packed>> {
        let Source::Gguf { gguf, config } = &self.source else {
            return Ok(None);
        };
        let (tensor, d_head) = self.in_gguf(gguf, config, hf_name)?;
        let source = |row| d_head.map_or(row, |d_head| interleaved_row(row, d_head));
        let rows: Vec<&[u8]> = gguf.rows(tensor, source);
        gguf_pack::pack(tensor.kind, &rows, tensor.width())
            .map_err(|found| Error::format(&self.path, hf_name, "finite scales", found))
    }

    /// A GGUF's tensor, and the width of the heads between whose rows its rows are interleaved.
    fn in_gguf<'a>(
        &self,
        gguf: &'a Gguf,
        config: &LlamaConfig,
        hf_name: &str,
    ) -> Result<(&'a GgufTensor, Option<usize>)> {
        let name = gguf_name(hf_name);
        let tensor = name.as_deref().and_then(|name| gguf.tensor(name));
        let tensor = tensor.ok_or_else(|| self.missing(hf_name))?;
        let rows = tensor.shape.iter().product::<usize>() / tensor.width();
        let heads = match hf_name.rsplit_once(".self_attn.") {
            Some((_, "q_proj.weight")) => config.n_heads,
            Some((_, "k_proj.weight")) => config.n_kv_heads,
            _ => return Ok((tensor, None)),
        };
        if rows != heads * config.d_head {
            let expected = format!("{heads} heads of {} rows", config.d_head);
            return Err(Error::format(
                &self.path,
                hf_name,
                expected,
                format!("{:?}", tensor.shape),
            ));
        }
        Ok((tensor, Some(config.d_head)))
    }

    /// What the files say about themselves: GGUF metadata (arrays as their length), or the
    /// `__metadata__` that safetensors files do not need to have.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        match &self.source {
            Source::Gguf { gguf, .. } => gguf
                .metadata()
                .map(|(key, value)| (key.to_owned(), value.to_string()))
                .collect(),
            Source::Safetensors(shards) => shards.iter().flat_map(|shard| shard.metadata.clone()).collect(),
        }
    }

    /// SHA-256 of the weights, in hex: of the one file, or, for several, of the lines
    /// `HASH  NAME` that `sha256sum` prints for them in the order of their names.
    pub fn sha256(&self) -> &str {
        self.sha256.get_or_init(|| match &self.source {
            Source::Gguf { gguf, .. } => hex_sha256(gguf.bytes()),
            Source::Safetensors(shards) => match &shards[..] {
                [shard] => hex_sha256(&shard.bytes),
                shards => {
                    let line = |shard: &Shard| {
                        let name = shard.bytes.path().file_name().unwrap_or_default();
                        format!("{}  {}\n", hex_sha256(&shard.bytes), name.to_string_lossy())
                    };
                    hex_sha256(shards.iter().map(line).collect::<String>().as_bytes())
                }
            },
        })
    }

    fn missing(&self, name: &str) -> Error {
        let found = format!("none among {} tensors", self.names().len());
        Error::format(&self.path, name, "a tensor of this name", found)
    }
}

/// SHA-256 of some bytes, in hex.
pub(crate) fn hex_sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn extension(path: &Path) -> String {
    path.extension()
        .unwrap_or_default()
        .to_string_lossy()
        .to_ascii_lowercase()
}

fn weights_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return match extension(path).as_str() {
            "gguf" | "safetensors" => Ok(path.to_path_buf()),
            _ => Err(Error::format(
                path,
                "kind",
                "a .gguf file, a .safetensors file, or a folder",
                {
                    if path.exists() {
                        "a file of another kind"
                    } else {
                        "nothing"
                    }
                },
            )),
        };
    }
    for name in ["model.safetensors", "model.safetensors.index.json"] {
        let file = path.join(name);
        if file.exists() {
            return Ok(file);
        }
    }
    let entries = std::fs::read_dir(path).map_err(Error::io(path, "list"))?;
    let mut ggufs: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|file| extension(file) == "gguf")
        .collect();
    match (ggufs.pop(), ggufs.len()) {
        (Some(file), 0) => Ok(file),
        (_, others) => {
            let expected = "model.safetensors, model.safetensors.index.json, or a single .gguf";
            let found = if others == 0 {
                "none of them".into()
            } else {
                format!("{} .gguf", others + 1)
            };
            Err(Error::format(path, "weights", expected, found))
        }
    }
}

fn open_shards(index: &Path, access: Access) -> Result<Vec<Shard>> {
    let json = read_small(index, MAX_INDEX_BYTES)?;
    let mut json = serde_json::Deserializer::from_slice(&json);
    let Index { weight_map } = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        Error::format(
            index,
            e.path().to_string(),
            "a safetensors index",
            e.inner().to_string(),
        )
    })?;
    let files: BTreeSet<&String> = weight_map.values().collect();
    // All names are judged, and all files looked for, before the first is opened.
    for name in &files {
        if let Some(why) = bad_name(name) {
            let found = format!("`{name}`, which {why}");
            return Err(Error::format(
                index,
                "weight_map",
                "names of files in its folder",
                found,
            ));
        }
        if !index.with_file_name(name).is_file() {
            return Err(Error::format(index, "weight_map", format!("a file `{name}`"), "none"));
        }
    }
    let mut shards = Vec::new();
    let mut owner: BTreeMap<String, String> = BTreeMap::new();
    for name in files {
        let shard = Shard::parse(FileBytes::open(&index.with_file_name(name), access)?)?;
        for tensor in shard.tensors.keys() {
            if let Some(other) = owner.insert(tensor.clone(), name.clone()) {
                let found = format!("it in {other} and {name}");
                return Err(Error::format(index, tensor.clone(), "a tensor in one file", found));
            }
        }
        shards.push(shard);
    }
    for (tensor, file) in &weight_map {
        if owner.get(tensor) != Some(file) {
            let found = owner
                .get(tensor)
                .map_or("none".into(), |other| format!("it in {other}"));
            return Err(Error::format(
                index,
                tensor.clone(),
                format!("a tensor in {file}"),
                found,
            ));
        }
    }
    if shards.is_empty() {
        return Err(Error::format(index, "weight_map", "at least one tensor", "none"));
    }
    Ok(shards)
}

/// The row of a GGUF's query or key weight that holds row `row` of Hugging Face's.
///
/// llama.cpp rotates neighbours `(2i, 2i + 1)`, Hugging Face halves `(i, i + d_head / 2)`, and the
/// converter reorders rows accordingly.
pub(crate) fn interleaved_row(row: usize, d_head: usize) -> usize {
    let (head, within) = (row / d_head, row % d_head);
    let (half, pair) = (within / (d_head / 2), within % (d_head / 2));
    head * d_head + 2 * pair + half
}

const OUTER: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

const IN_BLOCK: [(&str, &str); 9] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

pub(crate) fn gguf_name(hf: &str) -> Option<String> {
    if let Some((_, name)) = OUTER.iter().find(|(outer, _)| *outer == hf) {
        return Some((*name).to_owned());
    }
    let (layer, rest) = hf.strip_prefix("model.layers.")?.split_once('.')?;
    let site = rest.strip_suffix(".weight")?;
    let (_, name) = IN_BLOCK.iter().find(|(inner, _)| *inner == site)?;
    Some(format!("blk.{layer}.{name}.weight"))
}

fn hf_name(gguf: &str) -> Option<String> {
    if let Some((name, _)) = OUTER.iter().find(|(_, outer)| *outer == gguf) {
        return Some((*name).to_owned());
    }
    let (layer, rest) = gguf.strip_prefix("blk.")?.split_once('.')?;
    let site = rest.strip_suffix(".weight")?;
    let (name, _) = IN_BLOCK.iter().find(|(_, inner)| *inner == site)?;
    Some(format!("model.layers.{layer}.{name}.weight"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf_writer::{GgufWriter, Meta};

    fn write_shard(path: &Path, names: &[&str]) {
        let header: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let (from, to) = (4 * i, 4 * i + 4);
                format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":[{from},{to}]}}"#)
            })
            .collect();
        let header = format!("{{{}}}", header.join(","));
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        (0..names.len()).for_each(|i| bytes.extend((i as f32).to_le_bytes()));
        std::fs::write(path, bytes).unwrap();
    }

    fn sharded(map: &str) -> (tempfile::TempDir, Result<Checkpoint>) {
        let folder = tempfile::tempdir().unwrap();
        write_shard(&folder.path().join("one.safetensors"), &["a", "b"]);
        write_shard(&folder.path().join("two.safetensors"), &["c"]);
        write_shard(&folder.path().join("both.safetensors"), &["a", "c"]);
        let index = folder.path().join("model.safetensors.index.json");
        std::fs::write(index, format!(r#"{{"weight_map": {{{map}}}}}"#)).unwrap();
        let checkpoint = Checkpoint::open(folder.path());
        (folder, checkpoint)
    }

    const GOOD: &str = r#""a":"one.safetensors","b":"one.safetensors","c":"two.safetensors""#;

    #[test]
    fn a_sharded_checkpoint_is_one_checkpoint() {
        let (folder, checkpoint) = sharded(GOOD);
        let checkpoint = checkpoint.unwrap();
        assert_eq!(checkpoint.names(), ["a", "b", "c"]);
        assert_eq!(checkpoint.tensor("b").unwrap(), (vec![1], vec![1.0]));
        assert_eq!(checkpoint.tensor("c").unwrap(), (vec![1], vec![0.0]));
        let read = Checkpoint::open_with(folder.path(), Access::Read).unwrap();
        assert_eq!(read.tensor("b").unwrap().1, [1.0]);
        assert_eq!(read.sha256(), checkpoint.sha256());
        let error = checkpoint.tensor("d").unwrap_err().to_string();
        assert!(
            error.contains("d: expected a tensor of this name, found none among 3"),
            "{error}"
        );
    }

    #[test]
    fn an_index_that_lies_is_refused() {
        for (map, word) in [
            (r#""a":"../../etc/passwd""#, "`..`"),
            (r#""a":"/abs""#, "absolute"),
            (r#""a":"C:\\x""#, "drive"),
            (r#""a":"\\\\host\\x""#, "UNC"),
            (r#""a":"absent.safetensors""#, "absent.safetensors"),
            (r#""a":"one.safetensors","c":"both.safetensors""#, "it in both"),
            (
                r#""z":"one.safetensors""#,
                "z: expected a tensor in one.safetensors, found none",
            ),
            (r#""a":7"#, "weight_map.a"),
            ("", "at least one tensor"),
        ] {
            let error = sharded(map).1.unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn names_map_to_gguf_and_back() {
        let names = ["model.layers.12.self_attn.q_proj.weight", "lm_head.weight"];
        assert_eq!(gguf_name(names[0]).unwrap(), "blk.12.attn_q.weight");
        for name in names {
            assert_eq!(hf_name(&gguf_name(name).unwrap()).unwrap(), name);
        }
        assert_eq!(gguf_name("model.layers.0.self_attn.rotary_emb.inv_freq"), None);
    }

    #[test]
    fn queries_and_keys_get_their_rows_back() {
        // Row r of the original holds the number r; the converter's reshape(heads, 2, d/2) with
        // the two axes swapped puts rows 0, 2, 1, 3 of a head of 4 into the file.
        let mut writer = GgufWriter::new()
            .meta("general.architecture", Meta::Text("llama"))
            .meta("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5));
        for (key, value) in [
            ("block_count", 1),
            ("embedding_length", 8),
            ("feed_forward_length", 8),
            ("context_length", 8),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ] {
            writer = writer.meta(&format!("llama.{key}"), Meta::U32(value));
        }
        let rows = |order: &[usize]| -> Vec<f32> { order.iter().flat_map(|&row| [row as f32; 8]).collect() };
        let bytes = writer
            .tensor_f32("token_embd.weight", &[1, 8], &[0.0; 8])
            .tensor_f32("blk.0.attn_q.weight", &[8, 8], &rows(&[0, 2, 1, 3, 4, 6, 5, 7]))
            .tensor_f32("blk.0.attn_k.weight", &[4, 8], &rows(&[0, 2, 1, 3]))
            .finish();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("m.gguf"), bytes).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let q = checkpoint.tensor("model.layers.0.self_attn.q_proj.weight").unwrap();
        assert_eq!(q, (vec![8, 8], rows(&[0, 1, 2, 3, 4, 5, 6, 7])));
        let k = checkpoint.tensor("model.layers.0.self_attn.k_proj.weight").unwrap();
        assert_eq!(k, (vec![4, 8], rows(&[0, 1, 2, 3])));
        assert!(checkpoint.config().unwrap().tied);
    }
}
