//! The numbers of one AdamW step.

/// Hyper-parameters and the count of one AdamW step (Loshchilov & Hutter 2019, algorithm 2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta_1: f32,
    /// Decay of the second moment.
    pub beta_2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Steps taken including this one: 1 for the first.
    pub count: u32,
    /// What the gradient is multiplied by before anything else: global-norm clipping without a pass of its own.
    pub clip: f32,
}

impl AdamWStep {
    /// A step with betas 0.9 and 0.999, eps 1e-8, no weight decay and no clipping.
    pub fn new(lr: f32, count: u32) -> Self {
        Self {
            lr,
            beta_1: 0.9,
            beta_2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            count,
            clip: 1.0,
        }
    }

    /// `1 / (1 - beta_1^count)`.
    pub fn first_correction(&self) -> f32 {
        (1.0 / (1.0 - f64::from(self.beta_1).powi(self.count as i32))) as f32
    }

    /// `1 / (1 - beta_2^count)`.
    pub fn second_correction(&self) -> f32 {
        (1.0 / (1.0 - f64::from(self.beta_2).powi(self.count as i32))) as f32
    }
}
