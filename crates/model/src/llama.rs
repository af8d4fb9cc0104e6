//! The Llama family: RMS norm, rotary embedding, grouped-query attention, SwiGLU.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use realign_core::{Batch, Cache, Hook, HookPoint, LanguageModel, Shape, Site, Until, Weight};
use realign_tensor::{Frozen, Packed, attention, in_pool, rms_norm, rotary, swiglu};

use crate::{Checkpoint, Error, LlamaConfig, Weights};

/// One transformer block's weights.
#[derive(Clone, Debug)]
struct Block {
    attn_norm: Tensor<1>,
    mlp_norm: Tensor<1>,
    linear: [Frozen; 7],
}

/// A Llama-family language model (Touvron et al. 2023) with hook points.
///
/// Weights are constants: gradients begin at the hook.
#[derive(Clone, Debug)]
pub struct Llama {
    config: LlamaConfig,
    shape: Shape,
    device: Device,
    embedding: Frozen,
    unembedding: Unembedding,
    blocks: Vec<Block>,
    norm: Tensor<1>,
    /// Cosines and sines `[position, d_head / 2]`, as far as positions were asked for: a file may name a context whose table
    /// no memory holds.
    rope: Arc<Mutex<(Vec<f32>, Vec<f32>)>>,
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

impl Llama {
    /// Reads every weight of a checkpoint, in f32.
    ///
    /// # Errors
    /// A weight is missing, has another shape than the configuration says, or holds a value that is not finite.
    pub fn load(config: &LlamaConfig, checkpoint: &Checkpoint, device: &Device) -> Result<Self, Error> {
        Self::load_as(config, checkpoint, Weights::F32, device)
    }

    /// Reads every weight of a checkpoint; the matrices are kept as `weights` says.
    ///
    /// # Errors
    /// As [`Llama::load`].
    pub fn load_as(
        config: &LlamaConfig,
        checkpoint: &Checkpoint,
        weights: Weights,
        device: &Device,
    ) -> Result<Self, Error> {
        let read = |name: &str, wanted: &[usize]| -> Result<Vec<f32>, Error> {
            let (found, data) = checkpoint.tensor(name)?;
            if found != wanted {
                return Err(Error::format(
                    checkpoint.path(),
                    name,
                    format!("shape {wanted:?}"),
                    format!("{found:?}"),
                ));
            }
            match data.iter().position(|x| !x.is_finite()) {
                Some(i) => Err(Error::format(
                    checkpoint.path(),
                    name,
                    "finite weights",
                    format!("{} at {i}", data[i]),
                )),
                None => Ok(data),
            }
        };
        let shape = config.shape();
        let vector = |name: &str| -> Result<Tensor<1>, Error> {
            let data = read(name, &[shape.d_model])?;
            Ok(Tensor::from_data(TensorData::new(data, [shape.d_model]), device))
        };
        // Stored [out, in].
        let matrix = |name: &str, size: [usize; 2]| -> Result<Frozen, Error> {
            let packed = match weights {
                Weights::F32 => None,
                Weights::Bf16 => Some(Packed::bf16(&read(name, &size)?, size)),
                // Its blocks are 32 wide.
                Weights::Q8 if size[1].is_multiple_of(32) => Some(Packed::q8(&read(name, &size)?, size)),
                Weights::Q8 => None,
                Weights::Stored => checkpoint.packed(name)?,
            };
            match packed {
                Some(packed) if packed.shape() != size => Err(Error::format(
                    checkpoint.path(),
                    name,
                    format!("shape {size:?}"),
                    format!("{:?}", packed.shape()),
                )),
                Some(packed) => Ok(Frozen::packed(packed, device)),
                None => {
                    // Kept [in, out], so that the forward product reads both operands row by row.
                    let data = transposed(&read(name, &size)?, size[0], size[1]);
                    Ok(Tensor::from_data(TensorData::new(data, [size[1], size[0]]), device).into())
                }
            }
        };
        let table = |name: &str| -> Result<Frozen, Error> {
            let size = [shape.vocab, shape.d_model];
            match weights {
                // Kept [vocab, d_model], so that a token's row lies in one piece.
                Weights::F32 => {
                    let table: Tensor<2> = Tensor::from_data(TensorData::new(read(name, &size)?, size), device);
                    Ok(table.transpose().into())
                }
                _ => matrix(name, size),
            }
        };
        let blocks = (0..shape.n_layers).map(|layer| {
            let linear = |site: Site| -> Result<Frozen, Error> {
                let [d_in, d_out] = shape.linear(site);
                matrix(&format!("model.layers.{layer}.{}.weight", site.path()), [d_out, d_in])
            };
            let [q, k, v, o, gate, up, down] = Site::ALL;
            Ok(Block {
                attn_norm: vector(&format!("model.layers.{layer}.input_layernorm.weight"))?,
                mlp_norm: vector(&format!("model.layers.{layer}.post_attention_layernorm.weight"))?,
                linear: [
                    linear(q)?,
                    linear(k)?,
                    linear(v)?,
                    linear(o)?,
                    linear(gate)?,
                    linear(up)?,
                    linear(down)?,
                ],
            })
        });
        let blocks = blocks.collect::<Result<Vec<_>, Error>>()?;
        let embedding = table("model.embed_tokens.weight")?;
        let unembedding = if config.tied {
            embedding.clone()
        } else {
            table("lm_head.weight")?
        };
        Ok(Self::new(
            config,
            embedding,
            unembedding,
            blocks,
            vector("model.norm.weight")?,
            device,
        ))
    }

    /// A model of random weights: for tests and for timing.
    pub fn random(config: &LlamaConfig, seed: u64, device: &Device) -> Self {
        let shape = config.shape();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut matrix = |rows: usize, columns: usize, scale: f32| {
            let data: Vec<f32> = (0..rows * columns).map(|_| normal(&mut rng) * scale).collect();
            Tensor::<2>::from_data(TensorData::new(data, [rows, columns]), device)
        };
        let ones = || Tensor::<1>::ones([shape.d_model], device);
        let blocks = (0..shape.n_layers).map(|_| Block {
            attn_norm: ones(),
            mlp_norm: ones(),
            linear: Site::ALL.map(|site| {
                let [d_in, d_out] = shape.linear(site);
                matrix(d_in, d_out, (d_in as f32).powf(-0.5)).into()
            }),
        });
        let blocks = blocks.collect();
        let mut table = |scale| Frozen::from(matrix(shape.vocab, shape.d_model, scale).transpose());
        let embedding = table(1.0);
        let unembedding = if config.tied {
            embedding.clone()
        } else {
            table((shape.d_model as f32).powf(-0.5))
        };
        Self::new(config, embedding, unembedding, blocks, ones(), device)
    }

    fn new(
        config: &LlamaConfig,
        embedding: Frozen,
        unembedding: Frozen,
        blocks: Vec<Block>,
        norm: Tensor<1>,
        device: &Device,
    ) -> Self {
        let shape = config.shape();
        Self {
            config: config.clone(),
            shape,
            device: device.clone(),
            embedding,
            unembedding: unembedding.into(),
            blocks,
            norm,
            rope: Arc::default(),
        }
    }

    /// The model's configuration.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    fn pass(&self, batch: &Batch, until: Until, cache: Option<&mut Cache>, hook: &mut dyn Hook) -> Tensor<2> {
        let embedded = self.embedding.rows(batch.ids());
        let x = stream(hook, HookPoint::Embed, embedded, batch);
        match until {
            Until::End => {
                let x = self.run_blocks(x, 0..self.shape.n_layers, batch, cache, hook);
                stream(hook, HookPoint::FinalNorm, self.final_norm(x), batch)
            }
            Until::Layer(layer) => self.run_blocks(x, 0..layer + 1, batch, cache, hook),
        }
    }

    fn run_blocks(
        &self,
        mut x: Tensor<2>,
        layers: Range<usize>,
        batch: &Batch,
        mut cache: Option<&mut Cache>,
        hook: &mut dyn Hook,
    ) -> Tensor<2> {
        let (shape, eps, tokens) = (&self.shape, f64::from(self.config.rms_eps), batch.len());
        let positions = batch.positions();
        if let Some(&last) = positions.iter().max() {
            assert!(
                last < shape.context,
                "position {last}, but the model's context is {} tokens",
                shape.context
            );
        }
        let spans = match &cache {
            Some(cache) => cache.spans(batch),
            None => batch.spans(0, |_| {
                panic!("a batch that continues cached sequences needs their cache")
            }),
        };
        let (cos, sin) = self.rope_rows(&positions);
        for l in layers {
            let block = &self.blocks[l];
            x = stream(hook, HookPoint::ResidPre(l), x, batch);
            let h = rms_norm(x.clone(), block.attn_norm.clone(), eps);
            let mut project = |site, n| self.linear(l, site, &h, batch, hook).reshape([tokens, n, shape.d_head]);
            let q = project(Site::Q, shape.n_heads);
            let k = project(Site::K, shape.n_kv_heads);
            let v = project(Site::V, shape.n_kv_heads);
            let q = heads(hook, HookPoint::Q(l), rotary(q, cos.clone(), sin.clone()), batch);
            let k = heads(hook, HookPoint::K(l), rotary(k, cos.clone(), sin.clone()), batch);
            let v = heads(hook, HookPoint::V(l), v, batch);
            let (k, v) = match &mut cache {
                Some(cache) => cache.append(l, k, v),
                None => (k, v),
            };
            let z = heads(hook, HookPoint::Z(l), attention(q, k, v, spans.clone()), batch);
            let z = z.reshape([tokens, shape.n_heads * shape.d_head]);
            let out = self.linear(l, Site::O, &z, batch, hook);
            x = x + stream(hook, HookPoint::AttnOut(l), out, batch);
            x = stream(hook, HookPoint::ResidMid(l), x, batch);
            let h = rms_norm(x.clone(), block.mlp_norm.clone(), eps);
            let gate = self.linear(l, Site::Gate, &h, batch, hook);
            let up = self.linear(l, Site::Up, &h, batch, hook);
            let h = stream(hook, HookPoint::MlpPost(l), swiglu(gate, up), batch);
            let out = self.linear(l, Site::Down, &h, batch, hook);
            x = x + stream(hook, HookPoint::MlpOut(l), out, batch);
            x = stream(hook, HookPoint::ResidPost(l), x, batch);
        }
        if let Some(cache) = cache {
            cache.advance(batch);
        }
        x
    }

    fn linear(&self, layer: usize, site: Site, x: &Tensor<2>, batch: &Batch, hook: &mut dyn Hook) -> Tensor<2> {
        let y = self.blocks[layer].linear[site as usize].apply(x.clone());
        let at = HookPoint::LinearIn { layer, site };
        if hook.wants(at)
            && let Some(delta) = hook.linear(at, x, batch)
        {
            return y + delta;
        }
        y
    }

    /// Cosines and sines `[token, d_head / 2]` of these positions.
    fn rope_rows(&self, positions: &[usize]) -> (Tensor<2>, Tensor<2>) {
        let half = self.shape.d_head / 2;
        let needed = positions.iter().max().map_or(0, |last| last + 1);
        let mut rope = self.rope.lock().unwrap_or_else(PoisonError::into_inner);
        if rope.0.len() < needed * half {
            let len = needed.next_power_of_two().min(self.shape.context);
            *rope = rope_table(len, self.shape.d_head, self.config.rope_theta.into());
        }
        let gather = |table: &[f32]| {
            let data: Vec<f32> = positions
                .iter()
                .flat_map(|&p| table[p * half..(p + 1) * half].iter().copied())
                .collect();
            Tensor::from_data(TensorData::new(data, [positions.len(), half]), &self.device)
        };
        (gather(&rope.0), gather(&rope.1))
    }
}

fn stream(hook: &mut dyn Hook, at: HookPoint, x: Tensor<2>, batch: &Batch) -> Tensor<2> {
    if hook.wants(at) { hook.stream(at, x, batch) } else { x }
}

fn heads(hook: &mut dyn Hook, at: HookPoint, x: Tensor<3>, batch: &Batch) -> Tensor<3> {
    if hook.wants(at) { hook.heads(at, x, batch) } else { x }
}

impl LanguageModel for Llama {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn device(&self) -> Device {
        self.device.clone()
    }

    fn run(&self, batch: &Batch, until: Until, cache: Option<&mut Cache>, hook: &mut dyn Hook) -> Tensor<2> {
        in_pool(&self.device, || self.pass(batch, until, cache, hook))
    }

    fn resume(&self, batch: &Batch, layer: usize, resid: Tensor<2>, hook: &mut dyn Hook) -> Tensor<2> {
        in_pool(&self.device, || {
            let x = self.run_blocks(resid, layer + 1..self.shape.n_layers, batch, None, hook);
            stream(hook, HookPoint::FinalNorm, self.final_norm(x), batch)
        })
    }
    fn unembedding(&self) -> Tensor<2> {
        let Unembedding { map, dense } = &self.unembedding;
        dense.get_or_init(|| map.dense().transpose()).clone()
    }

    fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.unembedding.map.apply(hidden)
    }

    fn linear_weight(&self, layer: usize, site: Site) -> Tensor<2> {
        self.blocks[layer].linear[site as usize].dense()
    }

    fn edited(&self, edit: &mut dyn FnMut(Weight, Tensor<2>) -> Tensor<2>) -> Box<dyn LanguageModel> {
        let mut model = self.clone();
        model.embedding = edit(Weight::Embedding, model.embedding.dense().transpose())
            .transpose()
            .into();
        for (layer, block) in model.blocks.iter_mut().enumerate() {
            for site in Site::ALL {
                let weight = &mut block.linear[site as usize];
                *weight = edit(Weight::Linear { layer, site }, weight.dense()).into();
            }
        }
        let unembedding = edit(Weight::Unembedding, self.unembedding()).transpose();
        model.unembedding = Frozen::from(unembedding).into();
        Box::new(model)
    }

    fn final_norm(&self, resid: Tensor<2>) -> Tensor<2> {
        rms_norm(resid, self.norm.clone(), self.config.rms_eps.into())
    }
}

impl LlamaConfig {
    /// A model small enough for tests: 3 layers of width 32.
    pub fn tiny() -> Self {
        Self {
            n_layers: 3,
            d_model: 32,
            n_heads: 4,
            n_kv_heads: 2,
            d_head: 8,
            d_mlp: 48,
            vocab: 64,
            context: 256,
            rope_theta: 10_000.0,
            rms_eps: 1e-5,
            tied: true,
        }
    }

    /// The sizes that [`LanguageModel::shape`] reports.
    pub fn shape(&self) -> Shape {
        Shape {
            n_layers: self.n_layers,
            d_model: self.d_model,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            d_head: self.d_head,
            d_mlp: self.d_mlp,
            vocab: self.vocab,
            context: self.context,
        }
    }
}

fn rope_table(len: usize, d_head: usize, theta: f64) -> (Vec<f32>, Vec<f32>) {
    let half = d_head / 2;
    let angle = |i: usize| {
        let (position, j) = ((i / half) as f64, (i % half) as f64);
        position * theta.powf(-2.0 * j / d_head as f64)
    };
    let table = |f: fn(f64) -> f64| (0..len * half).map(|i| f(angle(i)) as f32).collect();
    (table(f64::cos), table(f64::sin))
}

fn transposed(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const TILE: usize = 32;
    let mut out = vec![0.0; data.len()];
    for row in (0..rows).step_by(TILE) {
        for column in (0..columns).step_by(TILE) {
            for r in row..(row + TILE).min(rows) {
                for c in column..(column + TILE).min(columns) {
                    out[c * rows + r] = data[r * columns + c];
                }
            }
        }
    }
    out
}

/// A standard normal number by Box and Muller.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    ((-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}
