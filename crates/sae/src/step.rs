//! One training step's arithmetic: the loss, its gradients by hand, and the update.
//!
//! By hand because every gradient but the encoder's product is sparse: a step costs one dense product, and a few
//! passes over the weights for Adam.

use burn::backend::Dispatch;
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use realign_core::ids;
use realign_tensor::{AdamWStep, TensorOps, adamw, encode_batch_top_k, rms_norm, sparse_decode, sparse_encode};

/// AuxK looks at one token in this many: it has many more entries a token than the main code, and its aim is to bring
/// latents back, not to fit them.
const AUX_TOKENS: usize = 4;

/// A parameter with Adam's moments.
pub(crate) struct Parameter<const D: usize> {
    pub value: Tensor<D>,
    pub first: Tensor<D>,
    pub second: Tensor<D>,
}

impl<const D: usize> Parameter<D> {
    pub fn new(value: Tensor<D>) -> Self {
        let (first, second) = (value.zeros_like(), value.zeros_like());
        Self { value, first, second }
    }

    /// The value, then the moments.
    pub fn to_data(&self) -> [TensorData; 3] {
        [self.value.to_data(), self.first.to_data(), self.second.to_data()]
    }

    // By value: a second owner of the buffers would make Adam copy them.
    fn updated(self, grad: Tensor<D>, step: AdamWStep) -> Self {
        let (value, first, second) = adamw(self.value, grad, self.first, self.second, step);
        Self { value, first, second }
    }
}

/// All parameters in training, in the scaled space.
pub(crate) struct Parameters {
    pub w_enc: Parameter<2>,
    pub b_enc: Parameter<1>,
    pub w_dec: Parameter<2>,
    pub b_dec: Parameter<1>,
}

/// The dead latents and how they are trained (Gao et al. 2024, appendix A.2).
pub(crate) struct Aux<'a> {
    pub dead: &'a [u32],
    pub k: usize,
    pub coefficient: f64,
}

/// What one batch gives.
pub(crate) struct Pass {
    /// `Σ‖x̂ - x‖² / Σ‖x - mean‖²`.
    pub fvu: f64,
    /// The same for the dead latents' model of the error; 0 without dead latents.
    pub aux: f64,
    /// Every active latent, once for each token on which it is active.
    pub active: Vec<u32>,
    /// The smallest activation; none without an active latent.
    pub least: Option<f64>,
    pub w_enc: Tensor<2>,
    pub b_enc: Tensor<1>,
    pub w_dec: Tensor<2>,
    pub b_dec: Tensor<1>,
}

impl Parameters {
    /// Loss `fvu + coefficient · aux` on `x [token, d_in]`, and its gradients; `batch` as in [`crate::SaeConfig`].
    pub fn pass(&self, x: Tensor<2>, k: usize, batch: bool, aux: &Aux<'_>) -> Pass {
        let (w_enc, w_dec, b_dec) = (&self.w_enc.value, &self.w_dec.value, &self.b_dec.value);
        let centred = x.clone() - b_dec.clone().unsqueeze();
        let code = if batch {
            Code::of_batch(&centred, w_enc, &self.b_enc.value, k)
        } else {
            Code::new(&centred, w_enc, &self.b_enc.value, k)
        };
        let error = code.decode(w_dec) - centred.clone();
        let total = sum_of_squares(x.clone() - x.mean_dim(0));
        let grad = error.clone().mul_scalar(2.0 / total);
        let mut to = code.gradients(&grad, &centred, w_dec);
        // x̂ = z w_dec + b_dec, and z reads x - b_dec.
        let d_in = centred.dims()[1];
        let through = to.b_enc.clone().unsqueeze::<2>().matmul(w_enc.clone()).reshape([d_in]);
        let to_b_dec = grad.sum_dim(0).reshape([d_in]) - through;
        let mut pass = 0.0;
        if !aux.dead.is_empty() {
            pass = self.add_aux(&mut to, &centred, error.clone().neg(), aux);
        }
        let fvu = sum_of_squares(error) / total;
        let (active, least) = code.active();
        Pass {
            fvu,
            aux: pass,
            active,
            least,
            w_enc: to.w_enc,
            b_enc: to.b_enc,
            w_dec: to.w_dec,
            b_dec: to_b_dec,
        }
    }

    /// AuxK: the dead latents alone reconstruct what is missing. `missing` and `b_dec` are constants to it.
    fn add_aux(&self, to: &mut CodeGradients, centred: &Tensor<2>, missing: Tensor<2>, aux: &Aux<'_>) -> f64 {
        let [tokens, d_in] = missing.dims();
        // Batches are shuffled: the first ones are as good as any.
        let part = |x: Tensor<2>| x.slice([0..tokens.div_ceil(AUX_TOKENS), 0..d_in]);
        let (centred, missing) = (&part(centred.clone()), part(missing));
        let total = sum_of_squares(missing.clone() - missing.clone().mean_dim(0));
        if total <= 0.0 {
            return 0.0;
        }
        let dead = ids(aux.dead, &centred.device());
        let rows = |w: &Tensor<2>| w.clone().select(0, dead.clone());
        let (w_enc, w_dec) = (rows(&self.w_enc.value), rows(&self.w_dec.value));
        let b_enc = self.b_enc.value.clone().select(0, dead.clone());
        let code = Code::new(centred, &w_enc, &b_enc, aux.k.min(aux.dead.len()));
        let error = code.decode(&w_dec) - missing;
        let grad = error.clone().mul_scalar(2.0 * aux.coefficient / total);
        let more = code.gradients(&grad, centred, &w_dec);
        add_rows(&mut to.w_enc, &dead, more.w_enc);
        add_rows(&mut to.w_dec, &dead, more.w_dec);
        add_rows(&mut to.b_enc, &dead, more.b_enc);
        sum_of_squares(error) / total
    }

    /// One Adam step; decoder rows keep norm one and their gradients' part along themselves is left out.
    pub fn updated(self, pass: Pass, lr: f64, count: u32) -> Self {
        // Gao et al.'s eps: gradients of a loss that is shared by millions of weights are small.
        let step = AdamWStep {
            eps: 6.25e-10,
            ..AdamWStep::new(lr as f32, count)
        };
        let to_w_dec = tangential(&self.w_dec.value, pass.w_dec);
        let mut w_dec = self.w_dec.updated(to_w_dec, step);
        w_dec.value = unit_rows(w_dec.value);
        Self {
            w_enc: self.w_enc.updated(pass.w_enc, step),
            b_enc: self.b_enc.updated(pass.b_enc, step),
            w_dec,
            b_dec: self.b_dec.updated(pass.b_dec, step),
        }
    }
}

/// The active latents of a batch.
struct Code {
    values: Tensor<2>,
    indices: Tensor<2, Int>,
    d_sae: usize,
}

struct CodeGradients {
    w_enc: Tensor<2>,
    b_enc: Tensor<1>,
    w_dec: Tensor<2>,
}

impl Code {
    fn new(centred: &Tensor<2>, w_enc: &Tensor<2>, b_enc: &Tensor<1>, k: usize) -> Self {
        let (values, indices) = sparse_encode(centred.clone(), w_enc.clone(), b_enc.clone(), k);
        Self {
            values: values.clamp_min(0.0),
            indices,
            d_sae: b_enc.dims()[0],
        }
    }

    /// The `k` in the mean over the batch.
    fn of_batch(centred: &Tensor<2>, w_enc: &Tensor<2>, b_enc: &Tensor<1>, k: usize) -> Self {
        let (values, indices) = encode_batch_top_k(centred.clone(), w_enc.clone(), b_enc.clone(), k);
        Self {
            values,
            indices,
            d_sae: b_enc.dims()[0],
        }
    }

    fn decode(&self, w_dec: &Tensor<2>) -> Tensor<2> {
        sparse_decode(self.values.clone(), self.indices.clone(), w_dec.clone())
    }

    /// Gradients from that of the decoded output.
    fn gradients(&self, grad: &Tensor<2>, centred: &Tensor<2>, w_dec: &Tensor<2>) -> CodeGradients {
        let to_values = Tensor::<2>::from_dispatch(Dispatch::sparse_decode_grad_values(
            grad.clone().into_dispatch(),
            self.indices.clone().into_dispatch(),
            w_dec.clone().into_dispatch(),
        ));
        // ReLU: no gradient where a latent is among the k, but not above 0.
        let to_values = to_values * self.values.clone().sign();
        let ones = Tensor::ones([centred.dims()[0], 1], &centred.device());
        CodeGradients {
            w_enc: self.scattered(centred.clone(), to_values.clone()),
            b_enc: self.scattered(ones, to_values).reshape([self.d_sae]),
            w_dec: self.scattered(grad.clone(), self.values.clone()),
        }
    }

    /// `[d_sae, d]`: row `l` is the sum of `weights[t, j] · rows[t]` over all `(t, j)` whose latent is `l`.
    fn scattered(&self, rows: Tensor<2>, weights: Tensor<2>) -> Tensor<2> {
        let (rows, weights, indices) = (
            rows.into_dispatch(),
            weights.into_dispatch(),
            self.indices.clone().into_dispatch(),
        );
        Tensor::from_dispatch(Dispatch::sparse_decode_grad_w_dec(rows, weights, indices, self.d_sae))
    }

    /// The active latents, and the smallest activation.
    fn active(&self) -> (Vec<u32>, Option<f64>) {
        let (values, indices) = (self.values.to_data(), self.indices.to_data());
        let positive = values
            .iter::<f32>()
            .zip(indices.iter::<i64>())
            .filter(|(value, _)| *value > 0.0);
        let (values, active): (Vec<f32>, Vec<u32>) = positive.map(|(value, l)| (value, l as u32)).unzip();
        (active, values.into_iter().reduce(f32::min).map(f64::from))
    }
}

fn add_rows<const D: usize>(to: &mut Tensor<D>, rows: &Tensor<1, Int>, values: Tensor<D>) {
    // Taken out, so that the buffer is written in place.
    let whole = std::mem::replace(to, values.clone());
    *to = whole.select_assign(0, rows.clone(), values, IndexingUpdateOp::Add);
}

/// Rows scaled to norm one: an RMS norm with weight `1 / √d`.
fn unit_rows(w: Tensor<2>) -> Tensor<2> {
    let weight = root_weight(&w);
    rms_norm(w, weight, 0.0)
}

/// `grad` without its part along each unit row: the gradient of [`unit_rows`], in one pass.
fn tangential(w: &Tensor<2>, grad: Tensor<2>) -> Tensor<2> {
    let (w, weight) = (w.clone().into_dispatch(), root_weight(w).into_dispatch());
    Tensor::from_dispatch(Dispatch::rms_norm_grad(w, weight, grad.into_dispatch(), 0.0))
}

fn root_weight(w: &Tensor<2>) -> Tensor<1> {
    let d = w.dims()[1];
    Tensor::full([d], (d as f64).powf(-0.5), &w.device())
}

fn sum_of_squares(x: Tensor<2>) -> f64 {
    f64::from((x.clone() * x).sum().into_scalar::<f32>())
}

#[cfg(test)]
mod tests {
    use realign_run::Seed;
    use realign_tensor::test_device;

    use super::*;
    use crate::SaeConfig;

    fn parameters() -> Parameters {
        let sae = SaeConfig::new(6, 12, 2).init(&Seed::new(3), &test_device());
        let b_enc: Vec<f32> = (0..12).map(|i| (i as f32).cos() * 0.1).collect();
        let b_dec: Vec<f32> = (0..6).map(|i| (i as f32 + 0.5).sin()).collect();
        let vector = |x: Vec<f32>| Tensor::<1>::from_floats(x.as_slice(), &test_device());
        Parameters {
            w_enc: Parameter::new(sae.w_enc.mul_scalar(1.1)),
            b_enc: Parameter::new(vector(b_enc)),
            w_dec: Parameter::new(sae.w_dec),
            b_dec: Parameter::new(vector(b_dec)),
        }
    }

    fn input() -> Tensor<2> {
        let x: Vec<f32> = (0..30).map(|i| (i as f32 * 0.9).sin() * 2.0).collect();
        Tensor::from_data(TensorData::new(x, [5, 6]), &test_device())
    }

    /// The loss by burn's autodiff, from dense products.
    fn reference(p: &Parameters, x: Tensor<2>, batch: bool, aux: &Aux<'_>) -> [Vec<f32>; 4] {
        let leaf2 = |p: &Parameter<2>| p.value.clone().autodiff().require_grad();
        let leaf1 = |p: &Parameter<1>| p.value.clone().autodiff().require_grad();
        let (w_enc, b_enc, w_dec, b_dec) = (leaf2(&p.w_enc), leaf1(&p.b_enc), leaf2(&p.w_dec), leaf1(&p.b_dec));
        let centred = x.clone() - b_dec.clone().unsqueeze();
        let code = |centred: Tensor<2>, w: Tensor<2>, b: Tensor<1>, k: usize, batch: bool| {
            let pre = centred.matmul(w.transpose()) + b.unsqueeze();
            let [tokens, n] = pre.dims();
            // Rows of which the k largest are kept.
            let (rows, k) = if batch { (1, k * tokens) } else { (tokens, k) };
            let choices = pre.clone().inner().reshape([rows, tokens * n / rows]);
            let kth = realign_tensor::top_k(choices, k).0.slice([0..rows, k - 1..k]);
            let kth = kth.expand([rows, tokens * n / rows]).reshape([tokens, n]);
            let below = pre.clone().inner().lower(kth);
            burn::tensor::activation::relu(pre).mask_fill(below, 0.0)
        };
        let error =
            code(centred.clone(), w_enc.clone(), b_enc.clone(), 2, batch).matmul(w_dec.clone()) - centred.clone();
        let square = |x: Tensor<2>| (x.clone() * x).sum();
        let total = square(x.clone() - x.mean_dim(0)).into_scalar::<f32>();
        let mut loss = square(error.clone()).div_scalar(total);
        if !aux.dead.is_empty() {
            let dead = ids(aux.dead, &test_device());
            let missing = error.inner().neg().slice([0..2, 0..6]);
            let total = square(missing.clone() - missing.clone().mean_dim(0)).into_scalar::<f32>();
            let (w, b) = (
                w_enc.clone().select(0, dead.clone()),
                b_enc.clone().select(0, dead.clone()),
            );
            let model =
                code(centred.inner().slice([0..2, 0..6]), w, b, aux.k, false).matmul(w_dec.clone().select(0, dead));
            loss = loss + square(model - missing).mul_scalar(aux.coefficient / f64::from(total));
        }
        let grads = loss.backward();
        let vec = |data: TensorData| data.try_into_vec::<f32>().unwrap();
        [
            vec(w_enc.grad(&grads).unwrap().into_data()),
            vec(b_enc.grad(&grads).unwrap().into_data()),
            vec(w_dec.grad(&grads).unwrap().into_data()),
            vec(b_dec.grad(&grads).unwrap().into_data()),
        ]
    }

    #[test]
    fn gradients_by_hand_equal_those_by_autodiff() {
        let none = &[][..];
        for (batch, dead) in [
            (false, none),
            (false, &[1, 4, 5, 9, 11]),
            (true, none),
            (true, &[1, 4, 5, 9, 11]),
        ] {
            let aux = Aux {
                dead,
                k: 3,
                coefficient: 0.5,
            };
            let (p, x) = (parameters(), input());
            let wanted = reference(&p, x.clone(), batch, &aux);
            let pass = p.pass(x, 2, batch, &aux);
            assert_eq!(pass.aux > 0.0, !dead.is_empty());
            let found = [
                pass.w_enc.into_data(),
                pass.b_enc.into_data(),
                pass.w_dec.into_data(),
                pass.b_dec.into_data(),
            ];
            for (found, wanted) in found.into_iter().zip(wanted) {
                let found = found.try_into_vec::<f32>().unwrap();
                assert!(wanted.iter().any(|x| *x != 0.0));
                for (a, b) in found.iter().zip(&wanted) {
                    assert!((a - b).abs() < 1e-5, "{a} and {b} with dead latents {dead:?}");
                }
            }
        }
    }

    #[test]
    fn a_step_keeps_decoder_rows_at_norm_one_and_its_gradient_is_tangential() {
        let p = parameters();
        let mut pass = p.pass(
            input(),
            2,
            false,
            &Aux {
                dead: &[],
                k: 0,
                coefficient: 0.0,
            },
        );
        let tangent = tangential(&p.w_dec.value, pass.w_dec.clone());
        let along = (tangent.clone() * p.w_dec.value.clone())
            .sum_dim(1)
            .abs()
            .max()
            .into_scalar::<f32>();
        assert!(along < 1e-6, "{along}");
        pass.w_dec = tangent;
        let p = p.updated(pass, 0.1, 1);
        let norms = (p.w_dec.value.clone() * p.w_dec.value)
            .sum_dim(1)
            .into_data()
            .try_into_vec::<f32>()
            .unwrap();
        assert!(norms.iter().all(|n| (n - 1.0).abs() < 1e-5), "{norms:?}");
    }
}
