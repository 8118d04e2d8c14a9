//! Tests of reads on nodes whose slots come and go: a node returns only rows whose slots it owned
//! when the rows were read.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value as Json;
use shard_manager::engine::slot_change::SlotStep;
use shard_manager::engine::{NodeReader, NodeRows, ScanRead};
use shard_manager::error::Error;
use shard_manager::fair_share::FairShare;
use shard_manager::keyspace::Slot;
use shard_manager::query::ReadQuery;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::slot_refusal::RefusedState::{self, Absent, Importing, Moved};
use shard_manager::slot_set::SlotSet;
use shard_manager::topology::ShardNumber;

use crate::cluster::{Databases, SideSession, Trio};
use crate::rows::deadline;
use crate::slot_router::{SlotRouter, all_but, refused};

const AWAY: SlotStep = SlotStep::HandOver { to: ShardNumber(2) };
const FENCE: SlotStep = SlotStep::Fence { hold: Duration::from_secs(60) };

/// A cluster of one shard, with a replica or without, that has users with these keys.
async fn with_users(replicas: bool) -> (Databases, SlotRouter, Vec<String>, SideSession) {
    let databases = Databases::new(1).await;
    let address = if replicas { databases.with_replicas().await } else { databases.address() };
    let mut router = SlotRouter::open(&address);
    let keys: Vec<String> = (0..24).map(|number| format!("k{number:02}")).collect();
    let named: Vec<&str> = keys.iter().map(String::as_str).collect();
    assert!(router.write_users(Upsert, &named).await.iter().all(Result::is_ok));
    let direct = databases.direct_session(0).await;
    (databases, router, keys, direct)
}

fn primary(router: &SlotRouter) -> Arc<dyn NodeReader> {
    Arc::clone(&router.opened.shards[0].primary) as _
}

fn replica(router: &SlotRouter) -> Arc<dyn NodeReader> {
    router.opened.shards[0].replicas[1].node.reader().unwrap()
}

/// Waits until the replica has replayed a position.
async fn replayed(router: &SlotRouter, position: u64) {
    let deadline = deadline();
    while router.opened.shards[0].replication.replicas().applied(1) < position {
        assert!(std::time::Instant::now() < deadline, "the replica does not follow");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn found(rows: &NodeRows) -> BTreeSet<String> {
    let row = |at| serde_json::from_slice::<Json>(rows.rows.row(at)).unwrap();
    (0..rows.rows.len()).map(|at| row(at)["user_id"].as_str().unwrap().to_owned()).collect()
}

/// Reads all keys at once, so that they share statements, as short reads and as long ones.
async fn check_keys(
    router: &SlotRouter,
    node: &dyn NodeReader,
    keys: &[String],
    refusal: impl Fn(usize) -> Option<RefusedState>,
) {
    for counts in [false, true] {
        let reads = keys.iter().map(|key| router.read(node, key, counts));
        for (at, read) in join_all(reads).await.into_iter().enumerate() {
            match refusal(at) {
                Some(state) => assert_eq!(refused(&read), state, "{}", keys[at]),
                None => {
                    let rows = read.unwrap();
                    assert_eq!(found(&rows), [keys[at].clone()].into(), "{}", keys[at]);
                    assert_eq!(rows.owned, None, "a read of one key");
                }
            }
        }
    }
}

async fn check_nodes(
    router: &SlotRouter,
    keys: &[String],
    refusal: impl Fn(usize) -> Option<RefusedState> + Copy,
) {
    let slots: Vec<Slot> = (0..keys.len())
        .filter(|at| refusal(*at).is_some())
        .map(|at| router.slot(&keys[at]))
        .collect();
    for node in [primary(router), replica(router)] {
        check_keys(router, &*node, keys, refusal).await;
        let rows = router.scan(&*node).await;
        let left = (0..keys.len()).filter(|at| refusal(*at).is_none());
        let left: BTreeSet<String> = left.map(|at| keys[at].clone()).collect();
        assert_eq!(rows.rows.total, Some(left.len() as u64));
        assert_eq!(found(&rows), left);
        assert_eq!(rows.owned.as_deref(), Some(&all_but(&slots)));
    }
    let counted = router.opened.shards[0].primary.row_counts(deadline()).await.unwrap();
    let users = counted.iter().find(|table| table.table == "users").unwrap();
    assert_eq!(users.rows as usize, keys.len() - slots.len());
}

#[tokio::test]
async fn a_node_returns_only_rows_of_slots_that_it_owns() {
    let (_databases, mut router, keys, mut direct) = with_users(true).await;
    let slot = |at: usize| router.slot(&keys[at]);
    let [fenced, moved, importing, gone] = [3, 5, 9, 20].map(slot);
    check_nodes(&router, &keys, |_| None).await;
    let at = router.must_change(&[fenced], FENCE).await;
    replayed(&router, at).await;
    check_nodes(&router, &keys, |_| None).await;
    router.must_change(&[moved], AWAY).await;
    let [importing, gone] = [importing, gone].map(Slot::number);
    let set = format!("UPDATE tessera_slots SET state='importing' WHERE slot={importing}");
    direct.run(&set).await;
    direct.run(&format!("DELETE FROM tessera_slots WHERE slot={gone}")).await;
    let at = router.must_change(&[fenced], SlotStep::Release).await;
    replayed(&router, at).await;
    let refusal = |at: usize| match at {
        5 => Some(Moved { to: ShardNumber(2) }),
        9 => Some(Importing),
        20 => Some(Absent),
        _ => None,
    };
    check_nodes(&router, &keys, refusal).await;
    // A missing row and a refused slot differ.
    let (node, absent) = (primary(&router), "nobody");
    assert_eq!(router.read(&*node, absent, false).await.unwrap().rows.len(), 0);
    // A read that names keys leaves out those of other slots, and says so.
    let named = [3, 5].map(|at| (router.slot(&keys[at]), keys[at].clone()));
    let query = ReadQuery { keys: named.into(), ..ReadQuery::all(&router.users()) };
    let (query, share) = (Arc::new(query), FairShare::COMMON);
    let read = ScanRead { query, min_position: 0, deadline: deadline(), share };
    let rows = node.scan(read).await.unwrap();
    assert_eq!(found(&rows), [keys[3].clone()].into());
    assert!(!rows.owned.unwrap().contains(moved));
    let back = [5, 9, 20].map(|at| router.slot(&keys[at]));
    let at = router.must_change(&back, SlotStep::TakeOver).await;
    replayed(&router, at).await;
    check_nodes(&router, &keys, |_| None).await;
}

#[tokio::test]
async fn a_database_without_its_bits_answers_no_read() {
    let (_databases, router, keys, mut direct) = with_users(false).await;
    let node = primary(&router);
    router.scan(&*node).await;
    direct.run("DELETE FROM tessera_readable").await;
    let short = router.read(&*node, &keys[0], false).await;
    assert!(matches!(refused(&short), RefusedState::Fenced { .. }), "{short:?}");
    let long = router.read(&*node, &keys[0], true).await;
    assert_eq!(long.unwrap_err(), Error::Internal);
    direct.run("UPDATE tessera_slots SET state='owned' WHERE slot=0").await;
    assert_eq!(router.scan(&*node).await.rows.len(), keys.len());
    check_keys(&router, &*node, &keys, |_| None).await;
}

/// While slots come and go, the rows of each scan are exactly those of the slots that it covers.
#[tokio::test]
async fn the_rows_of_a_scan_are_those_of_its_slots_whatever_changes_meanwhile() {
    let (databases, mut changer, keys, _direct) = with_users(false).await;
    let reader = SlotRouter::open(&databases.address());
    let node = primary(&reader);
    let slots: Vec<Slot> = keys.iter().map(|key| reader.slot(key)).collect();
    let (is_over, seen) = (Cell::new(false), Cell::new(0));
    let changing = async {
        for round in 0..6_000_usize {
            // On a busy machine a scan may take as long as many changes.
            if round >= 60 && seen.get() > 1 && round % 2 == 0 {
                break;
            }
            let some: Vec<Slot> =
                slots.iter().copied().skip(round % 5).step_by(1 + round % 3).collect();
            let step = if round % 2 == 0 { AWAY } else { SlotStep::TakeOver };
            changer.must_change(&some, step).await;
            if round % 2 == 1 {
                changer.must_change(&slots, SlotStep::TakeOver).await;
            }
            tokio::task::yield_now().await;
        }
        is_over.set(true);
    };
    let scanning = async {
        let mut sets = BTreeSet::new();
        loop {
            let last = is_over.get();
            let rows = reader.scan(&*node).await;
            let owned = rows.owned.clone().unwrap();
            let covered = keys.iter().filter(|key| owned.contains(reader.slot(key)));
            let covered: BTreeSet<String> = covered.cloned().collect();
            assert_eq!(found(&rows), covered);
            assert_eq!(rows.rows.total, Some(covered.len() as u64));
            sets.insert(covered);
            seen.set(sets.len());
            if last {
                return sets.len();
            }
        }
    };
    let reading = async {
        while !is_over.get() {
            for read in join_all(keys.iter().map(|key| reader.read(&*node, key, false))).await {
                match read {
                    Ok(rows) => assert_eq!(rows.rows.len(), 1),
                    refusal => {
                        // The reason is that of the snapshot in which the slot was not owned.
                        assert_eq!(refused(&refusal), Moved { to: ShardNumber(2) });
                    }
                }
            }
        }
    };
    let ((), sets, ()) = tokio::join!(changing, scanning, reading);
    assert!(sets > 1, "no scan saw a change");
    assert_eq!(*reader.scan(&*node).await.owned.unwrap(), SlotSet::full());
}

/// A naive read asks for the slot first and reads the rows in the next statement: between them the
/// slot was handed over, and its new owner may have other rows.
#[tokio::test]
async fn a_naive_read_returns_rows_of_a_slot_that_was_handed_over() {
    let (databases, mut router, keys, _direct) = with_users(false).await;
    let (key, slot) = (&keys[0], router.slot(&keys[0]));
    let mut naive = databases.direct_session(0).await;
    let asked =
        format!("SELECT get_bit(bits, {})::text AS value FROM tessera_readable", slot.number());
    assert_eq!(naive.text(&asked).await, "1");
    router.must_change(&[slot], AWAY).await;
    let rows = format!("SELECT name AS value FROM users WHERE shard_key='{key}'");
    assert_eq!(naive.text(&rows).await, "n", "it returns a row that is not the shard's");
    let node = primary(&router);
    for counts in [false, true] {
        let read = router.read(&*node, key, counts).await;
        assert_eq!(refused(&read), Moved { to: ShardNumber(2) });
    }
}

/// A replica answers by its own snapshot: it owns what its primary owned then.
#[test]
fn a_replica_that_has_not_replayed_a_change_answers_as_of_before() {
    let trio = Trio::of(1, &[]);
    crate::server::runtime().block_on(async {
        let mut router = SlotRouter::open(&trio.address());
        router.write_users(Upsert, &["there"]).await[0].as_ref().unwrap();
        let slot = router.slot("there");
        let node = replica(&router);
        let at = router.must_change(&[slot], FENCE).await;
        replayed(&router, at).await;
        assert_eq!(found(&router.scan(&*node).await).len(), 1);
        let mut direct = SideSession::open(trio.node("shard1-replica1"), "shard1").await;
        direct.run("SELECT pg_wal_replay_pause()").await;
        let paused = "SELECT pg_get_wal_replay_pause_state() AS value";
        direct.until(paused, "paused").await;
        let at = router.must_change(&[slot], AWAY).await;
        for counts in [false, true] {
            let rows = router.read(&*node, "there", counts).await.unwrap();
            assert_eq!(rows.rows.len(), 1);
        }
        let rows = router.scan(&*node).await;
        assert_eq!((rows.rows.len(), &*rows.owned.unwrap()), (1, &SlotSet::full()));
        assert_eq!(router.scan(&*primary(&router)).await.rows.len(), 0);
        direct.run("SELECT pg_wal_replay_resume()").await;
        replayed(&router, at).await;
        let rows = router.scan(&*node).await;
        assert_eq!((rows.rows.len(), &*rows.owned.unwrap()), (0, &all_but(&[slot])));
        for counts in [false, true] {
            let read = router.read(&*node, "there", counts).await;
            assert_eq!(refused(&read), Moved { to: ShardNumber(2) });
        }
    });
}
