//! In how many bits a model's weights are kept.

use std::fmt;
use std::str::FromStr;

/// The form in which a model's matrices are kept in memory. Activations and sums are f32 with all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Weights {
    /// 32 bits: what every figure of this project is measured with.
    #[default]
    F32,
    /// 16 bits: the upper halves of f32, rounded.
    Bf16,
    /// 8 bits, and a scale for each 32 weights.
    Q8,
    /// The bits that a GGUF stores, with the very values that f32 would have; f32 for what it does not store in fewer.
    Stored,
}

impl Weights {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::F32, Self::Bf16, Self::Q8, Self::Stored];

    const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
            Self::Stored => "stored",
        }
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Weights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|weights| weights.name() == text);
        found.ok_or_else(|| format!("expected f32, bf16, q8 or stored, found `{text}`"))
    }
}
