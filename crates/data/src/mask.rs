use std::ops::Range;

/// A tokenised conversation of which only the answers are trained on (a completion-only mask).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Token ids, `[pos]`.
    pub ids: Vec<u32>,
    /// Where the answers stand in `ids`: ascending, apart, none empty.
    pub answer: Vec<Range<usize>>,
}

impl Sample {
    /// A sample with these answers.
    ///
    /// # Panics
    /// Where the ranges are empty, overlap, descend or go beyond the tokens.
    pub fn new(ids: Vec<u32>, answer: Vec<Range<usize>>) -> Self {
        let mut end = 0;
        for range in &answer {
            assert!(
                range.start >= end && range.start < range.end && range.end <= ids.len(),
                "answer range {range:?} of [{} tokens] must follow {end} and not be empty",
                ids.len()
            );
            end = range.end;
        }
        Self { ids, answer }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it has no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// What is learnt: pairs of a position and the token that the logits there should foretell.
    ///
    /// The first token of a sample is never a target, for nothing stands before it.
    pub fn targets(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        let positions = self.answer.iter().flat_map(|r| r.start.max(1)..r.end);
        positions.map(|p| (p - 1, self.ids[p]))
    }

    /// The mask over tokens, `[pos]`: true where the token is part of an answer.
    pub fn mask(&self) -> Vec<bool> {
        let mut mask = vec![false; self.ids.len()];
        for range in &self.answer {
            mask[range.clone()].fill(true);
        }
        mask
    }

    /// Cuts the sample to its first tokens, and its answers with it.
    pub fn truncate(&mut self, max_tokens: usize) {
        self.ids.truncate(max_tokens);
        self.answer.retain_mut(|range| {
            range.end = range.end.min(max_tokens);
            range.start < range.end
        });
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "a sample with one answer")]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_answers_tokens_one_position_earlier() {
        let sample = Sample::new(vec![10, 11, 12, 13, 14, 15], vec![2..4, 5..6]);
        assert_eq!(sample.targets().collect::<Vec<_>>(), [(1, 12), (2, 13), (4, 15)]);
        assert_eq!(sample.mask(), [false, false, true, true, false, true]);
    }

    #[test]
    fn the_first_token_is_no_target() {
        let sample = Sample::new(vec![10, 11], vec![0..2]);
        assert_eq!(sample.targets().collect::<Vec<_>>(), [(0, 11)]);
    }

    #[test]
    fn answers_are_cut_with_the_tokens() {
        let mut sample = Sample::new(vec![1; 6], vec![1..3, 4..6]);
        sample.truncate(5);
        assert_eq!((sample.len(), sample.answer.clone()), (5, vec![1..3, 4..5]));
        sample.truncate(4);
        assert_eq!(sample.answer, [1..3]);
    }

    #[test]
    #[should_panic(expected = "answer range 2..4 of [3 tokens]")]
    fn an_answer_beyond_the_tokens_panics() {
        let _ = Sample::new(vec![1; 3], vec![2..4]);
    }
}
