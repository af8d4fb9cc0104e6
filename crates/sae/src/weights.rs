//! The weights of a file, on the host, before they become an SAE or a transcoder.

use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};

use crate::{Activation, Error, Metadata, Result, Sae, Transcoder};

/// What every format's reader makes of its file.
pub(crate) struct Weights {
    pub(crate) path: PathBuf,
    pub(crate) d_in: usize,
    pub(crate) d_sae: usize,
    /// One row a latent, `[d_sae, d_in]`.
    pub(crate) w_enc: Vec<f32>,
    pub(crate) b_enc: Vec<f32>,
    /// One row a latent, `[d_sae, d_out]`.
    pub(crate) w_dec: Vec<f32>,
    pub(crate) b_dec: Vec<f32>,
    pub(crate) kind: Kind,
    /// Whether it reads one activation and writes another.
    pub(crate) transcoder: bool,
    /// `[d_out, d_in]`.
    pub(crate) w_skip: Option<Vec<f32>>,
    pub(crate) metadata: Metadata,
}

/// An [`Activation`] on the host.
pub(crate) enum Kind {
    TopK(usize),
    AbsTopK(usize),
    BatchTopK(f32),
    JumpRelu(Vec<f32>),
    Relu,
    Gated {
        r_mag: Vec<f32>,
        b_mag: Vec<f32>,
    },
    GroupMax(usize),
    MatchingPursuit {
        threshold: f32,
        steps: usize,
        stop_on_repeat: bool,
    },
}

impl Weights {
    /// For files whose encoder reads `x` and not `x - b_dec`: `x w = (x - b_dec) w + b_dec w`.
    pub(crate) fn subtract_b_dec(&mut self) {
        let shift = |row: &[f32]| {
            let products = row.iter().zip(&self.b_dec).map(|(w, b)| f64::from(*w) * f64::from(*b));
            products.sum::<f64>()
        };
        for (latent, row) in self.w_enc.chunks_exact(self.d_in).enumerate() {
            let shift = shift(row);
            self.b_enc[latent] = (f64::from(self.b_enc[latent]) + shift) as f32;
            if let Kind::Gated { r_mag, b_mag } = &mut self.kind {
                b_mag[latent] = (f64::from(b_mag[latent]) + f64::from(r_mag[latent]).exp() * shift) as f32;
            }
        }
    }

    /// Gives every decoder row norm 1 and its activation the norm in exchange; the reconstruction stays.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a row of zeros.
    pub(crate) fn normalise_decoder(&mut self) -> Result<()> {
        let d_out = self.b_dec.len();
        for (latent, row) in self.w_dec.chunks_exact_mut(d_out).enumerate() {
            let norm = row.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt() as f32;
            if norm == 0.0 {
                return Err(Error::Malformed {
                    path: self.path.clone(),
                    what: format!(
                        "the decoder row of latent {latent} is zero, and activations are in units of its norm"
                    ),
                });
            }
            row.iter_mut().for_each(|w| *w /= norm);
            let enc = &mut self.w_enc[latent * self.d_in..(latent + 1) * self.d_in];
            enc.iter_mut().for_each(|w| *w *= norm);
            self.b_enc[latent] *= norm;
            if let Kind::Gated { b_mag, .. } = &mut self.kind {
                b_mag[latent] *= norm;
            }
        }
        Ok(())
    }

    /// # Errors
    /// [`Error::Malformed`] for a transcoder, [`Error::Config`] for a wrong `k`.
    pub(crate) fn sae(self, device: &Device) -> Result<Sae> {
        if self.transcoder {
            let what = "a transcoder, which writes another activation than it reads: `Transcoder::load` reads it";
            return Err(Error::Malformed {
                path: self.path,
                what: what.into(),
            });
        }
        let (d_in, d_sae) = (self.d_in, self.d_sae);
        let activation = self.kind.on(device);
        activation.check(d_in, d_sae)?;
        Ok(Sae {
            activation,
            w_enc: tensor(self.w_enc, [d_sae, d_in], device),
            b_enc: tensor(self.b_enc, [d_sae], device),
            w_dec: tensor(self.w_dec, [d_sae, d_in], device),
            b_dec: tensor(self.b_dec, [d_in], device),
            metadata: self.metadata,
        })
    }

    /// # Errors
    /// [`Error::Malformed`] for an SAE, [`Error::Config`] for a wrong `k`.
    pub(crate) fn transcoder(self, device: &Device) -> Result<Transcoder> {
        if !self.transcoder {
            return Err(Error::Malformed {
                path: self.path,
                what: "an SAE and no transcoder: `Sae::load` reads it".into(),
            });
        }
        let (d_in, d_sae, d_out) = (self.d_in, self.d_sae, self.b_dec.len());
        let activation = self.kind.on(device);
        activation.check(d_in, d_sae)?;
        Ok(Transcoder {
            activation,
            w_enc: tensor(self.w_enc, [d_sae, d_in], device),
            b_enc: tensor(self.b_enc, [d_sae], device),
            w_dec: tensor(self.w_dec, [d_sae, d_out], device),
            b_dec: tensor(self.b_dec, [d_out], device),
            w_skip: self.w_skip.map(|w_skip| tensor(w_skip, [d_out, d_in], device)),
            metadata: self.metadata,
        })
    }
}

impl Kind {
    fn on(self, device: &Device) -> Activation {
        let vector = |data: Vec<f32>| {
            let n = data.len();
            tensor(data, [n], device)
        };
        match self {
            Self::TopK(k) => Activation::TopK { k },
            Self::AbsTopK(k) => Activation::AbsTopK { k },
            Self::BatchTopK(threshold) => Activation::BatchTopK { threshold },
            Self::JumpRelu(threshold) => Activation::JumpRelu {
                threshold: vector(threshold),
            },
            Self::Relu => Activation::Relu,
            Self::Gated { r_mag, b_mag } => Activation::Gated {
                r_mag: vector(r_mag),
                b_mag: vector(b_mag),
            },
            Self::GroupMax(k) => Activation::GroupMax { k },
            Self::MatchingPursuit {
                threshold,
                steps,
                stop_on_repeat,
            } => Activation::MatchingPursuit {
                threshold,
                steps,
                stop_on_repeat,
            },
        }
    }
}

pub(crate) fn tensor<const D: usize>(data: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(data, shape), device)
}
