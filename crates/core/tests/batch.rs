//! The structure of ragged batches: what a token sees, where it is, and what the key/value cache knows.

use burn::tensor::{Device, Tensor, TensorData};
use proptest::prelude::*;
use realign_core::{Batch, Cache};
use realign_tensor::Spans;

/// Segments, each with its tokens and perhaps one of the segments before it as its parent.
fn forest() -> impl Strategy<Value = Vec<(Vec<u32>, Option<usize>)>> {
    let segment = (
        prop::collection::vec(0u32..1000, 0..6),
        any::<prop::sample::Index>(),
        any::<bool>(),
    );
    prop::collection::vec(segment, 0..12).prop_map(|segments| {
        let numbered = segments.into_iter().enumerate();
        numbered
            .map(|(i, (ids, parent, continues))| (ids, (i > 0 && continues).then(|| parent.index(i))))
            .collect()
    })
}

fn build(forest: &[(Vec<u32>, Option<usize>)]) -> Batch {
    let mut batch = Batch::new();
    for (i, (ids, parent)) in forest.iter().enumerate() {
        let segment = match parent {
            Some(parent) => batch.push_after(*parent, ids),
            None => batch.push(ids),
        };
        assert_eq!(segment, i);
    }
    batch
}

/// The tokens of a sequence that ends with this segment.
fn sequence(forest: &[(Vec<u32>, Option<usize>)], segment: usize) -> Vec<u32> {
    let (ids, parent) = &forest[segment];
    let mut all = parent.map(|parent| sequence(forest, parent)).unwrap_or_default();
    all.extend(ids);
    all
}

/// The key rows that every query sees.
fn seen(spans: &Spans) -> Vec<Vec<usize>> {
    let span_keys = |span: &realign_tensor::Span| {
        let keys: Vec<Vec<usize>> = (0..span.queries.len()).map(|j| span.keys(j).collect()).collect();
        for (j, keys) in keys.iter().enumerate() {
            assert_eq!(keys.len(), span.n_keys(j));
        }
        keys
    };
    spans.spans.iter().flat_map(span_keys).collect()
}

proptest! {
    #[test]
    fn segments_lie_one_after_another_and_cover_all_tokens(forest in forest()) {
        let batch = build(&forest);
        let mut next = 0;
        for (i, (ids, _)) in forest.iter().enumerate() {
            prop_assert_eq!(batch.tokens(i), next..next + ids.len());
            prop_assert_eq!(&batch.ids()[batch.tokens(i)], &ids[..]);
            next += ids.len();
        }
        prop_assert_eq!(batch.len(), next);
        prop_assert_eq!(batch.is_empty(), next == 0);
        prop_assert_eq!(batch.positions().len(), next);
    }

    #[test]
    fn a_path_reads_as_the_whole_sequence_at_positions_from_zero(forest in forest()) {
        let batch = build(&forest);
        let positions = batch.positions();
        for segment in 0..forest.len() {
            let path = batch.path(segment);
            let ids: Vec<u32> = path.iter().map(|&t| batch.ids()[t]).collect();
            prop_assert_eq!(ids, sequence(&forest, segment));
            let along: Vec<usize> = path.iter().map(|&t| positions[t]).collect();
            prop_assert_eq!(along, (0..path.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_token_sees_its_own_path_up_to_itself_and_nothing_else(forest in forest(), base in 0usize..20) {
        let batch = build(&forest);
        let spans = batch.spans(base, |_| &[]);
        spans.check(batch.len(), base + batch.len());
        prop_assert_eq!(spans.n_queries(), batch.len());
        let seen = seen(&spans);
        for segment in 0..forest.len() {
            let path: Vec<usize> = batch.path(segment).into_iter().map(|t| base + t).collect();
            for t in batch.tokens(segment) {
                prop_assert_eq!(&seen[t][..], &path[..=batch.positions()[t]]);
                prop_assert_eq!(seen[t].last(), Some(&(base + t)));
            }
        }
    }

    #[test]
    fn the_mask_is_open_exactly_where_a_token_sees(forest in forest()) {
        let batch = build(&forest);
        let spans = batch.spans(0, |_| &[]);
        let (mask, rows) = (spans.mask(batch.len()), batch.len());
        for (t, seen) in seen(&spans).into_iter().enumerate() {
            for row in 0..rows {
                prop_assert_eq!(mask[t * rows + row] == 0.0, seen.contains(&row), "token {}, row {}", t, row);
            }
        }
    }

    #[test]
    fn independent_sequences_are_packed_spans(lengths in prop::collection::vec(0usize..6, 0..8)) {
        let batch = Batch::packed(lengths.iter().map(|&n| vec![7; n]));
        prop_assert_eq!(&*batch.spans(0, |_| &[]), &Spans::packed(&lengths));
    }

    #[test]
    fn with_a_cache_a_token_sees_its_own_sequence_in_the_order_in_which_it_was_run(
        // Each step continues some of three sequences by some tokens.
        steps in prop::collection::vec(prop::collection::vec((0usize..3, 0usize..4), 0..3), 0..8),
    ) {
        let (mut cache, mut rows, mut next) = (Cache::new(3, 2), vec![Vec::new(); 3], 0);
        for step in steps {
            let (mut batch, mut chosen) = (Batch::new(), Vec::new());
            for (sequence, n) in step {
                if !chosen.contains(&sequence) {
                    chosen.push(sequence);
                    batch.push_cached(sequence, cache.position(sequence), &vec![0; n]);
                }
            }
            let spans = cache.spans(&batch);
            spans.check(batch.len(), next + batch.len());
            let (seen, positions) = (seen(&spans), batch.positions());
            for segment in batch.segments() {
                let history = &mut rows[segment.cached.unwrap()];
                for t in segment.tokens.clone() {
                    prop_assert_eq!(positions[t], history.len());
                    history.push(next + t);
                    prop_assert_eq!(&seen[t], &*history);
                }
            }
            next += batch.len();
            cache.advance(&batch);
            for (sequence, rows) in rows.iter().enumerate() {
                prop_assert_eq!(cache.position(sequence), rows.len());
            }
        }
    }

    #[test]
    fn the_cache_keeps_every_row_also_when_it_grows(steps in prop::collection::vec(1usize..5, 1..6), capacity in 0usize..8) {
        let device = Device::flex();
        let mut cache = Cache::new(1, capacity);
        let mut run: Vec<f32> = Vec::new();
        for n in steps {
            let mut batch = Batch::new();
            batch.push_cached(0, cache.position(0), &vec![0; n]);
            let new: Vec<f32> = (0..n).map(|t| (run.len() + t + 1) as f32).collect();
            run.extend(&new);
            // Two layers, whose rows differ in sign.
            for (layer, sign) in [(0, 1.0), (1, -1.0)] {
                let k = Tensor::from_data(TensorData::new(new.clone(), [n, 1, 1]), &device) * sign;
                let (k, v) = cache.append(layer, k.clone(), k * 2.0);
                let wanted: Vec<f32> = run.iter().map(|x| x * sign).collect();
                let k = k.into_data().try_into_vec::<f32>().unwrap();
                let v = v.into_data().try_into_vec::<f32>().unwrap();
                prop_assert_eq!(&k[..run.len()], &wanted[..]);
                prop_assert!(v[..run.len()].iter().zip(&wanted).all(|(v, k)| *v == 2.0 * k));
                cache.spans(&batch).check(n, k.len());
            }
            cache.advance(&batch);
        }
    }
}
