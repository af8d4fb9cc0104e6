//! Which key rows each query of a ragged, packed batch may see.

use std::ops::Range;

/// One run of consecutive queries that share the keys before them.
///
/// Query `j` of the span sees every row of `context`, then rows `own ..= own + j` (causal).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Query tokens of this span.
    pub queries: Range<usize>,
    /// Key rows that all of its queries see: the tokens that it continues.
    pub context: Vec<u32>,
    /// Key row of the span's first token.
    pub own: usize,
}

impl Span {
    /// Key rows that query `j` (counted from the span's start) sees, in order.
    pub fn keys(&self, j: usize) -> impl Iterator<Item = usize> + '_ {
        self.context
            .iter()
            .map(|&row| row as usize)
            .chain(self.own..=self.own + j)
    }

    /// How many keys query `j` sees.
    pub fn n_keys(&self, j: usize) -> usize {
        self.context.len() + j + 1
    }
}

/// The causal structure of a packed batch: spans that cover all queries, in order.
///
/// This takes the place of an attention mask: samples of any length lie one after another, nothing is
/// padded, several continuations may share one prefix, and with a key/value cache the rows may lie
/// outside the batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    /// The spans, in the order of their queries.
    pub spans: Vec<Span>,
}

impl Spans {
    /// Independent samples of these lengths, one after another.
    pub fn packed(lengths: &[usize]) -> Self {
        let mut start = 0;
        let spans = lengths
            .iter()
            .map(|&n| {
                let queries = start..start + n;
                start += n;
                Span {
                    own: queries.start,
                    queries,
                    context: Vec::new(),
                }
            })
            .collect();
        Self { spans }
    }

    /// Number of queries.
    pub fn n_queries(&self) -> usize {
        self.spans.last().map_or(0, |span| span.queries.end)
    }

    /// Panics unless the spans cover `0..queries` in order and every key row is below `rows`.
    pub fn check(&self, queries: usize, rows: usize) {
        let mut next = 0;
        for span in &self.spans {
            assert_eq!(
                span.queries.start, next,
                "attention: spans must cover the queries in order"
            );
            next = span.queries.end;
            let last = span.own + span.queries.len();
            assert!(
                last <= rows,
                "attention: span ends at key row {last}, but there are {rows} rows"
            );
            for &row in &span.context {
                let row = row as usize;
                assert!(row < rows, "attention: context row {row}, but there are {rows} rows");
            }
        }
        assert_eq!(
            next, queries,
            "attention: spans cover {next} queries, but there are {queries}"
        );
    }

    /// Additive mask `[queries, rows]`, 0 where a query may look and -1e30 elsewhere.
    pub fn mask(&self, rows: usize) -> Vec<f32> {
        self.mask_within(rows, None)
    }

    /// [`Spans::mask`] with a sliding window: a query may look at the last so many of its keys.
    pub fn mask_within(&self, rows: usize, window: Option<usize>) -> Vec<f32> {
        let mut mask = vec![-1e30; self.n_queries() * rows];
        for span in &self.spans {
            for (j, query) in span.queries.clone().enumerate() {
                let first = window.map_or(0, |window| span.n_keys(j).saturating_sub(window));
                for row in span.keys(j).skip(first) {
                    mask[query * rows + row] = 0.0;
                }
            }
        }
        mask
    }
}
