//! What a file or a folder is, without loading its weights.

mod data;
mod folder;
mod found;
mod gguf;
mod json;
mod sae;
mod tensors;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use realign_model::{Access, ChatTemplate};

use crate::error::{Failure, Result};
pub use found::Found;

/// What a file or a folder is; an error where nothing that realign knows fits.
pub fn inspect(path: &Path, access: Access) -> Result<Found> {
    let about = std::fs::metadata(path).map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
    let found = if about.is_dir() {
        folder::inspect(path, access)
    } else if about.is_file() {
        file(path, access)?
    } else {
        return Err(Failure::failed(format!(
            "{}: expected a file or a folder, found a pipe, socket or device",
            path.display()
        )));
    };
    found.ok_or_else(|| {
        let kind = if about.is_dir() { "folder" } else { "file" };
        Failure::failed(format!("{}: a {kind} of no kind that realign knows", path.display())).hint(
            "it knows GGUF, safetensors, Hugging Face folders, PEFT adapters, SAEs, directions, tokenizers, chat \
             templates, JSONL, Parquet, question YAML, trait JSON, answer CSVs and run folders",
        )
    })
}

fn file(path: &Path, access: Access) -> Result<Option<Found>> {
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(4096).read_to_end(&mut start))
        .map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
    let extension = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default()
        .to_ascii_lowercase();
    if start.starts_with(b"GGUF") || extension == "gguf" {
        return Ok(Some(gguf::inspect(path, access)));
    }
    if is_safetensors(&start) || extension == "safetensors" {
        return Ok(Some(tensors::safetensors(path, access)));
    }
    if start.starts_with(b"\x93NUMPY") {
        return Ok(Some(tensors::npy(path)));
    }
    if start.starts_with(b"PK\x03\x04") {
        return Ok(Some(tensors::zip(path)));
    }
    // Pickles of protocol 2 and later, and the tar-less format before PyTorch 1.6.
    if start.starts_with(b"\x80\x02") || start.starts_with(b"\x80\x04") || matches!(extension.as_str(), "pt" | "pth") {
        return Ok(Some(tensors::torch(path)));
    }
    if start.starts_with(b"PAR1") || extension == "parquet" {
        return Ok(Some(data::parquet(path)));
    }
    if extension == "jinja" || extension == "jinja2" {
        return Ok(Some(template(path)));
    }
    if extension == "json" {
        match json::read(path) {
            Ok(fields) => {
                if let Some(found) = json::inspect(path, &fields) {
                    return Ok(Some(found));
                }
            }
            // Rows of JSON under the wrong name are still rows.
            Err(problem) if realign_data::data_format(path).is_err() => {
                let mut found = Found::new(path, "json", "JSON of no known kind");
                found.problem(problem);
                return Ok(Some(found));
            }
            Err(_) => {}
        }
    }
    Ok(data::inspect(path))
}

/// A length that fits a header, and the header's first byte.
fn is_safetensors(start: &[u8]) -> bool {
    let Some((length, rest)) = start.split_first_chunk::<8>() else {
        return false;
    };
    u64::from_le_bytes(*length) <= 100 << 20 && rest.first() == Some(&b'{')
}

/// No template is longer.
const LONGEST_TEMPLATE: u64 = 4 << 20;

fn template(path: &Path) -> Found {
    let mut found = Found::new(path, "chat-template", "chat template (Jinja)");
    if found.bytes > LONGEST_TEMPLATE {
        found.problem(format!(
            "expected at most {LONGEST_TEMPLATE} bytes, found {}",
            found.bytes
        ));
        return found;
    }
    match std::fs::read_to_string(path) {
        Ok(text) => {
            if let Some(template) = found.try_to(ChatTemplate::new(&text, path)) {
                found.fact("sha256", template.sha256());
                found.fact("marks the answer for training", text.contains("{% generation"));
            }
        }
        Err(error) => found.problem(format!("{}: {error}", path.display())),
    }
    found.fit("a model's folder, as chat_template.jinja");
    found
}
