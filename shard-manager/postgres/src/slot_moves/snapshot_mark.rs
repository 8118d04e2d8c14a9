//! Snapshot mark: a mark in the text format of a PostgreSQL snapshot, such as `100:104:100,102`.
//!
//! A mark is the set of changes of the other shard that a copy already has.
//!
//! **Invariant:** a mark covers exactly the transactions that are visible in its snapshot.
//! **Not here:** the changes of transactions (`round`, `migrations`).

use engine::stored_move::{DamagedMove, StoredMark};
use moves::mark::Mark;
use serde::{Deserialize, Serialize};

/// Snapshot in PostgreSQL's text format.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub(super) struct SnapshotMark(String);

impl StoredMark for SnapshotMark {
    fn of(mark: &Mark) -> Result<Self, DamagedMove> {
        text(mark).map(Self).ok_or_else(|| DamagedMove::new("the mark is not a snapshot"))
    }

    fn mark(&self) -> Result<Mark, DamagedMove> {
        parse(&self.0)
    }
}

/// Snapshot in which no transaction is visible: the ids of normal transactions begin at 3.
const NOTHING: &str = "3:3:";

/// Returns the text format of the snapshot that shows exactly the transactions that a mark covers;
/// `None` for a mark of another engine.
pub(super) fn shown(mark: &Mark) -> Option<String> {
    if *mark == Mark::Nothing { Some(NOTHING.to_owned()) } else { text(mark) }
}

/// Returns the text format of a mark that is a snapshot; `None` for any other mark.
pub(super) fn text(mark: &Mark) -> Option<String> {
    let Mark::Snapshot { end, running } = mark else { return None };
    let first = running.first().unwrap_or(end);
    let running: Vec<String> = running.iter().map(u64::to_string).collect();
    Some(format!("{first}:{end}:{}", running.join(",")))
}

/// Parses a snapshot.
///
/// # Errors
/// The text is not a snapshot.
pub(super) fn parse(text: &str) -> Result<Mark, DamagedMove> {
    let damaged = || DamagedMove::new(format!("{text} is not a snapshot"));
    let number = |text: &str| text.parse::<u64>().map_err(|_| damaged());
    let mut parts = text.split(':');
    let (Some(first), Some(end), Some(running), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(damaged());
    };
    number(first)?;
    let running = running.split(',').filter(|number| !number.is_empty()).map(number);
    Ok(Mark::Snapshot { end: number(end)?, running: running.collect::<Result<_, _>>()? })
}

/// Returns a mark that covers all transactions that `base` covers, and also the transactions with
/// an id below `until` that have ended according to the present snapshot.
pub(super) fn advanced(base: &Mark, until: u64, present: &Mark) -> Mark {
    let open = open_transactions(present);
    match base {
        Mark::Snapshot { end, running } if *end > until => {
            let is_left = |transaction: &u64| *transaction >= until || open.contains(transaction);
            let running = running.iter().copied().filter(is_left);
            Mark::Snapshot { end: *end, running: running.collect() }
        }
        Mark::Snapshot { .. } | Mark::Nothing | Mark::Entry(_) => {
            let running = open.iter().copied().filter(|transaction| *transaction < until);
            Mark::Snapshot { end: until, running: running.collect() }
        }
    }
}

/// Returns the id of the first transaction that had not begun when a snapshot was taken.
pub(super) fn end(mark: &Mark) -> u64 {
    match mark {
        Mark::Snapshot { end, .. } => *end,
        Mark::Nothing | Mark::Entry(_) => 0,
    }
}

/// Returns true if a mark extends to transaction ids that had not been assigned yet when the
/// present snapshot was taken. This happens after a crash: the server assigns the ids of
/// transactions that were not committed again, so the mark would cover changes that are yet to
/// come.
pub(super) fn is_beyond(mark: &Mark, present: &Mark) -> bool {
    end(mark) > end(present)
}

/// Returns the transactions that had begun but not ended when a snapshot was taken.
fn open_transactions(mark: &Mark) -> &[u64] {
    match mark {
        Mark::Snapshot { running, .. } => running,
        Mark::Nothing | Mark::Entry(_) => &[],
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_set;
    use proptest::prelude::*;

    use super::*;

    fn snapshot(end: u64, running: impl IntoIterator<Item = u64>) -> Mark {
        Mark::Snapshot { end, running: running.into_iter().collect() }
    }

    #[test]
    fn a_snapshot_is_read_as_the_server_writes_it() {
        for (written, mark) in
            [("100:100:", snapshot(100, [])), ("100:104:100,102", snapshot(104, [100, 102]))]
        {
            assert_eq!(parse(written), Ok(mark.clone()));
            assert_eq!(text(&mark).as_deref(), Some(written));
        }
        for damaged in ["", "1:2", "1:2:3:4", "a:2:", "1:b:", "1:2:c"] {
            assert!(parse(damaged).is_err(), "{damaged}");
        }
        assert_eq!((text(&Mark::Entry(1)), shown(&Mark::Entry(1))), (None, None));
        assert_eq!((text(&Mark::Nothing), shown(&Mark::Nothing)), (None, Some("3:3:".to_owned())));
    }

    #[test]
    fn a_mark_is_beyond_a_snapshot_only_after_the_numbers_of_transactions_went_back() {
        let present = snapshot(10, [8]);
        assert!(is_beyond(&snapshot(11, []), &present));
        assert!(!is_beyond(&snapshot(10, []), &present) && !is_beyond(&present, &present));
        assert!(!is_beyond(&Mark::Nothing, &present), "a way back begins with it");
    }

    proptest! {
        #[test]
        fn an_advanced_mark_covers_what_it_has_covered_and_what_has_ended_before(
            end in 50_u64..60, running in btree_set(40_u64..50, 0..5), until in 40_u64..70,
            (begun, left) in (btree_set(60_u64..70, 0..5), 0_usize..6),
        ) {
            let base = snapshot(end, running.iter().copied());
            // Transactions that have ended in the base snapshot have ended in every later one.
            let open = running.into_iter().take(left).chain(begun);
            let present = snapshot(75, open);
            let advanced = advanced(&base, until, &present);
            for transaction in 0..100 {
                let has_ended = transaction < until && present.covers(transaction);
                let is_covered = base.covers(transaction) || has_ended;
                prop_assert_eq!(advanced.covers(transaction), is_covered, "{}", transaction);
            }
            prop_assert_eq!(text(&advanced).map(|text| parse(&text)), Some(Ok(advanced)));
        }
    }
}
