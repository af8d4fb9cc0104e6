//! What a decoder-only transformer is made of, whatever its architecture is called.

use std::path::Path;

use realign_core::{Shape, Sites};
use realign_tensor::Activation;

use crate::files::read_small;
use crate::{Architecture, Error, Gguf, Result, Rope};

/// A configuration is a page of text; a list of small numbers takes a hundred times its bytes in memory.
const MAX_CONFIG_BYTES: u64 = 1 << 19;

/// A decoder-only transformer: its sizes, and the parts in which architectures differ.
///
/// Each architecture's own file turns its `config.json` into one of these; [`crate::Decoder`] knows nothing else.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DecoderConfig {
    /// What the checkpoint's format calls it: which tensors are read.
    pub architecture: Architecture,
    /// The model's sizes.
    pub shape: Shape,
    /// Whether logits are read off with the embedding itself.
    pub tied: bool,
    /// Token embeddings are multiplied by this.
    pub embedding_scale: f32,
    /// How the stream is normalised.
    pub norm: NormKind,
    /// Added to the variance, or to the mean square, in every norm.
    pub norm_eps: f32,
    /// Whether attention and MLP read a normalised stream.
    pub norm_before: bool,
    /// Whether what attention and MLP write is normalised before it is added.
    pub norm_after: bool,
    /// Norms of queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// Whether attention and MLP both read the stream before the block.
    pub parallel: bool,
    /// The linear maps that add a bias.
    pub biases: Sites,
    /// The MLP's nonlinearity: of its gate, where it has one.
    pub activation: Activation,
    /// Rotary positions, one for each kind of layer; empty with learned positions.
    pub ropes: Vec<Rope>,
    /// The layers, in order.
    pub layers: Vec<LayerConfig>,
    /// What dot products of queries and keys are multiplied by.
    pub attention_scale: f32,
    /// Attention scores become `cap · tanh(score / cap)`.
    pub attention_softcap: Option<f32>,
    /// Logits become `cap · tanh(logit / cap)`.
    pub logit_softcap: Option<f32>,
    /// The MLPs are mixtures of experts.
    pub experts: Option<ExpertsConfig>,
}

/// What differs between the layers of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerConfig {
    /// Which of the model's rotary positions; none with learned ones.
    pub rope: Option<usize>,
    /// How many tokens a query sees; all earlier ones where this is `None`.
    pub window: Option<usize>,
}

/// A norm of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x²) + eps) · weight` (Zhang & Sennrich 2019).
    Rms,
    /// `(x - mean(x)) / sqrt(var(x) + eps) · weight + bias` (Ba et al. 2016).
    Layer,
}

/// RMS norms of queries and keys, before they are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Of each head, with one weight for all heads.
    Head,
    /// Of all heads together.
    Width,
}

/// A mixture of experts (Shazeer et al. 2017): each token goes through some of many gated MLPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertsConfig {
    /// How many there are in a layer.
    pub count: usize,
    /// How many each token goes through.
    pub per_token: usize,
    /// Whether the weights of a token's experts are made to sum to one.
    pub normalised: bool,
}

impl DecoderConfig {
    /// A plain pre-norm decoder: RMS norms, rotary positions, SwiGLU, no biases. What differs is changed after.
    pub(crate) fn plain(architecture: Architecture, shape: Shape, rope: Rope, norm_eps: f32) -> Self {
        Self {
            architecture,
            shape,
            tied: false,
            embedding_scale: 1.0,
            norm: NormKind::Rms,
            norm_eps,
            norm_before: true,
            norm_after: false,
            qk_norm: None,
            parallel: false,
            biases: Sites::NONE,
            activation: Activation::Silu,
            ropes: vec![rope],
            layers: vec![
                LayerConfig {
                    rope: Some(0),
                    window: None
                };
                shape.n_layers
            ],
            attention_scale: 1.0 / (shape.d_head as f32).sqrt(),
            attention_softcap: None,
            logit_softcap: None,
            experts: None,
        }
    }

    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// Names the field: a wrong type, an unknown architecture, an option that is not implemented, or numbers that describe
    /// no model.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::from_json(&read_small(path, MAX_CONFIG_BYTES)?, path)
    }

    /// Reads the text of a `config.json`; `path` is what error messages call it.
    ///
    /// # Errors
    /// As [`DecoderConfig::from_file`].
    pub fn from_json(json: &[u8], path: &Path) -> Result<Self> {
        if json.len() as u64 > MAX_CONFIG_BYTES {
            let expected = format!("at most {MAX_CONFIG_BYTES} bytes");
            return Err(Error::format(path, "length", expected, format!("{} bytes", json.len())));
        }
        Architecture::config(json, path)
    }

    /// Reads the metadata of a GGUF and checks it against the file's tokens and tensors.
    ///
    /// # Errors
    /// As [`DecoderConfig::from_file`]; also when the embedding, the token list, the scores and the special tokens do not
    /// fit together.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        crate::gguf_config::read(gguf)
    }

    /// The sizes that [`realign_core::LanguageModel::shape`] reports.
    pub fn shape(&self) -> Shape {
        self.shape
    }
}

impl From<&Self> for DecoderConfig {
    fn from(config: &Self) -> Self {
        config.clone()
    }
}
