//! Needs: the requirements of Citus for moving rows without blocking writes, checked before
//! anything moves.
//!
//! Citus itself detects most of these faults only when a move fails, and retries that move
//! repeatedly.
//!
//! **Not here:** the requirements for a new node (`citus::joining`), rights of the user, which
//! Citus checks in the transaction that would begin a rebalance.

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;

use super::members::Members;
use crate::statement::{Bind, RowView, Statement, load};

/// Reads, on one node: the version of Citus, `wal_level` and the major version of the server.
pub(super) const REPORT: &str =
    "SELECT concat_ws(' ', (SELECT extversion FROM pg_extension WHERE extname = 'citus'),
    current_setting('wal_level'), current_setting('server_version_num')::integer / 10000)";

/// Lets each node report.
const REPORTS: &str = "SELECT nodeid::bigint, success, result FROM run_command_on_all_nodes($1)";

/// Finds tables whose rows cannot be identified: logical replication cannot replicate their
/// updates.
const WITHOUT_IDENTITY: &str = "SELECT c.oid::regclass::text
    FROM pg_dist_partition AS p JOIN pg_class AS c ON c.oid = p.logicalrelid
    WHERE (p.repmodel = 't' OR p.colocationid <> 0) AND c.relkind = 'r' AND (c.relreplident = 'n' OR c.relreplident = 'd'
        AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary))
    ORDER BY 1";

/// Highest number of tables that a sentence names.
const NAMED_MAX: usize = 5;

/// Report of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// Version of the extension.
    pub(super) citus: String,
    /// The setting `wal_level`.
    pub(super) wal_level: String,
    /// Major version of the server.
    pub(super) server: String,
}

impl Report {
    /// Reads the text that a node has sent; `None` if Citus is missing there.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let mut word = || words.next().map(str::to_owned);
        Some(Self { citus: word()?, wal_level: word()?, server: word()? })
    }

    /// Returns the difference of the versions from those of the coordinator, as a clause.
    pub(super) fn difference(&self, coordinator: &Self) -> Option<String> {
        let Self { citus, server, .. } = self;
        if *citus != coordinator.citus {
            return Some(format!("has Citus {citus}, and the coordinator {}", coordinator.citus));
        }
        (*server != coordinator.server)
            .then(|| format!("has PostgreSQL {server}, and the coordinator {}", coordinator.server))
    }

    /// Returns true if moves from the node need not block writes.
    pub(super) fn decodes(&self) -> bool {
        self.wal_level == "logical"
    }
}

/// Reads the unmet requirements, as sentences with their remedies.
///
/// # Errors
/// The error of a query.
pub(crate) async fn unmet(
    connection: &AsyncPgConnection,
    members: &Members,
) -> QueryResult<Vec<String>> {
    let binds = [Bind::text(REPORT)];
    let rows = load(connection, Statement { sql: REPORTS, binds: &binds, cached: false }).await?;
    let report = |row: &RowView| {
        let is_answer = row.boolean(1).unwrap_or(false);
        let report = row.text(2).filter(|_| is_answer).and_then(|text| Report::parse(&text));
        Some((row.bigint(0)?, report))
    };
    let reports: Vec<(i64, Option<Report>)> = rows.iter().filter_map(report).collect();
    let sql = WITHOUT_IDENTITY;
    let rows = load(connection, Statement { sql, binds: &[], cached: false }).await?;
    let tables: Vec<String> = rows.iter().filter_map(|row| row.text(0)).collect();
    let mut unmet = of_nodes(members, &reports);
    unmet.extend(of_tables(&tables));
    Ok(unmet)
}

/// Returns the unmet requirements of the nodes.
fn of_nodes(members: &Members, reports: &[(i64, Option<Report>)]) -> Vec<String> {
    let of =
        |id| reports.iter().find(|(node, _)| *node == id).and_then(|(_, report)| report.as_ref());
    let coordinator = members.iter().find(|member| member.coordinates());
    let coordinator = coordinator.and_then(|member| of(member.id));
    let mut unmet = Vec::new();
    // A coordinator without rows is not the source of a move.
    for member in members.iter().filter(|member| !member.coordinates() || member.gets_rows) {
        let name = member.name();
        if !member.is_active {
            unmet.push(format!(
                "{name} is not active: call citus_activate_node() on the coordinator, or remove it"
            ));
            continue;
        }
        let Some(report) = of(member.id) else {
            unmet
                .push(format!("{name} does not answer the coordinator, or has no extension citus"));
            continue;
        };
        let difference = coordinator.and_then(|coordinator| report.difference(coordinator));
        unmet.extend(
            difference.map(|difference| format!("{name} {difference}: upgrade one of them")),
        );
        if !report.decodes() {
            let level = &report.wal_level;
            unmet.push(format!(
                "{name} has wal_level = {level}: set wal_level = logical there and restart it. Or call \
                 citus_rebalance_start(shard_transfer_mode => 'block_writes') on the coordinator, \
                 which blocks the writes to each shard while it moves"
            ));
        }
    }
    unmet
}

/// Returns the unmet requirement of the tables, if there is one.
fn of_tables(tables: &[String]) -> Option<String> {
    let mut named =
        tables.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match tables.len() {
        0 => return None,
        count if count > NAMED_MAX => named.push_str(&format!(" and {} more", count - NAMED_MAX)),
        _ => {}
    }
    Some(format!(
        "updates of rows without a primary key or a replica identity cannot be followed while they \
         move: add a primary key to {named}, or ALTER TABLE … REPLICA IDENTITY"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::members::Member;
    use super::*;

    fn members() -> Members {
        let member = |group: i64| {
            let host = "10.0.0.7".to_owned();
            let (id, port, gets_rows) = (group + 1, 5432, group > 0);
            Member { id, group, host, port, is_active: true, gets_rows }
        };
        Members::of((0..3).map(member).collect())
    }

    fn reports(texts: [&str; 3]) -> Vec<(i64, Option<Report>)> {
        (1..).zip(texts.map(Report::parse)).collect()
    }

    #[test]
    fn nodes_that_answer_alike_and_decode_meet_all_needs() {
        let good = "13.2-1 logical 15";
        assert!(of_nodes(&members(), &reports([good; 3])).is_empty());
        let idle = reports(["13.2-1 replica 15", good, good]);
        assert!(of_nodes(&members(), &idle).is_empty(), "a coordinator without rows gives none");
    }

    #[test]
    fn each_need_that_is_not_met_names_its_node_and_the_remedy() {
        let good = "13.2-1 logical 15";
        for (text, sentence) in [
            ("13.2-1 replica 15", "worker2 has wal_level = replica: set wal_level = logical"),
            ("12.1-1 logical 15", "worker2 has Citus 12.1-1, and the coordinator 13.2-1"),
            ("13.2-1 logical 16", "worker2 has PostgreSQL 16, and the coordinator 15"),
            ("logical 16", "worker2 does not answer the coordinator"),
        ] {
            let unmet = of_nodes(&members(), &reports([good, good, text]));
            assert!(unmet.len() == 1 && unmet[0].starts_with(sentence), "{unmet:?}");
        }
        let mut inactive: Vec<Member> = members().iter().cloned().collect();
        inactive[1].is_active = false;
        let unmet = of_nodes(&Members::of(inactive), &reports([good; 3]));
        assert!(unmet.len() == 1 && unmet[0].starts_with("worker1 is not active"), "{unmet:?}");
    }

    #[test]
    fn tables_without_an_identity_are_named_but_not_endlessly() {
        assert_eq!(of_tables(&[]), None);
        let tables: Vec<String> = (1..=7).map(|number| format!("t{number}")).collect();
        let need = of_tables(&tables).expect("it is not met");
        assert!(need.contains("to t1, t2, t3, t4, t5 and 2 more, or"), "{need}");
    }
}
