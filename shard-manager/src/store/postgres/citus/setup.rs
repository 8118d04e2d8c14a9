//! Setup: whether a server is what `engine` says, and that its tables are distributed.
//!
//! **Invariant:** after `distribute` every table of rows lies on the workers by its shard key, all of them alike.
//! **Not here:** the tables themselves (the migrations, `ddl`).

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;

use crate::node_address::ServerEngine;
use crate::store::postgres::statement::{Bind, Statement, load, run};
use crate::table::Table;

/// The oldest Citus that Tessera speaks to: the statements were tried against 13.
pub const VERSION_MIN: u32 = 12;

/// The extension's version, and whether some of Tessera's tables are distributed. Its catalog is asked only if it is
/// there.
const EXTENSION: &str = "SELECT (SELECT extversion FROM pg_extension WHERE extname = 'citus')";
const STANDING: &str = "SELECT (SELECT groupid FROM pg_dist_local_group)::bigint,
    (SELECT count(*) FROM pg_dist_node WHERE isactive AND shouldhaveshards AND noderole = 'primary'),
    (SELECT count(*) FROM pg_dist_partition WHERE logicalrelid::oid = to_regclass('tessera.tessera_idempotency'))";

/// Makes a table distributed if it is not: its rows are copied to the workers. Alone with others of its kind.
const DISTRIBUTE: &str =
    "SELECT create_distributed_table($1::text::regclass, 'shard_key', colocate_with => $2)
    WHERE NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = $1::text::regclass)";

/// Tables of rows that are distributed otherwise than all others.
const STRANGE: &str = "SELECT logicalrelid::text FROM pg_dist_partition AS p
    WHERE logicalrelid = ANY($1::text[]::regclass[]) AND (partmethod <> 'h'
        OR column_to_column_name(logicalrelid, partkey) <> 'shard_key'
        OR colocationid <> (SELECT colocationid FROM pg_dist_partition
            WHERE logicalrelid = 'tessera.tessera_idempotency'::regclass))
    ORDER BY 1 LIMIT 1";

/// In a transaction that makes tables and distributes them, Citus uses one connection to each worker.
pub(in crate::store::postgres) const ONE_BY_ONE: &str =
    "SET LOCAL citus.multi_shard_modify_mode TO 'sequential'";

/// The table that all others lie like.
const FIRST: &str = "tessera.tessera_idempotency";

/// Why a server is not what `engine` says; `None` if it is.
///
/// # Errors
/// That it cannot be asked.
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

/// Distributes what is not, among these tables and the one of idempotency keys.
///
/// # Errors
/// What Citus says.
pub(in crate::store::postgres) async fn distribute(
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

/// Distributes one table like the others, in the transaction that is open.
///
/// # Errors
/// What Citus says.
pub(in crate::store::postgres) async fn distribute_table(
    connection: &AsyncPgConnection,
    table: &Table,
) -> QueryResult<()> {
    distribute_one(connection, &format!("public.{}", table.name()), FIRST).await
}

async fn distribute_one(connection: &AsyncPgConnection, name: &str, like: &str) -> QueryResult<()> {
    let binds = [Bind::text(name), Bind::text(like)];
    load(connection, Statement { sql: DISTRIBUTE, binds: &binds, cached: false }).await.map(drop)
}

/// A table that somebody has distributed in another way.
///
/// # Errors
/// That the coordinator cannot be asked.
pub(in crate::store::postgres) async fn strange(
    connection: &AsyncPgConnection,
    tables: &[&Table],
) -> QueryResult<Option<String>> {
    let names: Vec<String> =
        tables.iter().map(|table| format!("public.{}", table.name())).collect();
    let binds = [Bind::texts(names.iter().map(String::as_str))];
    let rows = load(connection, Statement { sql: STRANGE, binds: &binds, cached: false }).await?;
    Ok(rows.first().and_then(|row| row.text(0)))
}
