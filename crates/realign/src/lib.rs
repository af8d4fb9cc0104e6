#![doc = include_str!("../README.md")]

pub use burn;
pub use realign_arrays as arrays;
pub use realign_attribution as attribution;
pub use realign_core as core;
pub use realign_data as data;
pub use realign_eval as eval;
pub use realign_lora as lora;
pub use realign_model as model;
pub use realign_report as report;
pub use realign_run as run;
pub use realign_sae as sae;
pub use realign_steering as steering;
pub use realign_tensor as tensor;

/// For binaries whose allocator is mimalloc: freed pages stay ours: giving them back and taking them again costs a quarter of a training step in cleared pages.
#[cfg(feature = "cli")]
#[doc(hidden)]
#[allow(unsafe_code)]
pub fn keep_memory() {
    /// `mi_option_purge_delay` of mimalloc 2 and 3, which the bindings do not name.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: sets one of the allocator's own options, which is allowed at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
}
