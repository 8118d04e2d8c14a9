//! Move rows: the form in which the tables of a catalog store the listed moves and their slots.
//!
//! **Invariant:** a record that is stored and read again is unchanged.
//! **Not here:** the transactions (`sqlite::catalog`, `postgres::catalog`), the rules of changes
//! (`move_catalog`).

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::result::Error as DieselError;
use model::keyspace::Slot;
use model::slot_set::SlotSet;
use model::topology::ShardNumber;
use model::value::format_timestamp;
use serde::{Deserialize, Serialize};

use super::catalog_rows::GROUP;
use super::move_catalog::{MoveListError, OPEN_MOVES_MAX};
use super::move_record::{
    MoveLag, MovePhase, MoveProgressReport, MoveRecord, NewMove, goal_name, parse_goal,
    parse_move_name,
};
use super::rebalance_id::RebalanceId;
use super::rebalance_record::RebalanceState;
use super::system_tables::{tessera_listed_moves, tessera_moving};

/// Maximum number of moves that have ended and are still stored.
pub const ENDED_STORED_MAX: i64 = 1_000;

/// Row of a listed move.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = tessera_listed_moves, treat_none_as_null = true)]
pub struct ListedMoveRow {
    /// Identity, a UUID; primary key.
    pub id: String,
    /// Identity of the rebalance that the move is a part of, if any.
    pub rebalance: Option<String>,
    /// Number of the shard that owned the slots.
    pub source: i64,
    /// Number of the shard that is to own them.
    pub target: i64,
    /// Slots of the move, as ranges.
    pub slots: String,
    /// Name of the phase.
    pub phase: String,
    /// Name of the goal.
    pub goal: String,
    /// 1 if the move is paused.
    pub paused: i64,
    /// Maximum rate of the copy in MiB/s.
    pub rate: Option<i64>,
    /// Time in microseconds for which the source is kept.
    pub keep_us: i64,
    /// Highest number of a term that was assigned.
    pub term: i64,
    /// Time of the order.
    pub began_at: String,
    /// Time of the last progress.
    pub changed_at: String,
    /// Time at which the target began to own the slots.
    pub owned_at: Option<String>,
    /// Time of the end.
    pub ended_at: Option<String>,
    /// Progress, as JSON.
    pub progress: String,
}

impl ListedMoveRow {
    /// Returns the row of a record.
    pub fn of(record: &MoveRecord) -> Self {
        let MoveRecord { new, progress, .. } = record;
        Self {
            id: record.name(),
            rebalance: record.rebalance.map(RebalanceId::name),
            source: new.source.0.into(),
            target: new.target.0.into(),
            slots: new.slots.to_string(),
            phase: record.phase.name().to_owned(),
            goal: goal_name(record.goal).to_owned(),
            paused: record.is_paused.into(),
            rate: new.rate.map(i64::from),
            keep_us: capped(new.keep.as_micros()),
            term: capped(record.term.into()),
            began_at: format_timestamp(record.began_at),
            changed_at: format_timestamp(record.changed_at),
            owned_at: record.owned_at.map(format_timestamp),
            ended_at: record.ended_at.map(format_timestamp),
            progress: StoredProgress::of(progress).json(),
        }
    }

    /// Restores the record.
    ///
    /// # Errors
    /// A description of the damage.
    pub fn record(self) -> Result<MoveRecord, String> {
        let id = self.id.clone();
        let restored = self.restore();
        restored.ok_or_else(|| format!("the row of the move {id} in tessera_moves is damaged"))
    }

    fn restore(self) -> Option<MoveRecord> {
        let shard = |number| u16::try_from(number).ok().map(ShardNumber);
        let rate = self.rate.map(u32::try_from).transpose().ok()?;
        let new = NewMove {
            slots: self.slots.parse().ok()?,
            source: shard(self.source)?,
            target: shard(self.target)?,
            rate,
            keep: Duration::from_micros(u64::try_from(self.keep_us).ok()?),
        };
        let progress: StoredProgress = serde_json::from_str(&self.progress).ok()?;
        Some(MoveRecord {
            id: parse_move_name(&self.id)?,
            rebalance: match &self.rebalance {
                None => None,
                Some(name) => Some(RebalanceId::parse(name)?),
            },
            new,
            phase: MovePhase::parse(&self.phase)?,
            goal: parse_goal(&self.goal)?,
            is_paused: self.paused != 0,
            term: u64::try_from(self.term).ok()?,
            began_at: time(&self.began_at)?,
            changed_at: time(&self.changed_at)?,
            owned_at: maybe_time(self.owned_at.as_deref())?,
            ended_at: maybe_time(self.ended_at.as_deref())?,
            progress: progress.report()?,
        })
    }
}

pub(super) fn capped(number: u128) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Progress as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredProgress {
    rows: u64,
    bytes: u64,
    #[serde(default)]
    deleted_batches: u64,
    hold_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held_since: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    phase_us: BTreeMap<String, u64>,
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lag: Option<StoredLag>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rows_expected: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seconds_left: Option<u64>,
}

/// Lag as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredLag {
    changes: u64,
    since: Option<String>,
}

impl StoredProgress {
    fn of(report: &MoveProgressReport) -> Self {
        let lag = report.lag.map(|MoveLag { changes, since }| StoredLag {
            changes,
            since: since.map(format_timestamp),
        });
        let phase_us = report.phase_us.iter().map(|(phase, us)| (phase.name().to_owned(), *us));
        Self {
            rows: report.rows,
            bytes: report.bytes,
            deleted_batches: report.deleted_batches,
            hold_us: report.hold_us,
            held_since: report.held_since.map(format_timestamp),
            phase_us: phase_us.collect(),
            reason: report.reason.clone(),
            lag,
            rows_expected: report.rows_expected,
            seconds_left: report.seconds_left,
        }
    }

    /// Returns the report; `None` if it is damaged.
    fn report(self) -> Option<MoveProgressReport> {
        let lag = match self.lag {
            None => None,
            Some(StoredLag { changes, since }) => {
                Some(MoveLag { changes, since: maybe_time(since.as_deref())? })
            }
        };
        // A later version may know other phases.
        let known = |(name, us): (&String, &u64)| Some((MovePhase::parse(name)?, *us));
        Some(MoveProgressReport {
            rows: self.rows,
            bytes: self.bytes,
            deleted_batches: self.deleted_batches,
            hold_us: self.hold_us,
            held_since: maybe_time(self.held_since.as_deref())?,
            phase_us: self.phase_us.iter().filter_map(known).collect(),
            reason: self.reason,
            lag,
            rows_expected: self.rows_expected,
            seconds_left: self.seconds_left,
        })
    }

    fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts always serialise")
    }
}

pub(super) fn time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

/// Parses a time that may be missing; returns `None` if it is damaged.
pub(super) fn maybe_time(text: Option<&str>) -> Option<Option<DateTime<Utc>>> {
    text.map_or(Some(None), |text| time(text).map(Some))
}

/// Restores records, the latest first. A move that occurs twice among the rows is returned once.
///
/// # Errors
/// A description of the damage.
pub fn listed_records(
    rows: impl IntoIterator<Item = ListedMoveRow>,
) -> Result<Vec<MoveRecord>, String> {
    let records: Result<Vec<MoveRecord>, String> =
        rows.into_iter().map(ListedMoveRow::record).collect();
    let mut records = records?;
    records.sort_by_key(|record| std::cmp::Reverse((record.began_at, record.id)));
    records.dedup_by_key(|record| record.id);
    Ok(records)
}

/// Row of a slot of a move that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Insertable)]
#[diesel(table_name = tessera_moving)]
pub struct MovingSlotRow {
    /// Always [`GROUP`], because the number of the slot already determines the table group.
    pub group_name: String,
    /// Number of the slot.
    pub slot: i64,
    /// Identity of the move.
    pub move_id: String,
}

impl MovingSlotRow {
    /// Returns the rows of a move's slots.
    pub fn of(record: &MoveRecord) -> Vec<Self> {
        let (group_name, move_id) = (GROUP.to_owned(), record.name());
        let row = |slot: Slot| {
            let (group_name, move_id) = (group_name.clone(), move_id.clone());
            Self { group_name, slot: slot.number().into(), move_id }
        };
        record.new.slots.iter().map(row).collect()
    }
}

/// Checks that a new move may be listed. `epoch` is the epoch of the map in the catalog, and
/// `moving` has the slots of other moves.
///
/// # Errors
/// [`MoveListError::Stale`], [`MoveListError::SlotsMove`].
pub fn check_new_move(
    record: &MoveRecord,
    (expected, epoch): (u64, u64),
    moving: &[MovingSlotRow],
) -> Result<(), MoveListError> {
    if epoch != expected {
        return Err(MoveListError::Stale { expected, epoch });
    }
    let slot = |row: &MovingSlotRow| u16::try_from(row.slot).ok().and_then(Slot::new);
    let is_wanted = |row: &&MovingSlotRow| {
        row.group_name == GROUP && slot(row).is_some_and(|slot| record.new.slots.contains(slot))
    };
    let taken: Vec<&MovingSlotRow> = moving.iter().filter(is_wanted).collect();
    let Some(first) = taken.first() else { return Ok(()) };
    let slots: SlotSet = taken.iter().filter_map(|row| slot(row)).collect();
    Err(MoveListError::SlotsMove { slots, move_name: first.move_id.clone() })
}

/// Checks that a new move that is not a part of a rebalance may be listed, given the number of open
/// moves that are not either.
///
/// # Errors
/// [`MoveListError::TooMany`].
pub fn check_open_moves(open: i64) -> Result<(), MoveListError> {
    if open < OPEN_MOVES_MAX as i64 { Ok(()) } else { Err(MoveListError::TooMany) }
}

/// Checks that a new move of a rebalance may be listed. `state` is the name of the state of that
/// rebalance.
///
/// # Errors
/// [`MoveListError::RebalanceNotRunning`].
pub fn check_rebalance_of_move(state: Option<&str>) -> Result<(), MoveListError> {
    if state == Some(RebalanceState::Running.name()) {
        return Ok(());
    }
    Err(MoveListError::RebalanceNotRunning)
}

/// Reason to roll back a transaction on listed moves.
#[derive(Debug)]
pub enum MoveListFault {
    /// The change is refused.
    Refused(MoveListError),
    /// The database reported an error.
    Database(DieselError),
}

impl From<MoveListError> for MoveListFault {
    fn from(error: MoveListError) -> Self {
        Self::Refused(error)
    }
}

impl From<DieselError> for MoveListFault {
    fn from(error: DieselError) -> Self {
        Self::Database(error)
    }
}

#[cfg(test)]
mod tests;
