//! Which latents are active, and how strongly.

use burn::tensor::{Int, Tensor};
use realign_tensor::{encode_above, product, sparse_encode, top_k};

use crate::{Error, Latents, Result, matching_pursuit};

/// How pre-activations `h = x w_encᵀ + b_enc` become activations.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each SAE")]
pub enum Activation {
    /// `relu(h)` of the `k` largest of each token (Gao et al. 2024).
    TopK {
        /// Active latents of a token.
        k: usize,
    },
    /// `h` of the `k` whose absolute values are largest: an active latent may be negative (AbsTopK, arXiv 2510.00404).
    AbsTopK {
        /// Active latents of a token.
        k: usize,
    },
    /// `relu(h)` of those above one threshold: BatchTopK after training (Bussmann et al. 2024).
    BatchTopK {
        /// Below it, a latent is not active.
        threshold: f32,
    },
    /// `relu(h)` of those above their own threshold (Rajamanoharan et al. 2024).
    JumpRelu {
        /// One for each latent, `[d_sae]`.
        threshold: Tensor<1>,
    },
    /// `relu(h)` of all.
    Relu,
    /// `relu(exp(r_mag) · x w_encᵀ + b_mag)` of those with `h > 0`; `b_enc` is the gate's bias (Rajamanoharan et al.
    /// 2024).
    Gated {
        /// Logarithm of what a latent's encoder is multiplied by, `[d_sae]`.
        r_mag: Tensor<1>,
        /// Bias of the magnitudes, `[d_sae]`.
        b_mag: Tensor<1>,
    },
    /// `relu(h)` of the largest of each of `k` groups of neighbouring latents.
    GroupMax {
        /// Groups, and so active latents of a token.
        k: usize,
    },
    /// The latent that fits best is taken out of the input, then the one that fits the rest best, and so on: matching
    /// pursuit (Mallat & Zhang 1993). The encoder's rows are what is taken out, so they are the decoder's; there is no
    /// `b_enc`.
    MatchingPursuit {
        /// A token whose rest has a norm below it is done; 0 or less for none.
        threshold: f32,
        /// Latents that are taken out of a token at most.
        steps: usize,
        /// Whether a token is done when a step takes out a latent that was active before.
        stop_on_repeat: bool,
    },
}

/// Pre-activations held at once, of those kinds that look at all of them: 64 MiB.
const AT_ONCE: usize = 1 << 24;

impl Activation {
    /// What the literature calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TopK { .. } => "topk",
            Self::BatchTopK { .. } => "batchtopk",
            Self::JumpRelu { .. } => "jumprelu",
            Self::Relu => "relu",
            Self::Gated { .. } => "gated",
            Self::GroupMax { .. } => "groupmax",
            Self::AbsTopK { .. } => "abstopk",
            Self::MatchingPursuit { .. } => "matching_pursuit",
        }
    }

    /// # Errors
    /// [`Error::Config`] for a `k` that `d_sae` latents do not have.
    pub(crate) fn check(&self, d_in: usize, d_sae: usize) -> Result<()> {
        match *self {
            Self::TopK { k } | Self::AbsTopK { k } | Self::GroupMax { k } if k == 0 || k > d_sae => {
                Err(Error::Config { d_in, d_sae, k })
            }
            _ => Ok(()),
        }
    }

    /// The active latents of inputs `[token, d_in]`, from which nothing is subtracted any more.
    pub(crate) fn encode(&self, x: Tensor<2>, w_enc: &Tensor<2>, b_enc: &Tensor<1>) -> Latents {
        if let Self::TopK { .. } = *self {
            return self.encode_part(x, w_enc, b_enc);
        }
        let ([tokens, d_in], d_sae) = (x.dims(), b_enc.dims()[0]);
        let rows = (AT_ONCE / d_sae).max(1);
        let parts = (0..tokens.div_ceil(rows).max(1)).map(|part| {
            let x = x.clone().slice([part * rows..((part + 1) * rows).min(tokens), 0..d_in]);
            self.encode_part(x, w_enc, b_enc)
        });
        Latents::cat(parts.collect())
    }

    fn encode_part(&self, x: Tensor<2>, w_enc: &Tensor<2>, b_enc: &Tensor<1>) -> Latents {
        let linear = |x: Tensor<2>| product(x, w_enc.clone().transpose());
        let pre = |linear: Tensor<2>| linear + b_enc.clone().unsqueeze();
        let above = |x: Tensor<2>, threshold: Tensor<1>| {
            let (values, indices) = encode_above(x, w_enc.clone(), b_enc.clone(), threshold);
            Latents { values, indices }
        };
        match self {
            Self::TopK { k } => {
                let (values, indices) = sparse_encode(x, w_enc.clone(), b_enc.clone(), *k);
                let values = values.clamp_min(0.0);
                Latents { values, indices }
            }
            Self::AbsTopK { k } => {
                let pre = pre(linear(x));
                let (_, indices) = top_k(pre.clone().abs().inner(), *k);
                Latents {
                    values: pre.gather(1, indices.clone()),
                    indices,
                }
            }
            Self::BatchTopK { threshold } => above(x, b_enc.full_like(*threshold)),
            Self::JumpRelu { threshold } => above(x, threshold.clone()),
            Self::Relu => above(x, b_enc.zeros_like()),
            Self::Gated { r_mag, b_mag } => {
                let linear = linear(x);
                let magnitude = linear.clone() * r_mag.clone().exp().unsqueeze() + b_mag.clone().unsqueeze();
                active(
                    magnitude
                        .clamp_min(0.0)
                        .mask_fill(pre(linear).lower_equal_elem(0.0), 0.0),
                )
            }
            Self::GroupMax { k } => {
                let pre = pre(linear(x));
                let ([tokens, d_sae], k) = (pre.dims(), *k);
                let (values, within) = pre
                    .clamp_min(0.0)
                    .reshape([tokens, k, d_sae / k])
                    .max_dim_with_indices(2);
                let first = Tensor::<1, Int>::arange(0..k as i64, &values.device().inner()) * (d_sae / k) as i64;
                Latents {
                    values: values.reshape([tokens, k]),
                    indices: within.reshape([tokens, k]) + first.unsqueeze(),
                }
            }
            &Self::MatchingPursuit {
                threshold,
                steps,
                stop_on_repeat,
            } => active(matching_pursuit::encode(x, w_enc, threshold, steps, stop_on_repeat)),
        }
    }
}

/// The sparse form of activations `[token, d_sae]`: as many columns as the busiest token has active latents.
fn active(activations: Tensor<2>) -> Latents {
    let d_sae = activations.dims()[1];
    let counts = activations.clone().inner().greater_elem(0.0).int().sum_dim(1);
    let most = counts.into_data().iter::<i64>().max().unwrap_or(0);
    let (values, indices) = top_k(activations, (most as usize).clamp(1, d_sae));
    Latents { values, indices }
}

impl Latents {
    /// Tokens one after another; those with fewer columns get zeros.
    fn cat(mut parts: Vec<Self>) -> Self {
        if parts.len() == 1 {
            return parts.remove(0);
        }
        let widest = parts.iter().map(|part| part.values.dims()[1]).max().unwrap_or(1);
        let (mut values, mut indices) = (Vec::new(), Vec::new());
        for part in parts {
            let ([tokens, n], device) = (part.values.dims(), part.values.device());
            let missing = [tokens, widest - n];
            if n == widest {
                values.push(part.values);
                indices.push(part.indices);
            } else {
                values.push(Tensor::cat(vec![part.values, Tensor::zeros(missing, &device)], 1));
                let zeros = Tensor::zeros(missing, &part.indices.device());
                indices.push(Tensor::cat(vec![part.indices, zeros], 1));
            }
        }
        Self {
            values: Tensor::cat(values, 0),
            indices: Tensor::cat(indices, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    /// 8 tokens whose pre-activations are the entries of a table themselves.
    fn table() -> (Tensor<2>, Tensor<2>, Tensor<1>) {
        let device = Device::flex();
        let x: Vec<f32> = (0..48).map(|i| ((i * 29 % 13) as f32) - 6.0).collect();
        let x = Tensor::from_data(TensorData::new(x, [8, 6]), &device);
        (x, Tensor::eye(6, &device), Tensor::zeros([6], &device))
    }

    fn dense(latents: &Latents) -> Vec<f32> {
        let columns = (0..6)
            .map(|latent| latents.dense_column(latent).unsqueeze_dim(1))
            .collect();
        Tensor::<2>::cat(columns, 1).into_data().try_into_vec().unwrap()
    }

    #[test]
    fn each_kind_keeps_what_it_says() {
        let (x, w_enc, b_enc) = table();
        let h: Vec<f32> = x.to_data().try_into_vec().unwrap();
        let threshold = [0.5, 1.5, 2.5, 3.5, -4.0, 0.0];
        let device = Device::flex();
        let of = |activation: Activation| dense(&activation.encode(x.clone(), &w_enc, &b_enc));
        let by = |f: &dyn Fn(usize, f32) -> f32| h.iter().enumerate().map(|(i, &h)| f(i % 6, h)).collect::<Vec<f32>>();
        assert_eq!(of(Activation::Relu), by(&|_, h| h.max(0.0)));
        assert_eq!(
            of(Activation::BatchTopK { threshold: 2.0 }),
            by(&|_, h| if h > 2.0 { h } else { 0.0 })
        );
        assert_eq!(of(Activation::BatchTopK { threshold: -1.0 }), by(&|_, h| h.max(0.0)));
        let jump = Activation::JumpRelu {
            threshold: Tensor::from_floats(threshold, &device),
        };
        assert_eq!(of(jump), by(&|i, h| if h > threshold[i] { h.max(0.0) } else { 0.0 }));
        let gated = Activation::Gated {
            r_mag: Tensor::full([6], 2.0_f32.ln(), &device),
            b_mag: Tensor::full([6], -3.0, &device),
        };
        let found = of(gated);
        let wanted = by(&|_, h| if h > 0.0 { (2.0 * h - 3.0).max(0.0) } else { 0.0 });
        assert!(
            found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-5),
            "{found:?} {wanted:?}"
        );
        let found = of(Activation::AbsTopK { k: 2 });
        for (found, h) in found.chunks(6).zip(h.chunks(6)) {
            let kept = found.iter().zip(h).filter(|(found, _)| **found != 0.0);
            assert!(kept.clone().all(|(found, h)| found == h), "{found:?} {h:?}");
            let least = kept.map(|(found, _)| found.abs()).fold(f32::INFINITY, f32::min);
            let beyond = h.iter().filter(|h| h.abs() > least).count();
            assert!(beyond < 2, "{found:?} {h:?}");
        }
        assert!(found.iter().any(|z| *z < 0.0), "{found:?}");
        let grouped = by(&|i, h| h.max(0.0) * f32::from(u8::from(i < 6)));
        let mut wanted = vec![0.0; 48];
        for (group, h) in grouped.chunks(3).enumerate() {
            let best = (0..3).fold(0, |best, i| if h[i] > h[best] { i } else { best });
            wanted[3 * group + best] = h[best];
        }
        assert_eq!(of(Activation::GroupMax { k: 2 }), wanted);
    }

    #[test]
    fn tokens_in_parts_give_what_they_give_together() {
        let (x, w_enc, b_enc) = table();
        let activation = Activation::BatchTopK { threshold: 1.0 };
        let whole = activation.encode(x.clone(), &w_enc, &b_enc);
        let part = |rows: std::ops::Range<usize>| activation.encode(x.clone().slice([rows, 0..6]), &w_enc, &b_enc);
        let parts = Latents::cat(vec![part(0..1), part(1..5), part(5..8)]);
        assert_eq!(dense(&whole), dense(&parts));
        assert_eq!(whole.values.dims(), parts.values.dims());
    }
}
