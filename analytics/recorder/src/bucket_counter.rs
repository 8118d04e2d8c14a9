//! Bucket counter: counts values in a few fixed buckets, since the start of the process.
//!
//! The counts become Prometheus histograms. They are coarser than the histograms of `histogram` but
//! are never reset, so that Prometheus can compute rates over any period. Each bucket keeps the
//! trace id of one request as an example.
//!
//! **Not here:** the names and the text of the metrics (`openmetrics`).

/// Trace id and value of one request, as an example of its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Example {
    pub(crate) trace: [u8; 16],
    pub(crate) value: u32,
    /// Time in s since 1970 UTC.
    pub(crate) at: u32,
}

/// Counts of values by bucket, and the sum of the values.
#[derive(Clone, Debug)]
pub(crate) struct BucketCounter {
    /// Upper bounds of the buckets, inclusive and in increasing order.
    bounds: &'static [u32],
    /// Count of each bucket; the last bucket has no upper bound.
    counts: Box<[u64]>,
    sum: u64,
    /// Example of each bucket; empty until the first example is set.
    examples: Vec<Option<Example>>,
}

impl BucketCounter {
    pub(crate) fn new(bounds: &'static [u32]) -> Self {
        let counts = vec![0; bounds.len() + 1].into();
        Self { bounds, counts, sum: 0, examples: Vec::new() }
    }

    /// Counts a value.
    pub(crate) fn count(&mut self, value: u32) {
        self.counts[self.bucket(value)] += 1;
        self.sum += u64::from(value);
    }

    /// Replaces the example of a bucket.
    pub(crate) fn exemplify(&mut self, example: Example) {
        if self.examples.is_empty() {
            self.examples = vec![None; self.counts.len()];
        }
        let bucket = self.bucket(example.value);
        self.examples[bucket] = Some(example);
    }

    pub(crate) fn sum(&self) -> u64 {
        self.sum
    }

    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the upper bound (`None` for the last bucket), the count and the example of each
    /// bucket.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (Option<u32>, u64, Option<Example>)> + '_ {
        let bounds = self.bounds.iter().copied().map(Some).chain([None]);
        let examples = self.examples.iter().copied().chain(std::iter::repeat(None));
        bounds
            .zip(&self.counts)
            .zip(examples)
            .map(|((bound, count), example)| (bound, *count, example))
    }

    fn bucket(&self, value: u32) -> usize {
        self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len())
    }
}
