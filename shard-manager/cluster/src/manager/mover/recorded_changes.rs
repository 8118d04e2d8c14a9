//! Recorded changes: counts at intervals the changes that a shard has recorded for the other side
//! of a move. If there are more than a shard keeps, the recording must end.
//!
//! Before the commit, the source records changes for the target; if they are too many, the copy
//! begins again. After the commit, the new owner records changes for a rollback; if they are too
//! many, the time of keeping ends.
//!
//! **Invariant:** a count that fails does not end a recording; the next count decides.
//! **Not here:** the count (the engines), the end of the recording (`move_run`,
//! `moves::next_step`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::keyspace::Slot;

use crate::shard::{PrimaryMoves, Shard};

/// Number of recorded changes of a move's slots at which the recording must end. They take about 1
/// GB on a server, including the index. Without this limit, a target that cannot be reached or is
/// too slow, or a move that is paused for a long time, would fill the disk of the source.
const RECORDED_MAX: u64 = 5_000_000;
/// Shortest interval between two counts. A count is expensive near the limit, where it reads all
/// recorded changes.
const INTERVAL: Duration = Duration::from_secs(10);
/// Time limit of a count.
const COUNT_MAX: Duration = Duration::from_secs(30);

/// Reason that is reported while a copy begins again.
const BEGINS_AGAIN: &str =
    "the source has recorded more changes than it keeps, so the copy begins again";

/// Counts of the run of one move.
#[derive(Debug, Default)]
pub(super) struct RecordedChanges {
    counted_at: Option<Instant>,
    /// True after there were too many changes, until the copy follows its source closely again.
    were_too_many: bool,
}

impl RecordedChanges {
    /// Returns true if a count was due, and the source has recorded more changes of the slots than
    /// it keeps.
    pub(super) async fn note_too_many(&mut self, source: &Shard, slots: &Arc<[Slot]>) -> bool {
        let are_too_many = self.has_too_many(source, slots).await;
        if are_too_many {
            self.were_too_many = true;
            tracing::warn!(
                shard = source.name(),
                "a move has recorded more changes than its source keeps: its copy begins again"
            );
        }
        are_too_many
    }

    /// Returns true if a count was due, and the shard has recorded too many changes.
    pub(super) async fn has_too_many(&mut self, shard: &Shard, slots: &Arc<[Slot]>) -> bool {
        let now = Instant::now();
        if !self.is_due(now) {
            return false;
        }
        let Some(reader) = shard.primary().moves().map(PrimaryMoves::reader) else { return false };
        let found = reader.has_too_many_changes(slots, RECORDED_MAX, now + COUNT_MAX).await;
        found.unwrap_or_else(|error| {
            tracing::debug!(shard = shard.name(), %error, "recorded changes were not counted");
            false
        })
    }

    /// Records that the copy follows its source closely, so that reports no longer say that it
    /// begins again.
    pub(super) fn note_closeness(&mut self) {
        self.were_too_many = false;
    }

    /// Returns the reason for reports if rows are copied again because of too many changes;
    /// otherwise `None`.
    pub(super) fn repetition(&self) -> Option<String> {
        self.were_too_many.then(|| BEGINS_AGAIN.to_owned())
    }

    /// Returns the reason why a move waits for its target. If its recording has ended because of
    /// too many changes, adds that the copy begins again.
    pub(super) fn explain(&self, reason: String) -> String {
        if !self.were_too_many {
            return reason;
        }
        format!("{reason}; {BEGINS_AGAIN}")
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.counted_at.is_none_or(|counted_at| now >= counted_at + INTERVAL);
        if is_due {
            self.counted_at = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_counted_at_intervals() {
        let (mut changes, now) = (RecordedChanges::default(), Instant::now());
        assert!(changes.is_due(now) && !changes.is_due(now));
        assert!(!changes.is_due(now + INTERVAL / 2));
        assert!(changes.is_due(now + INTERVAL) && !changes.is_due(now + INTERVAL));
    }

    #[test]
    fn the_reason_of_a_wait_says_that_the_copy_begins_again_after_too_many_changes() {
        let mut changes = RecordedChanges::default();
        let wait = || "shard2 cannot be read".to_owned();
        assert_eq!(changes.explain(wait()), wait());
        changes.were_too_many = true;
        let reason = changes.explain(wait());
        assert!(reason.starts_with(&wait()) && reason.ends_with("the copy begins again"));
    }

    #[test]
    fn a_copy_that_begins_again_says_why_until_it_follows_its_source_closely() {
        let mut changes = RecordedChanges::default();
        assert_eq!(changes.repetition(), None);
        changes.were_too_many = true;
        assert_eq!(changes.repetition().as_deref(), Some(BEGINS_AGAIN));
        changes.note_closeness();
        assert_eq!(changes.repetition(), None);
    }
}
