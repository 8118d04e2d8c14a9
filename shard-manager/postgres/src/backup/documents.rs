//! Documents: the tables of Tessera, of a shard or of the catalog, as one JSON object.
//!
//! ```json
//! {"tessera_slots": [{"slot": 7, "state": "owned", …}, …], …}
//! ```
//!
//! **Invariant:** rows are stored by the names of their columns, in tables of the schema that they
//! were read from.
//! **Not here:** the rows of clients (`row_file`).

use std::collections::BTreeMap;

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::open_error::OpenError;
use serde_json::value::RawValue;

use crate::catalog;
use crate::cluster_sessions::ClusterSessions;
use crate::shard_database;
use crate::statement::{Bind, Statement, load};

/// Metadata tables of a shard that a copy contains.
pub(super) const SHARD_TABLES: [&str; 3] =
    ["tessera_tables", "tessera_slots", "tessera_slot_moves"];
/// Table whose only row marks a catalog as that of a cluster.
pub(super) const CLUSTER: &str = "tessera_cluster";
/// Tables of a catalog.
pub(super) const CATALOG_TABLES: [&str; 17] = [
    CLUSTER,
    "tessera_intents",
    "tessera_indexes",
    "tessera_shards",
    "tessera_groups",
    "tessera_owners",
    "tessera_rebalances",
    "tessera_moves",
    "tessera_moving",
    "tessera_access",
    "tessera_access_keys",
    "tessera_access_roles",
    "tessera_access_denials",
    "tessera_access_usage",
    "tessera_access_log",
    "tessera_audit",
    "tessera_audit_heads",
];
/// Versions of the migrations that a database has.
const APPLIED: &str = "SELECT version::text FROM tessera.__diesel_schema_migrations ORDER BY 1";

/// Rows of each table.
pub(super) type Documents = BTreeMap<String, Box<RawValue>>;

/// Reads tables as one JSON object.
pub(super) async fn read(connection: &AsyncPgConnection, tables: &[&str]) -> QueryResult<String> {
    let mut text = String::from("{");
    for (index, table) in tables.iter().enumerate() {
        let sql = format!("SELECT coalesce(json_agg(t),'[]')::text FROM tessera.{table} AS t");
        let rows = load(connection, Statement { sql: &sql, binds: &[], cached: false }).await?;
        let rows = rows.first().and_then(|row| row.text(0)).unwrap_or_default();
        let comma = if index == 0 { "" } else { "," };
        text.push_str(&format!("{comma}\n\"{table}\":{rows}"));
    }
    text.push_str("\n}\n");
    Ok(text)
}

/// Replaces the rows of a table.
pub(super) async fn store(
    connection: &AsyncPgConnection,
    table: &str,
    documents: &Documents,
) -> QueryResult<()> {
    let empty = format!("DELETE FROM tessera.{table}");
    load(connection, Statement { sql: &empty, binds: &[], cached: false }).await?;
    let Some(rows) = documents.get(table) else { return Ok(()) };
    let sql = format!(
        "INSERT INTO tessera.{table} OVERRIDING SYSTEM VALUE \
         SELECT * FROM json_populate_recordset(NULL::tessera.{table},$1::json)"
    );
    let binds = [Bind::text(rows.get())];
    load(connection, Statement { sql: &sql, binds: &binds, cached: false }).await.map(drop)
}

/// Returns the latest migrations of shards and catalogs that this program knows.
pub(super) fn own_schemas() -> [String; 2] {
    [shard_database::migrations(), catalog::migrations()].map(|known| {
        let latest = known.into_iter().max();
        latest.unwrap_or_default()
    })
}

/// Checks that the databases of a cluster have exactly the schema of this program.
pub(super) async fn check_schemas(sessions: &ClusterSessions) -> Result<(), OpenError> {
    let (of_shards, of_catalog) = (shard_database::migrations(), catalog::migrations());
    let all: Vec<&String> = of_shards.iter().chain(&of_catalog).collect();
    let of_analytics = |version: &str| version.get(8..).is_some_and(|number| number >= "950001");
    let judge = |applied: &[String], needed: &[String]| {
        if needed.iter().any(|version| !applied.contains(version)) {
            return Err(
                "its schema is older than this program: start a router of this version once, which migrates it",
            );
        }
        let is_newer = |version: &&String| !all.contains(version) && !of_analytics(version);
        match applied.iter().find(is_newer) {
            Some(_) => Err("its schema is newer than this program: use the program that made it"),
            None => Ok(()),
        }
    };
    let catalog = &sessions.catalog.connection;
    let failed = |error: &dyn std::fmt::Display| OpenError::node("the catalog", error);
    let found = applied(catalog).await.map_err(|error| failed(&error))?;
    judge(&found, &of_catalog).map_err(|cause| failed(&cause))?;
    for shard in &sessions.shards {
        let found = applied(shard.connection()).await.map_err(|error| shard.failed(error))?;
        judge(&found, &of_shards).map_err(|cause| shard.failed(cause))?;
    }
    Ok(())
}

async fn applied(connection: &AsyncPgConnection) -> QueryResult<Vec<String>> {
    let rows = load(connection, Statement { sql: APPLIED, binds: &[], cached: false }).await?;
    Ok(rows.iter().filter_map(|row| row.text(0)).collect())
}
