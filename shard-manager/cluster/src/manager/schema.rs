//! Schema: the interface of a manager for tables, which are created on every shard or on none.
//!
//! ```text
//!   nothing ──record──▶ make ──every shard has it──▶ (intent removed) ──publish──▶ a table
//!                        │
//!                        └─a shard cannot──▶ undo ──no shard has it──▶ (removed) ──▶ nothing
//! ```
//! The intent is a record in the catalog, which is durable before the first shard is changed. Each
//! shard creates the table in its lane (its queue of writes), in one durable transaction that is
//! part of its change log. If the process dies, the intent remains, and the next start or the next
//! request for the same name completes it. A step that was done already changes nothing, so each
//! step may be repeated.
//!
//! **Invariant:** the registry contains a table only while every shard has it and no intent is
//! left, so no rows are written to a table that may still be dropped.
//! **Not here:** the tables that a caller may know (`visible_tables`), the work of a shard (the
//! engines), the rules for declarations (`declaration`).

use std::sync::Arc;
use std::time::Instant;

use access::operation::RowOperations;
use access::rights::{CompiledRole, Rights};
use access::scope::AccessScope;
use engine::schema_intent::{Intent, State};
use engine::{SchemaChange, SchemaLock};
use model::error::{Error, Failure, Outcome};
use model::table::{Registry, Table, TableDifference};

use super::Manager;

/// Replaces the difference from an existing table of which the API client may not know every
/// column.
const HIDDEN: &str = "this caller may not know all of its columns";

/// Result of the creation of a table: it exists on every shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableCreated {
    /// The table was created now.
    New(Arc<Table>),
    /// The table existed, with the same columns.
    Known(Arc<Table>),
}

/// Interface of a [`Manager`] for tables.
#[derive(Clone, Copy)]
pub struct Schema<'m> {
    pub(super) manager: &'m Manager,
    pub(super) rights: &'m Rights,
}

impl Schema<'_> {
    /// Creates a table on every shard, or on none. The API client needs the scope `tables`.
    ///
    /// Cancel safety: a dropped future leaves an intent, which the next request for the name or the
    /// next start completes.
    ///
    /// # Errors
    /// [`Failure`]. If the request is rejected, the table will not exist: shards that created it
    /// have dropped it again, or will do so when [`Schema::undo_tables`] is called.
    pub async fn create_table(
        self,
        table: Table,
        deadline: Instant,
    ) -> Result<TableCreated, Failure> {
        let rejected = |error| Failure::rejected(error, None);
        let allowed = self.rights.allow_scope(AccessScope::Tables);
        allowed.map_err(|denied| rejected(self.scope_refusal(&table, &denied)))?;
        if let Some(known) = self.known(&table).map_err(rejected)? {
            return Ok(known);
        }
        check_reachable(self.manager).map_err(rejected)?;
        let lock = self.lock_schema(deadline).await.map_err(rejected)?;
        // Another request may have created the table in the meantime.
        if let Some(known) = self.known(&table).map_err(rejected)? {
            return Ok(known);
        }
        let pending = lock.pending().await.map_err(rejected)?;
        let (same, others): (Vec<Intent>, Vec<Intent>) =
            pending.into_iter().partition(|intent| intent.table.name() == table.name());
        let mut noted = false;
        if let Some(intent) = same.into_iter().next() {
            // An intent for the same table is completed; another one is undone first.
            noted = intent == Intent { state: State::Make, table: table.clone() };
            if !noted {
                self.undo(&*lock, intent, deadline).await.map_err(rejected)?;
            }
        }
        if self.manager.registry.load().tables().count() + others.len() >= Registry::TABLES_MAX {
            return Err(rejected(Error::TooManyTables));
        }
        if !noted {
            lock.record_create(&table).await.map_err(|error| doubtful(error, Outcome::Rejected))?;
        }
        self.make_everywhere(&*lock, Arc::new(table), deadline).await
    }

    /// Creates the table on all shards, after the intent was recorded.
    async fn make_everywhere(
        self,
        lock: &dyn SchemaLock,
        table: Arc<Table>,
        deadline: Instant,
    ) -> Result<TableCreated, Failure> {
        let change = SchemaChange::Make(Arc::clone(&table));
        let name = table.name();
        let Err(error) = self.change_everywhere(&change, deadline).await else {
            lock.remove(name).await.map_err(|error| doubtful(error, Outcome::Unknown))?;
            self.manager.registry.rcu(|registry| registry.with(Arc::clone(&table)));
            tracing::info!(table = name, "a table was created");
            return Ok(TableCreated::New(Arc::clone(&table)));
        };
        tracing::warn!(%error, table = name, "a table could not be created on every shard");
        // While the intent is "make", the next start would create the table.
        lock.record_undo(name).await.map_err(|_| doubtful(error.clone(), Outcome::Unknown))?;
        let intent = Intent { state: State::Undo, table: Table::clone(&table) };
        if let Err(later) = self.undo(lock, intent, deadline).await {
            tracing::warn!(error = %later, table = table.name(), "a table is not yet dropped on every shard");
        }
        Err(Failure::rejected(error, None))
    }

    /// Drops tables whose creation has failed, from shards where that was not possible at once.
    ///
    /// # Errors
    /// [`Error`] if a shard still has a table; the next call, or the next start, tries again.
    pub async fn undo_tables(self, deadline: Instant) -> Result<(), Error> {
        let lock = self.lock_schema(deadline).await?;
        let pending = lock.pending().await?;
        for intent in pending.into_iter().filter(|intent| intent.state == State::Undo) {
            self.undo(&*lock, intent, deadline).await?;
        }
        Ok(())
    }

    /// Drops a table that was never published, from every shard that has it.
    async fn undo(
        self,
        lock: &dyn SchemaLock,
        intent: Intent,
        deadline: Instant,
    ) -> Result<(), Error> {
        let name = intent.table.name().to_owned();
        if intent.state == State::Make {
            lock.record_undo(&name).await?;
        }
        self.change_everywhere(&SchemaChange::Drop(Arc::new(intent.table)), deadline).await?;
        lock.remove(&name).await
    }

    /// Changes all shards in parallel; returns the first error in the order of the shards.
    async fn change_everywhere(
        self,
        change: &SchemaChange,
        deadline: Instant,
    ) -> Result<(), Error> {
        let (shards, retired) = (self.manager.shards.load_full(), self.manager.map.open_retired());
        let members = shards.iter().filter(|(number, _)| !retired.contains(number));
        let changes = members.map(|(_, shard)| shard.change_schema(change.clone(), deadline));
        let done = futures_util::future::join_all(changes).await;
        done.into_iter().try_for_each(|shard| shard.map(drop)).map_err(|failure| failure.error)
    }

    /// Locks the schema: waits until no other change of the tables is under way, and opens every
    /// shard.
    pub(super) async fn lock_schema(self, deadline: Instant) -> Result<Box<dyn SchemaLock>, Error> {
        let guard = Arc::clone(&self.manager.schema_turn).lock_owned();
        let guard = tokio::time::timeout_at(deadline.into(), guard).await;
        let guard = guard.map_err(|_elapsed| Error::DeadlinePassed)?;
        let lock = self.manager.backend.lock_schema(guard, deadline).await?;
        // Another router may have let a shard join meanwhile, with the tables that existed then.
        self.manager.shards().upkeep().open_all(deadline).await?;
        Ok(lock)
    }

    /// Finishes the changes of tables that were begun, as the next start would.
    pub(super) async fn finish_pending(
        self,
        lock: &dyn SchemaLock,
        deadline: Instant,
    ) -> Result<(), Error> {
        for intent in lock.pending().await? {
            match intent.state {
                State::Make => {
                    let made = self.make_everywhere(lock, Arc::new(intent.table), deadline).await;
                    made.map_err(|failure| failure.error)?;
                }
                State::Undo => self.undo(lock, intent, deadline).await?,
            }
        }
        Ok(())
    }

    /// Returns the existing table of this name, if it has the same columns. The error names a
    /// difference only if the API client may know all columns of the table.
    fn known(self, table: &Table) -> Result<Option<TableCreated>, Error> {
        let registry = self.manager.registry.load();
        let Some(known) = registry.find(table.name()) else { return Ok(None) };
        match TableDifference::between(known, table) {
            None => Ok(Some(TableCreated::Known(Arc::clone(known)))),
            Some(difference) => {
                let name = table.name();
                let shows_all =
                    |role: &CompiledRole| role.shows_all_columns(name, RowOperations::NONE);
                let is_shown = self.rights.role().is_none_or(shows_all);
                let difference = if is_shown { difference.to_string() } else { HIDDEN.to_owned() };
                Err(Error::TableDiffers { table: name.to_owned(), difference })
            }
        }
    }
}

/// Refuses a change of the tables while the primary of a shard is cut off, because that shard could
/// not make it.
fn check_reachable(manager: &Manager) -> Result<(), Error> {
    let (shards, retired) = (manager.shards.load_full(), manager.map.open_retired());
    let mut members = shards.iter().filter(|(number, _)| !retired.contains(number));
    members.try_for_each(|(_, shard)| shard.primary().check_reachable())
}

/// Returns the failure for an error of the catalog. Its outcome is `if_full` if the disk was full,
/// because it is then certain that nothing was recorded; otherwise it is unknown.
fn doubtful(error: Error, if_full: Outcome) -> Failure {
    let is_full = matches!(error, Error::StorageFull { .. });
    let outcome = if is_full { if_full } else { Outcome::Unknown };
    Failure { error, place: None, outcome, seen: None }
}
