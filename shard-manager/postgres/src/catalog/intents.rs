//! Intents: the changes of the tables that are under way, as the catalog records them.
//!
//! **Invariant:** an intent is durable before any shard is changed.
//! **Not here:** carrying them out (`cluster`).

use chrono::Utc;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use engine::schema_intent::{Intent, State};
use engine::system_tables::tessera_intents;
use engine::table_declaration::TableDeclaration;
use model::error::Error;
use model::table::Table;
use model::value::format_timestamp;

use super::refused;
use crate::db_error::unreadable;
use crate::statement::run;

/// Access to the intents of a catalog, over one of its sessions.
#[derive(Clone, Copy)]
pub struct Intents<'c>(pub(super) &'c AsyncPgConnection);

impl Intents<'_> {
    /// Returns all intents, sorted by name.
    ///
    /// # Errors
    /// The error of the catalog.
    pub async fn load(self) -> Result<Vec<Intent>, Error> {
        let rows: QueryResult<Vec<(String, String)>> = tessera_intents::table
            .select((tessera_intents::state, tessera_intents::declaration))
            .order(tessera_intents::name)
            .load(&mut &*self.0)
            .await;
        let read = |(state, declaration): &(String, String)| {
            Intent::read(state, declaration).map_err(|cause| unreadable(&cause))
        };
        let intents = rows.and_then(|rows| rows.iter().map(read).collect());
        intents.map_err(|error| refused(&error))
    }

    /// Records durably that a table will be created.
    ///
    /// # Errors
    /// The error of the catalog. Only [`Error::StorageFull`] means for certain that nothing was
    /// recorded.
    pub async fn record_create(self, table: &Table) -> Result<(), Error> {
        let noted = diesel::insert_into(tessera_intents::table).values((
            tessera_intents::name.eq(table.name()),
            tessera_intents::state.eq(State::Make.name()),
            tessera_intents::declaration.eq(TableDeclaration::of(table).json()),
            tessera_intents::at.eq(format_timestamp(Utc::now())),
        ));
        noted.execute(&mut &*self.0).await.map(drop).map_err(|error| refused(&error))
    }

    /// Changes the intent durably: the table will be dropped instead of created.
    ///
    /// # Errors
    /// Errors of [`Intents::record_create`].
    pub async fn record_undo(self, name: &str) -> Result<(), Error> {
        let row = tessera_intents::table.filter(tessera_intents::name.eq(name));
        let turned = diesel::update(row).set(tessera_intents::state.eq(State::Undo.name()));
        turned.execute(&mut &*self.0).await.map(drop).map_err(|error| refused(&error))
    }

    /// Removes an intent that was carried out, and notifies all routers that the tables have
    /// changed.
    ///
    /// # Errors
    /// Errors of [`Intents::record_create`].
    pub async fn remove(self, name: &str) -> Result<(), Error> {
        let done = async {
            let connection = self.0;
            run(connection, "BEGIN").await?;
            let row = tessera_intents::table.filter(tessera_intents::name.eq(name));
            diesel::delete(row).execute(&mut &*connection).await?;
            run(connection, "SELECT nextval('tessera_tables_changed'); NOTIFY tessera").await?;
            run(connection, "COMMIT").await
        };
        if let Err(error) = done.await {
            // Without the rollback every later statement of this session would fail. If the session
            // is lost, the rollback fails as well, which does no harm.
            let _ = run(self.0, "ROLLBACK").await;
            return Err(refused(&error));
        }
        Ok(())
    }
}
