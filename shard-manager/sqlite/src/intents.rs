//! Intents: records in the catalog that a table is being created or dropped. A record is kept until
//! every shard has created or dropped the table.
//!
//! **Invariant:** as long as an intent exists, its table is hidden from clients and empty.
//! **Not here:** creating and dropping the tables (`manager`, and `ddl` on each shard).

use std::path::{Path, PathBuf};

use chrono::Utc;
use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;

use super::catalog_failure::{CATALOG, kind_before_commit};
use super::connection::{DbErrorKind, OpenError, open};
use super::declarations::unreadable;
pub use engine::schema_intent::{Intent, State};
use engine::system_tables::tessera_intents::{self, dsl};
use engine::table_declaration::TableDeclaration;
use model::error::Error;
use model::table::Table;
use model::value::format_timestamp;

/// Access to the intents, with a connection that is opened for each change, because changes of
/// tables are rare.
pub struct IntentTable {
    connection: SqliteConnection,
    catalog: PathBuf,
}

impl IntentTable {
    /// Opens the catalog, which must have been migrated.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be opened.
    pub fn open(catalog: &Path) -> Result<Self, OpenError> {
        let connection = open(catalog, "")?;
        Ok(Self { connection, catalog: catalog.to_owned() })
    }

    /// Returns all intents, sorted by the name of the table.
    ///
    /// # Errors
    /// The error of the catalog.
    pub fn list(&mut self) -> Result<Vec<Intent>, Error> {
        let rows: QueryResult<Vec<(String, String)>> = dsl::tessera_intents
            .select((tessera_intents::state, tessera_intents::declaration))
            .order(tessera_intents::name)
            .load(&mut self.connection);
        let intents = rows.and_then(|rows| rows.iter().map(read).collect());
        intents.map_err(|error| to_error(&error, &kind_before_commit(&self.catalog, &error)))
    }

    /// Records durably that a table will be created.
    ///
    /// # Errors
    /// The error of the catalog. Only [`Error::StorageFull`] means for certain that nothing was
    /// recorded.
    pub fn note(&mut self, table: &Table) -> Result<(), Error> {
        let noted = diesel::insert_into(dsl::tessera_intents).values((
            tessera_intents::name.eq(table.name()),
            tessera_intents::state.eq(State::Make.name()),
            tessera_intents::declaration.eq(TableDeclaration::of(table).json()),
            tessera_intents::at.eq(format_timestamp(Utc::now())),
        ));
        self.change(|connection| noted.execute(connection))
    }

    /// Changes the intent of creating a table durably to that of dropping it.
    ///
    /// # Errors
    /// Errors of [`IntentTable::note`].
    pub fn turn_to_undo(&mut self, name: &str) -> Result<(), Error> {
        let row = dsl::tessera_intents.filter(tessera_intents::name.eq(name));
        let turned = diesel::update(row).set(tessera_intents::state.eq(State::Undo.name()));
        self.change(|connection| turned.execute(connection))
    }

    /// Removes an intent that was carried out.
    ///
    /// # Errors
    /// Errors of [`IntentTable::note`].
    pub fn remove(&mut self, name: &str) -> Result<(), Error> {
        let row = dsl::tessera_intents.filter(tessera_intents::name.eq(name));
        self.change(|connection| diesel::delete(row).execute(connection))
    }

    /// Runs a statement in a transaction of its own.
    fn change(
        &mut self,
        statement: impl FnOnce(&mut SqliteConnection) -> QueryResult<usize>,
    ) -> Result<(), Error> {
        let (catalog, mut is_committing) = (&*self.catalog, false);
        // The first error is kept, because SQLite may already have rolled back, and diesel then
        // reports only that its own rollback found nothing to undo.
        let mut cause = None;
        let changed = self.connection.immediate_transaction(|connection| {
            let ran = statement(connection);
            ran.inspect_err(|error| cause = Some(kind_before_commit(catalog, error)))?;
            is_committing = true;
            Ok::<_, DieselError>(())
        });
        changed.map_err(|error| {
            let kind = if is_committing {
                DbErrorKind::of(&error)
            } else {
                cause.unwrap_or_else(|| kind_before_commit(catalog, &error))
            };
            to_error(&error, &kind)
        })
    }
}

fn read((state, declaration): &(String, String)) -> QueryResult<Intent> {
    Intent::read(state, declaration).map_err(|cause| unreadable(&cause))
}

fn to_error(error: &DieselError, kind: &DbErrorKind) -> Error {
    tracing::error!(%error, "the intents of the catalog cannot be used");
    kind.error(CATALOG)
}

/// Returns the error of work that begins after the files were closed. The catalog may belong to
/// another process by then. Nothing is logged as an error, because the end of a router is normal.
pub fn ending() -> Error {
    tracing::debug!("the catalog is not opened, because the router ends");
    Error::ShardUnavailable { shard: CATALOG.to_owned() }
}

/// Logs that the catalog cannot be opened, and returns the error for clients.
pub fn unavailable(cause: &dyn std::fmt::Display) -> Error {
    tracing::error!(%cause, "the catalog cannot be opened");
    Error::ShardUnavailable { shard: CATALOG.to_owned() }
}
