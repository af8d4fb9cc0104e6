//! Whether two descriptions of a model, in two formats, say the same.

use crate::{DecoderConfig, Rope};

/// Two roundings of one number to f32.
const TOLERANCE: f64 = 1e-6;

/// The first part in which two models differ: what it is called, and what each of them says. The architecture is not
/// compared: formats have different names for one.
pub(crate) fn difference(one: &DecoderConfig, other: &DecoderConfig) -> Option<(&'static str, String, String)> {
    let DecoderConfig {
        architecture: _,
        shape,
        tied,
        embedding_scale,
        norm,
        norm_eps,
        norm_before,
        norm_after,
        qk_norm,
        parallel,
        biases,
        activation,
        ropes,
        layers,
        attention_scale,
        attention_softcap,
        logit_softcap,
        experts,
    } = one;
    let mut found = None;
    let mut check = |what, same: bool, one: &dyn std::fmt::Debug, other: &dyn std::fmt::Debug| {
        if !same && found.is_none() {
            found = Some((what, format!("{one:?}"), format!("{other:?}")));
        }
    };
    macro_rules! equal {
        ($($field:ident: $what:literal),* $(,)?) => {
            $(check($what, *$field == other.$field, $field, &other.$field);)*
        };
    }
    macro_rules! close {
        ($($field:ident: $what:literal),* $(,)?) => {
            $(check($what, near($field, &other.$field), $field, &other.$field);)*
        };
    }
    equal! {
        shape: "sizes", tied: "tied embeddings", norm: "norms", norm_before: "norms before attention and MLP",
        norm_after: "norms behind attention and MLP", qk_norm: "norms of queries and keys", parallel: "parallel residuals",
        biases: "biases", activation: "activation", layers: "sliding windows and rotary positions of the layers",
        experts: "experts",
    }
    close! {
        embedding_scale: "scale of the embeddings", norm_eps: "epsilon of the norms", attention_scale: "scale of attention scores",
        attention_softcap: "soft cap of attention scores", logit_softcap: "soft cap of logits", ropes: "rotary positions",
    }
    found
}

/// Equal up to rounding.
trait Near {
    fn near(&self, other: &Self) -> bool;
}

fn near<T: Near + ?Sized>(one: &T, other: &T) -> bool {
    one.near(other)
}

impl Near for f64 {
    fn near(&self, other: &Self) -> bool {
        (self - other).abs() <= TOLERANCE * self.abs().max(other.abs())
    }
}

impl Near for f32 {
    fn near(&self, other: &Self) -> bool {
        near(&f64::from(*self), &f64::from(*other))
    }
}

impl<T: Near> Near for Option<T> {
    fn near(&self, other: &Self) -> bool {
        match (self, other) {
            (Some(one), Some(other)) => near(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

impl<T: Near> Near for Vec<T> {
    fn near(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().zip(other).all(|(one, other)| near(one, other))
    }
}

impl Near for Rope {
    /// The same angles at every length: one scaling has several names.
    fn near(&self, other: &Self) -> bool {
        let angles = |rope: &Self, length| rope.frequencies(length);
        let lengths = [1, self.trained(), other.trained()].map(|n| n.saturating_add(1));
        self.width == other.width
            && near(&self.amplitude(), &other.amplitude())
            && lengths
                .into_iter()
                .all(|length| near(&angles(self, length), &angles(other, length)))
    }
}
