//! Writing a model with changed weights as a GGUF.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use realign_core::LanguageModel;

use crate::checkpoint::{gguf_name, interleaved_row};
use crate::export_tensors::{Planned, plan};
use crate::gguf_describe::{describe, rope_divisors};
use crate::gguf_writer::{GgufWriter, Meta, TensorHead, pad};
use crate::same_model::difference;
use crate::{
    Access, Checkpoint, DecoderConfig, Error, FileBytes, GgmlType, Gguf, Result, Tokenizer, chat, gguf_config,
    gguf_vocabulary,
};

/// Keys of the metadata that are written anew.
const ANEW: [&str; 3] = ["general.alignment", "general.file_type", "general.quantization_version"];

/// A tensor that no Hugging Face folder has: what rotary frequencies are divided by.
const ROPE_DIVISORS: &str = "rope_freqs.weight";

/// Writes `model` as the GGUF `out` with matrices of type `kind` (F32, F16 or Q8_0, rounded as ggml does it) and vectors
/// and learned positions of F32.
///
/// The linear maps and their biases are those of `model`; embeddings, norms, tokenizer, chat template and all else are those
/// of `source`, the GGUF or Hugging Face folder that it was made from. Tensors are written one at a time, to a temporary name
/// that is renamed at the end.
///
/// # Errors
/// Where `source` cannot be read or is of another shape, a GGUF cannot say what it is or how its tokenizer cuts text, `kind`
/// is not one of the three, or `out` cannot be written.
pub fn export_gguf(source: &Path, access: Access, model: &dyn LanguageModel, out: &Path, kind: GgmlType) -> Result<()> {
    let Some(file_type) = file_type(kind) else {
        return Err(Error::format(out, "type", "F32, F16 or Q8_0", format!("{kind:?}")));
    };
    let checkpoint = Checkpoint::open_with(source, access)?;
    let config = checkpoint.config()?;
    if config.shape() != *model.shape() {
        let (expected, found) = (format!("{:?}", model.shape()), format!("{:?}", config.shape()));
        return Err(Error::format(source, "shape", expected, found));
    }
    if source.canonicalize().ok() == out.canonicalize().ok() && out.exists() {
        return Err(Error::format(out, "file", "a file of its own", "the model's own"));
    }
    let Some(name) = gguf_config::name(config.architecture) else {
        let expected = "an architecture whose GGUFs are read";
        let found = config.architecture.model_type();
        return Err(Error::format(source, "architecture", expected, found));
    };
    let tensors = tensors(&checkpoint, &config, name, kind)?;
    let metadata = match checkpoint.gguf() {
        Some(gguf) => {
            let kept = gguf.raw_metadata().filter(|(key, _)| !ANEW.contains(key));
            kept.fold(GgufWriter::new(), |writer, (_, bytes)| writer.raw_meta(bytes))
        }
        None => of_folder(&checkpoint, &config, name, &tensors)?,
    };
    let metadata = metadata
        .meta("general.file_type", Meta::U32(file_type))
        .meta("general.quantization_version", Meta::U32(2));

    let mut partial = out.file_name().unwrap_or_default().to_os_string();
    partial.push(".partial");
    let temporary = out.with_file_name(partial);
    let file = File::create(&temporary).map_err(|e| io(&temporary, "write", e))?;
    write(file, &temporary, &metadata, &tensors, &checkpoint, model).inspect_err(|_| {
        // A full disk: what is there is of no use, and in the way.
        let _ = std::fs::remove_file(&temporary);
    })?;
    std::fs::rename(&temporary, out).map_err(|e| io(out, "rename to", e))
}

/// A tensor to be written.
struct Tensor {
    head: TensorHead,
    from: From,
}

/// Where a tensor's numbers come from.
enum From {
    Planned {
        planned: Planned,
        /// The width of the heads between whose rows its rows are interleaved.
        interleaved: Option<usize>,
    },
    Numbers(Vec<f32>),
}

impl Tensor {
    fn values(&self, checkpoint: &Checkpoint, model: &dyn LanguageModel) -> Result<Vec<f32>> {
        let (values, d_head) = match &self.from {
            From::Numbers(numbers) => return Ok(numbers.clone()),
            From::Planned { planned, interleaved } => (planned.values(checkpoint, model)?, interleaved),
        };
        let Some(d_head) = *d_head else { return Ok(values) };
        // A bias is a column.
        let width = if self.head.shape.len() == 1 {
            1
        } else {
            self.head.shape[1]
        };
        let mut moved = vec![0.0; values.len()];
        for (row, from) in values.chunks_exact(width).enumerate() {
            moved[interleaved_row(row, d_head) * width..][..width].copy_from_slice(from);
        }
        Ok(moved)
    }
}

/// Every tensor of the file, sorted by name.
fn tensors(checkpoint: &Checkpoint, config: &DecoderConfig, name: &str, kind: GgmlType) -> Result<Vec<Tensor>> {
    let names = config.architecture.names();
    let mut tensors = Vec::new();
    for planned in plan(checkpoint, config, names.of_gguf())? {
        // A model that was saved without its head lacks the root of the names.
        let own = gguf_name(config, &planned.name)
            .or_else(|| gguf_name(config, &format!("{}{}", names.modules.root, planned.name)));
        let own = match (own, checkpoint.gguf()) {
            (Some(own), _) => own,
            (None, Some(_)) => planned.name.clone(),
            // What nobody reads, such as a causal mask.
            (None, None) => continue,
        };
        if config.tied && own == "output.weight" {
            continue;
        }
        let by_neighbours = name == "llama" && (own.contains(".attn_q.") || own.contains(".attn_k."));
        tensors.push(Tensor {
            head: TensorHead {
                kind: kind_of(&own, &planned.shape, kind),
                shape: planned.shape.clone(),
                name: own,
            },
            from: From::Planned {
                planned,
                interleaved: by_neighbours.then_some(config.shape.d_head),
            },
        });
    }
    if let (None, Some(divisors)) = (checkpoint.gguf(), rope_divisors(config)) {
        tensors.push(Tensor {
            head: TensorHead {
                name: ROPE_DIVISORS.to_owned(),
                shape: vec![divisors.len()],
                kind: GgmlType::F32,
            },
            from: From::Numbers(divisors),
        });
    }
    tensors.sort_by(|a, b| a.head.name.cmp(&b.head.name));
    Ok(tensors)
}

/// The metadata of a Hugging Face folder, read back and compared before it is believed.
fn of_folder(checkpoint: &Checkpoint, config: &DecoderConfig, name: &str, tensors: &[Tensor]) -> Result<GgufWriter> {
    let folder = checkpoint.path().parent().unwrap_or(Path::new("."));
    let file = folder.join("tokenizer.json");
    let tokenizer = Tokenizer::from_file(&file)?;
    let writer = describe(config, name, GgufWriter::new());
    let writer = gguf_vocabulary::write(&tokenizer, &file, config.shape.vocab, writer)?;
    let writer = match chat::source_in(folder)? {
        Some((template, _)) => writer.meta("tokenizer.chat_template", Meta::Text(&template)),
        None => writer,
    };

    // What a description depends on beside its keys: which tensors there are, and how many rows the embedding has.
    let mut small = writer.clone();
    for tensor in tensors {
        let own = &tensor.head.name;
        small = match &tensor.from {
            From::Numbers(numbers) => small.tensor_f32(own, &tensor.head.shape, numbers),
            From::Planned { .. } if own == "token_embd.weight" => {
                let rows = tensor.head.shape[0];
                small.tensor(own, &[rows, 1], GgmlType::F16, vec![0; 2 * rows])
            }
            From::Planned { .. } => small.tensor_f32(own, &[1], &[0.0]),
        };
    }
    let small = Gguf::parse(FileBytes::from_vec(checkpoint.path(), small.finish()))?;
    let read = DecoderConfig::from_gguf(&small)?;
    if let Some((what, expected, found)) = difference(&read, config) {
        let expected = format!("what a GGUF of {name} can say: {expected}");
        return Err(Error::format(&folder.join("config.json"), what, expected, found));
    }
    match Tokenizer::from_gguf(&small)?.differs_from(&tokenizer) {
        Some(text) => {
            let found = format!("one that cuts {text:?} in another way there");
            Err(Error::format(&file, "tokenizer", "one that a GGUF can hold", found))
        }
        None => Ok(writer),
    }
}

/// What llama.cpp calls a file whose matrices are of this type.
fn file_type(kind: GgmlType) -> Option<u32> {
    match kind {
        GgmlType::F32 => Some(0),
        GgmlType::F16 => Some(1),
        GgmlType::Q8_0 => Some(7),
        _ => None,
    }
}

/// Vectors and learned positions stay F32, and rows that are no whole blocks become F16.
fn kind_of(name: &str, shape: &[usize], kind: GgmlType) -> GgmlType {
    match shape {
        [_] => GgmlType::F32,
        _ if name == "position_embd.weight" => GgmlType::F32,
        [.., width] if width.is_multiple_of(kind.block_len()) => kind,
        _ => GgmlType::F16,
    }
}

fn write(
    file: File,
    path: &Path,
    metadata: &GgufWriter,
    tensors: &[Tensor],
    checkpoint: &Checkpoint,
    model: &dyn LanguageModel,
) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let failed = |e| io(path, "write", e);
    let head = metadata.head(tensors.iter().map(|tensor| &tensor.head));
    file.write_all(&head).map_err(failed)?;
    for tensor in tensors {
        let values = tensor.values(checkpoint, model)?;
        let mut bytes = tensor.head.kind.quantise(&values).expect("a type that is written");
        pad(&mut bytes);
        file.write_all(&bytes).map_err(failed)?;
    }
    let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
    file.sync_all().map_err(failed)
}

fn io(path: &Path, action: &'static str, source: std::io::Error) -> Error {
    Error::Io {
        path: path.to_owned(),
        action,
        source,
    }
}
