//! Move summary: the moves of slots of a run, and how they have ended.
//!
//! **Not here:** the moves themselves (`chaos`).

/// Part of the router's message if a move failed because the copy on the target differs from the
/// source.
const DIFFERS: &str = "differs from its source";

/// Summary of the moves of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MoveSummary {
    pub(crate) begun: usize,
    pub(crate) done: usize,
    pub(crate) rolled_back: usize,
    pub(crate) cancelled: usize,
    /// Descriptions of the moves that have failed, with their reasons.
    pub(crate) failed: Vec<String>,
    /// Descriptions of the moves that have not ended in time.
    pub(crate) open: Vec<String>,
    /// Number of distinct slots that have moved, including slots of moves that were rolled back.
    pub(crate) slots: usize,
    /// Number of rows copied; a row that was copied again counts again.
    pub(crate) rows: u64,
    /// Longest time for which a move made writes to its slots wait, as the router reports it for
    /// each move.
    pub(crate) longest_hold_ms: f64,
    /// Longest time for which a write waited because no shard accepted its slot, during a move or a
    /// fence, as the first router of the run reports it.
    pub(crate) longest_wait_ms: f64,
    /// Number of operations in phases of concentrated load, in which all operations are on rows of
    /// moving slots.
    pub(crate) focused: u64,
}

/// Number of slots of a cluster, the same for all clusters.
const SLOTS: usize = 16_384;

impl MoveSummary {
    /// Returns the numbers as a sentence.
    pub(crate) fn describe(&self) -> String {
        let Self { begun, done, rolled_back, cancelled, slots, rows, focused, .. } = self;
        let share = slots * 100 / SLOTS;
        let (failed, open) = (self.failed.len(), self.open.len());
        let (hold, wait) = (self.longest_hold_ms, self.longest_wait_ms);
        format!(
            "moves: {begun} begun, {done} done, {rolled_back} rolled back, {cancelled} cancelled, {failed} failed, \
             {open} without an end; {slots} of {SLOTS} slots ({share} %) moved, {rows} rows copied, slots were held \
             {hold:.1} ms at most, and rows waited {wait:.1} ms at most; phases of {focused} operations were on slots that moved only"
        )
    }

    /// Returns a warning for each move that failed or did not end in time, except for those whose
    /// copies differed: these are violations.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        let failed = self.failed.iter().filter(|failed| !failed.contains(DIFFERS));
        let failed = failed.map(|failed| format!("a move has failed: {failed}"));
        let open = self.open.iter().map(|open| format!("a move has not ended in time: {open}"));
        failed.chain(open)
    }

    /// Returns the moves whose copy differed from its source.
    pub(crate) fn differing(&self) -> impl Iterator<Item = &String> {
        self.failed.iter().filter(|failed| failed.contains(DIFFERS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_differs_is_no_mere_warning() {
        let differs = "the move 1 from a to b, failed: the copy of t differs from its source in 2 slots, such as 1, 2";
        let failed = vec![differs.to_owned(), "the move 2, failed: a row is too large".to_owned()];
        let summary = MoveSummary { begun: 3, done: 1, failed, ..MoveSummary::default() };
        assert_eq!(summary.differing().count(), 1);
        assert_eq!(summary.warnings().count(), 1);
        assert!(summary.describe().starts_with("moves: 3 begun, 1 done,"));
        let summary = MoveSummary { slots: SLOTS / 4, ..summary };
        assert!(summary.describe().contains("; 4096 of 16384 slots (25 %) moved, "));
    }
}
