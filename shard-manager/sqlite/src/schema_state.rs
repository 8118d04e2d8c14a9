//! Schema state: the difference between the schema of a file and that of this program.
//!
//! **Not here:** migrating a file (`migrate`).

use std::path::Path;

use diesel::migration::{Migration, MigrationSource};
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel_migrations::EmbeddedMigrations;

use super::connection::{OpenError, Statement, for_each_row};
use super::sql;

/// Difference between the schema of a file and that of this program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SchemaState {
    /// Names of migrations that the file lacks.
    pub(super) pending: Vec<String>,
    /// Versions that this program does not know.
    unknown: Vec<String>,
}

impl SchemaState {
    /// Compares the migrations of a file with those of this program.
    ///
    /// # Errors
    /// [`OpenError`] if the file is not one of Tessera, or cannot be read.
    pub(super) fn read(
        connection: &mut SqliteConnection,
        path: &Path,
        migrations: &EmbeddedMigrations,
    ) -> Result<Self, OpenError> {
        let mut unknown = Vec::new();
        let statement = Statement { sql: sql::MIGRATED, binds: &[], cached: false };
        let read = for_each_row(connection, statement, |row| {
            unknown.extend(row.text(0, str::to_owned));
            Ok(())
        });
        read.map_err(|error| {
            let error = error.to_string();
            if error.contains("no such table") {
                return OpenError::foreign(path, "this is not a file of Tessera");
            }
            OpenError::file(path, error)
        })?;
        let known: Vec<Box<dyn Migration<Sqlite>>> =
            migrations.migrations().map_err(|error| OpenError::file(path, error))?;
        let mut pending = Vec::new();
        for migration in known {
            let version = migration.name().version().to_string();
            match unknown.iter().position(|found| *found == version) {
                Some(index) => drop(unknown.remove(index)),
                None => pending.push(migration.name().to_string()),
            }
        }
        Ok(Self { pending, unknown })
    }

    /// Checks that the schema is that of this program.
    ///
    /// # Errors
    /// [`OpenError::Foreign`] if it is not.
    pub(super) fn check(&self, path: &Path) -> Result<(), OpenError> {
        self.check_not_newer(path)?;
        match self.pending.first() {
            Some(first) => Err(OpenError::foreign(
                path,
                format!(
                    "its schema is older than this program (it lacks {first}): run `shard-manager migrate`, or \
                     start the router once"
                ),
            )),
            None => Ok(()),
        }
    }

    /// Checks that this program knows the schema.
    ///
    /// # Errors
    /// [`OpenError::Foreign`] if it does not.
    pub(super) fn check_not_newer(&self, path: &Path) -> Result<(), OpenError> {
        match self.unknown.first() {
            Some(first) => Err(OpenError::foreign(
                path,
                format!(
                    "its schema is newer than this program (it has {first}): use the program that made it"
                ),
            )),
            None => Ok(()),
        }
    }
}
