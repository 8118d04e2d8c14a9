//! Workers: checks the nodes of a Citus cluster through their coordinator. Routers connect to the
//! coordinator only, so no other check reaches the workers.
//!
//! **Not here:** the coordinator, which is checked like any other server (`servers`).

use diesel::QueryableByName;
use diesel::sql_types::{Bool, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::Finding;

/// State of a worker according to the coordinator.
#[derive(QueryableByName)]
struct Node {
    #[diesel(sql_type = Text)]
    node: String,
    #[diesel(sql_type = Bool)]
    active: bool,
    /// True if the coordinator can connect to the worker.
    #[diesel(sql_type = Bool)]
    reached: bool,
    /// True if the worker can connect to all other nodes.
    #[diesel(sql_type = Bool)]
    reaches: bool,
    #[diesel(sql_type = Bool)]
    idle: bool,
}

/// Query that returns the state of each worker. `citus_check_cluster_node_health` lets each active
/// node connect to each other.
const NODES: &str = "WITH health AS MATERIALIZED (
        SELECT f.groupid = 0 AS coordinates, f.nodeid AS asking, t.nodeid AS asked, coalesce(h.result, false) AS well
        FROM citus_check_cluster_node_health() AS h
        JOIN pg_dist_node AS f ON f.nodename = h.from_nodename AND f.nodeport = h.from_nodeport
        JOIN pg_dist_node AS t ON t.nodename = h.to_nodename AND t.nodeport = h.to_nodeport
    )
    SELECT n.nodename || ':' || n.nodeport AS node, n.isactive AS active,
        coalesce((SELECT bool_and(well) FROM health WHERE asked = n.nodeid AND coordinates), true) AS reached,
        coalesce((SELECT bool_and(well) FROM health WHERE asking = n.nodeid), true) AS reaches,
        n.shouldhaveshards AND EXISTS (SELECT FROM pg_dist_placement)
            AND NOT EXISTS (SELECT FROM pg_dist_placement AS p WHERE p.groupid = n.groupid) AS idle
    FROM pg_dist_node AS n WHERE n.groupid <> 0 ORDER BY n.nodeid";

/// Makes the coordinator check the connections between all nodes, and returns the findings about
/// the workers.
pub(super) async fn examine(connection: &mut AsyncPgConnection, about: &str) -> Vec<Finding> {
    let nodes: Vec<Node> = match diesel::sql_query(NODES).get_results(connection).await {
        Ok(nodes) => nodes,
        Err(error) => return vec![Finding::fault(about, error)],
    };
    let found: Vec<Finding> = nodes.iter().filter_map(judge).collect();
    if found.is_empty() {
        let text = format!("coordinates {} worker(s), and all reach each other", nodes.len());
        return vec![Finding::good(about, text)];
    }
    found
}

fn judge(worker: &Node) -> Option<Finding> {
    let Node { node, active, reached, reaches, idle } = worker;
    if !reached {
        let text = "its coordinator does not reach it: its rows can be neither read nor written";
        return Some(Finding::fault(node, text));
    }
    let doubts = [
        (!active, "is not active and has no rows: call citus_activate_node() on the coordinator"),
        (!reaches, "does not reach all other nodes: what Citus moves may not get there"),
        (*idle, "holds no rows yet: call citus_rebalance_start() on the coordinator"),
    ];
    doubts.into_iter().find(|(so, _)| *so).map(|(_, text)| Finding::warning(node, text))
}
