//! Sparse codes by latent.

/// Counting sort of the `(token, k)` entries by latent: each latent's row is then owned by one thread and summed in
/// a fixed order.
pub(crate) fn by_latent(index: &[usize], d_sae: usize) -> (Vec<usize>, Vec<usize>) {
    let mut start = vec![0; d_sae + 1];
    for &latent in index {
        start[latent + 1] += 1;
    }
    for latent in 0..d_sae {
        start[latent + 1] += start[latent];
    }
    let (mut next, mut order) = (start.clone(), vec![0; index.len()]);
    for (j, &latent) in index.iter().enumerate() {
        order[next[latent]] = j;
        next[latent] += 1;
    }
    (start, order)
}
