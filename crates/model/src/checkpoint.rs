//! A checkpoint: tensors by name, whatever file they lie in.

use crate::files::{bad_name, read_small};
use crate::shard::Shard;
use crate::weight_names::WeightNames;
use crate::{Access, Architecture, DecoderConfig, Error, FileBytes, Gguf, GgufTensor, Result, gguf_pack};
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
/// as `[out, in]`. A GGUF's names and a Llama's row order of queries and keys in it are translated.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    source: Source,
    sha256: OnceLock<String>,
}

#[derive(Debug)]
enum Source {
    Gguf { gguf: Gguf, config: Box<DecoderConfig> },
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
                let config = Box::new(DecoderConfig::from_gguf(&gguf)?);
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

    /// What the model is made of: from GGUF metadata, or from the `config.json` beside the weights.
    ///
    /// # Errors
    /// As [`DecoderConfig::from_file`].
    pub fn config(&self) -> Result<DecoderConfig> {
        match &self.source {
            Source::Gguf { config, .. } => Ok((**config).clone()),
            Source::Safetensors(_) => DecoderConfig::from_file(&self.path.with_file_name("config.json")),
        }
    }

    /// Every tensor's Hugging Face name, sorted. What has none keeps the file's own.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match &self.source {
            Source::Gguf { gguf, config } => {
                let names = config.architecture.names();
                let hf_name = |name: &str| renamed(name, |stem| names.to_hf(stem));
                gguf.tensors()
                    .map(|(name, _)| hf_name(name).unwrap_or_else(|| name.into()))
                    .collect()
            }
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
                    // A bias is one row of the file.
                    Some(d_head) if tensor.shape.len() == 1 => {
                        let bias = gguf.dequantise(tensor, |row| row);
                        (0..bias.len()).map(|row| bias[interleaved_row(row, d_head)]).collect()
                    }
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

    /// Whether there is a tensor with this Hugging Face name.
    pub(crate) fn has(&self, hf_name: &str) -> bool {
        match &self.source {
            Source::Gguf { gguf, config } => {
                gguf_name(config, hf_name).is_some_and(|name| gguf.tensor(&name).is_some())
            }
            Source::Safetensors(shards) => shards.iter().any(|shard| shard.tensors.contains_key(hf_name)),
        }
    }

    /// What an architecture's tensors are called, and how they lie in a file of this kind.
    pub(crate) fn weight_names(&self, architecture: Architecture) -> WeightNames {
        match &self.source {
            Source::Gguf { .. } => architecture.names().of_gguf(),
            Source::Safetensors(_) => architecture.names(),
        }
    }

    /// What stands before a tensor's name in this file: the architecture's root, or nothing where a model was saved without
    /// its head.
    pub(crate) fn root(&self, names: &WeightNames) -> &'static str {
        let embedding = format!("{}.weight", names.modules.embedding);
        if !self.has(&format!("{}{embedding}", names.modules.root)) && self.has(&embedding) {
            return "";
        }
        names.modules.root
    }

    /// The shape of the tensor with this name, of those that [`Checkpoint::names`] lists.
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match &self.source {
            Source::Gguf { gguf, config } => {
                let own = gguf_name(config, name);
                let tensor = gguf.tensor(own.as_deref().unwrap_or(name))?;
                Some(tensor.shape.clone())
            }
            Source::Safetensors(shards) => {
                let tensor = shards.iter().find_map(|shard| shard.tensors.get(name))?;
                Some(tensor.shape.clone())
            }
        }
    }

    /// `rows` rows of the matrix with this Hugging Face name, each at `source` in it, in the bits that the file stores it
    /// in; none where those are no fewer than this crate computes in (F32, F16, safetensors).
    ///
    /// # Shapes
    /// - `size`: the whole tensor's, `[out, in]`
    ///
    /// # Errors
    /// When there is no such tensor, it has another size, or a scale in it is not finite.
    pub(crate) fn packed(
        &self,
        hf_name: &str,
        size: [usize; 2],
        rows: usize,
        source: impl Fn(usize) -> usize,
    ) -> Result<Option<Packed>> {
        let Source::Gguf { gguf, config } = &self.source else {
            return Ok(None);
        };
        let (tensor, d_head) = self.in_gguf(gguf, config, hf_name)?;
        if tensor.shape != size {
            let (expected, found) = (format!("shape {size:?}"), format!("{:?}", tensor.shape));
            return Err(Error::format(&self.path, hf_name, expected, found));
        }
        let all: Vec<&[u8]> = gguf.rows(tensor, |row| d_head.map_or(row, |d_head| interleaved_row(row, d_head)));
        let picked: Vec<&[u8]> = (0..rows).map(|row| all[source(row)]).collect();
        gguf_pack::pack(tensor.kind, &picked, tensor.width())
            .map_err(|found| Error::format(&self.path, hf_name, "finite scales", found))
    }

    /// A GGUF's tensor, and the width of the heads between whose rows its rows are interleaved.
    fn in_gguf<'a>(
        &self,
        gguf: &'a Gguf,
        config: &DecoderConfig,
        hf_name: &str,
    ) -> Result<(&'a GgufTensor, Option<usize>)> {
        let name = gguf_name(config, hf_name);
        // What has no Hugging Face name keeps its own.
        let tensor = gguf.tensor(name.as_deref().unwrap_or(hf_name));
        let tensor = tensor.ok_or_else(|| self.missing(hf_name))?;
        let rows = match tensor.shape[..] {
            [rows] => rows,
            _ => tensor.shape.iter().product::<usize>() / tensor.width(),
        };
        // Only a Llama's are rotated by neighbours.
        if config.architecture != Architecture::Llama {
            return Ok((tensor, None));
        }
        let heads = match hf_name.rsplit_once(".self_attn.") {
            Some((_, "q_proj.weight" | "q_proj.bias")) => config.shape.n_heads,
            Some((_, "k_proj.weight" | "k_proj.bias")) => config.shape.n_kv_heads,
            _ => return Ok((tensor, None)),
        };
        let d_head = config.shape.d_head;
        if rows != heads * d_head {
            let expected = format!("{heads} heads of {d_head} rows");
            return Err(Error::format(
                &self.path,
                hf_name,
                expected,
                format!("{:?}", tensor.shape),
            ));
        }
        Ok((tensor, Some(d_head)))
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

/// The GGUF's own name of a tensor.
pub(crate) fn gguf_name(config: &DecoderConfig, hf_name: &str) -> Option<String> {
    renamed(hf_name, |stem| config.architecture.names().to_gguf(stem))
}

/// A tensor's name with its stem translated; `.weight` or `.bias` stays.
fn renamed(name: &str, stem: impl Fn(&str) -> Option<String>) -> Option<String> {
    let (before, suffix) = name.rsplit_once('.')?;
    let kept = matches!(suffix, "weight" | "bias").then_some(suffix)?;
    Some(format!("{}.{kept}", stem(before)?))
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
