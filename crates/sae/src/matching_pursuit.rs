//! Matching pursuit: one latent after another, each chosen for what the ones before it left over.

use burn::tensor::{IndexingUpdateOp, Tensor};
use realign_tensor::product;

/// The activations `[token, d_sae]`, 0 or more, of inputs `x [token, d_in]` (Mallat & Zhang 1993).
///
/// A step adds `a = relu(r · d)` to the activation of the latent whose row `d` of `dictionary [d_sae, d_in]` has the
/// largest product with the rest `r`, and takes `a d` out of `r`. A token is done below `threshold`, if that is above 0,
/// and with `stop_on_repeat` after a step that made no latent active that was not so before.
pub(crate) fn encode(
    x: Tensor<2>,
    dictionary: &Tensor<2>,
    threshold: f32,
    steps: usize,
    stop_on_repeat: bool,
) -> Tensor<2> {
    let (tokens, d_sae) = (x.dims()[0], dictionary.dims()[0]);
    // Which latent is chosen has no gradient, how strongly it is active has one.
    let columns = dictionary.clone().inner().transpose();
    let mut activations = Tensor::zeros([tokens, d_sae], &x.device());
    let mut open = Tensor::<2>::ones([tokens, 1], &x.device().inner());
    let mut rest = x;
    for _ in 0..steps {
        let best = product(rest.clone().inner(), columns.clone()).argmax(1);
        let rows = dictionary.clone().select(0, best.clone().reshape([tokens]));
        let value = (rest.clone() * rows.clone()).sum_dim(1).clamp_min(0.0) * open.clone();
        let before = activations.clone().inner().gather(1, best.clone());
        activations = activations.scatter(1, best, value.clone(), IndexingUpdateOp::Add);
        rest = rest - rows * value.clone();
        // A step that took nothing out is what every later step would be.
        open = open.mask_fill(value.inner().equal_elem(0.0), 0.0);
        if stop_on_repeat {
            open = open.mask_fill(before.not_equal_elem(0.0), 0.0);
        }
        if threshold > 0.0 {
            let left = rest.clone().inner();
            let norm = (left.clone() * left).sum_dim(1).sqrt();
            open = open.mask_fill(norm.lower_elem(threshold), 0.0);
        }
        if open.clone().sum().into_scalar::<f32>() == 0.0 {
            break;
        }
    }
    activations
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// Unit vectors along the axes, and one between the first two.
    fn dictionary() -> Tensor<2> {
        let half = std::f32::consts::FRAC_1_SQRT_2;
        let rows = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [half, half, 0.0]];
        Tensor::from_floats(rows, &Device::flex())
    }

    fn of(x: [f32; 3], threshold: f32, steps: usize, stop_on_repeat: bool) -> Vec<f32> {
        let x = Tensor::from_floats([x], &Device::flex());
        let found = encode(x, &dictionary(), threshold, steps, stop_on_repeat);
        found.into_data().try_into_vec().unwrap()
    }

    #[test]
    fn what_is_left_over_is_taken_out_step_by_step() {
        assert_eq!(of([5.0, 0.0, 2.0], 0.0, 1, true), [5.0, 0.0, 0.0, 0.0]);
        assert_eq!(of([5.0, 0.0, 2.0], 0.0, 9, true), [5.0, 0.0, 2.0, 0.0]);
        // Nothing fits a rest that points away from all latents.
        assert_eq!(of([-1.0, 0.0, -2.0], 0.0, 9, false), [0.0; 4]);
        // The rest is 2 long after the first step.
        assert_eq!(of([5.0, 0.0, 2.0], 2.5, 9, true), [5.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_latent_that_comes_again_ends_a_token_or_does_not() {
        // In a dictionary of one row of norm 0.5, a step takes out a quarter of what is left.
        let row = Tensor::<2>::from_floats([[0.5, 0.0, 0.0]], &Device::flex());
        let x = Tensor::<2>::from_floats([[4.0, 0.0, 0.0]], &Device::flex());
        let of = |steps, stop| encode(x.clone(), &row, 0.0, steps, stop).into_scalar::<f32>();
        assert_eq!(of(1, true), 2.0);
        // The step that repeats counts; the one after it does not come.
        assert_eq!(of(9, true), 2.0 + 1.5);
        assert_eq!(of(3, false), 2.0 + 1.5 + 1.125);
    }

    #[test]
    fn activations_have_gradients_in_the_input() {
        let device = Device::flex().autodiff();
        let x = Tensor::<2>::from_floats([[5.0, 0.0, 2.0]], &device).require_grad();
        let weights = Tensor::<2>::from_floats([[1.0, 10.0, 100.0, 0.0]], &Device::flex());
        let found = encode(x.clone(), &dictionary(), 0.0, 2, true) * weights;
        let gradients = found.sum().backward();
        let gradient = x.grad(&gradients).unwrap().into_data().try_into_vec::<f32>().unwrap();
        assert_eq!(gradient, [1.0, 0.0, 100.0]);
    }
}
