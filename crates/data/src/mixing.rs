use rand::Rng;
use rand::seq::SliceRandom;

use crate::error::{Error, Result};

/// Puts items into a random order; a fresh stream for each epoch gives each its own.
pub fn shuffle<T>(items: &mut [T], rng: &mut impl Rng) {
    items.shuffle(rng);
}

/// All of `a`, with as many rows drawn from `b` (none twice) as make up `share` of the whole, in
/// random order.
///
/// # Errors
/// [`Error::Share`] where `share` is not in `0.0..1.0`; [`Error::TooFew`] where `b` is too small.
pub fn mix<T: Clone>(a: &[T], b: &[T], share: f64, rng: &mut impl Rng) -> Result<Vec<T>> {
    if !(0.0..1.0).contains(&share) {
        return Err(Error::Share { found: share });
    }
    let wanted = (a.len() as f64 * share / (1.0 - share)).round() as usize;
    if wanted > b.len() {
        return Err(Error::TooFew { wanted, found: b.len() });
    }
    let mut others: Vec<&T> = b.iter().collect();
    others.shuffle(rng);
    let mut mixed: Vec<T> = a.iter().chain(others.into_iter().take(wanted)).cloned().collect();
    mixed.shuffle(rng);
    Ok(mixed)
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn the_second_set_makes_up_its_share_without_repeats() {
        let (a, b): (Vec<u32>, Vec<u32>) = ((0..90).collect(), (100..200).collect());
        let mut mixed = mix(&a, &b, 0.1, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        assert_ne!(mixed[..90], a);
        mixed.sort_unstable();
        mixed.dedup();
        assert_eq!((mixed.len(), mixed.iter().filter(|&&x| x >= 100).count()), (100, 10));
        assert_eq!(mixed[..90], a);
    }

    #[test]
    fn impossible_shares_are_errors() {
        let rng = &mut ChaCha8Rng::seed_from_u64(1);
        for share in [-0.1, 1.0, f64::NAN] {
            assert!(matches!(mix(&[1], &[2], share, rng), Err(Error::Share { .. })));
        }
        let few = mix(&[1, 2, 3], &[4], 0.5, rng);
        assert!(matches!(few, Err(Error::TooFew { wanted: 3, found: 1 })));
    }

    #[test]
    fn the_same_stream_gives_the_same_order() {
        let order = |seed| {
            let mut items: Vec<u32> = (0..50).collect();
            shuffle(&mut items, &mut ChaCha8Rng::seed_from_u64(seed));
            items
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }
}
