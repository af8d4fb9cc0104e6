//! The one mechanism: code that reads or changes activations during a forward pass.

use burn::tensor::Tensor;

use crate::{Batch, HookPoint};

/// Reads activations, changes them, or both.
///
/// A hook says what it wants: what nobody watches stays fused, and layers above the last watched one are not run by
/// [`crate::LanguageModel::watch`]. The default bodies return the activation unchanged.
pub trait Hook: Send {
    /// Whether this hook wants to see the activation at `at`.
    fn wants(&self, at: HookPoint) -> bool;

    /// An activation `[token, d]`; returns the one to use.
    fn stream(&mut self, _at: HookPoint, x: Tensor<2>, _batch: &Batch) -> Tensor<2> {
        x
    }

    /// Per-head activations `[token, head, d_head]`; returns the ones to use.
    fn heads(&mut self, _at: HookPoint, x: Tensor<3>, _batch: &Batch) -> Tensor<3> {
        x
    }

    /// The input `x [token, d_in]` of a linear map and its output `y [token, d_out]`; returns the output to use.
    fn linear(&mut self, _at: HookPoint, _x: &Tensor<2>, y: Tensor<2>, _batch: &Batch) -> Tensor<2> {
        y
    }
}

/// The empty hook: bit-identical to no hook.
impl Hook for () {
    fn wants(&self, _at: HookPoint) -> bool {
        false
    }
}

/// `A`, then `B`.
impl<A: Hook, B: Hook> Hook for (A, B) {
    fn wants(&self, at: HookPoint) -> bool {
        self.0.wants(at) || self.1.wants(at)
    }
    fn stream(&mut self, at: HookPoint, mut x: Tensor<2>, batch: &Batch) -> Tensor<2> {
        if self.0.wants(at) {
            x = self.0.stream(at, x, batch);
        }
        if self.1.wants(at) {
            x = self.1.stream(at, x, batch);
        }
        x
    }
    fn heads(&mut self, at: HookPoint, mut x: Tensor<3>, batch: &Batch) -> Tensor<3> {
        if self.0.wants(at) {
            x = self.0.heads(at, x, batch);
        }
        if self.1.wants(at) {
            x = self.1.heads(at, x, batch);
        }
        x
    }
    fn linear(&mut self, at: HookPoint, x: &Tensor<2>, mut y: Tensor<2>, batch: &Batch) -> Tensor<2> {
        if self.0.wants(at) {
            y = self.0.linear(at, x, y, batch);
        }
        if self.1.wants(at) {
            y = self.1.linear(at, x, y, batch);
        }
        y
    }
}

macro_rules! forward_hook {
    ($($ty:ty),*) => {$(
        impl<H: Hook + ?Sized> Hook for $ty {
            fn wants(&self, at: HookPoint) -> bool {
                (**self).wants(at)
            }
            fn stream(&mut self, at: HookPoint, x: Tensor<2>, batch: &Batch) -> Tensor<2> {
                (**self).stream(at, x, batch)
            }
            fn heads(&mut self, at: HookPoint, x: Tensor<3>, batch: &Batch) -> Tensor<3> {
                (**self).heads(at, x, batch)
            }
            fn linear(&mut self, at: HookPoint, x: &Tensor<2>, y: Tensor<2>, batch: &Batch) -> Tensor<2> {
                (**self).linear(at, x, y, batch)
            }
        }
    )*};
}
forward_hook!(&mut H, Box<H>);

/// `Some(hook)` is the hook, `None` the empty one.
impl<H: Hook> Hook for Option<H> {
    fn wants(&self, at: HookPoint) -> bool {
        self.as_ref().is_some_and(|hook| hook.wants(at))
    }
    fn stream(&mut self, at: HookPoint, x: Tensor<2>, batch: &Batch) -> Tensor<2> {
        match self {
            Some(hook) => hook.stream(at, x, batch),
            None => x,
        }
    }
    fn heads(&mut self, at: HookPoint, x: Tensor<3>, batch: &Batch) -> Tensor<3> {
        match self {
            Some(hook) => hook.heads(at, x, batch),
            None => x,
        }
    }
    fn linear(&mut self, at: HookPoint, x: &Tensor<2>, y: Tensor<2>, batch: &Batch) -> Tensor<2> {
        match self {
            Some(hook) => hook.linear(at, x, y, batch),
            None => y,
        }
    }
}
