//! Shard file: creates, migrates and checks the file of a shard when a router starts, and reads its
//! tables.
//!
//! **Invariant:** after [`prepare`] the file belongs to this cluster and this shard, its schema is
//! current, and its tables are the declared ones.
//! **Not here:** rows (`writer`, `reader`).

use std::collections::BTreeSet;
use std::path::Path;

use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use engine::system_tables::{tessera_shard, tessera_tables};
use model::position::TimelineHistory;
use model::table::{Registry, Table};
use model::table_group::GroupNumber;

use super::OpenError;
use super::connection::{Bind, Statement, for_each_row, open};
use super::sql::declared_type;
use super::{connection, declarations, timeline};

pub(super) const MIGRATIONS: EmbeddedMigrations =
    embed_migrations!("../../migrations/sqlite/shard");

/// Expected owner of a shard file.
#[derive(Clone, Debug)]
pub struct FileIdentity<'i> {
    /// Id of the cluster in the catalog.
    pub cluster_id: &'i str,
    /// Name of the shard.
    pub shard: &'i str,
    /// Slots of the shard, if the file is created now.
    pub slots: &'i [u16],
    /// Groups, other than `main`, of the tables that every file has.
    pub table_groups: &'i [(String, GroupNumber)],
}

/// Contents of a primary's file that may be used.
#[derive(Debug)]
pub struct Prepared {
    /// Declared tables.
    pub tables: Registry,
    /// Names of the tables that clients created; the others come with every file.
    pub made: BTreeSet<String>,
    /// Timelines of the file.
    pub history: TimelineHistory,
    /// Position of the file.
    pub position: u64,
}

/// Migrates the file of a primary, and creates it if `create` allows.
///
/// # Errors
/// [`OpenError::Foreign`] if the file is missing though it was created before, belongs to another
/// cluster or shard, or declares tables that it does not have.
pub fn prepare(
    path: &Path,
    identity: &FileIdentity<'_>,
    create: bool,
) -> Result<Prepared, OpenError> {
    let empty = std::fs::metadata(path).map_or(true, |file| file.len() == 0);
    if !create && empty {
        return Err(OpenError::foreign(path, LOST));
    }
    let mut connection = if create { connection::create(path) } else { open(path, "") }?;
    let migrated = connection.run_pending_migrations(MIGRATIONS);
    migrated.map_err(|error| OpenError::file(path, error))?;
    if create {
        claim(&mut connection, identity).map_err(|error| OpenError::file(path, error))?;
    }
    check_identity(&mut connection, path, identity)?;
    let tables = read_tables(&mut connection, path)?;
    let failed = |error| OpenError::file(path, error);
    let position = timeline::position(&mut connection).map_err(failed)?.sequence;
    let history = timeline::load(&mut connection).map_err(failed)?;
    let history = history.ok_or_else(|| OpenError::foreign(path, CONFUSED))?;
    let made = declarations::made_by_clients(&mut connection).map_err(failed)?;
    Ok(Prepared { tables, made, history, position })
}

/// Begins a timeline of a primary's file, to which all writes from now on belong. `last` is the one
/// that it began before, as far as is known.
///
/// # Errors
/// [`OpenError`] if the file cannot be written.
pub fn begin_timeline(path: &Path, last: Option<u32>) -> Result<TimelineHistory, OpenError> {
    let mut connection = open(path, "")?;
    let begun = timeline::begin(&mut connection, last);
    let history = begun.map_err(|error| OpenError::file(path, error))?;
    history.ok_or_else(|| OpenError::foreign(path, CONFUSED))
}

/// Returns the position of the file of a replica; `None` if there is no usable file, so that it
/// must be rebuilt.
///
/// # Errors
/// [`OpenError::Foreign`] if the file belongs to another cluster or shard, or has changes that its
/// primary lacks.
pub fn standing(
    path: &Path,
    identity: &FileIdentity<'_>,
    history: &TimelineHistory,
    position: u64,
) -> Result<Option<u64>, OpenError> {
    if std::fs::metadata(path).map_or(true, |file| file.len() == 0) {
        return Ok(None);
    }
    let opened = open(path, "").and_then(|mut connection| {
        let migrated = connection.run_pending_migrations(MIGRATIONS);
        migrated.map_err(|error| OpenError::file(path, error))?;
        Ok(connection)
    });
    let mut connection = match opened {
        Ok(connection) => connection,
        Err(error) => {
            tracing::warn!(%error, "a replica's file cannot be used and is rebuilt");
            return Ok(None);
        }
    };
    match check_identity(&mut connection, path, identity) {
        Ok(()) => {}
        Err(OpenError::Database { cause, .. }) => {
            tracing::warn!(file = %path.display(), cause, "a replica cannot be read and is rebuilt");
            return Ok(None);
        }
        Err(OpenError::Foreign { cause, .. }) if cause == LOST => return Ok(None),
        Err(foreign) => return Err(foreign),
    }
    let found =
        timeline::position(&mut connection).map_err(|error| OpenError::file(path, error))?;
    if history.holds(found) && found.sequence <= position {
        return Ok(Some(found.sequence));
    }
    Err(OpenError::foreign(
        path,
        format!(
            "it contains changes that the primary lacks: its position is {}, that of the primary {position}. \
             The primary was restored from an older copy. To keep the changes, put this file, with its -wal, in the \
             primary's place; to continue without them, move both out of the folder",
            found.sequence
        ),
    ))
}

const CONFUSED: &str = "its timelines do not follow each other";

const LOST: &str =
    "the file is missing or empty. It held rows: restore it from a backup before starting";

/// Signs a new file and assigns its slots and the groups of its tables, in one transaction.
fn claim(connection: &mut SqliteConnection, identity: &FileIdentity<'_>) -> QueryResult<()> {
    connection.immediate_transaction(|connection| {
        let signed = tessera_shard::table.count().get_result::<i64>(connection)?;
        if signed > 0 {
            return Ok(());
        }
        diesel::insert_into(tessera_shard::table)
            .values((
                tessera_shard::id.eq(1),
                tessera_shard::cluster_id.eq(identity.cluster_id),
                tessera_shard::shard.eq(identity.shard),
                tessera_shard::file_id.eq(uuid::Uuid::now_v7().to_string()),
                tessera_shard::version.eq(0),
                tessera_shard::position.eq(0),
                tessera_shard::timeline.eq(0),
                tessera_shard::syncs.eq(0),
            ))
            .execute(connection)?;
        let slots = serde_json::to_string(identity.slots)
            .map_err(|error| DieselError::SerializationError(Box::new(error)))?;
        let sql =
            "INSERT INTO tessera_slots (slot, state) SELECT value, 'owned' FROM json_each(?1)";
        let binds = [Bind::Text(&slots)];
        Statement { sql, binds: &binds, cached: false }.execute(connection)?;
        identity.table_groups.iter().try_for_each(|(table, group)| {
            let row = tessera_tables::table.filter(tessera_tables::name.eq(table));
            let number = tessera_tables::group_number.eq(group.index() as i64);
            diesel::update(row).set(number).execute(connection).map(drop)
        })
    })
}

fn check_identity(
    connection: &mut SqliteConnection,
    path: &Path,
    identity: &FileIdentity<'_>,
) -> Result<(), OpenError> {
    let found: Option<(String, String)> = tessera_shard::table
        .select((tessera_shard::cluster_id, tessera_shard::shard))
        .first(connection)
        .optional()
        .map_err(|error| OpenError::file(path, error))?;
    let found = found.ok_or_else(|| OpenError::foreign(path, LOST))?;
    if found.0 != identity.cluster_id {
        return Err(OpenError::foreign(path, "the file belongs to another cluster"));
    }
    if found.1 != identity.shard {
        let cause = format!("the file is that of {}, not of {}", found.1, identity.shard);
        return Err(OpenError::foreign(path, cause));
    }
    Ok(())
}

pub(super) fn read_tables(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<Registry, OpenError> {
    let rows = declarations::load(connection).map_err(|error| OpenError::file(path, error))?;
    let mut tables = Vec::with_capacity(rows.len());
    for declared in rows {
        let name = declared.name.clone();
        let table = declared
            .into_table()
            .map_err(|cause| OpenError::foreign(path, format!("table {name}: {cause}")))?;
        let actual =
            actual_columns(connection, &name).map_err(|error| OpenError::file(path, error))?;
        if let Some(drift) = drift(&table, &actual) {
            return Err(OpenError::foreign(path, format!("table {name}: {drift}")));
        }
        tables.push(table);
    }
    Ok(Registry::new(tables))
}

/// A column of the file: name, type, nullable or not.
type Actual = (String, String, bool);

fn actual_columns(connection: &mut SqliteConnection, table: &str) -> QueryResult<Vec<Actual>> {
    let sql = "SELECT name, type, \"notnull\" FROM pragma_table_info(?1)";
    let binds = [Bind::Text(table)];
    let mut columns = Vec::new();
    for_each_row(connection, Statement { sql, binds: &binds, cached: false }, |row| {
        let name = row.text(0, str::to_owned).unwrap_or_default();
        let kind = row.text(1, str::to_owned).unwrap_or_default();
        columns.push((name, kind, row.int(2) == Some(0)));
        Ok(())
    })?;
    Ok(columns)
}

fn drift(table: &Table, actual: &[Actual]) -> Option<String> {
    for column in table.columns() {
        let Some((_, kind, nullable)) = actual.iter().find(|(name, ..)| *name == column.name)
        else {
            return Some(format!("column {} is declared but not there", column.name));
        };
        if kind != declared_type(column.kind) || *nullable != column.nullable {
            return Some(format!("column {} is not as declared", column.name));
        }
    }
    let extra = actual.iter().find(|(name, ..)| table.find(name).is_none())?;
    Some(format!("column {} is there but not declared", extra.0))
}

/// Reverts and repeats every migration on a scratch file, for tests of the migrations.
///
/// # Errors
/// The error of SQLite about the migration that failed.
pub fn migrate_down_and_up(path: &Path) -> Result<(), OpenError> {
    let failed = |error: &dyn std::fmt::Display| OpenError::file(path, error);
    let mut connection = connection::create(path)?;
    connection.run_pending_migrations(MIGRATIONS).map_err(|error| failed(&error))?;
    connection.revert_all_migrations(MIGRATIONS).map_err(|error| failed(&error))?;
    connection.run_pending_migrations(MIGRATIONS).map_err(|error| failed(&error))?;
    let mut found = String::new();
    let statement = Statement { sql: "PRAGMA integrity_check", binds: &[], cached: false };
    for_each_row(&mut connection, statement, |row| {
        found += &row.text(0, str::to_owned).unwrap_or_default();
        Ok(())
    })
    .map_err(|error| failed(&error))?;
    if found == "ok" { Ok(()) } else { Err(failed(&found)) }
}
