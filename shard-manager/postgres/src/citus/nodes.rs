//! Nodes: the nodes of a Citus cluster, for status reports.
//!
//! **Not here:** orders for the nodes (`backend::nodes`).

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::WorkerNode;

use crate::statement::{Statement, load};

/// Reads the nodes, named by their groups: clients of the router must not see addresses. The
/// workers report the sizes.
const NODES: &str = "SELECT CASE n.groupid WHEN 0 THEN 'coordinator' ELSE format('worker%s', n.groupid) END
            || CASE n.noderole WHEN 'primary' THEN '' ELSE format('-%s%s', n.noderole, n.nodeid) END, n.groupid::bigint, n.noderole::text, n.isactive, n.shouldhaveshards,
        count(s.shardid), coalesce(sum(s.shard_size), 0)::bigint
    FROM pg_dist_node AS n
    LEFT JOIN citus_shards AS s ON s.nodename = n.nodename AND s.nodeport = n.nodeport
        AND s.table_name IN (SELECT logicalrelid FROM pg_dist_partition WHERE colocationid =
            (SELECT colocationid FROM pg_dist_partition WHERE logicalrelid = 'tessera.tessera_idempotency'::regclass))
    GROUP BY n.nodeid ORDER BY n.groupid, n.nodeid";

/// Returns all nodes of the cluster, the coordinator first.
pub(crate) async fn ask(connection: &AsyncPgConnection) -> QueryResult<Vec<WorkerNode>> {
    let rows = load(connection, Statement { sql: NODES, binds: &[], cached: true }).await?;
    let node = |row: &crate::statement::RowView| {
        Some(WorkerNode {
            node: row.text(0)?,
            group: row.bigint(1)?,
            role: row.text(2)?,
            active: row.boolean(3)?,
            gets_rows: row.boolean(4)?,
            shards: row.bigint(5)?,
            bytes: row.bigint(6)?,
        })
    };
    Ok(rows.iter().filter_map(node).collect())
}
