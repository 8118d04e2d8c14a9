//! Replicas: checks that the replicas of a shard have the rows of their primary.
//!
//! Both servers add up hashes of the rows of each slot: the primary in the snapshot of the audit,
//! the replica once it has replayed the position of that snapshot. Slots to which rows were written
//! in between differ as well. So the rows of differing slots are read again, from both in turn:
//! primary (before), replica, primary, replica (after). Versions only grow, so a row that a node
//! returns twice with the same hash was there in between, and the other node must have returned it.
//!
//! **Invariant:** a difference is reported only if no order of writes explains it.
//! **Not here:** the rules for a row (`audit/rows`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::audit_report::Discrepancy;
use model::table::Table;

use super::rows::RowHashes;
use super::{Audit, about, insert_position};
use crate::node::Node;
use crate::session::{NodeRole, Session};
use crate::sql;
use crate::statement::{Bind, Statement, load, run};

/// Longest wait for a replica to replay a position.
const REPLAY_WAIT: Duration = Duration::from_secs(10);
const REPLAY_PAUSE: Duration = Duration::from_millis(20);
/// Maximum number of slots of one table of one replica whose rows are read.
const SLOTS_MAX: usize = 64;
/// Maximum number of rows that are named for one table of one replica.
const NAMED_MAX: usize = 10;
const REPLAYED: &str = "SELECT (pg_last_wal_replay_lsn()-'0/0')::bigint,pg_is_in_recovery()";
const SETTINGS: &str = "SET statement_timeout=0; SET idle_in_transaction_session_timeout=0";
const ONE_SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Sums of the rows of each slot: their number, and the sum of their hashes.
type Digests = BTreeMap<i64, (i64, String)>;

/// The replicas of a shard in an audit.
pub(super) struct Replicas {
    replicas: Vec<Replica>,
}

struct Replica {
    name: String,
    session: Session,
    /// Slots whose sums differ.
    suspects: Vec<Suspect>,
}

/// Slot of a table whose sums differ, with the rows that were seen.
struct Suspect {
    table: Table,
    slot: i64,
    primary: RowHashes,
    replica: RowHashes,
}

impl Replicas {
    /// Connects to the replicas and waits until they have replayed the position of the audit.
    pub(super) async fn open(audit: &mut Audit<'_>) -> Self {
        let mut replicas = Vec::new();
        for node in &audit.shard.nodes[1..] {
            match Replica::open(node, audit.slots.position).await {
                Ok(Some(replica)) => replicas.push(replica),
                Ok(None) => audit.report.notes.push(lagging(&node.name)),
                Err(error) => report(audit, &node.name, &error),
            }
        }
        Self { replicas }
    }

    /// Compares a table with the snapshot of the primary.
    pub(super) async fn compare(
        &mut self,
        audit: &mut Audit<'_>,
        table: &Table,
    ) -> QueryResult<()> {
        if self.replicas.is_empty() {
            return Ok(());
        }
        let primary = audit.shard.connection();
        let expected = digests(primary, table).await?;
        let mut compared = Vec::with_capacity(self.replicas.len());
        for mut replica in std::mem::take(&mut self.replicas) {
            let slots = match replica.differing(table, &expected).await {
                Ok(slots) => slots,
                Err(error) => {
                    report(audit, &replica.name, &error.to_string());
                    continue;
                }
            };
            let mut suspects = Vec::new();
            for slot in slots.into_iter().take(SLOTS_MAX) {
                suspects.push((slot, hashes(primary, table, slot).await?));
            }
            match replica.suspect(table, suspects).await {
                Ok(()) => compared.push(replica),
                Err(error) => report(audit, &replica.name, &error.to_string()),
            }
        }
        self.replicas = compared;
        Ok(())
    }

    /// Reads the rows of differing slots again, reports those that no write explains, and returns
    /// the replicas that equal the primary.
    pub(super) async fn prove(self, audit: &mut Audit<'_>) -> QueryResult<Vec<String>> {
        let mut equal = Vec::new();
        for replica in self.replicas {
            if replica.suspects.is_empty() {
                equal.push(replica.name);
                continue;
            }
            let name = replica.name.clone();
            match replica.prove(audit).await? {
                Ok(true) => equal.push(name),
                Ok(false) => {}
                Err(note) => audit.report.notes.push(note),
            }
        }
        Ok(equal)
    }
}

fn lagging(node: &str) -> String {
    format!("{node} lags too far to be compared")
}

fn report(audit: &mut Audit<'_>, node: &str, error: &str) {
    // A replica cancels reads that keep it from replaying.
    if error.contains("conflict with recovery") {
        audit.report.notes.push(format!("{node} was not compared: {error}"));
        return;
    }
    let found = about(&audit.shard.name, error, "a replica that can be read");
    audit.report.add(Discrepancy { node: node.to_owned(), ..found });
}

impl Replica {
    /// Connects to a replica, and begins a snapshot once the replica has replayed a position;
    /// `None` if it does not do so in time.
    async fn open(node: &Node, position: u64) -> Result<Option<Self>, String> {
        let session = node.connect("check", NodeRole::Replica).await;
        let session = session.map_err(|error| error.to_string())?;
        let replica = Self { name: node.name.clone(), session, suspects: Vec::new() };
        let begun = async {
            run(&replica.session.connection, SETTINGS).await?;
            if !replica.has_replayed(position).await? {
                return Ok(false);
            }
            run(&replica.session.connection, ONE_SNAPSHOT).await?;
            Ok(true)
        };
        let begun: QueryResult<bool> = begun.await;
        Ok(begun.map_err(|error| error.to_string())?.then_some(replica))
    }

    /// Waits until the replica has replayed a position; false if it does not in time.
    async fn has_replayed(&self, position: u64) -> QueryResult<bool> {
        let limit = Instant::now() + REPLAY_WAIT;
        loop {
            let statement = Statement { sql: REPLAYED, binds: &[], cached: false };
            let rows = load(&self.session.connection, statement).await?;
            let replayed = rows.first().and_then(|row| row.bigint(0)).unwrap_or(0);
            if replayed.cast_unsigned() >= position {
                return Ok(true);
            }
            if Instant::now() >= limit {
                return Ok(false);
            }
            tokio::time::sleep(REPLAY_PAUSE).await;
        }
    }

    /// Returns the slots of a table whose sums differ from the primary's.
    async fn differing(&self, table: &Table, expected: &Digests) -> QueryResult<Vec<i64>> {
        let found = digests(&self.session.connection, table).await?;
        let slots: BTreeSet<i64> = expected.keys().chain(found.keys()).copied().collect();
        let differ = slots.into_iter().filter(|slot| expected.get(slot) != found.get(slot));
        Ok(differ.collect())
    }

    /// Reads the rows of slots whose sums differ, each with the rows of the primary.
    async fn suspect(&mut self, table: &Table, slots: Vec<(i64, RowHashes)>) -> QueryResult<()> {
        for (slot, primary) in slots {
            let replica = hashes(&self.session.connection, table, slot).await?;
            self.suspects.push(Suspect { table: table.clone(), slot, primary, replica });
        }
        Ok(())
    }

    /// Returns true if all differences can be explained by writes, else reports those that cannot;
    /// a note if the replica cannot be read again.
    async fn prove(self, audit: &mut Audit<'_>) -> QueryResult<Result<bool, String>> {
        let connection = &self.session.connection;
        let mut faults = 0;
        for Suspect { table, slot, primary, replica } in &self.suspects {
            let now = hashes(audit.shard.connection(), table, *slot).await?;
            let position = insert_position(audit.shard).await?;
            let again = async {
                run(connection, "ROLLBACK").await?;
                if !self.has_replayed(position).await? {
                    return Ok(None);
                }
                hashes(connection, table, *slot).await.map(Some)
            };
            let again: QueryResult<Option<RowHashes>> = again.await;
            let Ok(Some(again)) = again else { return Ok(Err(lagging(&self.name))) };
            let found = contradictions([primary, replica, &now, &again]);
            faults += found.len();
            for ((key, id), what, expected) in found.into_iter().take(NAMED_MAX) {
                let found = about(&audit.shard.name, what, expected);
                audit.report.add(Discrepancy {
                    node: self.name.clone(),
                    table: Some(table.name().to_owned()),
                    key: Some(key),
                    id: Some(id),
                    ..found
                });
            }
        }
        Ok(Ok(faults == 0))
    }
}

async fn digests(connection: &AsyncPgConnection, table: &Table) -> QueryResult<Digests> {
    let sql = sql::slot_digests(table);
    let rows = load(connection, Statement { sql: &sql, binds: &[], cached: false }).await?;
    let digest = |row: &crate::statement::RowView| {
        Some((row.bigint(0)?, (row.bigint(1)?, row.text(2).unwrap_or_default())))
    };
    Ok(rows.iter().filter_map(digest).collect())
}

async fn hashes(
    connection: &AsyncPgConnection,
    table: &Table,
    slot: i64,
) -> QueryResult<RowHashes> {
    let sql = sql::row_hashes(table);
    let binds = [Bind::integer(i32::try_from(slot).unwrap_or(-1))];
    let rows = load(connection, Statement { sql: &sql, binds: &binds, cached: false }).await?;
    let hash = |row: &crate::statement::RowView| {
        let text = |column| row.text(column).unwrap_or_default();
        ((text(0), text(1)), text(2))
    };
    Ok(rows.iter().map(hash).collect())
}

type Contradiction = ((String, String), &'static str, &'static str);

/// Compares four readings in the order in which they were taken (primary, replica, primary,
/// replica), and returns the rows that no order of writes explains.
fn contradictions([before, seen, now, after]: [&RowHashes; 4]) -> Vec<Contradiction> {
    let keys: BTreeSet<&(String, String)> = before.keys().chain(after.keys()).collect();
    let mut found = Vec::new();
    for key in keys {
        let [before, seen, now, after] = [before, seen, now, after].map(|rows| rows.get(key));
        let contradiction = if before.is_some() && before == now && seen != before {
            Some(match seen {
                None => ("the row is missing on the replica", "the primary's row"),
                Some(_) => ("the row differs from the primary's", "the primary's row"),
            })
        } else if seen.is_some() && seen == after && now != seen {
            Some(match now {
                None => ("the row is on the replica alone", "no such row, as on the primary"),
                Some(_) => ("the row differs from the primary's", "the primary's row"),
            })
        } else {
            None
        };
        found.extend(contradiction.map(|(what, expected)| (key.clone(), what, expected)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(hash: Option<&str>) -> RowHashes {
        hash.map(|hash| (("k".to_owned(), "1".to_owned()), hash.to_owned())).into_iter().collect()
    }

    fn judged(hashes: [Option<&str>; 4]) -> usize {
        let [before, seen, now, after] = hashes.map(rows);
        contradictions([&before, &seen, &now, &after]).len()
    }

    #[test]
    fn writes_between_two_readings_are_no_contradiction() {
        let (a, b) = (Some("a"), Some("b"));
        for explained in [
            [a, a, a, a],
            [a, b, b, b],
            [a, a, b, b],
            [None, a, a, a],
            [None, None, a, a],
            [a, None, None, None],
            [None, a, None, None],
            [a, b, None, None],
        ] {
            assert_eq!(judged(explained), 0, "{explained:?}");
        }
    }

    #[test]
    fn a_row_that_one_node_keeps_and_the_other_does_not_show_is_a_contradiction() {
        let (a, b) = (Some("a"), Some("b"));
        for contradicted in [[a, None, a, a], [a, b, a, b], [None, b, None, b], [None, b, a, b]] {
            assert_eq!(judged(contradicted), 1, "{contradicted:?}");
        }
    }
}
