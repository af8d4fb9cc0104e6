//! Gemma Scope: JumpReLU SAEs as `params.npz`.

use std::path::Path;

use realign_arrays::{Array, Arrays};
use realign_core::HookPoint;

use crate::weights::{Kind, Weights};
use crate::{Error, Metadata, Result};

pub(crate) const WEIGHTS: &str = "params.npz";

/// Reads the file, which has no configuration: its arrays say the sizes, its path where it belongs.
pub(crate) fn read(weights: &Path) -> Result<Weights> {
    let mut arrays = Arrays::read(weights)?;
    let &[d_in, d_sae] = arrays.shape("W_enc").unwrap_or_default() else {
        let found = arrays
            .shapes()
            .take(10)
            .map(|(name, shape)| format!("`{name}` {shape:?}"));
        let found = found.collect::<Vec<_>>().join(", ");
        let what = format!("array `W_enc`: expected a matrix [d_in, d_sae], found {found}");
        return Err(malformed(weights, what));
    };
    if d_in == 0 || d_sae == 0 {
        return Err(malformed(
            weights,
            format!("array `W_enc`: expected numbers, found shape [{d_in}, {d_sae}]"),
        ));
    }
    let w_enc = Array::new(vec![d_in, d_sae], arrays.take("W_enc", &[d_in, d_sae])?);
    let mut read = Weights {
        path: weights.to_owned(),
        d_in,
        d_sae,
        w_enc: w_enc.transposed().data,
        b_enc: arrays.take("b_enc", &[d_sae])?,
        w_dec: arrays.take("W_dec", &[d_sae, d_in])?,
        b_dec: arrays.take("b_dec", &[d_in])?,
        kind: Kind::JumpRelu(arrays.take("threshold", &[d_sae])?),
        transcoder: false,
        w_skip: None,
        metadata: metadata(weights),
    };
    arrays.finish()?;
    read.subtract_b_dec();
    Ok(read)
}

pub(crate) fn malformed(path: &Path, what: String) -> Error {
    Error::Malformed {
        path: path.to_owned(),
        what,
    }
}

/// `gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71/params.npz`, as it lies on the hub.
fn metadata(weights: &Path) -> Metadata {
    let full = std::path::absolute(weights).unwrap_or_else(|_| weights.to_owned());
    let parts: Vec<String> = full.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let layer = parts
        .iter()
        .rev()
        .find_map(|part| part.strip_prefix("layer_")?.parse::<usize>().ok());
    // In the hub's cache the folder is `models--google--gemma-scope-2b-pt-res`.
    let release = parts
        .iter()
        .rev()
        .find_map(|part| part.rsplit_once("gemma-scope-").map(|(_, release)| release));
    let mut metadata = Metadata::default();
    if let Some((layer, release)) = layer.zip(release) {
        let at = match release.rsplit('-').next() {
            Some("res") => Some(HookPoint::ResidPost(layer)),
            Some("mlp") => Some(HookPoint::MlpOut(layer)),
            Some("att") => Some(HookPoint::Z(layer)),
            _ => None,
        };
        metadata.hook_name = at.map(|at| at.to_string());
        metadata
            .other
            .insert("release".into(), format!("gemma-scope-{release}").into());
    }
    metadata
}
