//! The largest activations of a batch, found a part at a time, and the active latents of each token side by side.

use std::cmp::Ordering;

/// Numbers `[token, d_sae]` that exist at a time: 16 MiB.
pub(crate) const AT_A_TIME: usize = 1 << 22;

/// A latent that is active on a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Active {
    value: f32,
    token: usize,
    latent: usize,
}

impl Active {
    pub(crate) fn new(value: f32, token: usize, latent: usize) -> Self {
        Self { value, token, latent }
    }

    /// Largest first; of equal ones the earlier token, then the lower latent.
    fn order(&self, other: &Self) -> Ordering {
        let values = other.value.partial_cmp(&self.value).unwrap_or(Ordering::Equal);
        values
            .then(self.token.cmp(&other.token))
            .then(self.latent.cmp(&other.latent))
    }
}

/// The largest positive activations among those that were pushed.
#[derive(Debug)]
pub(crate) struct Largest {
    count: usize,
    held: Vec<Active>,
    least: f32,
}

impl Largest {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            count,
            held: Vec::new(),
            least: 0.0,
        }
    }

    /// Only what is above it can still be among the largest, unless an earlier token's equals it.
    #[cfg(any(test, feature = "flex"))]
    pub(crate) fn least(&self) -> f32 {
        self.least
    }

    /// Equal ones must come in their order, so that one that would win is held already.
    pub(crate) fn push(&mut self, active: Active) {
        if active.value > self.least {
            self.held.push(active);
            // As many again before the next choice, so that a push costs a constant time in the mean.
            if self.held.len() >= 2 * self.count.max(1) {
                self.choose();
            }
        }
    }

    fn choose(&mut self) {
        if self.held.len() > self.count {
            if self.count > 0 {
                let (_, last, _) = self.held.select_nth_unstable_by(self.count - 1, Active::order);
                self.least = last.value;
            }
            self.held.truncate(self.count);
        }
    }

    /// What is left, a row a token.
    pub(crate) fn into_columns(mut self, tokens: usize) -> Columns {
        self.choose();
        let mut rows = vec![Vec::new(); tokens];
        self.held.sort_unstable_by(Active::order);
        for active in self.held {
            rows[active.token].push((active.value, active.latent as i32));
        }
        Columns::new(&rows)
    }
}

/// Active latents, row-major `[token, wide]`; zeros where a token has fewer.
#[derive(Debug)]
pub(crate) struct Columns {
    pub values: Vec<f32>,
    pub latents: Vec<i32>,
    /// As many as the busiest token has, at least one.
    pub wide: usize,
}

impl Columns {
    pub(crate) fn new(rows: &[Vec<(f32, i32)>]) -> Self {
        let wide = rows.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let (mut values, mut latents) = (vec![0.0; rows.len() * wide], vec![0; rows.len() * wide]);
        for (t, row) in rows.iter().enumerate() {
            for (j, &(value, latent)) in row.iter().enumerate() {
                values[t * wide + j] = value;
                latents[t * wide + j] = latent;
            }
        }
        Self { values, latents, wide }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Few different values, so that many are equal.
        #[test]
        fn the_largest_are_those_that_sorting_puts_first(
            values in prop::collection::vec(-2i8..6, 0..200), wide in 1usize..9, count in 0usize..50,
        ) {
            let all: Vec<Active> = values
                .iter()
                .enumerate()
                .map(|(i, &value)| Active::new(f32::from(value), i / wide, i % wide))
                .collect();
            let mut largest = Largest::new(count);
            all.iter().for_each(|&active| largest.push(active));
            let found = largest.into_columns(values.len().div_ceil(wide));
            let mut wanted: Vec<Active> = all.into_iter().filter(|active| active.value > 0.0).collect();
            wanted.sort_by(Active::order);
            wanted.truncate(count);
            let mut held: Vec<Active> = found
                .values
                .iter()
                .zip(&found.latents)
                .enumerate()
                .filter(|(_, (value, _))| **value > 0.0)
                .map(|(at, (&value, &latent))| Active::new(value, at / found.wide, latent as usize))
                .collect();
            held.sort_by(Active::order);
            prop_assert_eq!(held, wanted);
        }
    }
}
