//! Refusals: decodes the reason for which a database refuses a slot.
//!
//! The function `tessera_refused` returns a reason as one number, so that a read or write needs no
//! second statement: the lowest two bits are the state, the others its details.
//!
//! **Not here:** the functions of the database (`migrations`), the response to a refusal
//! (`cluster`).

use std::collections::BTreeMap;
use std::time::Duration;

use model::keyspace::Slot;
use model::slot_refusal::{RefusedState, SlotRefusal};
use model::topology::ShardNumber;

use super::statement::RowView;

/// Reason that is used if a write was refused although its slot accepts writes by now, or if no
/// reason is known: the write can be sent again at once.
pub(super) const NO_LONGER: RefusedState = RefusedState::Fenced { left: Duration::ZERO };

/// Returns the slots that a statement of [`super::sql::ENTER`] has refused, with the reasons.
pub(super) fn states(refused: &[RowView]) -> BTreeMap<i64, RefusedState> {
    let states = refused.iter().filter_map(|row| Some((row.bigint(0)?, state(row.bigint(1)?))));
    states.collect()
}

/// Returns the refusal of a slot for the reason with this code.
pub(super) fn refusal(slot: Slot, code: i64) -> SlotRefusal {
    SlotRefusal { slot, state: state(code) }
}

/// Returns the state with this code. Code 0 and unknown codes mean that the shard has no state for
/// the slot.
fn state(code: i64) -> RefusedState {
    let details = code.cast_unsigned() >> 2;
    match code & 3 {
        1 => RefusedState::Importing,
        2 => match u16::try_from(details) {
            Ok(number) => RefusedState::Moved { to: ShardNumber(number) },
            Err(_) => RefusedState::Absent,
        },
        3 => RefusedState::Fenced { left: Duration::from_micros(details) },
        _ => RefusedState::Absent,
    }
}
