//! Rows: the rules for a single row.
//!
//! **Not here:** the choice of tables (`audit`), comparing replicas (`audit/replicas`).

use std::collections::BTreeMap;

use diesel::QueryResult;
use engine::audit_report::Discrepancy;
use model::shard_map::partitions::partition_column;
use model::stored_location::{MisplacedRow, checked_location};
use model::table::Table;

use super::{Audit, about};
use crate::binary_value;
use crate::sql;
use crate::statement::{RowView, Statement, for_each_row};

/// Rows between two reports of progress.
const PROGRESS_EVERY: u64 = 1 << 16;
/// Columns of [`sql::select_places`].
const SLOT: usize = 0;
const SHARD_KEY: usize = 1;
const VERSION: usize = 2;
const FIRST_ID: usize = 3;

/// Rules for every row of a table on a primary.
pub(super) struct RowRules<'r, 'a> {
    audit: &'r mut Audit<'a>,
    table: &'r Table,
    /// Highest version that a row may have.
    version_max: i64,
    /// Number of rows, without the foreign ones.
    pub(super) rows: u64,
    /// Number of foreign rows that no move will delete: their slots belong to another shard, and
    /// are not part of a move.
    pub(super) left_rows: u64,
    foreign_rows: u64,
}

impl<'r, 'a> RowRules<'r, 'a> {
    pub(super) fn new(audit: &'r mut Audit<'a>, table: &'r Table, version_max: i64) -> Self {
        Self { audit, table, version_max, rows: 0, left_rows: 0, foreign_rows: 0 }
    }

    /// Reads all rows in the snapshot of the session, and reports violations.
    pub(super) async fn check_all(&mut self) -> QueryResult<()> {
        let sql = sql::select_places(self.table, partition_column(self.audit.map, self.table));
        let statement = Statement { sql: &sql, binds: &[], cached: false };
        let connection = self.audit.shard.connection();
        for_each_row(connection, statement, |row| {
            self.count(row);
            Ok(())
        })
        .await?;
        self.report_progress((self.rows + self.foreign_rows) % PROGRESS_EVERY);
        Ok(())
    }

    fn report_progress(&mut self, rows: u64) {
        self.audit.report.rows += rows;
        (self.audit.progress)(rows);
    }

    fn count(&mut self, row: &RowView) {
        let slot = row.bigint(SLOT).unwrap_or(-1);
        let number = u16::try_from(slot).ok();
        if number.is_some_and(|slot| self.audit.slots.is_foreign(slot)) {
            self.foreign_rows += 1;
            let is_moving = |slot| self.audit.slots.moving.contains_key(&slot);
            self.left_rows += u64::from(!number.is_some_and(is_moving));
        } else {
            self.rows += 1;
            self.check(row, slot);
        }
        if (self.rows + self.foreign_rows).is_multiple_of(PROGRESS_EVERY) {
            self.report_progress(PROGRESS_EVERY);
        }
    }

    fn check(&mut self, row: &RowView, slot: i64) {
        let key = row.text(SHARD_KEY).unwrap_or_default();
        self.check_key(row, slot, &key);
        let version = row.bigint(VERSION).unwrap_or(0);
        if !(1..=self.version_max).contains(&version) {
            let expected = format!("1 to {}, the shard's counter", self.version_max);
            self.find(row, format!("its version is {version}"), expected);
        }
    }

    fn check_key(&mut self, row: &RowView, slot: i64, key: &str) {
        let map = self.audit.map;
        let partition = partition_column(map, self.table);
        let partition = partition.and_then(|column| self.value(row, self.partition_at(), column));
        let (place, misplaced) =
            checked_location(map, (self.table, slot), key, partition.as_deref());
        if let Some(MisplacedRow { found, expected }) = misplaced {
            self.find(row, found, expected);
        }
        let Some(place) = place else { return };
        let is_moving = self.audit.slots.moving.contains_key(&place.slot.number());
        if place.shard != self.audit.shard.number && !is_moving {
            let owner = map.topology().name(place.shard);
            let expected = format!("on {owner}, which owns slot {}", place.slot);
            self.find(row, "the row lies on this shard".to_owned(), expected);
        }
        if let Some(column) = self.table.routing() {
            let spelled = self.spelled(row, FIRST_ID + self.table.id().len(), column);
            if spelled != key {
                let name = &self.table.column(column).name;
                let what = format!("its {name} is {spelled}");
                self.find(row, what, "the shard key itself".to_owned());
            }
        }
    }

    /// Returns a value as a shard key spells it.
    fn spelled(&self, row: &RowView, at: usize, column: usize) -> String {
        self.value(row, at, column).unwrap_or_else(|| "null".to_owned())
    }

    /// Returns a value as a shard key spells it; `None` for null.
    fn value(&self, row: &RowView, at: usize, column: usize) -> Option<String> {
        let kind = self.table.column(column).kind;
        row.cell(at, |bytes| binary_value::text(kind, bytes).into_owned())
    }

    /// Returns the position of the partition column, the last one of [`sql::select_places`].
    fn partition_at(&self) -> usize {
        FIRST_ID + self.table.id().len() + usize::from(self.table.routing().is_some())
    }

    #[cold]
    fn find(&mut self, row: &RowView, what: String, expected: String) {
        let id = self.table.id().iter().zip(FIRST_ID..);
        let id: Vec<String> = id.map(|(column, at)| self.spelled(row, at, *column)).collect();
        let found = about(&self.audit.shard.name, what, expected);
        self.audit.report.add(Discrepancy {
            table: Some(self.table.name().to_owned()),
            key: row.text(SHARD_KEY),
            id: Some(id.join("/")),
            ..found
        });
    }
}

/// Rows of one slot: the hash of each, by shard key and id.
pub(super) type RowHashes = BTreeMap<(String, String), String>;
