//! Numbers out of a file that have yet to describe a model.

use std::path::Path;

use realign_core::{Shape, Sites};

use crate::{Error, Result};

/// The sizes of a model as a file gives them.
#[derive(Clone, Debug)]
pub(crate) struct Sizes<'a> {
    pub(crate) path: &'a Path,
    pub(crate) names: Names,
    pub(crate) n_layers: u64,
    pub(crate) d_model: u64,
    pub(crate) n_heads: u64,
    pub(crate) n_kv_heads: u64,
    pub(crate) d_head: Option<u64>,
    pub(crate) d_mlp: u64,
    pub(crate) vocab: u64,
    pub(crate) context: u64,
    pub(crate) norm_eps: f64,
}

/// What a file format calls each number, for error messages.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) n_layers: String,
    pub(crate) d_model: String,
    pub(crate) n_heads: String,
    pub(crate) n_kv_heads: String,
    pub(crate) d_head: String,
    pub(crate) d_mlp: String,
    pub(crate) vocab: String,
    pub(crate) context: String,
    pub(crate) norm_eps: String,
}

impl Sizes<'_> {
    /// The model's shape and the number in its norms, if there can be such a model.
    pub(crate) fn check(&self) -> Result<(Shape, f32)> {
        let names = &self.names;
        let fail = |field: &str, expected: String, found: String| Err(Error::format(self.path, field, expected, found));
        // Far above any published model, far below what overflows a product of two of them.
        for (field, value, most) in [
            (&names.n_layers, self.n_layers, 1 << 10),
            (&names.d_model, self.d_model, 1 << 17),
            (&names.n_heads, self.n_heads, 1 << 12),
            (&names.n_kv_heads, self.n_kv_heads, 1 << 12),
            (&names.d_mlp, self.d_mlp, 1 << 20),
            (&names.vocab, self.vocab, 1 << 24),
            (&names.context, self.context, 1 << 28),
        ] {
            if value == 0 || value > most {
                return fail(field, format!("1 to {most}"), value.to_string());
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let expected = format!("a divisor of the {} query heads", self.n_heads);
            return fail(&names.n_kv_heads, expected, self.n_kv_heads.to_string());
        }
        let d_head = match self.d_head {
            Some(d_head) => d_head,
            None if self.d_model.is_multiple_of(self.n_heads) => self.d_model / self.n_heads,
            None => {
                let expected = format!("a multiple of the {} heads", self.n_heads);
                return fail(&names.d_model, expected, self.d_model.to_string());
            }
        };
        if d_head == 0 || d_head > 1 << 13 || !d_head.is_multiple_of(2) {
            let expected = "an even width of 2 to 8192".to_owned();
            return fail(&names.d_head, expected, d_head.to_string());
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return fail(&names.norm_eps, "between 0 and 1".into(), self.norm_eps.to_string());
        }
        let shape = Shape {
            n_layers: self.n_layers as usize,
            d_model: self.d_model as usize,
            n_heads: self.n_heads as usize,
            n_kv_heads: self.n_kv_heads as usize,
            d_head: d_head as usize,
            d_mlp: self.d_mlp as usize,
            vocab: self.vocab as usize,
            context: self.context as usize,
            sites: Sites::ALL,
        };
        Ok((shape, self.norm_eps as f32))
    }
}
