//! Refused rows: rows whose slots a shard does not accept, and the later rows of their chunk.
//!
//! **Invariant:** a row that was not tried is refused like the earlier rows of its slot.
//! **Not here:** applying the rows (`worker`).

use std::collections::HashMap;
use std::time::Duration;

use model::error::Error;
use model::row_change::{RowDone, RowWrite};
use model::slot_refusal::{RefusedState, SlotRefusal};

/// Returns true if the shard does not accept the slot of the row.
pub(super) fn is_refused(row: &Result<RowDone, Error>) -> bool {
    matches!(row, Err(Error::SlotRefused(_)))
}

/// Returns the refusals of rows that were not tried. A row whose slot was already refused gets the
/// same refusal, so that it waits with the earlier rows of its slot. Any other row gets a refusal
/// with which it may be sent again at once.
pub(super) fn untried(
    left: &[RowWrite],
    done: &[Result<RowDone, Error>],
) -> Vec<Result<RowDone, Error>> {
    let refusal = |row: &Result<RowDone, Error>| {
        let Err(Error::SlotRefused(refusal)) = row else { return None };
        Some((refusal.slot.number(), *refusal))
    };
    let refused: HashMap<u16, SlotRefusal> = done.iter().filter_map(refusal).collect();
    let at_once = RefusedState::Fenced { left: Duration::ZERO };
    let refusal = |row: &RowWrite| {
        let known = refused.get(&row.slot.number()).copied();
        known.unwrap_or(SlotRefusal { slot: row.slot, state: at_once })
    };
    left.iter().map(|row| Err(Error::SlotRefused(refusal(row)))).collect()
}
