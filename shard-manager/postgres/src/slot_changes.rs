//! Slot changes: changes the slots that a shard owns, in one transaction of one statement.
//!
//! A single statement commits by itself: a router that is frozen after it has sent the statement
//! holds no lock, and the change applies as a whole or not at all.
//!
//! **Invariant:** the database decides under the fence lock, with a snapshot taken after the lock
//! was granted.
//! **Not here:** the functions of the database (`migrations`), lost connections (`writer`).

use engine::slot_change::{FENCE_MAX, SlotChange, SlotStep};
use model::keyspace::Slot;
use model::slot_set::SlotSet;
use model::value::{ColumnType, Value};

use super::lane_session::{LaneSession, TransactionError, ended};
use super::sql;
use super::statement::{Bind, RowView, Statement, pipeline, step};

/// Result of a change, as the database has reported it.
pub(super) enum Changed {
    /// The slots are as requested.
    Done {
        /// Position of the shard after the change.
        position: u64,
    },
    /// The shard does not own these slots. Nothing was changed.
    NotOwned(SlotSet),
    /// The fence lock was not free in time. Nothing was changed.
    Busy,
}

/// Carries out a change.
pub(super) async fn change(
    session: &mut LaneSession,
    change: &SlotChange,
) -> Result<Changed, TransactionError> {
    let LaneSession { connection, prepared, .. } = session;
    let connection = &*connection;
    let binds = binds(change);
    let position = Statement { sql: sql::POSITION, binds: &[], cached: true };
    let steps = vec![
        step(connection, Statement { sql: sql::CHANGE_SLOTS, binds: &binds, cached: true }),
        step(connection, position),
    ];
    let mut results = pipeline(prepared, steps).await;
    let decided = results
        .first_mut()
        .and_then(|rows| rows.as_mut().ok())
        .map(std::mem::take)
        .unwrap_or_default();
    let position = ended(results, false)?;
    Ok(match decided.first().and_then(|row| row.bigint(0)) {
        Some(0) => Changed::Done { position },
        Some(_) => Changed::NotOwned(refused(&decided)),
        None => Changed::Busy,
    })
}

/// Returns the parameters of [`sql::CHANGE_SLOTS`].
pub(super) fn binds(change: &SlotChange) -> [Bind; 4] {
    let slots: Vec<i32> = change.slots.iter().map(|slot| i32::from(slot.number())).collect();
    let (name, hold, owner) = match change.step {
        SlotStep::Fence { hold } => ("fence", Some(hold.min(FENCE_MAX)), None),
        SlotStep::Release => ("release", None, None),
        SlotStep::HandOver { to } => ("hand over", None, Some(to.0.to_string())),
        SlotStep::TakeOver => ("take over", None, None),
    };
    let hold = hold.map_or(Value::Null, |hold| Value::Int(hold.as_millis() as i64));
    [
        Bind::integers(slots.into_iter()),
        Bind::text(name),
        Bind::value(ColumnType::Bigint, &hold),
        Bind::value(ColumnType::Text, &owner.map_or(Value::Null, Value::Text)),
    ]
}

/// Returns the slots that forbid a change.
pub(super) fn refused(decided: &[RowView]) -> SlotSet {
    let text = decided.first().and_then(|row| row.text(1)).unwrap_or_default();
    text.split(',').filter_map(|number| number.parse().ok().and_then(Slot::new)).collect()
}
