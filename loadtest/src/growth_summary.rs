//! Growth summary: the shards that joined and were drained in a run, and the rebalances for it.
//!
//! **Not here:** the joins and drains themselves (`chaos`).

/// Joins and drains of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct GrowthSummary {
    /// Shards that have joined.
    pub(crate) joined: usize,
    /// Shards that have given their slots back and have retired.
    pub(crate) retired: usize,
    /// Rebalances and drains that have ended as they should.
    pub(crate) done: usize,
    /// Rebalances and drains that were cancelled.
    pub(crate) cancelled: usize,
    /// Rebalances and drains that failed because a move failed or was rolled back, with reasons.
    pub(crate) failed: Vec<String>,
    /// Rebalances and drains that have not ended in time, and shards that have not joined or
    /// retired.
    pub(crate) open: Vec<String>,
    /// Number of slots that were moved; a slot that moved twice counts twice.
    pub(crate) slots: u64,
    /// Number of shard maps that were checked.
    pub(crate) maps: u64,
    /// Descriptions of the shard maps that did not contain each slot exactly once: the first ones
    /// of each router.
    pub(crate) broken_maps: Vec<String>,
    /// Number of such maps that are not described.
    pub(crate) more_broken_maps: u64,
}

impl GrowthSummary {
    /// Returns the numbers as a sentence.
    pub(crate) fn describe(&self) -> String {
        let Self { joined, retired, done, cancelled, slots, maps, .. } = self;
        let (failed, open) = (self.failed.len(), self.open.len());
        let broken = self.broken_maps.len() as u64 + self.more_broken_maps;
        format!(
            "growth: {joined} shards joined, {retired} retired; {done} rebalances done, {cancelled} cancelled, {failed} \
             failed, {open} without an end; {slots} slots moved; {maps} maps looked at, {broken} of them broken"
        )
    }

    /// Returns a warning for each rebalance that has not ended as it should.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        let failed = self.failed.iter().map(|failed| format!("a rebalance has failed: {failed}"));
        let open = self.open.iter().map(|open| format!("growth has not ended in time: {open}"));
        failed.chain(open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_maps_are_counted_whether_they_are_described_or_not() {
        let summary = GrowthSummary {
            broken_maps: vec!["a".to_owned(), "b".to_owned()],
            more_broken_maps: 3,
            ..GrowthSummary::default()
        };
        assert!(summary.describe().ends_with("5 of them broken"), "{}", summary.describe());
    }
}
