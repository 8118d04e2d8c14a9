//! Rows: the rules for a single row, and sums over the rows of a table.
//!
//! **Invariant:** two tables have the same sums if and only if they have the same rows, but for one
//! case in 2^128.
//! **Not here:** the choice of tables (`audit/replicas`).

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use diesel::QueryResult;
use model::shard_map::partitions::partition_column;
use model::stored_location::{MisplacedRow, checked_location};
use model::table::Table;
use model::value::{ColumnType, Value};

use super::super::OpenError;
use super::super::connection::RowView;
use super::super::node_view::NodeView;
use super::super::offline_view::NodeFile;
use super::super::row_hash::{key_hash, row_hash};
use super::super::row_json::value;
use super::super::sql;
use super::file_inventory::{FileInventory, MovingState};
use super::{Audit, Discrepancy};

/// Hashes of shard keys whose rows are left out of a comparison.
pub(super) type LeftOut = HashSet<u64>;

/// Sum of the hashes of the rows of one slot, in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SlotSum {
    pub(super) slot: i64,
    rows: u64,
    sum: u128,
}

/// Rows between two reports of progress.
const PROGRESS_ROWS: u64 = 1 << 16;

/// A table that was read from its first row to its last.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Number of rows, without the foreign ones.
    pub(super) rows: u64,
    /// Number of rows in slots that have moved away or are being copied to the shard.
    pub(super) foreign_rows: u64,
    /// Number of foreign rows in each slot.
    pub(super) foreign_slots: BTreeMap<i64, u64>,
    /// Sums of the compared rows, for slots that have some, in order. Empty if nothing is compared.
    pub(super) slots: Vec<SlotSum>,
}

impl Scan {
    /// Reads a table, passes each row that is not foreign to `each`, and sums up all rows except
    /// those `left_out`; without `left_out`, sums nothing.
    pub(super) fn run(
        audit: &Audit<'_>,
        (node, inventory, table): (&mut NodeView, &FileInventory, &Table),
        left_out: Option<&LeftOut>,
        mut each: impl FnMut(&RowView<'_, '_>),
    ) -> Result<Self, OpenError> {
        let mut scan = Self::default();
        let mut bytes = Vec::new();
        node.each(&sql::select_all(table), |row| {
            let slot = row.int(Table::SLOT).unwrap_or(-1);
            if inventory.is_foreign(slot) {
                scan.foreign_rows += 1;
                *scan.foreign_slots.entry(slot).or_default() += 1;
            } else {
                scan.rows += 1;
                each(row);
            }
            if scan.all_rows().is_multiple_of(PROGRESS_ROWS) {
                audit.passed(PROGRESS_ROWS);
            }
            if left_out.is_some_and(|left_out| !is_left_out(row, left_out)) {
                scan.add(slot, row_hash(&mut bytes, row, table));
            }
            Ok(())
        })?;
        audit.passed(scan.all_rows() % PROGRESS_ROWS);
        Ok(scan)
    }

    fn all_rows(&self) -> u64 {
        self.rows + self.foreign_rows
    }

    fn add(&mut self, slot: i64, hash: u128) {
        match self.slots.last_mut() {
            Some(last) if last.slot == slot => {
                last.rows += 1;
                last.sum = last.sum.wrapping_add(hash);
            }
            Some(_) | None => self.slots.push(SlotSum { slot, rows: 1, sum: hash }),
        }
    }
}

fn is_left_out(row: &RowView<'_, '_>, left_out: &LeftOut) -> bool {
    !left_out.is_empty()
        && row.text(Table::SHARD_KEY, |key| left_out.contains(&key_hash(key))) == Some(true)
}

/// Returns the compared rows of one slot: identity and hash of each.
pub(super) fn slot_rows(
    node: &mut NodeView,
    table: &Table,
    slot: i64,
    left_out: &LeftOut,
) -> Result<Vec<(String, String, u128)>, OpenError> {
    let mut rows = Vec::new();
    let mut bytes = Vec::new();
    node.each(&sql::select_slot(table, slot), |row| {
        if !is_left_out(row, left_out) {
            let key = row.text(Table::SHARD_KEY, str::to_owned).unwrap_or_default();
            rows.push((key, id(row, table), row_hash(&mut bytes, row, table)));
        }
        Ok(()) as QueryResult<()>
    })?;
    Ok(rows)
}

/// Returns the identity of a row among those of its shard key.
fn id(row: &RowView<'_, '_>, table: &Table) -> String {
    let mut text = String::new();
    for (index, &column) in table.id().iter().enumerate() {
        if index > 0 {
            text.push('/');
        }
        text += &spell(&value(row, column, table.column(column).kind));
    }
    text
}

/// Formats a value as in a shard key.
fn spell(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Text(text) => text.clone(),
    }
}

/// Rules for every row of a table on a primary.
pub(super) struct RowRules<'a> {
    audit: &'a Audit<'a>,
    file: &'a NodeFile,
    table: &'a Table,
    /// Counter of the shard: no row has a higher version.
    version: i64,
    /// Slots of the shard that are in a move, whose owner the map may not name yet.
    moving: &'a BTreeMap<u16, MovingState>,
}

impl<'a> RowRules<'a> {
    pub(super) fn of(
        audit: &'a Audit<'a>,
        file: &'a NodeFile,
        table: &'a Table,
        (version, moving): (i64, &'a BTreeMap<u16, MovingState>),
    ) -> Self {
        Self { audit, file, table, version, moving }
    }

    /// Checks a row, and reports violations.
    pub(super) fn check(&self, row: &RowView<'_, '_>) {
        let reported = row.text(Table::SHARD_KEY, |key| self.check_key(row, key));
        if reported.is_none() {
            self.find(row, "the row has no shard key".to_owned(), "one".to_owned());
        }
        let version = row.int(self.table.version()).unwrap_or(0);
        if !(1..=self.version).contains(&version) {
            let expected = format!("1 to {}, the shard's counter", self.version);
            self.find(row, format!("its version is {version}"), expected);
        }
    }

    fn check_key(&self, row: &RowView<'_, '_>, key: &str) {
        let map = &self.audit.view.map;
        let slot = row.int(Table::SLOT).unwrap_or(-1);
        let partition = partition_column(map, self.table);
        let partition = partition.map(|column| value(row, column, self.table.column(column).kind));
        let partition = partition.as_ref().and_then(Value::key_text);
        let (place, misplaced) =
            checked_location(map, (self.table, slot), key, partition.as_deref());
        if let Some(MisplacedRow { found, expected }) = misplaced {
            self.find(row, found, expected);
        }
        let Some(place) = place else { return };
        let is_moving = self.moving.contains_key(&place.slot.number());
        if place.shard != self.file.shard && !is_moving {
            let mut expected = String::new();
            let owner = map.topology().name(place.shard);
            let _ = write!(expected, "on {owner}, which owns slot {}", place.slot);
            self.find(row, "the row lies on this shard".to_owned(), expected);
        }
        if let Some(column) = self.table.routing().filter(|column| !self.spells(row, *column, key))
        {
            let (name, kind) = (&self.table.column(column).name, self.table.column(column).kind);
            let what = format!("its {name} is {}", spell(&value(row, column, kind)));
            self.find(row, what, "the shard key itself".to_owned());
        }
    }

    fn spells(&self, row: &RowView<'_, '_>, column: usize, key: &str) -> bool {
        match self.table.column(column).kind {
            ColumnType::Text | ColumnType::Timestamp | ColumnType::Uuid | ColumnType::Json => {
                row.text(column, |text| text == key) == Some(true)
            }
            kind @ (ColumnType::Bigint | ColumnType::Boolean | ColumnType::Double) => {
                spell(&value(row, column, kind)) == key
            }
        }
    }

    #[cold]
    fn find(&self, row: &RowView<'_, '_>, what: String, expected: String) {
        let found = self.audit.about(self.file, what, &expected);
        self.audit.find(Discrepancy {
            table: Some(self.table.name().to_owned()),
            key: row.text(Table::SHARD_KEY, str::to_owned),
            id: Some(id(row, self.table)),
            ..found
        });
    }
}
