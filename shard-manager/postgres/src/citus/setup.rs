//! Setup: checks that a server is the configured `engine`, and distributes its tables.
//!
//! **Invariant:** after `distribute` every table of rows is distributed over the workers by its
//! shard key, and all tables are co-located.
//! **Not here:** the tables themselves (the migrations, `ddl`).

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use model::table::Table;

use crate::node_address::ServerEngine;
use crate::statement::{Bind, Statement, load, run};

/// Oldest supported version of Citus. The statements were tested on 13.
pub const VERSION_MIN: u32 = 12;

/// Reads the version of the extension. The catalog of Citus is read only if the extension exists
/// ([`STANDING`]).
const EXTENSION: &str = "SELECT (SELECT extversion FROM pg_extension WHERE extname = 'citus')";
/// Reads the group of this node, the number of nodes that may hold shards, and 1 if Tessera's
/// tables are distributed.
const STANDING: &str = "SELECT (SELECT groupid FROM pg_dist_local_group)::bigint,
    (SELECT count(*) FROM pg_dist_node WHERE isactive AND shouldhaveshards AND noderole = 'primary'),
    (SELECT count(*) FROM pg_dist_partition WHERE logicalrelid::oid = to_regclass('tessera.tessera_idempotency'))";

/// Distributes a table that is not distributed yet: its rows are copied to the workers. Excludes
/// other sessions that distribute the same table.
const DISTRIBUTE: &str =
    "SELECT create_distributed_table($1::text::regclass, 'shard_key', colocate_with => $2)
    WHERE NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = $1::text::regclass)";

/// Finds a table of rows that is not distributed in the same way as the others.
const MISDISTRIBUTED: &str = "SELECT logicalrelid::text FROM pg_dist_partition AS p
    WHERE logicalrelid = ANY($1::text[]::regclass[]) AND (partmethod <> 'h'
        OR column_to_column_name(logicalrelid, partkey) <> 'shard_key'
        OR colocationid <> (SELECT colocationid FROM pg_dist_partition
            WHERE logicalrelid = 'tessera.tessera_idempotency'::regclass))
    ORDER BY 1 LIMIT 1";

/// Limits Citus to one connection to each worker in a transaction that creates and distributes
/// tables.
pub(crate) const ONE_BY_ONE: &str = "SET LOCAL citus.multi_shard_modify_mode TO 'sequential'";

/// Table with which all others are co-located.
const FIRST: &str = "tessera.tessera_idempotency";

/// Returns the reason why a server is not the configured `engine`; `None` if it is.
///
/// # Errors
/// The error of the query.
pub async fn mismatch(
    connection: &AsyncPgConnection,
    engine: ServerEngine,
) -> QueryResult<Option<String>> {
    let rows = load(connection, Statement { sql: EXTENSION, binds: &[], cached: false }).await?;
    let version = rows.first().and_then(|row| row.text(0));
    let Some(version) = version else {
        let missing = "engine is citus, and the database has no extension citus: CREATE EXTENSION citus (it has to be \
            in shared_preload_libraries), or set engine = \"postgres\"";
        return Ok((engine == ServerEngine::Citus).then(|| missing.to_owned()));
    };
    let rows = load(connection, Statement { sql: STANDING, binds: &[], cached: false }).await?;
    let number = |column| rows.first().and_then(|row| row.bigint(column)).unwrap_or(0);
    let (group, workers, distributed) = (number(0), number(1), number(2));
    let major = version.split(['.', '-']).next().and_then(|major| major.parse::<u32>().ok());
    Ok(match engine {
        ServerEngine::Postgres => (distributed > 0).then(|| {
            "the tables are distributed by Citus, and engine is postgres: set engine = \"citus\"".to_owned()
        }),
        ServerEngine::Citus if major.is_none_or(|major| major < VERSION_MIN) => {
            Some(format!("it has Citus {version}; Tessera needs {VERSION_MIN} or later"))
        }
        ServerEngine::Citus if group != 0 => {
            Some("it is a worker of a Citus cluster: name the coordinator".to_owned())
        }
        ServerEngine::Citus if workers == 0 => Some(
            "the Citus cluster has no node that may hold shards: SELECT citus_add_node('host', 5432) on the \
             coordinator, in this database"
                .to_owned(),
        ),
        ServerEngine::Citus => None,
    })
}

/// Distributes the table of idempotency keys and these tables, except those that are distributed
/// already.
///
/// # Errors
/// The error of Citus.
pub(crate) async fn distribute(
    connection: &AsyncPgConnection,
    tables: &[&Table],
) -> QueryResult<()> {
    run(connection, "BEGIN").await?;
    run(connection, ONE_BY_ONE).await?;
    distribute_one(connection, FIRST, "none").await?;
    for table in tables {
        distribute_table(connection, table).await?;
    }
    run(connection, "COMMIT").await
}

/// Distributes one table like the others, in the open transaction.
///
/// # Errors
/// The error of Citus.
pub(crate) async fn distribute_table(
    connection: &AsyncPgConnection,
    table: &Table,
) -> QueryResult<()> {
    distribute_one(connection, &format!("public.{}", table.name()), FIRST).await
}

async fn distribute_one(connection: &AsyncPgConnection, name: &str, like: &str) -> QueryResult<()> {
    let binds = [Bind::text(name), Bind::text(like)];
    load(connection, Statement { sql: DISTRIBUTE, binds: &binds, cached: false }).await.map(drop)
}

/// Returns a table that an operator has distributed in another way.
///
/// # Errors
/// The error of the query.
pub(crate) async fn misdistributed_table(
    connection: &AsyncPgConnection,
    tables: &[&Table],
) -> QueryResult<Option<String>> {
    let names: Vec<String> =
        tables.iter().map(|table| format!("public.{}", table.name())).collect();
    let binds = [Bind::texts(names.iter().map(String::as_str))];
    let statement = Statement { sql: MISDISTRIBUTED, binds: &binds, cached: false };
    let rows = load(connection, statement).await?;
    Ok(rows.first().and_then(|row| row.text(0)))
}
