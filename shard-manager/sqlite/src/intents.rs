//! Intents: the tables that are being created or dropped, stored in the catalog until every shard
//! has created or dropped them.
//!
//! **Invariant:** as long as an intent exists, its table is hidden from clients and empty.
//! **Not here:** creating and dropping the tables (`manager`, and `ddl` on each shard).

use std::path::Path;

use chrono::Utc;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::connection::{DbErrorKind, OpenError, open};
use super::declarations::unreadable;
pub use engine::schema_intent::{Intent, State};
use engine::system_tables::tessera_intents::{self, dsl};
use engine::table_declaration::TableDeclaration;
use model::error::Error;
use model::table::Table;
use model::value::format_timestamp;

/// Name of the catalog in errors, in place of a shard.
const CATALOG: &str = "the catalog";

/// A connection to the catalog, opened for each change: changes of tables are rare.
pub struct IntentTable(SqliteConnection);

impl IntentTable {
    /// Opens the catalog, which must have been migrated.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be opened.
    pub fn open(catalog: &Path) -> Result<Self, OpenError> {
        open(catalog, "").map(Self)
    }

    /// Returns all intents, by name.
    ///
    /// # Errors
    /// The error of the catalog.
    pub fn list(&mut self) -> Result<Vec<Intent>, Error> {
        let rows: QueryResult<Vec<(String, String)>> = dsl::tessera_intents
            .select((tessera_intents::state, tessera_intents::declaration))
            .order(tessera_intents::name)
            .load(&mut self.0);
        let intents = rows.and_then(|rows| rows.iter().map(read).collect());
        intents.map_err(|error| to_error(&error))
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
        noted.execute(&mut self.0).map(drop).map_err(|error| to_error(&error))
    }

    /// Records durably that a table will be dropped after all.
    ///
    /// # Errors
    /// Errors of [`IntentTable::note`].
    pub fn turn_to_undo(&mut self, name: &str) -> Result<(), Error> {
        let row = dsl::tessera_intents.filter(tessera_intents::name.eq(name));
        let turned = diesel::update(row).set(tessera_intents::state.eq(State::Undo.name()));
        turned.execute(&mut self.0).map(drop).map_err(|error| to_error(&error))
    }

    /// Removes an intent that was carried out.
    ///
    /// # Errors
    /// Errors of [`IntentTable::note`].
    pub fn remove(&mut self, name: &str) -> Result<(), Error> {
        let row = dsl::tessera_intents.filter(tessera_intents::name.eq(name));
        diesel::delete(row).execute(&mut self.0).map(drop).map_err(|error| to_error(&error))
    }
}

fn read((state, declaration): &(String, String)) -> QueryResult<Intent> {
    Intent::read(state, declaration).map_err(|cause| unreadable(&cause))
}

fn to_error(error: &diesel::result::Error) -> Error {
    tracing::error!(%error, "the intents of the catalog cannot be used");
    DbErrorKind::of(error).error(CATALOG)
}

/// Logs that the catalog cannot be opened, and returns the error for clients.
pub fn unavailable(cause: &dyn std::fmt::Display) -> Error {
    tracing::error!(%cause, "the catalog cannot be opened");
    Error::ShardUnavailable { shard: CATALOG.to_owned() }
}
