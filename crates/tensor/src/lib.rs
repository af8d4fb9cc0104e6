#![doc = include_str!("../README.md")]

mod activation;
mod adamw;
mod attention_options;
mod autodiff;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod cube;
mod device;
#[cfg(feature = "flex")]
mod flex;
mod frozen;
mod functions;
mod lanes;
mod largest;
#[cfg(feature = "tch")]
#[allow(deprecated)] // burn keeps libtorch until 0.23.
mod libtorch;
#[cfg(any(feature = "flex", feature = "wgpu", feature = "cuda"))]
mod lists;
// Without a backend the generated dispatch uses no argument.
#[cfg_attr(
    not(any(
        feature = "flex",
        feature = "ndarray",
        feature = "tch",
        feature = "wgpu",
        feature = "cuda",
        feature = "remote"
    )),
    allow(unused_variables)
)]
#[allow(deprecated)]
mod ops;
mod packed;
#[cfg(feature = "remote")]
mod remote;
mod spans;

pub use activation::Activation;
pub use adamw::AdamWStep;
pub use attention_options::AttentionOptions;
#[doc(hidden)]
pub use device::test_device;
pub use device::{DEVICES, DeviceChoice, DeviceError, device};
pub use frozen::{Frozen, packed_product};
pub use functions::{
    activate, adamw, add_rms_norm, attention, attention_with, cross_entropy, encode_above, encode_batch_top_k, gated,
    low_rank_linear, product, rms_norm, rotary, sparse_decode, sparse_encode, swiglu, top_k,
};
pub use lanes::{both, in_pool, lanes, side_by_side};
pub use ops::TensorOps;
#[doc(hidden)]
pub use packed::transposed;
pub use packed::{Blocks, Packed};
#[cfg(feature = "remote")]
pub use remote::{ServeError, lend};
pub use spans::{Span, Spans};

// burn keeps ndarray until 0.23; this project serves it as long as burn does.
#[cfg(feature = "ndarray")]
#[allow(deprecated)]
impl TensorOps for burn::backend::NdArray {}
