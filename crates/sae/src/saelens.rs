//! SAELens folders: `cfg.json` and `sae_weights.safetensors`.

use std::path::Path;

use burn::tensor::TensorData;
use realign_arrays::{Array, Arrays, safetensors};
use serde_json::{Value, json};

use crate::cfg::Cfg;
use crate::weights::{Kind, Weights};
use crate::{Activation, Error, Metadata, Result, Sae, saelens_legacy, temporal_file};

const CONFIG: &str = "cfg.json";
pub(crate) const WEIGHTS: &str = "sae_weights.safetensors";

/// Those that are read. BatchTopK and Matryoshka SAEs are saved as `jumprelu` after training, under their own names
/// before.
const ARCHITECTURES: [&str; 12] = [
    "standard",
    "topk",
    "abstopk",
    "jumprelu",
    "gated",
    "batchtopk",
    "matryoshka_batchtopk",
    "matching_pursuit",
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
];

/// A pursuit that nothing else ends goes on for as long as its file says, on each token: this long, or a step for each
/// latent.
const MOST_STEPS: usize = 1 << 12;

/// The configuration beside the file of weights, with the names and defaults of version 6.
pub(crate) fn configuration(weights: &Path) -> Result<Cfg> {
    let cfg = Cfg::read(weights.with_file_name(CONFIG))?;
    match saelens_legacy::is_legacy(&cfg) {
        true => saelens_legacy::modern(cfg),
        false => Ok(cfg),
    }
}

/// Reads the file of weights, and the configuration beside it.
pub(crate) fn read(weights: &Path) -> Result<Weights> {
    let cfg = configuration(weights)?;
    if cfg.text("architecture") == Some(temporal_file::ARCHITECTURE) {
        return Err(Error::Malformed {
            path: weights.to_owned(),
            what: "a temporal SAE, which reads a sequence and no single token: `TemporalSae::load` reads it".into(),
        });
    }
    cfg.one_of("architecture", &ARCHITECTURES, None)?;
    // The others scale or move each activation before it is encoded, some of them by numbers that are not in the file.
    cfg.one_of("normalize_activations", &["none"], Some("none"))?;
    cfg.one_of("reshape_activations", &["none", "hook_z"], Some("none"))?;
    // Not among version 6's own fields, but older programs leave it there.
    for field in ["activation_fn", "activation_fn_str"] {
        cfg.one_of(field, &["relu", "topk", "batchtopk", "jumprelu"], Some("relu"))?;
    }
    let architecture = cfg.text("architecture").unwrap_or_default();
    let trained_by_batch = architecture.ends_with("batchtopk");
    let transcoder = architecture.ends_with("transcoder");
    let (d_in, d_sae) = cfg.sizes("d_in", "d_sae")?;
    let d_out = if transcoder { cfg.size("d_out")? } else { d_in };
    let k = if architecture.ends_with("topk") && !trained_by_batch {
        cfg.size("k")?
    } else {
        0
    };
    let metadata = cfg.metadata()?;

    let mut arrays = Arrays::read(weights)?;
    refuse_scaling(&mut arrays)?;
    if architecture == "matching_pursuit" {
        return pursuit(&cfg, arrays, (d_in, d_sae), metadata);
    }
    let w_enc = arrays.take("W_enc", &[d_in, d_sae])?;
    let w_enc = Array::new(vec![d_in, d_sae], w_enc).transposed().data;
    let b_enc = arrays.take(if architecture == "gated" { "b_gate" } else { "b_enc" }, &[d_sae])?;
    let kind = match architecture {
        "topk" => Kind::TopK(k),
        "abstopk" => Kind::AbsTopK(k),
        "gated" => Kind::Gated {
            r_mag: arrays.take("r_mag", &[d_sae])?,
            b_mag: arrays.take("b_mag", &[d_sae])?,
        },
        _ if trained_by_batch => Kind::BatchTopK(arrays.take("topk_threshold", &[])?[0]),
        _ if architecture.starts_with("jumprelu") => one_threshold(arrays.take("threshold", &[d_sae])?),
        _ => Kind::Relu,
    };
    let mut weights = Weights {
        path: weights.to_owned(),
        d_in,
        d_sae,
        w_enc,
        b_enc,
        w_dec: arrays.take("W_dec", &[d_sae, d_out])?,
        b_dec: arrays.take("b_dec", &[d_out])?,
        kind,
        transcoder,
        w_skip: match architecture.contains("skip") {
            true => Some(arrays.take("W_skip", &[d_out, d_in])?),
            false => None,
        },
        metadata,
    };
    arrays.finish()?;
    if transcoder {
        cfg.unset("apply_b_dec_to_input")?;
    } else if !cfg.flag("apply_b_dec_to_input", true)? {
        weights.subtract_b_dec();
    }
    if matches!(weights.kind, Kind::TopK(_) | Kind::AbsTopK(_) | Kind::BatchTopK(_))
        && cfg.flag("rescale_acts_by_decoder_norm", trained_by_batch)?
    {
        weights.normalise_decoder()?;
    }
    Ok(weights)
}

/// Matching pursuit: the encoder is the decoder, and a decoder's bias that the encoder leaves alone is not added either.
fn pursuit(cfg: &Cfg, mut arrays: Arrays, (d_in, d_sae): (usize, usize), metadata: Metadata) -> Result<Weights> {
    const STEPS: &str = "max_iterations";
    let steps = cfg.size_or(STEPS, d_in)?;
    let stop_on_repeat = cfg.flag("stop_on_duplicate_support", true)?;
    let most = MOST_STEPS.max(d_in).max(d_sae);
    if steps > most && !stop_on_repeat {
        return Err(cfg.wrong(
            STEPS,
            format!("at most {most}, where `stop_on_duplicate_support` is false"),
        ));
    }
    let kind = Kind::MatchingPursuit {
        threshold: cfg.number("residual_threshold", 0.01)?,
        steps,
        stop_on_repeat,
    };
    let w_dec = arrays.take("W_dec", &[d_sae, d_in])?;
    let mut b_dec = arrays.take("b_dec", &[d_in])?;
    if !cfg.flag("apply_b_dec_to_input", true)? {
        b_dec.fill(0.0);
    }
    let path = arrays.path().to_owned();
    arrays.finish()?;
    Ok(Weights {
        path,
        d_in,
        d_sae,
        w_enc: w_dec.clone(),
        b_enc: vec![0.0; d_sae],
        w_dec,
        b_dec,
        kind,
        transcoder: false,
        w_skip: None,
        metadata,
    })
}

/// BatchTopK's one threshold, repeated for each latent, or JumpReLU's own ones.
fn one_threshold(threshold: Vec<f32>) -> Kind {
    match threshold.first() {
        Some(&first) if threshold.iter().all(|&other| other == first) => Kind::BatchTopK(first),
        _ => Kind::JumpRelu(threshold),
    }
}

/// A time long ago, files had a factor for each latent, mostly ones. SAELens drops those, and refuses others.
fn refuse_scaling(arrays: &mut Arrays) -> Result<()> {
    const NAME: &str = "scaling_factor";
    let path = arrays.path().to_owned();
    match arrays.pop(NAME) {
        Some(factors) if factors.data.iter().any(|x| (x - 1.0).abs() > 1e-5) => Err(Error::Malformed {
            path,
            what: format!("array `{NAME}`: expected none, or ones; fine-tuned scales are not supported"),
        }),
        _ => Ok(()),
    }
}

impl Sae {
    /// Writes a SAELens 6 folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Run`]; [`Error::Unwritable`] for an activation that SAELens does not have, and for a
    /// matching pursuit whose encoder is no longer its decoder.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        let (d_in, d_sae) = (self.d_in(), self.d_sae());
        let host = |data: TensorData| data.iter::<f32>().collect::<Vec<f32>>();
        let vector = |data: Vec<f32>| Array::new(vec![data.len()], data);
        let w_enc = Array::new(vec![d_sae, d_in], host(self.w_enc.to_data())).transposed();
        let b_enc = vector(host(self.b_enc.to_data()));
        let mut arrays = vec![
            ("W_dec", Array::new(vec![d_sae, d_in], host(self.w_dec.to_data()))),
            ("b_dec", vector(host(self.b_dec.to_data()))),
        ];
        let unwritable = |activation| Error::Unwritable {
            path: folder.to_owned(),
            activation,
            format: "a SAELens folder",
            has: "relu, topk, abstopk, jumprelu, gated and matching_pursuit",
        };
        let mut metadata = serde_json::to_value(&self.metadata).expect("metadata has string keys only");
        if let Value::Object(metadata) = &mut metadata {
            // Without a version from 6.0 on, SAELens takes the file for a legacy one.
            metadata.entry("sae_lens_version").or_insert_with(|| "6.0.0".into());
        }
        let mut cfg = json!({
            "architecture": "standard",
            "d_in": d_in,
            "d_sae": d_sae,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": true,
            "normalize_activations": "none",
            "reshape_activations": "none",
            "metadata": metadata,
        });
        match &self.activation {
            Activation::Relu => arrays.push(("b_enc", b_enc)),
            Activation::TopK { k } | Activation::AbsTopK { k } => {
                cfg["architecture"] = self.activation.name().into();
                cfg["k"] = (*k).into();
                cfg["rescale_acts_by_decoder_norm"] = false.into();
                arrays.push(("b_enc", b_enc));
            }
            Activation::BatchTopK { threshold } => {
                cfg["architecture"] = "jumprelu".into();
                arrays.push(("b_enc", b_enc));
                arrays.push(("threshold", vector(vec![*threshold; d_sae])));
            }
            Activation::JumpRelu { threshold } => {
                cfg["architecture"] = "jumprelu".into();
                arrays.push(("b_enc", b_enc));
                arrays.push(("threshold", vector(host(threshold.to_data()))));
            }
            Activation::Gated { r_mag, b_mag } => {
                cfg["architecture"] = "gated".into();
                arrays.push(("b_gate", b_enc));
                arrays.push(("r_mag", vector(host(r_mag.to_data()))));
                arrays.push(("b_mag", vector(host(b_mag.to_data()))));
            }
            Activation::MatchingPursuit {
                threshold,
                steps,
                stop_on_repeat,
            } if self.w_enc.to_data() == self.w_dec.to_data() => {
                cfg["architecture"] = "matching_pursuit".into();
                cfg["residual_threshold"] = (*threshold).into();
                cfg["max_iterations"] = (*steps).into();
                cfg["stop_on_duplicate_support"] = (*stop_on_repeat).into();
            }
            Activation::MatchingPursuit { .. } => {
                return Err(unwritable("matching_pursuit with an encoder that is not the decoder"));
            }
            Activation::GroupMax { .. } => return Err(unwritable(self.activation.name())),
        }
        if !matches!(self.activation, Activation::MatchingPursuit { .. }) {
            arrays.push(("W_enc", w_enc));
        }
        create(folder)?;
        let bytes = safetensors(arrays.iter().map(|(name, array)| (*name, array)), &[]);
        realign_run::write_atomic(folder.join(WEIGHTS), &bytes)?;
        Ok(realign_run::write_json(folder.join(CONFIG), &cfg)?)
    }
}

pub(crate) fn create(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|source| Error::Io {
        action: "create",
        path: folder.to_owned(),
        source,
    })
}
