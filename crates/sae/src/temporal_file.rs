//! SAELens' folders of temporal SAEs, whose weights are other ones than an SAE's.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use realign_arrays::{Array, Arrays};

use crate::cfg::Cfg;
use crate::weights::tensor;
use crate::{Activation, Error, Foretelling, Format, Result, TemporalSae, saelens};

/// What `architecture` is called.
pub(crate) const ARCHITECTURE: &str = "temporal";

pub(crate) fn read(path: &Path, device: &Device) -> Result<TemporalSae> {
    let (format, weights) = Format::of(path)?;
    let cfg = match format {
        Format::SaeLens => saelens::configuration(&weights)?,
        _ => return Err(no_temporal(&weights)),
    };
    if cfg.text("architecture") != Some(ARCHITECTURE) {
        return Err(no_temporal(&weights));
    }
    let scaled = "constant_scalar_rescale";
    cfg.one_of("normalize_activations", &["none", scaled], Some("none"))?;
    cfg.one_of("reshape_activations", &["none", "hook_z"], Some("none"))?;
    const FACTOR: &str = "activation_normalization_factor";
    let scale = match cfg.text("normalize_activations") == Some(scaled) {
        true => cfg.number(FACTOR, 1.0)?,
        false => 1.0,
    };
    if scale == 0.0 {
        return Err(cfg.wrong(FACTOR, "a number other than 0"));
    }
    let (d_in, d_sae) = cfg.sizes("d_in", "d_sae")?;
    let activation = activation(&cfg)?;
    activation.check(d_in, d_sae)?;
    let attention = Attention::of(&cfg, d_sae)?;
    let layers = cfg.size_or("n_attn_layers", 1)?;
    let (tied, centred) = (cfg.flag("tied_weights", true)?, cfg.flag("apply_b_dec_to_input", true)?);
    let metadata = cfg.metadata()?;

    let mut arrays = Arrays::read(&weights)?;
    // As many as the file has: what is missing ends it.
    let layers = (0..layers).map(|layer| attention.layer(layer, &mut arrays, device));
    let layers = layers.collect::<Result<_>>()?;
    let w_dec = tensor(arrays.take("W_dec", &[d_sae, d_in])?, [d_sae, d_in], device);
    let w_enc = match tied {
        true => w_dec.clone(),
        false => {
            let w_enc = Array::new(vec![d_in, d_sae], arrays.take("W_enc", &[d_in, d_sae])?);
            tensor(w_enc.transposed().data, [d_sae, d_in], device)
        }
    };
    let b_dec: Tensor<1> = tensor(arrays.take("b_dec", &[d_in])?, [d_in], device);
    arrays.finish()?;
    // Tied weights that do not subtract the bias do not add it, either.
    let only = |used: bool| if used { b_dec.clone() } else { b_dec.zeros_like() };
    Ok(TemporalSae {
        layers,
        activation,
        w_enc,
        b_in: only(centred),
        w_dec,
        b_dec: only(centred || !tied),
        scale,
        metadata,
    })
}

/// Of what is new: the `k` largest, or all above 0 where there is no `k`.
fn activation(cfg: &Cfg) -> Result<Activation> {
    const KIND: &str = "sae_diff_type";
    const K: &str = "kval_topk";
    cfg.one_of(KIND, &["topk", "relu"], Some("topk"))?;
    match (cfg.text(KIND), cfg.get(K)) {
        (Some("relu"), _) | (_, None) => Ok(Activation::Relu),
        _ => Ok(Activation::TopK { k: cfg.size(K)? }),
    }
}

/// The sizes of a layer of attention.
struct Attention {
    heads: usize,
    d_attention: usize,
    d_sae: usize,
}

impl Attention {
    fn of(cfg: &Cfg, d_sae: usize) -> Result<Self> {
        const FACTOR: &str = "bottleneck_factor";
        let (heads, factor) = (cfg.size_or("n_heads", 8)?, cfg.size_or(FACTOR, 64)?);
        match heads.checked_mul(factor) {
            Some(parts) if d_sae.is_multiple_of(parts) => Ok(Self {
                heads,
                d_attention: d_sae / factor,
                d_sae,
            }),
            _ => Err(cfg.wrong(
                FACTOR,
                format!("with `n_heads` = {heads}, a factor of `d_sae` = {d_sae}"),
            )),
        }
    }

    fn layer(&self, layer: usize, arrays: &mut Arrays, device: &Device) -> Result<Foretelling> {
        let d_sae = self.d_sae;
        let mut linear = |name: &str, rows: usize| -> Result<(Tensor<2>, Tensor<1>)> {
            let name = |part| format!("attn_layers.{layer}.{name}.{part}");
            let weight = arrays.take(&name("weight"), &[rows, d_sae])?;
            let bias = arrays.take(&name("bias"), &[rows])?;
            Ok((tensor(weight, [rows, d_sae], device), tensor(bias, [rows], device)))
        };
        Ok(Foretelling {
            heads: self.heads,
            q: linear("q_target", self.d_attention)?,
            k: linear("k_ctx", self.d_attention)?,
            v: linear("v_ctx", d_sae)?,
            o: linear("c_proj", d_sae)?,
        })
    }
}

fn no_temporal(path: &Path) -> Error {
    Error::Malformed {
        path: path.to_owned(),
        what: "no temporal SAE: `Sae::load` or `Transcoder::load` reads it".into(),
    }
}
