//! The functions between the linear maps of an MLP.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

/// A function of one number, applied to every element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x · sigmoid(x)`, also called swish (Ramachandran et al. 2017): the Llama family's.
    Silu,
    /// `x · Φ(x)` by the error function (Hendrycks & Gimpel 2016): GPT-NeoX's.
    Gelu,
    /// The GELU's approximation by a hyperbolic tangent: GPT-2's (`gelu_new`) and Gemma's (`gelu_pytorch_tanh`).
    GeluTanh,
}

/// `sqrt(2 / π)`.
pub(crate) const ROOT_2_OVER_PI: f32 = 0.797_884_6;
/// The cubic's coefficient in the GELU's approximation.
pub(crate) const GELU_CUBIC: f32 = 0.044_715;

impl Activation {
    /// Its values, in burn operations.
    pub(crate) fn values<B: Backend>(self, x: FloatTensor<B>) -> FloatTensor<B> {
        match self {
            Self::Silu => B::float_mul(x.clone(), B::sigmoid(x)),
            Self::Gelu => B::float_mul(x.clone(), normal_share::<B>(x)),
            Self::GeluTanh => {
                let share = half_and_half::<B>(gelu_tanh::<B>(x.clone()));
                B::float_mul(x, share)
            }
        }
    }

    /// Its values and its derivatives, in burn operations.
    pub(crate) fn values_and_slopes<B: Backend>(self, x: FloatTensor<B>) -> (FloatTensor<B>, FloatTensor<B>) {
        match self {
            Self::Silu => {
                let s = B::sigmoid(x.clone());
                let silu = B::float_mul(x, s.clone());
                // silu' = s + silu (1 - s)
                let rest = B::float_add_scalar(B::float_neg(s.clone()), 1f32.into());
                let slope = B::float_add(s, B::float_mul(silu.clone(), rest));
                (silu, slope)
            }
            Self::Gelu => {
                // gelu' = Φ(x) + x φ(x)
                let share = normal_share::<B>(x.clone());
                let square = B::float_mul(x.clone(), x.clone());
                let bell = B::float_exp(B::float_mul_scalar(square, (-0.5f32).into()));
                let bell = B::float_mul_scalar(bell, (0.5 * ROOT_2_OVER_PI).into());
                let slope = B::float_add(share.clone(), B::float_mul(x.clone(), bell));
                (B::float_mul(x, share), slope)
            }
            Self::GeluTanh => {
                // y = x (1 + t) / 2, y' = (1 + t) / 2 + x (1 - t²) u' / 2, where t = tanh(u)
                let t = gelu_tanh::<B>(x.clone());
                let share = half_and_half::<B>(t.clone());
                let inner = B::float_add_scalar(
                    B::float_mul_scalar(B::float_mul(x.clone(), x.clone()), (3.0 * GELU_CUBIC).into()),
                    1f32.into(),
                );
                let bend = B::float_add_scalar(B::float_neg(B::float_mul(t.clone(), t)), 1f32.into());
                let bend = B::float_mul_scalar(B::float_mul(bend, inner), (0.5 * ROOT_2_OVER_PI).into());
                let slope = B::float_add(share.clone(), B::float_mul(x.clone(), bend));
                (B::float_mul(x, share), slope)
            }
        }
    }
}

/// `(1 + t) / 2`.
fn half_and_half<B: Backend>(t: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mul_scalar(B::float_add_scalar(t, 1f32.into()), 0.5f32.into())
}

/// The normal distribution's share below `x`.
fn normal_share<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    half_and_half::<B>(B::float_erf(B::float_mul_scalar(
        x,
        std::f32::consts::FRAC_1_SQRT_2.into(),
    )))
}

/// `tanh(sqrt(2 / π) (x + 0.044715 x³))`.
fn gelu_tanh<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let cube = B::float_mul(B::float_mul(x.clone(), x.clone()), x.clone());
    let inner = B::float_add(x, B::float_mul_scalar(cube, GELU_CUBIC.into()));
    B::float_tanh(B::float_mul_scalar(inner, ROOT_2_OVER_PI.into()))
}
