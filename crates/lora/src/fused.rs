//! Adapters of linear maps that share a module in Python, as one adapter of that module, and apart again.

use burn::tensor::{Tensor, TensorData};
use realign_core::Rows;

use crate::Adapter;
use crate::tensors::f32s;

/// One adapter of a whole module, as files have it.
pub(crate) struct Joined {
    /// `[rank, d_in]`
    pub(crate) a: Tensor<2>,
    /// `[d_out of the module, rank]`
    pub(crate) b: Tensor<2>,
    /// `[1, d_out of the module]`
    pub(crate) magnitude: Option<Tensor<2>>,
    pub(crate) rank: usize,
    pub(crate) scale: f64,
}

/// A factor `A` that some of the maps share.
struct Block {
    a: Vec<f32>,
    /// Its first column in `B`.
    start: usize,
}

/// Joins the adapters of a module's maps, each with the rows of its map.
///
/// # Errors
/// What was found, where magnitudes are given for a part of the module only.
pub(crate) fn join(parts: &[(&Adapter, Rows)]) -> Result<Joined, String> {
    let [(only, rows), ..] = parts else {
        return Err("no adapters".to_owned());
    };
    let total = rows.total;
    if only.b.dims()[1] == total {
        return Ok(Joined {
            a: only.a.clone().transpose(),
            b: only.b.clone().transpose(),
            magnitude: only.dora.as_ref().map(|dora| dora.magnitude.clone()),
            rank: only.a.dims()[1],
            scale: only.scale,
        });
    }
    // A block for each factor A that is not there yet, in the order of the maps.
    let mut blocks: Vec<Block> = Vec::new();
    let mut rank = 0;
    let places = parts.iter().map(|(adapter, _)| {
        let a = f32s(adapter.a.clone().transpose());
        let known = blocks.iter().find(|block| block.a == a).map(|block| block.start);
        known.unwrap_or_else(|| {
            let (start, own) = (rank, adapter.a.dims()[1]);
            rank += own;
            blocks.push(Block { a, start });
            start
        })
    });
    let places: Vec<usize> = places.collect();
    // One scale for all: the other maps' B take up the difference.
    let scale = parts
        .iter()
        .map(|(adapter, _)| adapter.scale)
        .find(|&scale| scale != 0.0);
    let scale = scale.unwrap_or(0.0);
    let (d_in, device) = (only.a.dims()[0], only.a.device());
    let (mut b, mut magnitudes) = (vec![0.0; total * rank], vec![0.0; total]);
    let mut covered = 0;
    for ((adapter, rows), start) in parts.iter().zip(places) {
        let by = if scale == 0.0 {
            0.0
        } else {
            (adapter.scale / scale) as f32
        };
        let [own, d_out] = adapter.b.dims();
        // [own rank, d_out]
        let factor = f32s(adapter.b.clone());
        for row in 0..d_out {
            for column in 0..own {
                b[rows.source(row) * rank + start + column] = by * factor[column * d_out + row];
            }
        }
        if let Some(dora) = &adapter.dora {
            covered += d_out;
            let own = f32s(dora.magnitude.clone());
            own.iter()
                .enumerate()
                .for_each(|(row, &m)| magnitudes[rows.source(row)] = m);
        }
    }
    if covered != 0 && covered != total {
        return Err(format!("magnitudes (DoRA) of {covered} of its {total} outputs"));
    }
    let a: Vec<f32> = blocks.into_iter().flat_map(|block| block.a).collect();
    let matrix = |data, shape| Tensor::from_data(TensorData::new::<f32, _>(data, shape), &device);
    Ok(Joined {
        a: matrix(a, [rank, d_in]),
        b: matrix(b, [total, rank]),
        magnitude: (covered != 0).then(|| matrix(magnitudes, [1, total])),
        rank,
        scale,
    })
}

/// The maps' rows `[d_out, d_in]`, each in their places of the module's.
///
/// # Errors
/// What was found, where some rows are missing.
pub(crate) fn whole(parts: &[(Tensor<2>, Rows)]) -> Result<Tensor<2>, String> {
    let [(only, rows), ..] = parts else {
        return Err("none".to_owned());
    };
    let (total, [n, width]) = (rows.total, only.dims());
    if n == total {
        return Ok(only.clone());
    }
    let given: usize = parts.iter().map(|(part, _)| part.dims()[0]).sum();
    if given != total {
        return Err(format!("{given} of its {total} outputs"));
    }
    let mut numbers = vec![0.0; total * width];
    for (part, rows) in parts {
        for (row, from) in f32s(part.clone()).chunks_exact(width).enumerate() {
            numbers[rows.source(row) * width..][..width].copy_from_slice(from);
        }
    }
    Ok(Tensor::from_data(
        TensorData::new(numbers, [total, width]),
        &only.device(),
    ))
}

/// A map's `n` rows of a module's `[d_out of the module, any]`.
pub(crate) fn part(tensor: &Tensor<2>, rows: Rows, n: usize) -> Tensor<2> {
    let [total, width] = tensor.dims();
    if n == total {
        return tensor.clone();
    }
    let picked = rows.pick(f32s(tensor.clone()), n, width);
    Tensor::from_data(TensorData::new(picked, [n, width]), &tensor.device())
}
