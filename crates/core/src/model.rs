//! The language model as everything else here sees it.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{Batch, Cache, Hook, HookPoint, ModuleNames, Site, Sites};

/// The sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Number of blocks.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Width of the MLP; in a mixture of experts, of one token's experts together.
    pub d_mlp: usize,
    /// Size of the vocabulary.
    pub vocab: usize,
    /// Most tokens that the model was trained on at a time.
    pub context: usize,
    /// The linear maps of each block: where adapters can attach.
    pub sites: Sites,
}

impl Shape {
    /// Input and output width of a linear map.
    pub fn linear(&self, site: Site) -> [usize; 2] {
        let (q, kv) = (self.n_heads * self.d_head, self.n_kv_heads * self.d_head);
        match site {
            Site::Q => [self.d_model, q],
            Site::K | Site::V => [self.d_model, kv],
            Site::O => [q, self.d_model],
            Site::Gate | Site::Up => [self.d_model, self.d_mlp],
            Site::Down => [self.d_mlp, self.d_model],
        }
    }
}

/// A weight matrix that [`LanguageModel::edited`] may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Weight {
    /// Token embeddings `[vocab, d_model]`.
    Embedding,
    /// Learned positions `[context, d_model]`.
    Positions,
    /// A linear map `[d_in, d_out]` of a block.
    Linear {
        /// The block.
        layer: usize,
        /// The linear map in it.
        site: Site,
    },
    /// What a linear map adds, `[1, d_out]`.
    Bias {
        /// The block.
        layer: usize,
        /// The linear map in it.
        site: Site,
    },
    /// The map `[d_in, d_out]` by which an expert writes to the stream.
    ExpertDown {
        /// The block.
        layer: usize,
        /// Which of its experts.
        expert: usize,
    },
    /// The unembedding `[vocab, d_model]`.
    Unembedding,
}

/// How far a forward pass goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Through all blocks and the final norm.
    End,
    /// Through the block of this index and no further.
    Layer(usize),
}

/// A causal language model that hands every named activation to a hook on its way.
///
/// Base weights are constants: gradients begin where a hook brings in a tensor that requires one.
pub trait LanguageModel: Send + Sync {
    /// The model's sizes.
    fn shape(&self) -> &Shape;

    /// What Python calls its modules; Llama's names, where an architecture says nothing else.
    fn module_names(&self) -> ModuleNames {
        ModuleNames::LLAMA
    }

    /// The number of tokens beyond which a sequence's cached keys and values are of no use: what is longer has to be run from
    /// its start ([`Cache::forget`]). None where a cache is good for ever.
    fn recomputes_at(&self) -> Option<usize> {
        None
    }

    /// Where its weights are.
    fn device(&self) -> Device;

    /// Runs `batch`; returns the last residual stream that was computed: after the final norm for [`Until::End`],
    /// the block's output otherwise.
    ///
    /// With a cache, the segments made by [`Batch::push_cached`] continue its sequences, and every layer stores their
    /// keys and values.
    ///
    /// # Shapes
    /// - output: `[token, d_model]`
    fn run(&self, batch: &Batch, until: Until, cache: Option<&mut Cache>, hook: &mut dyn Hook) -> Tensor<2>;

    /// Runs the blocks above `layer` and the final norm, from that block's output `[token, d_model]`.
    ///
    /// # Shapes
    /// - `resid`, output: `[token, d_model]`
    fn resume(&self, batch: &Batch, layer: usize, resid: Tensor<2>, hook: &mut dyn Hook) -> Tensor<2>;

    /// The unembedding `[vocab, d_model]`.
    fn unembedding(&self) -> Tensor<2>;

    /// The weight `[d_in, d_out]` of a linear map, one of the shape's sites.
    fn linear_weight(&self, layer: usize, site: Site) -> Tensor<2>;

    /// A weight as [`LanguageModel::edited`] hands it out; none where the model has no such weight.
    fn weight(&self, weight: Weight) -> Option<Tensor<2>> {
        match weight {
            Weight::Linear { layer, site } if self.shape().sites.contains(site) => {
                Some(self.linear_weight(layer, site))
            }
            Weight::Unembedding => Some(self.unembedding()),
            _ => None,
        }
    }

    /// The weight `[d_model]` of the norm between a map that writes to the stream (O, Down) and the stream; none where
    /// there is no norm.
    fn norm_behind(&self, _layer: usize, _site: Site) -> Option<Tensor<1>> {
        None
    }

    /// A copy of the model with some of its weights replaced; the others are shared, not copied.
    ///
    /// `edit` gets every weight and returns the one to use. Tied embeddings are edited apart.
    fn edited(&self, edit: &mut dyn FnMut(Weight, Tensor<2>) -> Tensor<2>) -> Box<dyn LanguageModel>;

    /// The final norm alone, `[token, d_model]` to `[token, d_model]`: what the logit lens puts before the unembedding.
    fn final_norm(&self, resid: Tensor<2>) -> Tensor<2>;

    /// Runs `batch` to the end: what the unembedding reads, `[token, d_model]`.
    fn forward(&self, batch: &Batch, hook: &mut dyn Hook) -> Tensor<2> {
        self.run(batch, Until::End, None, hook)
    }

    /// Runs `batch` for the hook's sake: no layer above the last that it wants, no logits.
    fn watch(&self, batch: &Batch, hook: &mut dyn Hook) {
        let wanted = |layer: &usize| HookPoint::of_layer(*layer).into_iter().any(|at| hook.wants(at));
        if hook.wants(HookPoint::FinalNorm) {
            self.run(batch, Until::End, None, hook);
        } else if let Some(layer) = (0..self.shape().n_layers).rev().find(wanted) {
            self.run(batch, Until::Layer(layer), None, hook);
        } else if hook.wants(HookPoint::Embed) {
            self.run(batch, Until::Layer(0), None, hook);
        }
    }

    /// Logits `[token, vocab]` of final hidden states `[token, d_model]`.
    fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        realign_tensor::product(hidden, self.unembedding().transpose())
    }

    /// `-log p(target)` of every token in nats, from final hidden states `[token, d_model]`.
    fn nll(&self, hidden: Tensor<2>, targets: &[u32]) -> Tensor<1> {
        realign_tensor::cross_entropy(hidden, self.unembedding(), ids(targets, &self.device()))
    }
}

/// Token ids as an integer tensor `[token]`.
pub fn ids(ids: &[u32], device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let n = ids.len();
    Tensor::from_data(TensorData::new(ids, [n]), device)
}

/// Rows of `x` at these tokens: `[token, d]` to `[tokens.len(), d]`.
pub fn rows(x: Tensor<2>, tokens: &[usize]) -> Tensor<2> {
    let index: Vec<u32> = tokens.iter().map(|&t| t as u32).collect();
    let device = x.device().inner();
    x.select(0, ids(&index, &device))
}
