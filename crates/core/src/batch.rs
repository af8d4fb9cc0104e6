//! Ragged batches: token sequences packed one after another, with shared prefixes.

use std::ops::Range;
use std::sync::Arc;

use realign_tensor::{Span, Spans};

/// A run of tokens in a [`Batch`] that continues nothing, or another run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its tokens in the batch.
    pub tokens: Range<usize>,
    /// Position of its first token in its sequence.
    pub position: usize,
    /// The segment of this batch that it continues.
    pub parent: Option<usize>,
    /// The sequence of the key/value cache that it continues, and is appended to.
    pub cached: Option<usize>,
}

/// Token sequences of any lengths, packed without padding.
///
/// Several segments may continue one parent (two answers to one question), so a shared prefix is computed once.
///
/// ```
/// use realign_core::Batch;
/// let mut batch = Batch::new();
/// let question = batch.push(&[1, 2, 3]);
/// let yes = batch.push_after(question, &[4]);
/// let no = batch.push_after(question, &[5, 6]);
/// assert_eq!(batch.len(), 6);
/// assert_eq!(batch.tokens(no), 4..6);
/// assert_eq!(batch.segments()[yes].position, 3);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    ids: Vec<u32>,
    segments: Vec<Segment>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Independent sequences.
    pub fn packed<S: AsRef<[u32]>>(sequences: impl IntoIterator<Item = S>) -> Self {
        let mut batch = Self::new();
        for sequence in sequences {
            batch.push(sequence.as_ref());
        }
        batch
    }

    /// Adds a sequence that starts at position 0; returns its segment.
    pub fn push(&mut self, ids: &[u32]) -> usize {
        self.add(ids, 0, None, None)
    }

    /// Adds a continuation of `parent`; returns its segment.
    pub fn push_after(&mut self, parent: usize, ids: &[u32]) -> usize {
        let before = &self.segments[parent];
        let position = before.position + before.tokens.len();
        self.add(ids, position, Some(parent), None)
    }

    /// Adds the next tokens of sequence `sequence` of a key/value cache that holds `position` tokens of it.
    pub fn push_cached(&mut self, sequence: usize, position: usize, ids: &[u32]) -> usize {
        self.add(ids, position, None, Some(sequence))
    }

    fn add(&mut self, ids: &[u32], position: usize, parent: Option<usize>, cached: Option<usize>) -> usize {
        let start = self.ids.len();
        self.ids.extend_from_slice(ids);
        self.segments.push(Segment {
            tokens: start..self.ids.len(),
            position,
            parent,
            cached,
        });
        self.segments.len() - 1
    }

    /// Token ids, all segments one after another.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The segments in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The tokens of a segment.
    pub fn tokens(&self, segment: usize) -> Range<usize> {
        self.segments[segment].tokens.clone()
    }

    /// Position of every token in its sequence.
    pub fn positions(&self) -> Vec<usize> {
        self.segments
            .iter()
            .flat_map(|s| s.position..s.position + s.tokens.len())
            .collect()
    }

    /// The tokens of a segment and of all that it continues inside this batch, in order of position.
    pub fn path(&self, segment: usize) -> Vec<usize> {
        let mut chain = vec![segment];
        while let Some(parent) = self.segments[chain[chain.len() - 1]].parent {
            chain.push(parent);
        }
        chain.iter().rev().flat_map(|&s| self.tokens(s)).collect()
    }

    /// Which key rows each query sees when the batch's rows start at row `base` and sequence `s` of a cache
    /// occupies the rows `cached(s)`.
    pub fn spans<'a>(&self, base: usize, cached: impl Fn(usize) -> &'a [u32]) -> Arc<Spans> {
        let spans = self.segments.iter().map(|segment| {
            let mut root = segment;
            while let Some(parent) = root.parent {
                root = &self.segments[parent];
            }
            let mut context = root.cached.map(|s| cached(s).to_vec()).unwrap_or_default();
            if let Some(parent) = segment.parent {
                context.extend(self.path(parent).into_iter().map(|row| (base + row) as u32));
            }
            Span {
                queries: segment.tokens.clone(),
                context,
                own: base + segment.tokens.start,
            }
        });
        Arc::new(Spans { spans: spans.collect() })
    }
}
