//! What varies between architectures in attention.

/// How scores are made, and how far back a query looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionOptions {
    /// What dot products of queries and keys are multiplied by.
    pub scale: f32,
    /// Scores become `softcap · tanh(score / softcap)` (Gemma 2).
    pub softcap: Option<f32>,
    /// A query sees this many keys, its own the last of them (sliding window); `None` for all.
    pub window: Option<usize>,
}

impl AttentionOptions {
    /// Scores of `1 / sqrt(d_head)` times the dot products, over all earlier tokens.
    pub fn new(d_head: usize) -> Self {
        Self {
            scale: 1.0 / (d_head as f32).sqrt(),
            softcap: None,
            window: None,
        }
    }

    /// With another scale.
    pub fn with_scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// With capped scores.
    pub fn with_softcap(mut self, softcap: Option<f32>) -> Self {
        self.softcap = softcap;
        self
    }

    /// With a sliding window.
    pub fn with_window(mut self, window: Option<usize>) -> Self {
        self.window = window;
        self
    }

    /// The first key that a query sees of the `seen` before and at it.
    pub(crate) fn first(&self, seen: usize) -> usize {
        self.window.map_or(0, |window| seen.saturating_sub(window))
    }
}
