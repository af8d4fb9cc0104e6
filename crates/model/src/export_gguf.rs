//! Writing a model with changed weights as a GGUF.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use realign_core::{LanguageModel, Site};

use crate::checkpoint::{gguf_name, interleaved_row};
use crate::{Access, Architecture, Checkpoint, DecoderConfig, Error, GgmlType, Gguf, GgufTensor, Result};

/// Where tensors begin; a file says so where it is another number.
const ALIGNMENT: usize = 32;

/// Keys of the metadata that are written anew.
const ANEW: [&str; 3] = ["general.alignment", "general.file_type", "general.quantization_version"];

/// Writes `model` as the GGUF `out` with matrices of type `kind` (F32, F16 or Q8_0, rounded as ggml does it) and vectors
/// of F32.
///
/// The linear maps are those of `model`; embeddings, norms, and all metadata with tokenizer and chat template are those of
/// `source`, the GGUF that it was made from. Tensors are written one at a time, to a temporary name that is renamed at the
/// end.
///
/// # Errors
/// Where `source` cannot be read, is no GGUF or of another shape, `kind` is not one of the three, or `out` cannot be
/// written.
pub fn export_gguf(source: &Path, access: Access, model: &dyn LanguageModel, out: &Path, kind: GgmlType) -> Result<()> {
    let Some(file_type) = file_type(kind) else {
        return Err(Error::format(out, "type", "F32, F16 or Q8_0", format!("{kind:?}")));
    };
    let checkpoint = Checkpoint::open_with(source, access)?;
    let Some(gguf) = checkpoint.gguf() else {
        let expected = "a GGUF, whose metadata the new one takes over";
        return Err(Error::format(source, "kind", expected, "another file"));
    };
    let config = checkpoint.config()?;
    if config.architecture != Architecture::Llama {
        let expected = "llama (no other architecture's GGUF is written)";
        let found = config.architecture.to_string();
        return Err(Error::format(source, "general.architecture", expected, found));
    }
    if config.shape() != *model.shape() {
        let (expected, found) = (format!("{:?}", model.shape()), format!("{:?}", config.shape()));
        return Err(Error::format(source, "shape", expected, found));
    }
    if source.canonicalize().ok() == out.canonicalize().ok() && out.exists() {
        return Err(Error::format(out, "file", "a file of its own", "the model's own"));
    }
    let tensors: Vec<Planned<'_>> = gguf
        .tensors()
        .map(|(name, tensor)| Planned {
            name,
            tensor,
            kind: kind_of(tensor, kind),
            from: from(&config, name),
        })
        .collect();
    let found = tensors.iter().filter(|planned| planned.from.is_some()).count();
    let expected = model.shape().n_layers * Site::ALL.len();
    if found != expected {
        let expected = format!("{expected} linear maps under their GGUF names");
        return Err(Error::format(source, "tensors", expected, found.to_string()));
    }

    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    let temporary = out.with_file_name(name);
    let written = File::create(&temporary).and_then(|file| {
        let mut file = BufWriter::with_capacity(1 << 20, file);
        write(&mut file, gguf, file_type, &tensors, model)?;
        file.into_inner()
            .map_err(std::io::IntoInnerError::into_error)?
            .sync_all()
    });
    written.map_err(|e| {
        // A full disk: what is there is of no use, and in the way.
        let _ = std::fs::remove_file(&temporary);
        io(&temporary, "write", e)
    })?;
    std::fs::rename(&temporary, out).map_err(|e| io(out, "rename to", e))
}

/// A tensor to be written.
struct Planned<'a> {
    name: &'a str,
    tensor: &'a GgufTensor,
    kind: GgmlType,
    /// The linear map whose weight it is, with the width of the heads between whose rows its rows are interleaved.
    from: Option<(usize, Site, Option<usize>)>,
}

impl Planned<'_> {
    fn size(&self) -> usize {
        self.tensor.shape.iter().product::<usize>() / self.kind.block_len() * self.kind.block_bytes()
    }

    /// The elements as the file has them.
    fn values(&self, gguf: &Gguf, model: &dyn LanguageModel) -> Vec<f32> {
        let Some((layer, site, d_head)) = self.from else {
            return gguf.dequantise(self.tensor, |row| row);
        };
        let weight = model.linear_weight(layer, site).transpose();
        let rows: Vec<f32> = weight.into_data().iter::<f32>().collect();
        let Some(d_head) = d_head else { return rows };
        let width = self.tensor.width();
        let mut values = vec![0.0; rows.len()];
        for (row, from) in rows.chunks_exact(width).enumerate() {
            values[interleaved_row(row, d_head) * width..][..width].copy_from_slice(from);
        }
        values
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

/// Vectors stay F32, and rows that are no whole blocks become F16.
fn kind_of(tensor: &GgufTensor, kind: GgmlType) -> GgmlType {
    match tensor.shape.len() {
        1 => GgmlType::F32,
        _ if tensor.width().is_multiple_of(kind.block_len()) => kind,
        _ => GgmlType::F16,
    }
}

fn from(config: &DecoderConfig, name: &str) -> Option<(usize, Site, Option<usize>)> {
    let layer = name.strip_prefix("blk.")?.split('.').next()?.parse().ok()?;
    let named = |site: &Site| {
        let ours = format!("model.layers.{layer}.{}.weight", site.path());
        gguf_name(config, &ours).as_deref() == Some(name)
    };
    let site = Site::ALL.into_iter().find(named)?;
    let interleaved = matches!(site, Site::Q | Site::K).then_some(config.shape.d_head);
    (layer < config.shape.n_layers).then_some((layer, site, interleaved))
}

fn write(
    file: &mut impl Write,
    gguf: &Gguf,
    file_type: u32,
    tensors: &[Planned<'_>],
    model: &dyn LanguageModel,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let kept: Vec<&[u8]> = gguf
        .raw_metadata()
        .filter(|(key, _)| !ANEW.contains(key))
        .map(|(_, bytes)| bytes)
        .collect();
    head.extend(b"GGUF\x03\0\0\0");
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((kept.len() as u64 + 2).to_le_bytes());
    kept.iter().for_each(|bytes| head.extend_from_slice(bytes));
    for (key, value) in [("general.file_type", file_type), ("general.quantization_version", 2)] {
        text(&mut head, key);
        head.extend(4_u32.to_le_bytes());
        head.extend(value.to_le_bytes());
    }
    let mut offset = 0_u64;
    for planned in tensors {
        text(&mut head, planned.name);
        head.extend((planned.tensor.shape.len() as u32).to_le_bytes());
        for &dim in planned.tensor.shape.iter().rev() {
            head.extend((dim as u64).to_le_bytes());
        }
        head.extend(planned.kind.id().to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset += planned.size().next_multiple_of(ALIGNMENT) as u64;
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
    file.write_all(&head)?;
    for planned in tensors {
        let mut bytes = planned
            .kind
            .quantise(&planned.values(gguf, model))
            .expect("a type that is written");
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        file.write_all(&bytes)?;
    }
    Ok(())
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn io(path: &Path, action: &'static str, source: std::io::Error) -> Error {
    Error::Io {
        path: path.to_owned(),
        action,
        source,
    }
}
