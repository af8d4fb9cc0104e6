//! dictionary_learning: a pickled state dict, `ae.pt`, and `config.json`.

use std::path::Path;

use realign_arrays::{Array, Arrays};
use realign_core::HookPoint;

use crate::cfg::Cfg;
use crate::weights::{Kind, Weights};
use crate::{Error, Metadata, Result};

const CONFIG: &str = "config.json";
pub(crate) const WEIGHTS: &str = "ae.pt";

const CLASSES: [&str; 7] = [
    "AutoEncoder",
    "AutoEncoderNew",
    "GatedAutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
    "JumpReluAutoEncoder",
];

/// Reads the file of weights, and the configuration beside it or, for one of `checkpoints/`, above it.
pub(crate) fn read(weights: &Path) -> Result<Weights> {
    let beside = weights.with_file_name(CONFIG);
    let above = weights.parent().and_then(Path::parent).map(|above| above.join(CONFIG));
    let cfg = match above {
        Some(above) if !beside.is_file() && above.is_file() => above,
        _ => beside,
    };
    let cfg = Cfg::read(cfg)?.object("trainer")?;
    cfg.one_of("dict_class", &CLASSES, None)?;
    let class = cfg.text("dict_class").unwrap_or_default();
    let (d_in, d_sae) = cfg.sizes("activation_dim", "dict_size")?;

    let mut state = State {
        arrays: Arrays::read(weights)?,
        d_in,
        d_sae,
    };
    let (w_enc, b_enc, w_dec) = match class {
        "MatryoshkaBatchTopKSAE" | "JumpReluAutoEncoder" => state.parameters()?,
        "GatedAutoEncoder" => state.linear("gate_bias")?,
        _ => state.linear("encoder.bias")?,
    };
    let b_dec = match class {
        "AutoEncoder" => "bias",
        "AutoEncoderNew" => "decoder.bias",
        "GatedAutoEncoder" => "decoder_bias",
        _ => "b_dec",
    };
    let b_dec = state.arrays.take(b_dec, &[d_in])?;
    let kind = match class {
        "GatedAutoEncoder" => Kind::Gated {
            r_mag: state.arrays.take("r_mag", &[d_sae])?,
            b_mag: state.arrays.take("mag_bias", &[d_sae])?,
        },
        "AutoEncoderTopK" => {
            // It could be used in the place of k, but is not unless asked for.
            state.arrays.pop("threshold");
            Kind::TopK(state.k(&cfg)?)
        }
        "BatchTopKSAE" => {
            state.k(&cfg)?;
            Kind::BatchTopK(state.arrays.take("threshold", &[])?[0])
        }
        "MatryoshkaBatchTopKSAE" => {
            state.k(&cfg)?;
            state.groups()?;
            Kind::BatchTopK(state.arrays.take("threshold", &[])?[0])
        }
        "JumpReluAutoEncoder" => Kind::JumpRelu(state.arrays.take("threshold", &[d_sae])?),
        _ => Kind::Relu,
    };
    let mut read = Weights {
        path: weights.to_owned(),
        d_in,
        d_sae,
        w_enc,
        b_enc,
        w_dec,
        b_dec,
        kind,
        transcoder: false,
        w_skip: None,
        metadata: metadata(&cfg),
    };
    state.arrays.finish()?;
    match class {
        "AutoEncoderNew" | "JumpReluAutoEncoder" => read.subtract_b_dec(),
        // The library does so whenever it loads one.
        "AutoEncoder" => read.normalise_decoder()?,
        _ => {}
    }
    Ok(read)
}

struct State {
    arrays: Arrays,
    d_in: usize,
    d_sae: usize,
}

impl State {
    /// `torch.nn.Linear`'s: encoder `[d_sae, d_in]`, its bias, decoder `[d_in, d_sae]`.
    fn linear(&mut self, bias: &str) -> Result<(Vec<f32>, Vec<f32>, Vec<f32>)> {
        let (d_in, d_sae) = (self.d_in, self.d_sae);
        let w_enc = self.arrays.take("encoder.weight", &[d_sae, d_in])?;
        let b_enc = self.arrays.take(bias, &[d_sae])?;
        let w_dec = self.arrays.take("decoder.weight", &[d_in, d_sae])?;
        Ok((w_enc, b_enc, Array::new(vec![d_in, d_sae], w_dec).transposed().data))
    }

    /// Parameters of the module itself: encoder `[d_in, d_sae]`, its bias, decoder `[d_sae, d_in]`.
    fn parameters(&mut self) -> Result<(Vec<f32>, Vec<f32>, Vec<f32>)> {
        let (d_in, d_sae) = (self.d_in, self.d_sae);
        let w_enc = self.arrays.take("W_enc", &[d_in, d_sae])?;
        let b_enc = self.arrays.take("b_enc", &[d_sae])?;
        let w_dec = self.arrays.take("W_dec", &[d_sae, d_in])?;
        Ok((Array::new(vec![d_in, d_sae], w_enc).transposed().data, b_enc, w_dec))
    }

    /// The configuration's `k`, which the weights repeat in newer files.
    fn k(&mut self, cfg: &Cfg) -> Result<usize> {
        let k = cfg.size("k")?;
        match self.arrays.pop("k") {
            Some(inside) if inside.data != [k as f32] => {
                Err(cfg.wrong("k", format!("{:?}, which is in the weights", inside.data)))
            }
            _ => Ok(k),
        }
    }

    /// Matryoshka's groups matter in training; with all of them active they must cover the latents.
    fn groups(&mut self) -> Result<()> {
        let path = self.arrays.path().to_owned();
        match self.arrays.pop("group_sizes") {
            Some(sizes) if sizes.data.iter().map(|x| f64::from(*x)).sum::<f64>() != self.d_sae as f64 => {
                Err(Error::Malformed {
                    path,
                    what: format!("array `group_sizes`: expected a sum of {}, found another", self.d_sae),
                })
            }
            _ => Ok(()),
        }
    }
}

fn metadata(cfg: &Cfg) -> Metadata {
    let layer = cfg
        .get("layer")
        .and_then(serde_json::Value::as_u64)
        .and_then(|n| usize::try_from(n).ok());
    let module = cfg.text("submodule_name").unwrap_or("resid_post");
    let at = layer.and_then(|layer| {
        [
            ("resid_post", HookPoint::ResidPost(layer)),
            ("resid_pre", HookPoint::ResidPre(layer)),
            ("mlp_out", HookPoint::MlpOut(layer)),
            ("attn_out", HookPoint::AttnOut(layer)),
        ]
        .into_iter()
        .find_map(|(name, at)| module.starts_with(name).then_some(at))
    });
    Metadata {
        model_name: cfg.text("lm_name").map(str::to_owned),
        hook_name: at.map(|at| at.to_string()),
        ..Metadata::default()
    }
}
