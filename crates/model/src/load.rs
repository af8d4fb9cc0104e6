//! Reading a checkpoint's weights in the form in which a decoder keeps them.

use burn::tensor::{Device, Tensor, TensorData};
use realign_core::{Rows, Shape, Site};
use realign_tensor::{Frozen, Packed, transposed};

use crate::decoder::{Block, Linear, Norm, Parts};
use crate::experts::Experts;
use crate::weight_names::WeightNames;
use crate::{Checkpoint, DecoderConfig, Error, NormKind, QkNorm, Result, Weights};

/// A checkpoint under the names of one architecture.
struct Reader<'a> {
    config: &'a DecoderConfig,
    shape: Shape,
    names: WeightNames,
    /// What stands before the names in this file.
    root: &'static str,
    checkpoint: &'a Checkpoint,
    weights: Weights,
    device: &'a Device,
}

/// Reads every weight; the matrices are kept as `weights` says.
pub(crate) fn read(
    config: &DecoderConfig,
    checkpoint: &Checkpoint,
    weights: Weights,
    device: &Device,
) -> Result<Parts> {
    let names = checkpoint.weight_names(config.architecture);
    let reader = Reader {
        config,
        shape: config.shape,
        names,
        root: checkpoint.root(&names),
        checkpoint,
        weights,
        device,
    };
    reader.parts()
}

impl Reader<'_> {
    fn parts(&self) -> Result<Parts> {
        let blocks = (0..self.shape.n_layers).map(|layer| self.block(layer));
        let blocks = blocks.collect::<Result<Vec<_>>>()?;
        let embedding = self.table(&self.outer(self.names.modules.embedding))?;
        let unembedding = if self.config.tied {
            embedding.clone()
        } else {
            self.table(&format!("{}.weight", self.names.modules.unembedding))?
        };
        let positions = self.names.positions.map(|name| -> Result<Tensor<2>> {
            let size = [self.shape.context, self.shape.d_model];
            let data = self.numbers(&self.outer(name), &size)?;
            Ok(Tensor::from_data(TensorData::new(data, size), self.device))
        });
        Ok(Parts {
            embedding,
            unembedding,
            positions: positions.transpose()?,
            blocks,
            norm: self.norm(&format!("{}{}", self.root, self.names.norm), self.shape.d_model)?,
        })
    }

    fn outer(&self, name: &str) -> String {
        format!("{}{name}.weight", self.root)
    }

    fn block(&self, layer: usize) -> Result<Block> {
        let (names, config, shape) = (&self.names, self.config, &self.shape);
        let prefix = format!("{}{}{layer}.", self.root, names.modules.blocks);
        let norm = |on: bool, name: &str| {
            let read = || self.norm(&format!("{prefix}{name}"), shape.d_model);
            on.then(read).transpose()
        };
        let qk_norm = |name: &str, heads: usize| {
            let width = config.qk_norm.map(|kind| match kind {
                QkNorm::Head => shape.d_head,
                QkNorm::Width => heads * shape.d_head,
            });
            width
                .map(|width| self.norm_weight(&format!("{prefix}{name}.weight"), width))
                .transpose()
        };
        let mut linear = [const { None }; 7];
        for site in shape.sites.iter() {
            linear[site as usize] = Some(self.linear(&prefix, site)?);
        }
        Ok(Block {
            attn_norm: norm(config.norm_before, names.attn_norm)?,
            attn_norm_after: norm(config.norm_after, names.attn_norm_after)?,
            mlp_norm: norm(config.norm_before, names.mlp_norm)?,
            mlp_norm_after: norm(config.norm_after, names.mlp_norm_after)?,
            q_norm: qk_norm(names.q_norm, shape.n_heads)?,
            k_norm: qk_norm(names.k_norm, shape.n_kv_heads)?,
            linear,
            experts: self.experts(&prefix)?,
        })
    }

    fn experts(&self, prefix: &str) -> Result<Option<Experts>> {
        let Some(config) = self.config.experts else {
            return Ok(None);
        };
        let (d_model, width) = (self.shape.d_model, self.shape.d_mlp / config.per_token);
        let matrix = |name: &str, size| self.matrix(&format!("{prefix}{name}.weight"), size, Rows::all(size[0]));
        let mut maps = [Vec::new(), Vec::new(), Vec::new()];
        for expert in 0..config.count {
            for (maps, (name, size)) in maps.iter_mut().zip([
                ("gate_proj", [width, d_model]),
                ("up_proj", [width, d_model]),
                ("down_proj", [d_model, width]),
            ]) {
                maps.push(matrix(&format!("{}{expert}.{name}", self.names.experts), size)?);
            }
        }
        let [gate, up, down] = maps;
        Ok(Some(Experts {
            config,
            router: matrix(self.names.router, [config.count, d_model])?,
            gate,
            up,
            down,
        }))
    }

    fn linear(&self, prefix: &str, site: Site) -> Result<Linear> {
        let [d_in, d_out] = self.shape.linear(site);
        let name = format!("{prefix}{}", (self.names.modules.linear)(site).0);
        let rows = self.names.rows(site, &self.shape);
        let weight = self.matrix(&format!("{name}.weight"), [d_out, d_in], rows)?;
        let bias = || -> Result<Tensor<2>> {
            let data = self.numbers(&format!("{name}.bias"), &[rows.total])?;
            let data = rows.pick(data, d_out, 1);
            Ok(Tensor::from_data(TensorData::new(data, [1, d_out]), self.device))
        };
        Ok(Linear {
            weight,
            bias: self.config.biases.contains(site).then(bias).transpose()?,
        })
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm> {
        let bias = || -> Result<Tensor<2>> {
            let data = self.numbers(&format!("{name}.bias"), &[width])?;
            Ok(Tensor::from_data(TensorData::new(data, [1, width]), self.device))
        };
        Ok(Norm {
            weight: self.norm_weight(&format!("{name}.weight"), width)?,
            bias: (self.config.norm == NormKind::Layer).then(bias).transpose()?,
        })
    }

    fn norm_weight(&self, name: &str, width: usize) -> Result<Tensor<1>> {
        let mut data = self.numbers(name, &[width])?;
        if self.names.norms_from_one {
            data.iter_mut().for_each(|w| *w += 1.0);
        }
        Ok(Tensor::from_data(TensorData::new(data, [width]), self.device))
    }

    /// Token embeddings or the map to logits, `[vocab, d_model]` in the file.
    fn table(&self, name: &str) -> Result<Frozen> {
        let size = [self.shape.vocab, self.shape.d_model];
        match self.weights {
            // Kept [vocab, d_model], so that a token's row lies in one piece.
            Weights::F32 => {
                let table = TensorData::new(self.numbers(name, &size)?, size);
                Ok(Tensor::<2>::from_data(table, self.device).transpose().into())
            }
            _ => self.packed_or_dense(name, size, Rows::all(size[0]), false),
        }
    }

    /// A linear map `[d_out, d_in]`, some rows of the tensor.
    fn matrix(&self, name: &str, size: [usize; 2], rows: Rows) -> Result<Frozen> {
        self.packed_or_dense(name, size, rows, self.names.modules.transposed)
    }

    fn packed_or_dense(&self, name: &str, size: [usize; 2], rows: Rows, in_first: bool) -> Result<Frozen> {
        let [d_out, d_in] = size;
        // Row by row along d_in.
        let read = || -> Result<Vec<f32>> {
            let data = match in_first {
                true => transposed(&self.numbers(name, &[d_in, rows.total])?, [d_in, rows.total]),
                false => self.numbers(name, &[rows.total, d_in])?,
            };
            Ok(rows.pick(data, d_out, d_in))
        };
        let packed = match self.weights {
            Weights::F32 => None,
            Weights::Bf16 => Some(Packed::bf16(&read()?, size)),
            // Its blocks are 32 wide.
            Weights::Q8 if d_in.is_multiple_of(32) => Some(Packed::q8(&read()?, size)),
            Weights::Q8 => None,
            Weights::Stored => self
                .checkpoint
                .packed(name, [rows.total, d_in], d_out, |row| rows.source(row))?,
        };
        if let Some(packed) = packed {
            return Ok(Frozen::packed(packed, self.device));
        }
        Ok(Frozen::from_rows(&read()?, size, self.device))
    }

    /// A tensor's numbers, if it has this shape and all of them are finite.
    fn numbers(&self, name: &str, wanted: &[usize]) -> Result<Vec<f32>> {
        let checkpoint = self.checkpoint;
        let (found, data) = checkpoint.tensor(name)?;
        if found != wanted {
            let (expected, found) = (format!("shape {wanted:?}"), format!("{found:?}"));
            return Err(Error::format(checkpoint.path(), name, expected, found));
        }
        match data.iter().position(|x| !x.is_finite()) {
            Some(i) => {
                let found = format!("{} at {i}", data[i]);
                Err(Error::format(checkpoint.path(), name, "finite weights", found))
            }
            None => Ok(data),
        }
    }
}
