//! Gemma Scope 2: JumpReLU SAEs and transcoders as `params.safetensors`, with a `config.json` or without.

use std::path::Path;

use realign_arrays::{Array, Arrays};
use realign_core::HookPoint;

use crate::cfg::Cfg;
use crate::gemma_scope::malformed;
use crate::weights::{Kind, Weights};
use crate::{Metadata, Result};

pub(crate) const WEIGHTS: &str = "params.safetensors";
const CONFIG: &str = "config.json";

/// Reads the file of weights; the configuration beside it, or the path where there is none, says where it belongs.
pub(crate) fn read(weights: &Path) -> Result<Weights> {
    let config = weights.with_file_name(CONFIG);
    let cfg = match config.is_file() {
        true => Some(Cfg::read(config)?),
        false => None,
    };
    let place = match &cfg {
        Some(cfg) => Place::configured(cfg, weights)?,
        None => Place::of(weights),
    };
    let mut arrays = Arrays::read(weights)?;
    let (d_in, d_sae) = match *arrays.shape("w_enc").unwrap_or_default() {
        [d_in, d_sae] if d_in > 0 && d_sae > 0 => (d_in, d_sae),
        _ => {
            let found = arrays
                .shapes()
                .take(10)
                .map(|(name, shape)| format!("`{name}` {shape:?}"));
            let found = found.collect::<Vec<_>>().join(", ");
            let what = format!("array `w_enc`: expected a matrix [d_in, d_sae] of numbers, found {found}");
            return Err(malformed(weights, what));
        }
    };
    let d_out = match *arrays.shape("w_dec").unwrap_or_default() {
        [_, layers, _] => {
            let what = format!(
                "array `w_dec`: expected a matrix, found one for each of {layers} layers: a cross-layer transcoder, which is not read"
            );
            return Err(malformed(weights, what));
        }
        [_, d_out] if place.transcoder && d_out > 0 => d_out,
        _ => d_in,
    };
    let w_enc = Array::new(vec![d_in, d_sae], arrays.take("w_enc", &[d_in, d_sae])?);
    let w_skip = match place.skip {
        true => {
            let skip = arrays.take("affine_skip_connection", &[d_in, d_out])?;
            Some(Array::new(vec![d_in, d_out], skip).transposed().data)
        }
        false => None,
    };
    let mut read = Weights {
        path: weights.to_owned(),
        d_in,
        d_sae,
        w_enc: w_enc.transposed().data,
        b_enc: arrays.take("b_enc", &[d_sae])?,
        w_dec: arrays.take("w_dec", &[d_sae, d_out])?,
        b_dec: arrays.take("b_dec", &[d_out])?,
        kind: Kind::JumpRelu(arrays.take("threshold", &[d_sae])?),
        transcoder: place.transcoder,
        w_skip,
        metadata: place.metadata,
    };
    arrays.finish()?;
    if !read.transcoder {
        read.subtract_b_dec();
    }
    Ok(read)
}

/// Where a file belongs.
#[derive(Default)]
struct Place {
    transcoder: bool,
    skip: bool,
    metadata: Metadata,
}

/// What the tensors that an MLP reads and adds are called in Hugging Face's Gemma 3; others are called `output`.
const MLP_IN: &str = "pre_feedforward_layernorm.output";
const MLP_OUT: &str = "post_feedforward_layernorm.output";
const HEADS: &str = "self_attn.o_proj.input";

impl Place {
    /// What the configuration says; where it does not say what is read, the path does.
    fn configured(cfg: &Cfg, weights: &Path) -> Result<Self> {
        const IN: &str = "hf_hook_point_in";
        const SKIP: &str = "affine_connection";
        cfg.one_of("architecture", &["jump_relu"], None)?;
        let skip = cfg.flag(SKIP, false)?;
        let mut place = match cfg.text(IN) {
            // An SAE's configuration names the same twice.
            Some(read) => Self::named(read, cfg.text("hf_hook_point_out").filter(|written| *written != read)),
            None if cfg.get(IN).is_some() => return Err(cfg.wrong(IN, "a text")),
            None => Self::of(weights),
        };
        if skip && !place.transcoder {
            return Err(cfg.wrong(SKIP, "false, where no other activation is written than is read"));
        }
        place.skip = skip;
        if let Some(name) = cfg.text("model_name") {
            place.metadata.model_name = Some(model(name));
        }
        Ok(place)
    }

    /// `gemma-scope-2-1b-pt/resid_post/layer_22_width_65k_l0_medium`, as it lies on the hub.
    fn of(weights: &Path) -> Self {
        let full = std::path::absolute(weights).unwrap_or_else(|_| weights.to_owned());
        let parts: Vec<String> = full.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let [.., site, name, _] = &parts[..] else {
            return Self::default();
        };
        let layer = name.strip_prefix("layer_").and_then(|rest| rest.split('_').next());
        let layer = layer.and_then(|layer| layer.parse::<usize>().ok());
        let (read, written) = match site.strip_suffix("_all").unwrap_or(site) {
            "resid_post" => ("output", None),
            "attn_out" => (HEADS, None),
            "mlp_out" => (MLP_OUT, None),
            "transcoder" => (MLP_IN, Some(MLP_OUT)),
            _ => return Self::default(),
        };
        let Some(layer) = layer else {
            return Self::default();
        };
        let inside = |module: &str| format!("model.layers.{layer}.{module}");
        let mut place = Self::named(&inside(read), written.map(inside).as_deref());
        place.skip = place.transcoder && name.contains("affine");
        // In the hub's cache the folder is `models--google--gemma-scope-2-1b-pt`.
        let mut releases = parts.iter().rev().filter_map(|part| part.rsplit_once("gemma-scope-2-"));
        place.metadata.model_name = releases.next().map(|(_, release)| model(&format!("gemma-3-{release}")));
        place
    }

    /// By the names of the modules that it reads and, as a transcoder, writes.
    fn named(read: &str, written: Option<&str>) -> Self {
        let layer = |name: &str| {
            let (layer, module) = name.strip_prefix("model.layers.")?.split_once('.')?;
            Some((layer.parse::<usize>().ok()?, module.to_owned()))
        };
        let mut metadata = Metadata::default();
        metadata.other.insert("hf_hook_name".into(), read.into());
        if let Some((layer, module)) = layer(read) {
            metadata.hook_name = match &module[..] {
                "output" => Some(HookPoint::ResidPost(layer).to_string()),
                HEADS => Some(HookPoint::Z(layer).to_string()),
                MLP_OUT => Some(HookPoint::MlpOut(layer).to_string()),
                // There is no such hook point.
                MLP_IN => Some(format!("blocks.{layer}.hook_mlp_in")),
                _ => None,
            };
        }
        if let Some(written) = written {
            metadata.other.insert("hf_hook_name_out".into(), written.into());
            if let Some((layer, _)) = layer(written).filter(|(_, module)| module == MLP_OUT) {
                let at = HookPoint::MlpOut(layer).to_string();
                metadata.other.insert("hook_name_out".into(), at.into());
            }
        }
        Self {
            transcoder: written.is_some(),
            skip: false,
            metadata,
        }
    }
}

/// The model's name on the hub: configurations say `gemma-v3-1b-pt`, and the smallest one's has no `-pt`.
fn model(name: &str) -> String {
    let name = name.replace("-v3", "-3");
    let name = match name.contains("270m") {
        true => name.replace("-pt", ""),
        false => name,
    };
    match name.contains("google") {
        true => name,
        false => format!("google/{name}"),
    }
}
