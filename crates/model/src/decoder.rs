//! The one forward pass: a decoder-only transformer with hook points, of any architecture that is read here.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use realign_core::{Batch, Cache, Hook, HookPoint, LanguageModel, ModuleNames, Shape, Site, Until, Weight, ids};
use realign_tensor::{
    AttentionOptions, Frozen, activate, add_rms_norm, attention_with, both, cross_entropy, gated, in_pool, rms_norm,
    rotary,
};

use crate::experts::Experts;
use crate::rope::RopeTable;
use crate::{Checkpoint, DecoderConfig, NormKind, QkNorm, Result, RopeScaling, Weights, load};

/// Tokens whose capped logits exist at one time in a loss.
const LOSS_CHUNK: usize = 256;

/// Most tokens for which one linear map leaves threads without work, as in generation.
const FEW_TOKENS: usize = 32;

/// A decoder-only language model with hook points.
///
/// Weights are constants: gradients begin at the hook.
#[derive(Clone, Debug)]
pub struct Decoder {
    config: DecoderConfig,
    device: Device,
    embedding: Frozen,
    unembedding: Unembedding,
    /// Learned positions `[context, d_model]`.
    positions: Option<Tensor<2>>,
    blocks: Vec<Block>,
    norm: Norm,
    ropes: Vec<RopeTable>,
}

/// One transformer block's weights; what the architecture does not have is `None`.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) attn_norm: Option<Norm>,
    pub(crate) attn_norm_after: Option<Norm>,
    pub(crate) mlp_norm: Option<Norm>,
    pub(crate) mlp_norm_after: Option<Norm>,
    /// Of a head's width, or of all heads'.
    pub(crate) q_norm: Option<Tensor<1>>,
    pub(crate) k_norm: Option<Tensor<1>>,
    /// By site.
    pub(crate) linear: [Option<Linear>; 7],
    pub(crate) experts: Option<Experts>,
}

/// A linear map.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Frozen,
    /// `[1, d_out]`.
    pub(crate) bias: Option<Tensor<2>>,
}

/// The weight of a norm, and a LayerNorm's bias `[1, d]`.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub(crate) weight: Tensor<1>,
    pub(crate) bias: Option<Tensor<2>>,
}

/// All weights of a decoder.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) embedding: Frozen,
    pub(crate) unembedding: Frozen,
    pub(crate) positions: Option<Tensor<2>>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: Norm,
}

/// The map to logits, and the same in f32 once somebody has asked for it.
#[derive(Clone, Debug)]
struct Unembedding {
    map: Frozen,
    dense: Arc<OnceLock<Tensor<2>>>,
}

impl From<Frozen> for Unembedding {
    fn from(map: Frozen) -> Self {
        Self {
            map,
            dense: Arc::default(),
        }
    }
}

impl Linear {
    fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        let y = self.weight.apply(x);
        match &self.bias {
            Some(bias) => y + bias.clone(),
            None => y,
        }
    }
}

impl Decoder {
    /// Reads every weight of a checkpoint, in f32.
    ///
    /// # Errors
    /// A weight is missing, has another shape than the configuration says, or holds a value that is not finite.
    pub fn load(config: &DecoderConfig, checkpoint: &Checkpoint, device: &Device) -> Result<Self> {
        Self::load_as(config, checkpoint, Weights::F32, device)
    }

    /// Reads every weight of a checkpoint; the matrices are kept as `weights` says.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn load_as(config: &DecoderConfig, checkpoint: &Checkpoint, weights: Weights, device: &Device) -> Result<Self> {
        let parts = load::read(config, checkpoint, weights, device)?;
        Ok(Self::new(config.clone(), parts, device))
    }

    /// A model of random weights: for tests and for timing.
    pub fn random(config: impl Into<DecoderConfig>, seed: u64, device: &Device) -> Self {
        let config = config.into();
        let shape = config.shape;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut matrix = |rows: usize, columns: usize, scale: f32| {
            let data: Vec<f32> = (0..rows * columns).map(|_| normal(&mut rng) * scale).collect();
            Tensor::<2>::from_data(TensorData::new(data, [rows, columns]), device)
        };
        let mut map = |[d_in, d_out]: [usize; 2]| Frozen::linear(matrix(d_in, d_out, (d_in as f32).powf(-0.5)));
        let norm = || Norm {
            weight: Tensor::ones([shape.d_model], device),
            bias: (config.norm == NormKind::Layer).then(|| Tensor::zeros([1, shape.d_model], device)),
        };
        let qk_norm = |heads: usize| {
            config.qk_norm.map(|kind| match kind {
                QkNorm::Head => Tensor::ones([shape.d_head], device),
                QkNorm::Width => Tensor::ones([heads * shape.d_head], device),
            })
        };
        let blocks = (0..shape.n_layers).map(|_| {
            let linear = Site::ALL.map(|site| {
                shape.sites.contains(site).then(|| Linear {
                    weight: map(shape.linear(site)),
                    bias: (config.biases.contains(site)).then(|| Tensor::zeros([1, shape.linear(site)[1]], device)),
                })
            });
            let experts = config.experts.map(|experts| {
                let width = shape.d_mlp / experts.per_token;
                let mut maps = |size| (0..experts.count).map(|_| map(size)).collect();
                Experts {
                    config: experts,
                    gate: maps([shape.d_model, width]),
                    up: maps([shape.d_model, width]),
                    down: maps([width, shape.d_model]),
                    router: map([shape.d_model, experts.count]),
                }
            });
            Block {
                attn_norm: config.norm_before.then(norm),
                attn_norm_after: config.norm_after.then(norm),
                mlp_norm: config.norm_before.then(norm),
                mlp_norm_after: config.norm_after.then(norm),
                q_norm: qk_norm(shape.n_heads),
                k_norm: qk_norm(shape.n_kv_heads),
                linear,
                experts,
            }
        });
        let blocks = blocks.collect();
        let mut table = |scale| Frozen::from(matrix(shape.vocab, shape.d_model, scale).transpose());
        let embedding = table(1.0 / config.embedding_scale);
        let unembedding = if config.tied {
            embedding.clone()
        } else {
            table((shape.d_model as f32).powf(-0.5))
        };
        let learned = config.layers.iter().any(|layer| layer.rope.is_none());
        let parts = Parts {
            embedding,
            unembedding,
            positions: learned.then(|| matrix(shape.context, shape.d_model, 0.1)),
            blocks,
            norm: norm(),
        };
        Self::new(config, parts, device)
    }

    fn new(config: DecoderConfig, parts: Parts, device: &Device) -> Self {
        Self {
            device: device.clone(),
            embedding: parts.embedding,
            unembedding: parts.unembedding.into(),
            positions: parts.positions,
            blocks: parts.blocks,
            norm: parts.norm,
            ropes: config.ropes.iter().cloned().map(RopeTable::new).collect(),
            config,
        }
    }

    /// The model's configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn pass(&self, batch: &Batch, until: Until, cache: Option<&mut Cache>, hook: &mut dyn Hook) -> Tensor<2> {
        let x = stream(hook, HookPoint::Embed, self.embed(batch), batch);
        let x = match &self.positions {
            Some(table) => x + table.clone().select(0, self.indices(&self.positions_of(batch))),
            None => x,
        };
        match until {
            Until::End => {
                let x = self.run_blocks(x, 0..self.config.shape.n_layers, batch, cache, hook);
                stream(hook, HookPoint::FinalNorm, self.final_norm(x), batch)
            }
            Until::Layer(layer) => self.run_blocks(x, 0..layer + 1, batch, cache, hook),
        }
    }

    fn embed(&self, batch: &Batch) -> Tensor<2> {
        let rows = self.embedding.rows(batch.ids());
        match self.config.embedding_scale {
            1.0 => rows,
            scale => rows.mul_scalar(scale),
        }
    }

    /// The position of every token.
    ///
    /// # Panics
    /// If one lies beyond the model's context.
    fn positions_of(&self, batch: &Batch) -> Vec<usize> {
        let (positions, context) = (batch.positions(), self.config.shape.context);
        if let Some(&last) = positions.iter().max() {
            assert!(
                last < context,
                "position {last}, but the model's context is {context} tokens"
            );
        }
        positions
    }

    fn indices(&self, of: &[usize]) -> Tensor<1, Int> {
        let of: Vec<u32> = of.iter().map(|&i| i as u32).collect();
        ids(&of, &self.device)
    }

    fn run_blocks(
        &self,
        mut x: Tensor<2>,
        layers: Range<usize>,
        batch: &Batch,
        mut cache: Option<&mut Cache>,
        hook: &mut dyn Hook,
    ) -> Tensor<2> {
        self.positions_of(batch);
        let spans = match &cache {
            Some(cache) => cache.spans(batch),
            None => batch.spans(0, |_| {
                panic!("a batch that continues cached sequences needs their cache")
            }),
        };
        let ropes: Vec<_> = self.ropes.iter().map(|rope| rope.rows(batch, &self.device)).collect();
        let (config, shape, tokens) = (&self.config, &self.config.shape, batch.len());
        // What the next block reads, where the last one has it already.
        let mut ready = None;
        for l in layers.clone() {
            let (block, layer) = (&self.blocks[l], config.layers[l]);
            let h = match ready.take() {
                Some(h) => h,
                None => {
                    x = stream(hook, HookPoint::ResidPre(l), x, batch);
                    self.normed(&block.attn_norm, x.clone())
                }
            };
            // Not kept without need: a tensor that nobody else holds is added to in place.
            let before = config.parallel.then(|| x.clone());
            let map = |site| self.map(l, site).apply(h.clone());
            let (q, (k, v)) = self.both(&h, || map(Site::Q), || self.both(&h, || map(Site::K), || map(Site::V)));
            let mut project = |site, y, n: usize, norm: &Option<Tensor<1>>| {
                let y = hooked(hook, HookPoint::LinearIn { layer: l, site }, &h, y, batch);
                let y = match norm {
                    Some(weight) => {
                        let width = weight.dims()[0];
                        let rows = tokens * n * shape.d_head / width;
                        rms_norm(y.reshape([rows, width]), weight.clone(), config.norm_eps.into())
                    }
                    None => y,
                };
                y.reshape([tokens, n, shape.d_head])
            };
            let q = project(Site::Q, q, shape.n_heads, &block.q_norm);
            let k = project(Site::K, k, shape.n_kv_heads, &block.k_norm);
            let v = project(Site::V, v, shape.n_kv_heads, &None);
            let rotate = |x: Tensor<3>| match layer.rope {
                Some(rope) => rotated(x, self.ropes[rope].width(), &ropes[rope]),
                None => x,
            };
            let q = heads(hook, HookPoint::Q(l), rotate(q), batch);
            let k = heads(hook, HookPoint::K(l), rotate(k), batch);
            let v = heads(hook, HookPoint::V(l), v, batch);
            let (k, v) = match &mut cache {
                Some(cache) => cache.append(l, k, v),
                None => (k, v),
            };
            let options = AttentionOptions {
                scale: config.attention_scale,
                softcap: config.attention_softcap,
                window: layer.window,
            };
            let z = attention_with(q, k, v, spans.clone(), options);
            let z = heads(hook, HookPoint::Z(l), z, batch);
            let z = z.reshape([tokens, shape.n_heads * shape.d_head]);
            let out = self.linear(l, Site::O, &z, batch, hook);
            let out = self.normed(&block.attn_norm_after, out);
            let out = stream(hook, HookPoint::AttnOut(l), out, batch);
            let h;
            (x, h) = match self.weight_alone(&block.mlp_norm) {
                Some(weight) if before.is_none() && !hook.wants(HookPoint::ResidMid(l)) => {
                    add_rms_norm(x, out, weight, config.norm_eps.into())
                }
                _ => {
                    let x = stream(hook, HookPoint::ResidMid(l), x + out, batch);
                    let h = self.normed(&block.mlp_norm, before.unwrap_or_else(|| x.clone()));
                    (x, h)
                }
            };
            let out = self.mlp(l, h, batch, hook);
            let out = self.normed(&block.mlp_norm_after, out);
            let out = stream(hook, HookPoint::MlpOut(l), out, batch);
            let unwatched =
                l + 1 < layers.end && !hook.wants(HookPoint::ResidPost(l)) && !hook.wants(HookPoint::ResidPre(l + 1));
            let next = unwatched.then(|| self.weight_alone(&self.blocks[l + 1].attn_norm));
            x = match next.flatten() {
                Some(weight) => {
                    let (x, h) = add_rms_norm(x, out, weight, config.norm_eps.into());
                    ready = Some(h);
                    x
                }
                None => stream(hook, HookPoint::ResidPost(l), x + out, batch),
            };
        }
        if let Some(cache) = cache {
            cache.advance(batch);
        }
        x
    }

    fn mlp(&self, l: usize, h: Tensor<2>, batch: &Batch, hook: &mut dyn Hook) -> Tensor<2> {
        let activation = self.config.activation;
        if let Some(experts) = &self.blocks[l].experts {
            return experts.forward(h, activation, |h| stream(hook, HookPoint::MlpPost(l), h, batch));
        }
        let h = if self.config.shape.sites.contains(Site::Gate) {
            let map = |site| self.map(l, site).apply(h.clone());
            let (gate, up) = self.both(&h, || map(Site::Gate), || map(Site::Up));
            let mut hooked = |site, y| hooked(hook, HookPoint::LinearIn { layer: l, site }, &h, y, batch);
            let (gate, up) = (hooked(Site::Gate, gate), hooked(Site::Up, up));
            gated(gate, up, activation)
        } else {
            activate(self.linear(l, Site::Up, &h, batch, hook), activation)
        };
        let h = stream(hook, HookPoint::MlpPost(l), h, batch);
        self.linear(l, Site::Down, &h, batch, hook)
    }

    fn linear(&self, layer: usize, site: Site, x: &Tensor<2>, batch: &Batch, hook: &mut dyn Hook) -> Tensor<2> {
        let y = self.map(layer, site).apply(x.clone());
        hooked(hook, HookPoint::LinearIn { layer, site }, x, y, batch)
    }

    /// What two linear maps make of `x`: at a time for few tokens. Not under gradients, which are recorded in one order.
    fn both<A: Send, B: Send>(
        &self,
        x: &Tensor<2>,
        a: impl FnOnce() -> A + Send,
        b: impl FnOnce() -> B + Send,
    ) -> (A, B) {
        if x.dims()[0] <= FEW_TOKENS && !x.is_autodiff() {
            both(&self.device, a, b)
        } else {
            (a(), b())
        }
    }

    fn map(&self, layer: usize, site: Site) -> &Linear {
        let map = self.blocks[layer].linear[site as usize].as_ref();
        map.unwrap_or_else(|| panic!("a {} has no {site}", self.config.architecture))
    }

    fn normed(&self, norm: &Option<Norm>, x: Tensor<2>) -> Tensor<2> {
        match norm {
            Some(norm) => self.norm_of(norm, x),
            None => x,
        }
    }

    /// The weight of a norm that is an RMS norm and nothing else: one kernel adds to the residual stream and norms it.
    fn weight_alone(&self, norm: &Option<Norm>) -> Option<Tensor<1>> {
        match norm {
            Some(Norm { weight, bias: None }) if self.config.norm == NormKind::Rms => Some(weight.clone()),
            _ => None,
        }
    }

    fn norm_of(&self, norm: &Norm, x: Tensor<2>) -> Tensor<2> {
        // A LayerNorm is the RMS norm of what is left without the mean.
        let x = match self.config.norm {
            NormKind::Rms => x,
            NormKind::Layer => x.clone() - x.mean_dim(1),
        };
        let y = rms_norm(x, norm.weight.clone(), self.config.norm_eps.into());
        match &norm.bias {
            Some(bias) => y + bias.clone(),
            None => y,
        }
    }
}

/// The output of a linear map that made `y` of `x`.
fn hooked(hook: &mut dyn Hook, at: HookPoint, x: &Tensor<2>, y: Tensor<2>, batch: &Batch) -> Tensor<2> {
    if hook.wants(at) {
        hook.linear(at, x, y, batch)
    } else {
        y
    }
}

fn stream(hook: &mut dyn Hook, at: HookPoint, x: Tensor<2>, batch: &Batch) -> Tensor<2> {
    if hook.wants(at) { hook.stream(at, x, batch) } else { x }
}

fn heads(hook: &mut dyn Hook, at: HookPoint, x: Tensor<3>, batch: &Batch) -> Tensor<3> {
    if hook.wants(at) { hook.heads(at, x, batch) } else { x }
}

/// Rotates the first `width` numbers of every head.
fn rotated(x: Tensor<3>, width: usize, (cos, sin): &(Tensor<2>, Tensor<2>)) -> Tensor<3> {
    let (cos, sin) = (cos.clone(), sin.clone());
    let [tokens, n, d_head] = x.dims();
    if width == d_head {
        return rotary(x, cos, sin);
    }
    let part = |range: Range<usize>| x.clone().slice([0..tokens, 0..n, range]);
    Tensor::cat(vec![rotary(part(0..width), cos, sin), part(width..d_head)], 2)
}

fn capped(logits: Tensor<2>, cap: Option<f32>) -> Tensor<2> {
    match cap {
        Some(cap) => logits.div_scalar(cap).tanh().mul_scalar(cap),
        None => logits,
    }
}

impl LanguageModel for Decoder {
    fn shape(&self) -> &Shape {
        &self.config.shape
    }

    fn module_names(&self) -> ModuleNames {
        self.config.architecture.names().modules
    }

    fn recomputes_at(&self) -> Option<usize> {
        let trained = self.config.ropes.iter().map(|rope| match rope.scaling {
            RopeScaling::Long { trained, .. } => Some(trained),
            _ => None,
        });
        trained.flatten().min()
    }

    fn device(&self) -> Device {
        self.device.clone()
    }

    fn run(&self, batch: &Batch, until: Until, cache: Option<&mut Cache>, hook: &mut dyn Hook) -> Tensor<2> {
        in_pool(&self.device, || self.pass(batch, until, cache, hook))
    }

    fn resume(&self, batch: &Batch, layer: usize, resid: Tensor<2>, hook: &mut dyn Hook) -> Tensor<2> {
        in_pool(&self.device, || {
            let x = self.run_blocks(resid, layer + 1..self.config.shape.n_layers, batch, None, hook);
            stream(hook, HookPoint::FinalNorm, self.final_norm(x), batch)
        })
    }

    fn unembedding(&self) -> Tensor<2> {
        let Unembedding { map, dense } = &self.unembedding;
        dense.get_or_init(|| map.dense().transpose()).clone()
    }

    fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let logits = in_pool(&self.device, || self.unembedding.map.apply(hidden));
        capped(logits, self.config.logit_softcap)
    }

    fn nll(&self, hidden: Tensor<2>, targets: &[u32]) -> Tensor<1> {
        if self.config.logit_softcap.is_none() {
            return cross_entropy(hidden, self.unembedding(), ids(targets, &self.device));
        }
        let [tokens, d_model] = hidden.dims();
        assert_eq!(
            targets.len(),
            tokens,
            "nll: {} targets for {tokens} tokens",
            targets.len()
        );
        let parts = (0..tokens).step_by(LOSS_CHUNK).map(|start| {
            let end = tokens.min(start + LOSS_CHUNK);
            let logits = self.logits(hidden.clone().slice([start..end, 0..d_model]));
            let targets: Tensor<2, Int> = ids(&targets[start..end], &self.device).reshape([end - start, 1]);
            log_softmax(logits, 1).gather(1, targets).neg().reshape([end - start])
        });
        Tensor::cat(parts.collect(), 0)
    }

    fn linear_weight(&self, layer: usize, site: Site) -> Tensor<2> {
        self.map(layer, site).weight.dense()
    }

    fn weight(&self, weight: Weight) -> Option<Tensor<2>> {
        let map = |layer: usize, site: Site| self.blocks[layer].linear[site as usize].as_ref();
        match weight {
            Weight::Embedding => Some(self.embedding.dense().transpose()),
            Weight::Positions => self.positions.clone(),
            Weight::Linear { layer, site } => Some(map(layer, site)?.weight.dense()),
            Weight::Bias { layer, site } => map(layer, site)?.bias.clone(),
            Weight::ExpertDown { layer, expert } => {
                let experts = self.blocks[layer].experts.as_ref()?;
                Some(experts.down.get(expert)?.dense())
            }
            Weight::Unembedding => Some(self.unembedding()),
        }
    }

    fn norm_behind(&self, layer: usize, site: Site) -> Option<Tensor<1>> {
        let block = &self.blocks[layer];
        let norm = match site {
            Site::O => &block.attn_norm_after,
            Site::Down => &block.mlp_norm_after,
            _ => &None,
        };
        norm.as_ref().map(|norm| norm.weight.clone())
    }

    fn edited(&self, edit: &mut dyn FnMut(Weight, Tensor<2>) -> Tensor<2>) -> Box<dyn LanguageModel> {
        let mut model = self.clone();
        model.embedding = edit(Weight::Embedding, model.embedding.dense().transpose())
            .transpose()
            .into();
        model.positions = model.positions.map(|positions| edit(Weight::Positions, positions));
        for (layer, block) in model.blocks.iter_mut().enumerate() {
            for site in Site::ALL {
                let Some(Linear { weight, bias }) = &mut block.linear[site as usize] else {
                    continue;
                };
                *weight = weight.edited(|w| edit(Weight::Linear { layer, site }, w));
                *bias = bias.take().map(|bias| edit(Weight::Bias { layer, site }, bias));
            }
            let experts = block.experts.iter_mut().flat_map(|experts| &mut experts.down);
            for (expert, down) in experts.enumerate() {
                *down = down.edited(|w| edit(Weight::ExpertDown { layer, expert }, w));
            }
        }
        let unembedding = edit(Weight::Unembedding, self.unembedding()).transpose();
        model.unembedding = Frozen::from(unembedding).into();
        Box::new(model)
    }

    fn final_norm(&self, resid: Tensor<2>) -> Tensor<2> {
        self.norm_of(&self.norm, resid)
    }
}

/// A standard normal number by Box and Muller.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    ((-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}
