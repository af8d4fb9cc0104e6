//! Files of tensors that are no GGUF: safetensors, numpy, PyTorch.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use realign_model::{Access, FileBytes};
use safetensors::SafeTensors;

use super::found::{Found, counted};

/// The header of a safetensors file: each tensor's name, type and shape.
pub struct Header(pub Vec<(String, String, Vec<usize>)>);

impl Header {
    /// Reads and checks the header; the tensors stay where they are.
    pub fn read(path: &Path, access: Access) -> Result<Self, String> {
        let bytes = FileBytes::open(path, access).map_err(|e| e.to_string())?;
        let (header, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|e| format!("{}: header: {e}", path.display()))?;
        // What lies behind the last tensor belongs to no one.
        let end = metadata
            .tensors()
            .values()
            .map(|info| info.data_offsets.1)
            .max()
            .unwrap_or(0);
        if bytes.len() != 8 + header + end {
            return Err(format!(
                "{}: expected {} bytes, as the header says, found {}",
                path.display(),
                8 + header + end,
                bytes.len()
            ));
        }
        let mut tensors: Vec<_> = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, format!("{:?}", info.dtype), info.shape.clone()))
            .collect();
        tensors.sort();
        Ok(Self(tensors))
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.0
            .iter()
            .find(|(other, ..)| other == name)
            .map(|(.., shape)| &shape[..])
    }

    /// Number and types of the tensors, and of the numbers in them.
    pub fn summary(&self) -> String {
        let types = counted(self.0.iter().map(|(_, dtype, _)| dtype.clone()));
        let numbers: f64 = self
            .0
            .iter()
            .map(|(.., shape)| shape.iter().map(|&n| n as f64).product::<f64>())
            .sum();
        format!("{} ({types}), {:.1} M numbers", self.0.len(), numbers / 1e6)
    }
}

/// A safetensors file by itself.
pub fn safetensors(path: &Path, access: Access) -> Found {
    let header = match Header::read(path, access) {
        Ok(header) => header,
        Err(problem) => {
            let mut found = Found::new(path, "safetensors", "a safetensors file that cannot be read");
            found.problem(problem);
            return found;
        }
    };
    let has = |part: &str| header.0.iter().any(|(name, ..)| name.contains(part));
    let folder = path.parent().unwrap_or(Path::new("."));
    let (kind, what) = if has(".lora_A.") {
        ("peft-weights", "weights of a PEFT adapter")
    } else if has("W_enc") || has("W_dec") || (has("w_enc") && has("w_dec")) {
        ("sae-weights", "weights of a sparse autoencoder")
    } else if has("embed_tokens") || has("wte.") || has("embed_in") || has("model.layers.") {
        ("model-weights", "weights of a model, or a part of them")
    } else if header.shape("vector").is_some() {
        ("direction-weights", "the vector of a direction")
    } else {
        ("safetensors", "safetensors of no known kind")
    };
    let mut found = Found::new(path, kind, what);
    found.fact("tensors", header.summary());
    for (name, dtype, shape) in header.0.iter().take(8) {
        found.fact(name.clone(), format!("{dtype} {shape:?}"));
    }
    if header.0.len() > 8 {
        found.fact("…", format!("{} more", header.0.len() - 8));
    }
    if kind != "safetensors" {
        found.fit(format!("its folder: realign inspect {}", folder.display()));
    }
    found
}

/// A numpy array.
pub fn npy(path: &Path) -> Found {
    let mut found = Found::new(path, "npy", "numpy array");
    let header = npy_header(path).ok_or_else(|| format!("{}: header: expected numpy's, found another", path.display()));
    if let Some(header) = found.try_to(header) {
        if header.contains("'O'") || header.contains("|O") {
            found.problem("it holds Python objects, which only running code could read");
        }
        found.fact("header", header);
        found.fit("realign_steering, where it is a direction [d_model] or a stack of them");
    }
    found
}

fn npy_header(path: &Path) -> Option<String> {
    let mut start = [0; 12];
    let mut file = File::open(path).ok()?;
    file.read_exact(&mut start[..10]).ok()?;
    let length = match start[6] {
        1 => usize::from(u16::from_le_bytes([start[8], start[9]])),
        2 | 3 => {
            file.read_exact(&mut start[10..]).ok()?;
            u32::from_le_bytes([start[8], start[9], start[10], start[11]]) as usize
        }
        _ => return None,
    };
    let mut header = vec![0; length.min(1 << 16)];
    file.read_exact(&mut header).ok()?;
    Some(String::from_utf8(header).ok()?.trim().to_owned())
}

/// A zip: numpy's `.npz`, or PyTorch's.
pub fn zip(path: &Path) -> Found {
    let names = File::open(path)
        .map_err(|e| e.to_string())
        .and_then(|file| zip::ZipArchive::new(BufReader::new(file)).map_err(|e| e.to_string()))
        .map(|archive| {
            archive
                .file_names()
                .flatten()
                .map(String::from)
                .collect::<BTreeSet<_>>()
        });
    let names = match names {
        Ok(names) => names,
        Err(error) => {
            let mut found = Found::new(path, "zip", "a zip that cannot be read");
            found.problem(format!("{}: {error}", path.display()));
            return found;
        }
    };
    let arrays: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix(".npy")).collect();
    if names
        .iter()
        .any(|name| name.ends_with("/data.pkl") || name == "data.pkl")
    {
        return torch(path);
    }
    let gemma_scope = ["W_enc", "W_dec", "b_enc", "b_dec"]
        .iter()
        .all(|name| arrays.contains(name));
    let mut found = match (gemma_scope, arrays.is_empty()) {
        (true, _) => Found::new(path, "gemma-scope-sae", "sparse autoencoder (Gemma Scope .npz)"),
        (_, false) => Found::new(path, "npz", "numpy arrays"),
        _ => Found::new(path, "zip", "a zip of no known kind"),
    };
    found.fact("entries", names.iter().take(12).cloned().collect::<Vec<_>>().join(", "));
    if gemma_scope {
        found.fact(
            "activation",
            if arrays.contains(&"threshold") {
                "JumpReLU"
            } else {
                "ReLU"
            },
        );
        found.fit(format!("realign diff BASE TUNED --sae {} --out DIR", path.display()));
    }
    if found.kind == "zip" {
        found.problem("nothing in it that realign reads");
    }
    found
}

/// What `torch.save` wrote.
pub fn torch(path: &Path) -> Found {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut found = if name.ends_with("_diff.pt") {
        Found::new(
            path,
            "persona-vector",
            "persona vectors (PyTorch), index L the output of block L - 1",
        )
    } else if name.starts_with("ae") {
        Found::new(
            path,
            "dictionary-learning-weights",
            "weights of a dictionary_learning autoencoder (PyTorch)",
        )
    } else {
        Found::new(path, "torch", "PyTorch file")
    };
    found.fact("format", "pickle; realign runs no code from it");
    found
}
