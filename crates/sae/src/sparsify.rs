//! EleutherAI's sparsify: `cfg.json` and `sae.safetensors` in a folder for each hook point.

use std::path::Path;

use burn::tensor::TensorData;
use realign_arrays::{Array, Arrays, safetensors};
use realign_core::HookPoint;
use serde_json::json;

use crate::cfg::Cfg;
use crate::saelens::create;
use crate::weights::{Kind, Weights};
use crate::{Activation, Error, Metadata, Result, Sae};

const CONFIG: &str = "cfg.json";
/// Of the whole training, in the folder above.
const TRAINING: &str = "config.json";
pub(crate) const WEIGHTS: &str = "sae.safetensors";

/// Reads the file of weights, and the configuration beside it.
///
/// `normalize_decoder` and `multi_topk` are about training: the weights are those that are used.
pub(crate) fn read(weights: &Path) -> Result<Weights> {
    let cfg = Cfg::read(weights.with_file_name(CONFIG))?;
    cfg.one_of("activation", &["topk", "groupmax"], Some("topk"))?;
    // Of versions before 1.0: the largest by their absolute value.
    cfg.unset("signed")?;
    let transcoder = cfg.flag("transcode", false)?;
    let skip = cfg.flag("skip_connection", false)?;
    if skip && !transcoder {
        return Err(cfg.wrong("skip_connection", "false, where `transcode` is false"));
    }
    let (d_in, k) = (cfg.size("d_in")?, cfg.size("k")?);
    let d_sae = match cfg.get("num_latents").and_then(serde_json::Value::as_u64) {
        None | Some(0) => {
            let latents = d_in.checked_mul(cfg.size("expansion_factor")?);
            latents.ok_or_else(|| cfg.wrong("expansion_factor", "a number of latents that can be counted"))?
        }
        Some(_) => cfg.sizes("d_in", "num_latents")?.1,
    };
    let kind = match cfg.text("activation") {
        Some("groupmax") if !d_sae.is_multiple_of(k) => {
            return Err(cfg.wrong("k", format!("groups of equal size of the {d_sae} latents")));
        }
        Some("groupmax") => Kind::GroupMax(k),
        _ => Kind::TopK(k),
    };
    let mut arrays = Arrays::read(weights)?;
    let read = Weights {
        path: weights.to_owned(),
        d_in,
        d_sae,
        w_enc: arrays.take("encoder.weight", &[d_sae, d_in])?,
        b_enc: arrays.take("encoder.bias", &[d_sae])?,
        w_dec: arrays.take("W_dec", &[d_sae, d_in])?,
        b_dec: arrays.take("b_dec", &[d_in])?,
        kind,
        transcoder,
        w_skip: match skip {
            true => Some(arrays.take("W_skip", &[d_in, d_in])?),
            false => None,
        },
        metadata: metadata(weights, transcoder)?,
    };
    arrays.finish()?;
    Ok(read)
}

/// The folder's name says where the SAE belongs, the folder above what it was trained on.
fn metadata(weights: &Path, transcoder: bool) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    let Some(folder) = weights.parent() else {
        return Ok(metadata);
    };
    if let Some(name) = folder.file_name().and_then(|name| name.to_str()) {
        // A transcoder reads its module's input, for which there is no hook point.
        metadata.hook_name = hook_point(name).filter(|_| !transcoder).map(|at| at.to_string());
        metadata.other.insert("sparsify_hookpoint".into(), name.into());
    }
    if let Some(training) = folder
        .parent()
        .map(|above| above.join(TRAINING))
        .filter(|file| file.is_file())
    {
        let training = Cfg::read(training)?;
        metadata.model_name = training.text("model").map(str::to_owned);
        if let Some(dataset) = training.get("dataset") {
            metadata.other.insert("dataset_path".into(), dataset.clone());
        }
    }
    Ok(metadata)
}

/// The output of a Hugging Face module: `layers.10`, `layers.3.mlp`, `layers.3.self_attn`, `embed_tokens`.
fn hook_point(module: &str) -> Option<HookPoint> {
    if module == "embed_tokens" {
        return Some(HookPoint::Embed);
    }
    let (layer, module) = match module.strip_prefix("layers.")?.split_once('.') {
        Some((layer, module)) => (layer, module),
        None => (module.strip_prefix("layers.")?, ""),
    };
    let layer = layer.parse().ok()?;
    match module {
        "" => Some(HookPoint::ResidPost(layer)),
        "mlp" => Some(HookPoint::MlpOut(layer)),
        "self_attn" => Some(HookPoint::AttnOut(layer)),
        _ => None,
    }
}

impl Sae {
    /// Writes a folder of sparsify's, which is made if it is not there; its name should be the module's: `layers.10`.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Run`]; [`Error::Unwritable`] for an activation that sparsify does not have.
    pub fn save_sparsify(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        let (d_in, d_sae) = (self.d_in(), self.d_sae());
        let (activation, k) = match self.activation {
            Activation::TopK { k } => ("topk", k),
            Activation::GroupMax { k } => ("groupmax", k),
            _ => {
                return Err(Error::Unwritable {
                    path: folder.to_owned(),
                    activation: self.activation.name(),
                    format: "a folder of sparsify",
                    has: "topk and groupmax",
                });
            }
        };
        let array = |shape: &[usize], data: TensorData| Array::new(shape.to_vec(), data.iter::<f32>().collect());
        let arrays = [
            ("encoder.weight", array(&[d_sae, d_in], self.w_enc.to_data())),
            ("encoder.bias", array(&[d_sae], self.b_enc.to_data())),
            ("W_dec", array(&[d_sae, d_in], self.w_dec.to_data())),
            ("b_dec", array(&[d_in], self.b_dec.to_data())),
        ];
        create(folder)?;
        let bytes = safetensors(arrays.iter().map(|(name, array)| (*name, array)), &[]);
        realign_run::write_atomic(folder.join(WEIGHTS), &bytes)?;
        let cfg = json!({
            "activation": activation,
            "expansion_factor": d_sae.div_ceil(d_in),
            "normalize_decoder": false,
            "num_latents": d_sae,
            "k": k,
            "multi_topk": false,
            "skip_connection": false,
            "transcode": false,
            "d_in": d_in,
        });
        Ok(realign_run::write_json(folder.join(CONFIG), &cfg)?)
    }
}
