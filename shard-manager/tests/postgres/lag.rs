//! Tests of replication lag: what clients are shown while replicas are behind.

use std::time::{Duration, Instant};

use shard_manager::access::rights::Rights;
use shard_manager::cache::ServedBy;
use shard_manager::consistency::Level;
use shard_manager::engine::move_record::{MoveOrder, MovePhase};
use shard_manager::manager::{Manager, RequestOptions};
use shard_manager::query::ReadQuery;

use shard_manager::token::SessionToken;

use crate::cluster::{Databases, SideSession, Trio, connect};
use crate::move_clients::keys_of;
use crate::move_steps::{LONG, SOURCE, TARGET, begin, kept_up, new, order, until};
use crate::read_write_steps::{at, get, put, seen, until_replicas};
use crate::rows::options;
use crate::server::runtime;

/// Delay with which replicas apply every change.
const DELAY: Duration = Duration::from_millis(400);
/// Staleness that no replica with this delay can meet under continuous writes.
const TIGHT: Duration = Duration::from_millis(100);

/// True once a shard owns all its slots again.
const RETURNED: &str = "SELECT (count(*) = 0)::text AS value FROM tessera.tessera_slots
    WHERE state <> 'owned'";

#[test]
fn a_client_never_sees_less_than_it_has_written_however_far_replicas_are_behind() {
    let trio = Trio::start();
    let manager = connect(&trio.address());
    runtime().block_on(async {
        let mut sessions = Vec::new();
        for replica in trio.cluster.replicas_of(0) {
            sessions.push(SideSession::open(replica, "shard1").await);
        }
        put(&manager, "k", &at(Level::All)).await.unwrap();
        for direct in &mut sessions {
            direct.run("SELECT pg_wal_replay_pause()").await;
            direct.until("SELECT pg_get_wal_replay_pause_state() AS value", "paused").await;
        }
        // Rows that replicas have on disk confirm a write, although the replicas do not show them
        // yet.
        let written = put(&manager, "new", &at(Level::All)).await.unwrap();
        let with = RequestOptions { session: seen(&manager, &written), ..at(Level::One) };
        for _ in 0..20 {
            let read = get(&manager, "new", &with).await.unwrap();
            assert_eq!((read.rows.len(), read.served_by), (1, ServedBy::Primary));
            assert_eq!(get(&manager, "new", &at(Level::Quorum)).await.unwrap().rows.len(), 1);
        }
        // A client without a session may be shown older rows, but none older than the reported
        // staleness.
        let read = get(&manager, "new", &at(Level::One)).await.unwrap();
        assert_eq!((read.rows.len(), read.served_by), (0, ServedBy::Replica));
        tokio::time::sleep(Duration::from_millis(300)).await;
        let fresh = RequestOptions { staleness: Duration::from_millis(250), ..options() };
        let read = get(&manager, "new", &fresh).await.unwrap();
        assert_eq!((read.rows.len(), read.served_by), (1, ServedBy::Primary));

        for direct in &mut sessions {
            direct.run("SELECT pg_wal_replay_resume()").await;
        }
        let began = Instant::now();
        while get(&manager, "new", &with).await.unwrap().served_by != ServedBy::Replica {
            assert!(began.elapsed() < Duration::from_secs(20), "replicas stay out");
        }
        stay_a_little_behind(&manager, &mut sessions).await;
    });
    manager.close();
}

/// A replica that is always a little behind, under continuous writes, must not fall further behind.
async fn stay_a_little_behind(manager: &Manager, replicas: &mut [SideSession]) {
    let delay = DELAY.as_millis();
    for direct in replicas {
        direct.run(&format!("ALTER SYSTEM SET recovery_min_apply_delay='{delay}ms'")).await;
        direct.run("SELECT pg_reload_conf()").await;
    }
    let bound = Duration::from_secs(3);
    let began = Instant::now();
    let (mut old, mut new) = (0, 0);
    let mut writes = Vec::new();
    while old < 20 {
        let elapsed = began.elapsed();
        assert!(
            elapsed < Duration::from_secs(60),
            "replicas that are 400 ms behind answer those who bear three seconds"
        );
        let written_from = Instant::now();
        put(manager, "busy", &at(Level::One)).await.unwrap();
        writes.push((written_from, Instant::now()));
        let loose = RequestOptions { staleness: bound, ..options() };
        let tight = RequestOptions { staleness: TIGHT, ..options() };
        let loose = get(manager, "busy", &loose).await.unwrap().served_by;
        let asked = Instant::now();
        let tight = get(manager, "busy", &tight).await.unwrap().served_by;
        // While the machine stands still, replicas catch up, and may answer. They may not if a
        // write was stored so long before the read, and is still too young to be applied.
        let answered = Instant::now();
        let is_behind = writes.iter().any(|(from, to): &(Instant, Instant)| {
            *to + TIGHT <= asked && answered < *from + DELAY
        });
        // By now, a replica that falls further and further behind is older than the bound.
        if elapsed > bound {
            old += u32::from(loose == ServedBy::Replica);
            new += u32::from(is_behind && tight == ServedBy::Replica);
        }
    }
    assert_eq!(new, 0, "a replica answered a read that bears only 100 ms");
}

/// A shard with a replica that no longer replays, and one without replicas, with two routers.
struct PausedReplica {
    trio: Trio,
    routers: [Manager; 2],
    replica: SideSession,
    _databases: Databases,
}

impl PausedReplica {
    async fn start() -> Self {
        let trio = Trio::of(1, &[]);
        let databases = Databases::new(1).await;
        let mut address = trio.address();
        address.shards.append(&mut databases.address().shards);
        let open = || {
            let address = address.clone();
            tokio::task::spawn_blocking(move || connect(&address))
        };
        let routers = [open().await.unwrap(), open().await.unwrap()];
        for router in &routers {
            until_replicas(router, 1).await;
        }
        let mut replica = SideSession::open(trio.node("shard1-replica1"), "shard1").await;
        replica.run("SELECT pg_wal_replay_pause()").await;
        replica.until("SELECT pg_get_wal_replay_pause_state() AS value", "paused").await;
        Self { trio, routers, replica, _databases: databases }
    }

    async fn close(mut self) {
        self.replica.run("SELECT pg_wal_replay_resume()").await;
        let Self { routers, .. } = self;
        let closing = tokio::task::spawn_blocking(move || routers.map(|router| router.close()));
        closing.await.unwrap();
    }
}

/// Checks that every router shows a session the row of a key, in a read by key and in one of all
/// shards. The replica owns the slot still, as before the move, and has no row.
async fn check_shown(routers: &[Manager], key: &str, session: &SessionToken) {
    let with = RequestOptions { session: session.clone(), staleness: LONG, ..at(Level::One) };
    for router in routers {
        let read = get(router, key, &with).await.unwrap();
        assert_eq!((&read.shards[..], read.rows.len()), (&[SOURCE][..], 1));
        let all = ReadQuery::all(&router.schema(Rights::ALL).table("users").unwrap());
        let all = router.data(Rights::ALL).read(all, None, &with).await.unwrap();
        assert_eq!(all.rows.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_sees_its_write_on_a_shard_that_got_a_slot_back_although_a_replica_lags() {
    let paused = PausedReplica::start().await;
    let [manager, _] = &paused.routers;
    let (keys, slots) = keys_of(manager, SOURCE, 1);
    let key = &*keys[0][0];
    let mut session = SessionToken::empty();
    kept_up(manager, async {
        let id = begin(manager, new(&slots, LONG)).await;
        until(manager, id, &[MovePhase::Keeping]).await;
        let written = put(manager, key, &at(Level::One)).await.unwrap().receipt;
        assert_eq!(written.place.shard, TARGET);
        manager.sessions().extend(&mut session, TARGET, written.position);
        // The other router knows the owner in between, and will not learn of the return.
        get(&paused.routers[1], key, &at(Level::Quorum)).await.unwrap();
        let mut primary = SideSession::open(paused.trio.node("shard1-primary"), "shard1").await;
        primary.run("BEGIN").await;
        primary.run("SELECT FROM tessera_cluster FOR UPDATE").await;
        order(manager, id, MoveOrder::Rollback).await;
        let mut source = SideSession::open(paused.trio.node("shard1-primary"), "shard1").await;
        source.until(RETURNED, "true").await;
        check_shown(&paused.routers[1..], key, &session).await;
        primary.run("ROLLBACK").await;
        until(manager, id, &[MovePhase::RolledBack]).await;
    })
    .await;
    check_shown(&paused.routers, key, &session).await;
    paused.close().await;
}
