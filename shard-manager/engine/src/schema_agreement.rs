//! Schema agreement: the tables that every shard must have before a cluster serves requests, and
//! the changes that each shard needs for that.
//!
//! The tables of shards may differ for two reasons. First, a process may have died while it created
//! a table; then an intent in the catalog records the target state. Second, the file of a shard may
//! have been restored from a copy that is older than a table, perhaps from a replica that lagged;
//! then the table is created there again. Its rows on that shard are lost, but they were already
//! lost with the original file.
//!
//! **Invariant:** no shard is changed unless all shards can agree.
//! **Not here:** carrying out the changes (the engines), creating a table while the cluster serves
//! (`manager/schema`).

use std::collections::BTreeSet;
use std::sync::Arc;

use model::table::{Registry, Table, TableDifference};

use super::SchemaChange;
use super::open_error::OpenError;
use super::schema_intent::Intent;

/// Tables that one shard declares.
pub struct Declared<'s> {
    /// Name of the shard.
    pub shard: &'s str,
    /// Tables that the file declares.
    pub tables: Registry,
    /// Names of the tables that clients have created; every shard has the other tables from the
    /// start.
    pub made: BTreeSet<String>,
}

/// Tables on which all shards agree, and the changes that lead there.
pub struct Agreement {
    /// Tables of the cluster.
    pub registry: Registry,
    /// Changes that each shard needs.
    pub changes: Vec<Vec<SchemaChange>>,
}

/// Computes the tables that all shards can agree on.
pub fn agree(shards: &[Declared<'_>], pending: &[Intent]) -> Result<Agreement, OpenError> {
    shards.iter().try_for_each(|shard| check_pending(shard, pending))?;
    let names: Vec<&str> = pending.iter().map(|intent| intent.table.name()).collect();
    let mut all = Registry::default();
    for Declared { shard, tables, .. } in shards {
        for table in tables.without(&names).tables() {
            match all.find(table.name()) {
                Some(known) if known != table => return Err(conflict(shard, shards, table)),
                Some(_) => {}
                None => all = all.with(Arc::clone(table)),
            }
        }
    }
    let mut changes = Vec::with_capacity(shards.len());
    for Declared { shard, tables, .. } in shards {
        let mut own: Vec<SchemaChange> = pending.iter().map(Intent::change).collect();
        for table in all.tables().filter(|table| tables.find(table.name()).is_none()) {
            let name = table.name();
            if !shards.iter().any(|other| other.made.contains(name)) {
                return Err(conflict(shard, shards, table));
            }
            tracing::warn!(
                shard,
                table = name,
                "a table that other shards have is created again, without rows"
            );
            own.push(SchemaChange::Make(Arc::clone(table)));
        }
        changes.push(own);
    }
    let registry = pending.iter().map(Intent::change).fold(all, |registry, change| match change {
        SchemaChange::Make(table) => registry.with(table),
        SchemaChange::Drop(_) | SchemaChange::Index(_) => registry,
    });
    Ok(Agreement { registry, changes })
}

/// Refuses a pending change if a shard has a different table of that name.
fn check_pending(
    Declared { shard, tables, .. }: &Declared<'_>,
    pending: &[Intent],
) -> Result<(), OpenError> {
    for Intent { table, .. } in pending {
        let found = tables.find(table.name());
        if let Some(difference) = found.and_then(|found| TableDifference::between(found, table)) {
            return Err(OpenError::Conflict(format!(
                "the table {} that was being made is on {shard} with another definition: {difference}",
                table.name()
            )));
        }
    }
    Ok(())
}

/// Returns the error for a table that differs between this shard and another shard.
fn conflict(shard: &str, shards: &[Declared<'_>], table: &Table) -> OpenError {
    let name = table.name();
    let own = shards.iter().find(|other| other.shard == shard);
    let own = own.and_then(|own| own.tables.find(name));
    let differs = |other: &&Declared<'_>| other.shard != shard && other.tables.find(name) != own;
    let other = shards.iter().find(differs).map_or("another shard", |other| other.shard);
    OpenError::Conflict(format!("the tables of {shard} are not those of {other}: see {name}"))
}
