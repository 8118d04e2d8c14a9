//! Moving rows: stores and deletes rows of slots that the shard does not own, on behalf of a move.
//!
//! **Invariant:** the numbers of rows change by what was really added or removed, even if some rows
//! of a stored round already existed.
//! **Not here:** deciding which rows are stored or deleted (`move_change`), writing the change log
//! (`log`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use diesel::QueryResult;
use diesel::RunQueryDsl;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sqlite::SqliteConnection;
use engine::slot_move::RoundTable;
use model::idempotency;
use model::keyspace::Slot;
use model::row_change::Change;
use model::sabotage::{Mutation, is_on};
use model::slot_set::SlotSet;
use model::table::Table;
use model::value::{push_json_number, push_json_string};

use super::connection::{Bind, Statement, for_each_row};
use super::declarations::{self, unreadable};
use super::index_ddl;
use super::log::{self, Line};
use super::owned_slots::json_list;
use super::row_json::push_object;
use super::sql;

/// Returns all tables whose rows move with their slots, sorted by name, including the table of
/// idempotency keys.
pub(super) fn tables(connection: &mut SqliteConnection) -> QueryResult<Vec<Table>> {
    let mut tables = vec![Table::clone(&idempotency::TABLE)];
    if is_on(Mutation::IdempotencyStays) {
        tables.clear();
    }
    for declared in declarations::load(connection)? {
        tables.push(declared.into_table().map_err(|cause| unreadable(&cause))?);
    }
    tables.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(tables)
}

/// Returns the table with this name; `None` if the file declares none.
pub(super) fn table(connection: &mut SqliteConnection, name: &str) -> QueryResult<Option<Table>> {
    if name == idempotency::TABLE.name() {
        return Ok(Some(Table::clone(&idempotency::TABLE)));
    }
    let declared = declarations::find(connection, name)?;
    let table = declared.map(|declared| declared.into_table().map_err(|cause| unreadable(&cause)));
    table.transpose()
}

/// Returns true if the file has rows of some slots.
pub(super) fn has_rows(connection: &mut SqliteConnection, slots: &SlotSet) -> QueryResult<bool> {
    let list = json_list(slots);
    let binds = [Bind::Text(&list), Bind::Int(1)];
    let mut has_rows = false;
    for table in tables(connection)? {
        let sql = sql::select_keys(&table);
        for_each_row(connection, Statement { sql: &sql, binds: &binds, cached: true }, |_| {
            has_rows = true;
            Ok(())
        })?;
        if has_rows {
            break;
        }
    }
    Ok(has_rows)
}

/// Returns log lines that remove up to `most` rows of these slots; empty if there are no such rows.
pub(super) fn removal_lines(
    connection: &mut SqliteConnection,
    slots: &SlotSet,
    most: usize,
) -> QueryResult<Vec<u8>> {
    let (list, mut lines, mut left) = (json_list(slots), Vec::new(), most);
    for table in tables(connection)? {
        if left == 0 {
            break;
        }
        let binds = [Bind::Text(&list), Bind::Int(left as i64)];
        let (sql, ids) = (sql::select_keys(&table), table.id().len());
        for_each_row(connection, Statement { sql: &sql, binds: &binds, cached: true }, |row| {
            let slot = row.int(ids + 1).unwrap_or(-1);
            row.text(ids, |key| push_start(&mut lines, "removed", (table.name(), slot, key)));
            lines.extend_from_slice(b",\"version\":0,\"row\":");
            let columns = table.id().iter().map(|column| table.column(*column));
            let columns = columns.map(|column| (column.name.as_str(), column.kind));
            push_object(&mut lines, row, columns)?;
            lines.extend_from_slice(b"}\n");
            left = left.saturating_sub(1);
            Ok(())
        })?;
    }
    Ok(lines)
}

/// Appends the beginning of a log line about a row: the change, table, slot and shard key.
pub(super) fn push_start(lines: &mut Vec<u8>, change: &str, (table, slot, key): (&str, i64, &str)) {
    lines.extend_from_slice(b"{\"change\":\"");
    lines.extend_from_slice(change.as_bytes());
    lines.extend_from_slice(b"\",\"table\":\"");
    lines.extend_from_slice(table.as_bytes());
    lines.extend_from_slice(b"\",\"slot\":");
    push_json_number(lines, slot);
    lines.extend_from_slice(b",\"key\":");
    push_json_string(lines, key);
}

/// Limits of a change on a primary: the slots and tables whose rows it may change.
#[derive(Clone, Copy)]
pub(super) struct PrimaryScope<'a> {
    /// Slots whose rows may be changed.
    pub(super) slots: &'a SlotSet,
    /// Tables of the round that is stored.
    pub(super) round: &'a [RoundTable],
}

/// Carries out log lines about foreign rows, inside a transaction, and returns the number of rows
/// added to each table, negative if rows were removed. `scope` is `None` on a replica, which
/// repeats what its primary accepted.
///
/// # Errors
/// An error if a line cannot be read, is about another slot, or adds a row to a table that does not
/// exist, or if a unique index of the primary refuses a row.
pub(super) fn apply(
    connection: &mut SqliteConnection,
    lines: &[u8],
    scope: Option<PrimaryScope<'_>>,
) -> QueryResult<BTreeMap<String, i64>> {
    let (slots, round) = scope.map(|scope| (scope.slots, scope.round)).unzip();
    let with_unique = index_ddl::tables_with_unique(connection)?;
    let (tables, added) = (HashMap::new(), BTreeMap::new());
    let mut rows = MovingRows { connection, tables, round, added };
    if !with_unique.is_empty() {
        for line in log::lines(lines) {
            rows.make_room(&Line::parse(line)?, &with_unique)?;
        }
    }
    for line in log::lines(lines) {
        let line = Line::parse(line)?;
        let slot = Slot::new(line.slot).filter(|slot| slots.is_none_or(|all| all.contains(*slot)));
        if slot.is_none() {
            return Err(unreadable(&format!(
                "a row of slot {} is not part of the move",
                line.slot
            )));
        }
        rows.line(&line)?;
    }
    let mut added = rows.added;
    added.retain(|_, added| *added != 0);
    Ok(added)
}

/// A table and the statements that change its rows.
struct Target {
    table: Table,
    insert_new: String,
    replace: String,
    remove: String,
    /// False for the table of idempotency keys, whose rows are not counted.
    is_counted: bool,
}

/// State of a change of foreign rows.
struct MovingRows<'c> {
    connection: &'c mut SqliteConnection,
    /// Tables by name; `None` for a table that the file does not declare.
    tables: HashMap<String, Option<Target>>,
    /// Tables of the round; `None` on a replica.
    round: Option<&'c [RoundTable]>,
    added: BTreeMap<String, i64>,
}

impl MovingRows<'_> {
    fn learn(&mut self, name: &str) -> QueryResult<()> {
        if !self.tables.contains_key(name) {
            let target = table(self.connection, name)?.map(Target::of);
            self.tables.insert(name.to_owned(), target);
        }
        Ok(())
    }

    /// Removes the old version of a row that a line stores, if the table has a unique index. The
    /// new rows do not conflict with each other, but a new row may have a value that the old
    /// version of a later row still holds.
    fn make_room(&mut self, line: &Line<'_>, with_unique: &BTreeSet<String>) -> QueryResult<()> {
        if line.change == Change::Removed || !with_unique.contains(&*line.table) {
            return Ok(());
        }
        self.learn(&line.table)?;
        let target = self.tables.get(&*line.table).and_then(Option::as_ref);
        let Some(target) = target else { return Ok(()) };
        let values = line.values(&target.table)?;
        let first = target.table.answered().start;
        let mut binds = vec![Bind::Int(i64::from(line.slot)), Bind::Text(&line.key)];
        binds.extend(target.table.id().iter().map(|column| Bind::from(&values[column - first])));
        let removed = Statement { sql: &target.remove, binds: &binds, cached: true };
        let removed = removed.execute(self.connection)? as i64;
        *self.added.entry(line.table.to_string()).or_default() -= removed;
        Ok(())
    }

    fn line(&mut self, line: &Line<'_>) -> QueryResult<()> {
        self.learn(&line.table)?;
        let target = self.tables.get(&*line.table).and_then(Option::as_ref);
        let Some(target) = target else {
            // The table was dropped on both shards, and only an empty table can be dropped, so
            // nothing is left to remove.
            let is_removal = line.change == Change::Removed;
            return if is_removal { Ok(()) } else { Err(DieselError::NotFound) };
        };
        let values = line.values(&target.table)?;
        let mut binds = Vec::with_capacity(values.len() + 2);
        binds.extend([Bind::Int(i64::from(line.slot)), Bind::Text(&line.key)]);
        binds.extend(values.iter().map(Bind::from));
        let added = match line.change {
            Change::Removed => {
                let removal = Statement { sql: &target.remove, binds: &binds, cached: true };
                -(removal.execute(self.connection)? as i64)
            }
            Change::Created | Change::Changed => {
                store(self.connection, (target, self.round), &binds)?
            }
        };
        if target.is_counted {
            *self.added.entry(line.table.to_string()).or_default() += added;
        }
        Ok(())
    }
}

/// Stores a row, and removes other rows of the same shard key that conflict with it in a unique
/// index. Returns the number of added rows minus the number of removed rows.
///
/// A round may end before the last change in the log, but its rows are those of the snapshot in
/// which it was read. A row may therefore have a unique value that another row of the copy still
/// holds, because the change that freed the value belongs to a later round. That later round stores
/// the other row again.
///
/// If the source does not have the unique index, both rows may exist there. In that case neither is
/// removed, and the index refuses the row.
fn store(
    connection: &mut SqliteConnection,
    (target, round): (&Target, Option<&[RoundTable]>),
    binds: &[Bind<'_>],
) -> QueryResult<i64> {
    let mut added = 0;
    loop {
        let insertion = Statement { sql: &target.insert_new, binds, cached: true };
        let error = match insertion.execute(connection) {
            Ok(0) => {
                Statement { sql: &target.replace, binds, cached: true }.execute(connection)?;
                return Ok(added);
            }
            Ok(_) => return Ok(added + 1),
            Err(error) => error,
        };
        match displace(connection, (&target.table, round), binds, &error)? {
            0 => return Err(error),
            displaced => added -= displaced as i64,
        }
    }
}

/// Removes the rows that have the same shard key as the refused row and the same values in the
/// unique index that refused it, and returns their number. Rows of other shard keys are never
/// removed, even if an operator's own unique index spans several shard keys: they may belong to
/// slots that the shard owns.
fn displace(
    connection: &mut SqliteConnection,
    (table, round): (&Table, Option<&[RoundTable]>),
    binds: &[Bind<'_>],
    refusal: &DieselError,
) -> QueryResult<usize> {
    let DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, information) = refusal
    else {
        return Ok(0);
    };
    let Some(columns) = index_ddl::broken_columns(table, information.message()) else {
        return Ok(0);
    };
    let is_unique =
        |round: &RoundTable| round.table == table.name() && round.is_unique(table, &columns);
    if round.is_some_and(|tables| !tables.iter().any(is_unique)) {
        return Ok(0);
    }
    let sql = sql::remove_with(table, &columns);
    let sought = Table::PLACE.into_iter().chain(columns).map(|column| binds[column]);
    let sought: Vec<Bind<'_>> = sought.collect();
    Statement { sql: &sql, binds: &sought, cached: false }.execute(connection)
}

impl Target {
    fn of(table: Table) -> Self {
        Self {
            insert_new: sql::insert_new(&table),
            replace: sql::replace(&table),
            remove: sql::remove(&table),
            is_counted: table.name() != idempotency::TABLE.name(),
            table,
        }
    }
}
