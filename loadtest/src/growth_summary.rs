//! Growth summary: the shards that joined and were drained in a run, and the rebalances that this
//! required.
//!
//! **Not here:** the joins and drains themselves (`chaos`).

/// Summary of the joins and drains of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct GrowthSummary {
    /// Number of shards that have joined.
    pub(crate) joined: usize,
    /// Number of shards that were drained and have retired.
    pub(crate) retired: usize,
    /// Number of rebalances and drains that have succeeded.
    pub(crate) done: usize,
    /// Number of rebalances and drains that were cancelled.
    pub(crate) cancelled: usize,
    /// Descriptions of rebalances and drains that failed because a move failed or was rolled back,
    /// with reasons.
    pub(crate) failed: Vec<String>,
    /// Descriptions of rebalances and drains that have not ended in time, and of shards that have
    /// failed to join or to retire in time.
    pub(crate) open: Vec<String>,
    /// Number of slots that were moved; a slot that moved twice counts twice.
    pub(crate) slots: u64,
    /// Number of shard maps that were checked.
    pub(crate) maps: u64,
    /// Descriptions of the shard maps that did not contain each slot exactly once: the first ones
    /// of each router.
    pub(crate) broken_maps: Vec<String>,
    /// Number of further such maps, which are not described.
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

    /// Returns a warning for each rebalance that failed or has not ended.
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
