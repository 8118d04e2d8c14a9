//! Move metadata: reads the states of slots and the records of moves in a shard's database, for the
//! rules of a move, and builds the statements that store them after a change.
//!
//! **Invariant:** the statements contain everything that the rules have changed.
//! **Not here:** the rules (crate `moves`), the transaction (`move_change`).

use std::borrow::Cow;
use std::collections::BTreeMap;

use diesel::QueryResult;
use engine::move_record::move_name;
use engine::stored_move::{DamagedMove, StoredMove, slot_state};
use model::keyspace::Slot;
use model::topology::ShardNumber;
use model::value::{ColumnType, Value};
use moves::identity::MoveId;
use moves::move_row::MoveRow;
use moves::shard_metadata::ShardMetadata;
use moves::slot_state::SlotState;

use super::move_session::MoveSession;
use super::snapshot_mark::SnapshotMark;
use super::statements;
use crate::db_error::unreadable;
use crate::statement::{Bind, RowView, Statement, Work, load};

/// Stored record of a move, whose mark is a snapshot.
pub(super) type StoredSnapshotMove = StoredMove<SnapshotMark>;

/// Reads the records of all moves.
pub(super) async fn rows(session: &mut MoveSession) -> QueryResult<Vec<MoveRow>> {
    let binds = [session.system_bind()];
    let moves = Statement { sql: statements::MOVES, binds: &binds, cached: true };
    Ok(stored(&load(&session.connection, moves).await?)?
        .iter()
        .map(StoredMove::row)
        .collect::<Result<_, _>>()?)
}

/// Decodes the result rows of [`statements::MOVES`].
pub(super) fn stored(rows: &[RowView]) -> QueryResult<Vec<StoredSnapshotMove>> {
    let json = |row: &RowView| row.text(0).unwrap_or_default();
    let read = |json: String| serde_json::from_str(&json).map_err(|error| unreadable(&error));
    rows.iter().map(json).map(read).collect()
}

/// Decodes the result rows of [`statements::STATES`].
pub(super) fn states(rows: &[RowView]) -> QueryResult<BTreeMap<Slot, SlotState>> {
    let state = |row: &RowView| {
        let number = row.bigint(0).and_then(|number| u16::try_from(number).ok());
        let slot = number.and_then(Slot::new);
        Ok((slot.ok_or_else(|| unreadable(&"a slot does not exist"))?, state(row)?))
    };
    rows.iter().map(state).collect()
}

fn state(row: &RowView) -> QueryResult<SlotState> {
    let moved_to = row.text(3).map(|number| number.parse().map(ShardNumber));
    let moved_to = moved_to.transpose().map_err(|error| unreadable(&error))?;
    let until = row.bigint(2).unwrap_or(0).max(0).cast_unsigned();
    let state = row.text(1).unwrap_or_default();
    Ok(slot_state(&state, until, moved_to)?)
}

/// Metadata before and after a change of a move.
pub(super) struct Difference<'d> {
    /// The move.
    pub(super) id: MoveId,
    pub(super) before: &'d ShardMetadata,
    pub(super) after: &'d ShardMetadata,
    /// Position of the log after which changes are recorded, if changes are recorded.
    pub(super) traced_after: u64,
    /// Time of the node's clock, in milliseconds.
    pub(super) now: u64,
    /// System identifier of the server that stores the record.
    pub(super) system: Bind,
    /// True if the record was stored by a server with another system identifier and changes are
    /// recorded. The recorded changes then name transactions of that server, so they are deleted.
    pub(super) is_foreign: bool,
}

impl Difference<'_> {
    /// Returns true if states of slots have changed.
    pub(super) fn has_news(&self) -> bool {
        self.before.slots != self.after.slots
    }

    /// Returns true if the shard has become the owner of a slot.
    pub(super) fn gains_slots(&self) -> bool {
        let owns = |metadata: &ShardMetadata, slot: &Slot| {
            metadata.slots.get(slot).is_some_and(|state| state.is_owned())
        };
        self.after.slots.keys().any(|slot| owns(self.after, slot) && !owns(self.before, slot))
    }

    /// Returns the statements that store the difference.
    pub(super) fn statements(&self) -> QueryResult<Vec<Work<'static>>> {
        let mut statements: Vec<Work<'static>> = self.slot_statements();
        let Self { id, before, after, traced_after, .. } = *self;
        match (before.row(id), after.row(id)) {
            (before, Some(row)) if before != Some(row) => {
                let stored: Result<StoredSnapshotMove, DamagedMove> =
                    StoredMove::of(row, traced_after);
                let json = serde_json::to_string(&stored?).map_err(|error| unreadable(&error))?;
                let binds = vec![Bind::text(&json), self.system.clone()];
                statements.push((Cow::Borrowed(statements::STORE_MOVE), binds));
                if self.is_foreign {
                    let slots = vec![slot_bind(&row.slots)];
                    statements.push((Cow::Borrowed(statements::FORGET_CHANGES), slots));
                }
            }
            (Some(_), None) => {
                let id = Bind::text(&move_name(id));
                statements.push((Cow::Borrowed(statements::REMOVE_MOVE), vec![id]));
            }
            (_, Some(_)) | (None, None) => {}
        }
        if after.version > before.version {
            let version = Bind::bigint(after.version.cast_signed());
            statements.push((Cow::Borrowed(statements::RAISE_VERSION), vec![version]));
        }
        Ok(statements)
    }

    /// Returns one statement for each new state, which stores it for all slots that have it now.
    fn slot_statements(&self) -> Vec<Work<'static>> {
        let Self { before, after, .. } = self;
        let mut groups: Vec<(Option<SlotState>, Vec<Slot>)> = Vec::new();
        let known = before.slots.keys().chain(after.slots.keys());
        let mut changed: Vec<Slot> = known.copied().collect();
        changed.sort_unstable();
        changed.dedup();
        changed.retain(|slot| before.state(*slot) != after.state(*slot));
        for slot in changed {
            let state = after.state(slot);
            match groups.iter_mut().find(|(known, _)| *known == state) {
                Some((_, slots)) => slots.push(slot),
                None => groups.push((state, vec![slot])),
            }
        }
        groups.into_iter().map(|(state, slots)| self.slot_statement(state, &slots)).collect()
    }

    fn slot_statement(&self, state: Option<SlotState>, slots: &[Slot]) -> Work<'static> {
        let slots = slot_bind(slots);
        let (name, until, owner) = match state {
            None => return (Cow::Borrowed(statements::REMOVE_STATES), vec![slots]),
            Some(SlotState::Owned) => ("owned", None, None),
            Some(SlotState::Fenced { until }) => ("fenced", Some(until), None),
            Some(SlotState::Moved { to }) => ("moved", None, Some(to)),
            Some(SlotState::Importing { moved_to }) => ("importing", None, moved_to),
        };
        let time = |time: Option<u64>| {
            let time = time.map_or(Value::Null, |time| Value::Double(time as f64));
            Bind::value(ColumnType::Double, &time)
        };
        let since = until.map(|_| self.now);
        let owner = owner.map_or(Value::Null, |owner| Value::Text(owner.0.to_string()));
        let owner = Bind::value(ColumnType::Text, &owner);
        let binds = vec![slots, Bind::text(name), time(since), time(until), owner];
        (Cow::Borrowed(statements::STORE_STATES), binds)
    }
}

/// Returns slots as a parameter.
pub(super) fn slot_bind(slots: &[Slot]) -> Bind {
    Bind::integers(slots.iter().map(|slot| i32::from(slot.number())))
}
