//! Sequences that share prefixes, packed so that each shared token is run once.

use realign_core::Batch;

/// A packed batch and, for each sequence, the token of the batch that stands at each of its positions.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) batch: Batch,
    pub(crate) paths: Vec<Vec<usize>>,
}

/// Cuts the lexicographic order of `sequences` into groups of at most `max_tokens` distinct tokens each.
///
/// Neighbours in that order share the most, so that few prefixes are run in two groups. A sequence that is longer
/// than `max_tokens` is a group of its own.
pub(crate) fn groups(sequences: &[Vec<u32>], max_tokens: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    // Stable: equal sequences stay in the caller's order.
    order.sort_by(|&a, &b| sequences[a].cmp(&sequences[b]));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut tokens = 0;
    for next in order {
        if let Some(group) = groups.last_mut() {
            let last = group[group.len() - 1];
            let new = sequences[next].len() - common(&sequences[last], &sequences[next]);
            if tokens + new <= max_tokens {
                tokens += new;
                group.push(next);
                continue;
            }
        }
        tokens = sequences[next].len();
        groups.push(vec![next]);
    }
    groups
}

impl Tree {
    /// Packs sequences that are in lexicographic order into the tree of their prefixes.
    pub(crate) fn new(sorted: &[&[u32]]) -> Self {
        let mut tree = Self {
            batch: Batch::new(),
            paths: vec![Vec::new(); sorted.len()],
        };
        // Each entry: sequences `range` share their first `depth` tokens, the last of them in `parent`.
        let mut open = vec![(0..sorted.len(), 0, None, Vec::new())];
        while let Some((range, depth, parent, mut path)) = open.pop() {
            if range.is_empty() {
                continue;
            }
            let shared = common(sorted[range.start], sorted[range.end - 1]);
            let mut segment = parent;
            if shared > depth {
                let ids = &sorted[range.start][depth..shared];
                let index = match parent {
                    Some(parent) => tree.batch.push_after(parent, ids),
                    None => tree.batch.push(ids),
                };
                path.extend(tree.batch.tokens(index));
                segment = Some(index);
            }
            let mut start = range.start;
            let mut branches = Vec::new();
            while start < range.end {
                let Some(&token) = sorted[start].get(shared) else {
                    tree.paths[start].clone_from(&path);
                    start += 1;
                    continue;
                };
                let end = start + sorted[start..range.end].partition_point(|s| s[shared] == token);
                branches.push((start..end, shared, segment, path.clone()));
                start = end;
            }
            open.extend(branches.into_iter().rev());
        }
        tree
    }
}

/// Length of the common prefix.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequences() -> Vec<Vec<u32>> {
        let texts: [&[u32]; 7] = [
            &[1, 2, 3, 4],
            &[1, 2, 3, 5, 6],
            &[1, 2],
            &[1, 2, 3, 4],
            &[7],
            &[1, 9, 9],
            &[7, 8],
        ];
        texts.iter().map(|ids| ids.to_vec()).collect()
    }

    #[test]
    fn every_path_spells_its_sequence_and_no_prefix_is_stored_twice() {
        let sequences = sequences();
        let groups = groups(&sequences, 100);
        assert_eq!(groups.len(), 1);
        let sorted: Vec<&[u32]> = groups[0].iter().map(|&i| &sequences[i][..]).collect();
        let tree = Tree::new(&sorted);
        for (path, sequence) in tree.paths.iter().zip(&sorted) {
            let spelled: Vec<u32> = path.iter().map(|&row| tree.batch.ids()[row]).collect();
            assert_eq!(&spelled[..], *sequence);
            let positions = tree.batch.positions();
            assert!(path.iter().enumerate().all(|(at, &row)| positions[row] == at));
        }
        // 1 2 | 3 | 4 | 5 6 | 9 9 | 7 | 8
        assert_eq!(tree.batch.len(), 10);
    }

    #[test]
    fn groups_hold_at_most_the_distinct_tokens_asked_for() {
        let sequences = sequences();
        for max in 1..12 {
            let groups = groups(&sequences, max);
            let mut seen: Vec<usize> = groups.concat();
            seen.sort_unstable();
            assert_eq!(seen, (0..sequences.len()).collect::<Vec<_>>());
            for group in groups {
                let sorted: Vec<&[u32]> = group.iter().map(|&i| &sequences[i][..]).collect();
                assert!(
                    Tree::new(&sorted).batch.len() <= max || group.len() == 1,
                    "max {max}: {group:?}"
                );
            }
        }
    }
}
