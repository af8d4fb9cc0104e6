//! The formats in which SAEs are shared, recognised by the files that are there.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use realign_arrays::Kind as Arrays;

use crate::weights::Weights;
use crate::{Error, Result, Sae, dictionary_learning, gemma_scope, gemma_scope_2, saelens, sparsify};

/// A format in which SAEs are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// SAELens: `cfg.json` and `sae_weights.safetensors`.
    SaeLens,
    /// EleutherAI's sparsify: `cfg.json` and `sae.safetensors`.
    Sparsify,
    /// dictionary_learning: `config.json` and `ae.pt`, or a checkpoint beside it.
    DictionaryLearning,
    /// Gemma Scope: `params.npz`.
    GemmaScope,
    /// Gemma Scope 2: `params.safetensors`, and mostly `config.json`.
    GemmaScope2,
}

/// The file that tells each format, in the order in which they are looked for.
const TELLING: [(&str, Format); 5] = [
    (saelens::WEIGHTS, Format::SaeLens),
    (sparsify::WEIGHTS, Format::Sparsify),
    (dictionary_learning::WEIGHTS, Format::DictionaryLearning),
    (gemma_scope::WEIGHTS, Format::GemmaScope),
    (gemma_scope_2::WEIGHTS, Format::GemmaScope2),
];

impl Format {
    /// The format of the SAE at `path`, a folder or its file of weights, and that file.
    ///
    /// # Errors
    /// [`Error::NoSae`] lists what was looked for.
    pub fn of(path: impl AsRef<Path>) -> Result<(Self, PathBuf)> {
        let path = path.as_ref();
        let none = |found: String| Error::NoSae {
            path: path.to_owned(),
            expected: format!("a folder with one of {}", TELLING.map(|(file, _)| file).join(", ")),
            found,
        };
        if path.is_dir() {
            let found = TELLING.into_iter().find(|(file, _)| path.join(file).is_file());
            let (file, format) = found.ok_or_else(|| none(listed(path)))?;
            return Ok((format, path.join(file)));
        }
        if !path.is_file() {
            return Err(none("no such file or folder".into()));
        }
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some((_, format)) = TELLING.into_iter().find(|(file, _)| name == Some(file)) {
            return Ok((format, path.to_owned()));
        }
        match Arrays::of(path)? {
            Some(Arrays::Npz) => Ok((Self::GemmaScope, path.to_owned())),
            Some(Arrays::Torch) => Ok((Self::DictionaryLearning, path.to_owned())),
            _ => match (name, path.parent()) {
                (Some("cfg.json" | "config.json"), Some(folder)) => Self::of(folder),
                _ => Err(none("another file".into())),
            },
        }
    }
}

impl Sae {
    /// Reads the SAE at `path`: a folder, or its file of weights, in any [`Format`].
    ///
    /// Settings that only change how the numbers are written down (a bias that is not subtracted, activations in units of
    /// the decoder's norm) are folded into the weights, so that the arithmetic of [`Sae`] gives the activations and the
    /// reconstruction that the original library gives.
    ///
    /// # Errors
    /// [`Error::NoSae`] lists what was looked for; [`Error::Field`] names a setting that would change the numbers and is
    /// not supported; [`Error::Malformed`] and [`Error::Arrays`] what is wrong with a file.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        read(path.as_ref())?.sae(device)
    }
}

pub(crate) fn read(path: &Path) -> Result<Weights> {
    let (format, weights) = Format::of(path)?;
    match format {
        Format::SaeLens => saelens::read(&weights),
        Format::Sparsify => sparsify::read(&weights),
        Format::DictionaryLearning => dictionary_learning::read(&weights),
        Format::GemmaScope => gemma_scope::read(&weights),
        Format::GemmaScope2 => gemma_scope_2::read(&weights),
    }
}

/// What lies in a folder, some of it.
fn listed(folder: &Path) -> String {
    const SHOWN: usize = 8;
    let Ok(entries) = std::fs::read_dir(folder) else {
        return "a folder that cannot be read".into();
    };
    let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = entries.flatten().take(1000).map(name).collect();
    names.sort();
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    match (names.is_empty(), more) {
        (true, _) => "an empty folder".into(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}
