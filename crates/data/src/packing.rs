use crate::error::{Error, Result};
use crate::mask::Sample;

/// What [`truncate`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncated {
    /// Samples that were cut.
    pub samples: usize,
    /// Samples in which no trained token is left, or never was one.
    pub without_answer: usize,
}

/// Cuts each sample to at most `max_tokens` tokens.
///
/// # Errors
/// [`Error::NothingToTrain`] where then no sample has a token to train on.
pub fn truncate(samples: &mut [Sample], max_tokens: usize) -> Result<Truncated> {
    let mut done = Truncated {
        samples: 0,
        without_answer: 0,
    };
    for sample in &mut *samples {
        if sample.len() > max_tokens {
            sample.truncate(max_tokens);
            done.samples += 1;
        }
        done.without_answer += usize::from(sample.targets().next().is_none());
    }
    if done.without_answer == samples.len() {
        let truncated = done.samples;
        return Err(Error::NothingToTrain {
            samples: samples.len(),
            truncated,
            max_tokens,
        });
    }
    Ok(done)
}

/// Puts samples together into packs of at most `max_tokens` tokens, and returns for each pack the
/// samples in it. Samples are taken in the `order` given, each goes into the first pack with room,
/// and none is split; a mask keeps a pack's samples apart, so no attention crosses between them.
///
/// # Panics
/// Where a sample is longer than `max_tokens` ([`truncate`] comes first) or an index of `order` is
/// not a sample's.
pub fn pack(samples: &[Sample], order: &[usize], max_tokens: usize) -> Vec<Vec<usize>> {
    let mut packs: Vec<Vec<usize>> = Vec::new();
    let mut room: Vec<usize> = Vec::new();
    // Packs before this one have no room for even the shortest sample.
    let mut first = 0;
    let shortest = order.iter().map(|&i| samples[i].len()).min().unwrap_or(0);
    for &i in order {
        let len = samples[i].len();
        assert!(
            len <= max_tokens,
            "sample {i} of [{len} tokens] in packs of [{max_tokens} tokens]"
        );
        while first < room.len() && room[first] < shortest {
            first += 1;
        }
        match (first..room.len()).find(|&p| room[p] >= len) {
            Some(p) => {
                packs[p].push(i);
                room[p] -= len;
            }
            None => {
                packs.push(vec![i]);
                room.push(max_tokens - len);
            }
        }
    }
    packs
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "a sample with one answer")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn samples(lens: &[usize]) -> Vec<Sample> {
        let sample = |&len: &usize| Sample::new(vec![0; len], std::iter::once(1..len).collect());
        lens.iter().map(sample).collect()
    }

    #[test]
    fn each_sample_goes_into_the_first_pack_with_room() {
        let samples = samples(&[6, 5, 4, 3, 2]);
        assert_eq!(pack(&samples, &[0, 1, 2, 3, 4], 10), [vec![0, 2], vec![1, 3, 4]]);
        assert_eq!(pack(&samples, &[4, 3, 2, 1], 10), [vec![4, 3, 2], vec![1]]);
    }

    #[test]
    fn cut_samples_are_counted() {
        let mut all = samples(&[6, 5, 4]);
        all.push(Sample::new(vec![0; 9], vec![6..9]));
        assert_eq!(
            truncate(&mut all, 5).unwrap(),
            Truncated {
                samples: 2,
                without_answer: 1
            }
        );
        assert_eq!(all.iter().map(Sample::len).collect::<Vec<_>>(), [5, 5, 4, 5]);
    }

    #[test]
    fn nothing_left_to_train_is_an_error_with_the_counts() {
        let mut all = vec![Sample::new(vec![0; 9], vec![6..9]), Sample::new(vec![0; 3], vec![])];
        let error = truncate(&mut all, 5).unwrap_err().to_string();
        assert!(error.contains("2 samples, of which 1 were longer than 5"), "{error}");
        assert!(truncate(&mut [], 5).is_err());
    }

    proptest! {
        #[test]
        fn packs_hold_every_sample_once_and_never_too_much(
            lens in prop::collection::vec(2_usize..=20, 1..200),
        ) {
            let all = samples(&lens);
            let order: Vec<usize> = (0..lens.len()).rev().collect();
            let packs = pack(&all, &order, 20);
            for pack in &packs {
                prop_assert!(pack.iter().map(|&i| lens[i]).sum::<usize>() <= 20);
            }
            let mut held = packs.concat();
            held.sort_unstable();
            prop_assert!(held.into_iter().eq(0..lens.len()));
            // First-fit leaves at most one pack half empty.
            let total: usize = lens.iter().sum();
            prop_assert!(packs.len() <= 2 * total / 20 + 1);
        }
    }
}
