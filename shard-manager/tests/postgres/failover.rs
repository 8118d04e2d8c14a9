//! Tests of failover: an external manager promotes a replica, and the router follows without a
//! restart.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use shard_manager::access::rights::Rights;
use shard_manager::consistency::Level;
use shard_manager::error::{Error, Failure, Outcome};
use shard_manager::keyspace::ShardKey;
use shard_manager::local::Stop;
use shard_manager::manager::RequestOptions;
use shard_manager::query::ReadQuery;

use crate::cluster::{Databases, SideSession, Trio, connect, try_connect};
use crate::log;
use crate::read_write_steps::{at, get, put, put_fails, seen, until_read, until_replicas, within};
use crate::server::runtime;

/// Longest wait of a read for a node that answers, if the primary is gone.
const READ_WAIT: Duration = Duration::from_secs(5);

#[test]
fn writes_continue_on_a_promoted_replica_with_all_acknowledged_rows() {
    log::listen();
    let mut trio = Trio::start();
    let manager = connect(&trio.address());
    runtime().block_on(async {
        let before = put(&manager, "before", &at(Level::Quorum)).await.unwrap();
        trio.cluster.commands().stop("shard1-primary", Stop::Immediate).unwrap();

        // Reads continue, and writes wait: this one until its deadline (TSR202), the following ones
        // until there is a primary.
        assert_eq!(until_read(&manager, "before").await, 1);
        let failure = put_fails(&manager, "late", 300, Level::One).await;
        assert!(matches!(failure.error, Error::NoPrimary { .. }), "{failure:?}");
        assert_eq!(failure.outcome, Outcome::Rejected);
        let (one, quorum) = (at(Level::One), at(Level::Quorum));
        let waiting = async {
            let all = [put(&manager, "waited", &one), put(&manager, "waited too", &quorum)];
            futures_util::future::join_all(all).await
        };
        let promoting = tokio::task::spawn_blocking(move || {
            let promoted = trio.cluster.commands().promote_best("shard1").unwrap();
            (trio, promoted)
        });
        let (waited, promoted) = tokio::join!(waiting, promoting);
        let (mut trio, promoted) = promoted.unwrap();
        for written in waited {
            written.unwrap();
        }

        let session = seen(&manager, &before);
        let with = RequestOptions { session, ..at(Level::One) };
        assert_eq!(get(&manager, "before", &with).await.unwrap().rows.len(), 1);
        assert_eq!(get(&manager, "waited", &at(Level::Quorum)).await.unwrap().rows.len(), 1);

        // The old primary comes back without its replicas: it serves neither writes nor reads.
        let old = trio.node("shard1-primary").clone();
        trio.start_alone(&old);
        let mut direct = SideSession::open(&old, "shard1").await;
        put(&manager, "after", &at(Level::One)).await.unwrap();
        let count = "SELECT count(*)::text AS value FROM users WHERE user_id='after'";
        assert_eq!(direct.text(count).await, "0");
        assert_eq!(get(&manager, "after", &at(Level::All)).await.unwrap().rows.len(), 1);
        drop(direct);

        // It rejoins, and is an ordinary replica.
        trio.cluster.commands().rejoin("shard1-primary").unwrap();
        until_replicas(&manager, 2).await;
        put(&manager, "everywhere", &at(Level::All)).await.unwrap();
        let names =
            manager.status().health(Instant::now() + Duration::from_secs(9)).await.remove(0).nodes;
        let mut names: Vec<String> = names.into_iter().map(|node| node.node).collect();
        assert_eq!(names.remove(0), "shard1-primary");
        names.sort();
        assert_eq!(names, ["shard1-replica1", "shard1-replica2"]);

        // The log names nodes like the health report does, and includes their addresses.
        let [from, to] = [&old, trio.node(&promoted.node)].map(|node| format!(":{}/", node.port));
        log::check_logged(&["is followed", "node=shard1-primary", &format!("at=127.0.0.1{to}")]);
        log::check_logged(&[
            "is followed",
            &format!("was={}", promoted.node),
            &format!("before=127.0.0.1{from}"),
        ]);
        let back = format!("node={}", promoted.node);
        log::check_logged(&["a replica follows", &back, &format!("at=127.0.0.1{from}")]);

        // A router that starts now with the same list finds the new primary.
        let other = tokio::task::spawn_blocking(move || (try_connect(&trio.address()), trio));
        let (other, _trio) = other.await.unwrap();
        let other = other.unwrap();
        let token = RequestOptions { session: seen(&manager, &before), ..at(Level::One) };
        assert_eq!(get(&other, "before", &token).await.unwrap().rows.len(), 1);
        put(&other, "by another", &at(Level::Quorum)).await.unwrap();
        assert!(!promoted.node.is_empty());
        tokio::task::spawn_blocking(move || other.close()).await.unwrap();
    });
    manager.close();
}

#[test]
fn a_promotion_does_not_fail_reads() {
    log::listen();
    let mut trio = Trio::start();
    let manager = connect(&trio.address());
    let ports: Vec<_> =
        trio.cluster.replicas_of(0).map(|node| format!("at=127.0.0.1:{}/", node.port)).collect();
    runtime().block_on(async {
        put(&manager, "k", &at(Level::All)).await.unwrap();
        until_replicas(&manager, 2).await;
        trio.cluster.commands().stop("shard1-primary", Stop::Immediate).unwrap();
        let promoting = tokio::task::spawn_blocking(move || {
            trio.cluster.commands().promote_best("shard1").unwrap();
            trio
        });
        let over = AtomicBool::new(false);
        let clients = (0..8).map(async |_| {
            while !over.load(Ordering::SeqCst) {
                let began = Instant::now();
                match get(&manager, "k", &at(Level::One)).await {
                    Ok(read) => assert_eq!(read.rows.len(), 1),
                    // A busy machine may take longer to promote than a read waits.
                    Err(Failure { error: Error::ShardUnavailable { .. }, .. })
                        if began.elapsed() >= READ_WAIT => {}
                    Err(failure) => panic!("{failure:?} after {:?}", began.elapsed()),
                }
                tokio::task::yield_now().await;
            }
        });
        let promoted = async {
            let _trio = promoting.await.unwrap();
            put(&manager, "k", &at(Level::One)).await.unwrap();
            over.store(true, Ordering::SeqCst);
        };
        tokio::join!(futures_util::future::join_all(clients), promoted);
    });
    for port in ports {
        assert_eq!(log::said(&["WARN", "a read failed", &port]), [""; 0]);
    }
    manager.close();
}

#[test]
fn lost_writes_are_reported_to_clients_that_have_seen_them_and_their_versions_are_not_reused() {
    let mut trio = Trio::start();
    let manager = connect(&trio.address());
    runtime().block_on(async {
        let kept = put(&manager, "kept", &at(Level::Quorum)).await.unwrap();
        // A frozen server may process pending requests when it thaws, so these writes are not sent
        // to it.
        for replica in ["shard1-replica1", "shard1-replica2"] {
            trio.cluster.commands().stop(replica, Stop::Immediate).unwrap();
        }
        // The replicas know the next 32 values of the sequence in advance.
        let mut direct = SideSession::open(trio.node("shard1-primary"), "shard1").await;
        direct.run("SELECT nextval('tessera.tessera_version') FROM generate_series(1,64)").await;
        let lost = put(&manager, "lost", &at(Level::One)).await.unwrap();
        trio.cluster.commands().stop("shard1-primary", Stop::Immediate).unwrap();
        for replica in ["shard1-replica1", "shard1-replica2"] {
            trio.cluster.commands().start(replica).unwrap();
        }
        trio.cluster.commands().promote_best("shard1").unwrap();
        until_replicas(&manager, 1).await;
        let after = put(&manager, "after", &at(Level::Quorum)).await.unwrap();
        assert!(after.row.version > lost.row.version, "{after:?} {lost:?}");

        let with = |written| RequestOptions { session: seen(&manager, written), ..at(Level::One) };
        assert_eq!(get(&manager, "kept", &with(&kept)).await.unwrap().rows.len(), 1);
        let failure = get(&manager, "lost", &with(&lost)).await.unwrap_err();
        assert!(matches!(failure.error, Error::SeenMayBeLost { .. }), "{failure:?}");
        assert_eq!(get(&manager, "lost", &at(Level::Quorum)).await.unwrap().rows.len(), 0);
    });
    manager.close();
}

#[test]
fn versions_are_skipped_once_on_a_timeline_and_for_each_timeline_that_was_lost_as_a_whole() {
    runtime().block_on(async {
        let databases = Databases::new(1).await;
        let manager = connect(&databases.address());
        let first = put(&manager, "k", &at(Level::One)).await.unwrap();
        assert!(first.row.version < 1 << 36, "a new shard has lost nothing");
        let mut direct = databases.direct_session(0).await;
        direct.run("UPDATE tessera.tessera_shard SET timeline=timeline-2").await;
        for _ in 0..2 {
            direct.run("SELECT tessera.tessera_begin_timeline()").await;
        }
        let next = put(&manager, "k", &at(Level::One)).await.unwrap();
        assert_eq!((next.row.version - first.row.version) >> 36, 2);
        direct.run("UPDATE tessera.tessera_shard SET system='another'").await;
        direct.run("SELECT tessera.tessera_begin_timeline()").await;
        let moved = put(&manager, "k", &at(Level::One)).await.unwrap();
        assert_eq!((moved.row.version - next.row.version) >> 36, 1);
        manager.close();
    });
}

#[test]
fn versions_are_skipped_even_if_the_promoted_server_has_seen_no_draw() {
    runtime().block_on(async {
        let databases = Databases::new(1).await;
        let manager = connect(&databases.address());
        let mut direct = databases.direct_session(0).await;
        direct.run("ALTER SEQUENCE tessera.tessera_version RESTART").await;
        direct.run("UPDATE tessera.tessera_shard SET system='another'").await;
        direct.run("SELECT tessera.tessera_begin_timeline()").await;
        let first = put(&manager, "k", &at(Level::One)).await.unwrap();
        assert_eq!(first.row.version >> 36, 1);
        manager.close();
    });
}

#[test]
fn a_read_that_waits_for_a_promotion_reports_that_its_session_has_lost_a_write() {
    let mut trio = Trio::start();
    let manager = connect(&trio.address());
    runtime().block_on(async {
        put(&manager, "kept", &at(Level::Quorum)).await.unwrap();
        for replica in ["shard1-replica1", "shard1-replica2"] {
            trio.cluster.commands().stop(replica, Stop::Immediate).unwrap();
        }
        let lost = put(&manager, "lost", &at(Level::One)).await.unwrap();
        trio.cluster.commands().stop("shard1-primary", Stop::Immediate).unwrap();
        for replica in ["shard1-replica1", "shard1-replica2"] {
            trio.cluster.commands().start(replica).unwrap();
        }

        let session = seen(&manager, &lost);
        let all = ReadQuery::all(&manager.schema(Rights::ALL).table("users").unwrap());
        let read = async |(key, level): (Option<&'static str>, Level)| {
            let options = RequestOptions { session: session.clone(), ..at(level) };
            loop {
                let key = key.map(|key| ShardKey::parse(key).unwrap());
                match manager.data(Rights::ALL).read(all.clone(), key, &options).await {
                    // A busy machine may take longer to promote than a read waits.
                    Err(Failure { error: Error::ShardUnavailable { .. }, .. })
                        if Instant::now() < options.deadline =>
                    {
                        tokio::task::yield_now().await;
                    }
                    ended => break ended,
                }
            }
        };
        let levels = [Level::One, Level::All];
        let requests = levels.map(|level| [(Some("lost"), level), (None, level)]).concat();
        let reads = join_all(requests.into_iter().map(read));
        tokio::pin!(reads);
        // They compare the token with the history of the old primary.
        assert!(reads.as_mut().now_or_never().is_none(), "no node has what the session has seen");
        let promoting = tokio::task::spawn_blocking(move || {
            trio.cluster.commands().promote_best("shard1").unwrap();
            trio
        });
        let (reads, promoted) = tokio::join!(reads, promoting);
        let _trio = promoted.unwrap();
        for read in reads {
            let failure = read.unwrap_err();
            assert!(matches!(failure.error, Error::SeenMayBeLost { .. }), "{failure:?}");
        }
    });
    manager.close();
}

#[test]
fn a_former_primary_that_was_down_at_the_start_and_follows_no_node_serves_no_lost_row() {
    log::listen();
    let mut trio = Trio::start();
    let manager = connect(&trio.address());
    runtime().block_on(async {
        put(&manager, "kept", &at(Level::All)).await.unwrap();
        for replica in ["shard1-replica1", "shard1-replica2"] {
            trio.cluster.commands().stop(replica, Stop::Immediate).unwrap();
        }
        // Its positions are then higher than those of the next primary.
        let mut direct = SideSession::open(trio.node("shard1-primary"), "shard1").await;
        let more = "SELECT pg_logical_emit_message(false, 'more', repeat('x', 4000000))";
        direct.run(more).await;
        put(&manager, "lost", &at(Level::One)).await.unwrap();
    });
    manager.close();
    trio.cluster.commands().stop("shard1-primary", Stop::Fast).unwrap();
    for replica in ["shard1-replica1", "shard1-replica2"] {
        trio.cluster.commands().start(replica).unwrap();
    }
    trio.cluster.commands().promote_best("shard1").unwrap();
    let manager = connect(&trio.address());
    let old = trio.node("shard1-primary").clone();
    trio.start_as_standby(&old);
    let port = format!("at=127.0.0.1:{}/", old.port);
    runtime().block_on(async {
        let deadline = Instant::now() + Duration::from_secs(60);
        while log::said(&["cannot be watched", "it receives nothing", &port]).is_empty() {
            assert!(Instant::now() < deadline, "{:?}", log::said(&[&port]));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        until_replicas(&manager, 1).await;
        put(&manager, "after", &at(Level::Quorum)).await.unwrap();
        for level in [Level::One, Level::Quorum] {
            for _ in 0..20 {
                assert_eq!(get(&manager, "lost", &at(level)).await.unwrap().rows.len(), 0);
                assert_eq!(get(&manager, "kept", &at(level)).await.unwrap().rows.len(), 1);
            }
        }
    });
    assert_eq!(log::said(&["a replica follows", &port]), [""; 0]);
    manager.close();
}

#[test]
fn a_frozen_primary_that_thaws_gets_no_write_and_answers_no_strong_read() {
    let mut trio = Trio::start();
    let manager = connect(&trio.address());
    runtime().block_on(async {
        put(&manager, "before", &at(Level::Quorum)).await.unwrap();
        // The outcome of writes that were sent to it is unknown, and is reported so. A machine that
        // stands still sends none before the deadline.
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            trio.cluster.commands().freeze("shard1-primary").unwrap();
            let failure = put(&manager, "doubtful", &within(500, Level::One)).await.unwrap_err();
            if failure.outcome == Outcome::Unknown {
                break;
            }
            assert!(Instant::now() < limit, "{failure:?}");
            trio.cluster.commands().thaw("shard1-primary").unwrap();
            put(&manager, "before", &at(Level::Quorum)).await.unwrap();
        }
        trio.cluster.commands().promote_best("shard1").unwrap();
        put(&manager, "after", &at(Level::One)).await.unwrap();
        trio.cluster.commands().thaw("shard1-primary").unwrap();
        let mut direct = SideSession::open(trio.node("shard1-primary"), "shard1").await;
        for round in 0..20 {
            let key = format!("round {round}");
            put(&manager, &key, &at(Level::One)).await.unwrap();
            assert_eq!(get(&manager, &key, &at(Level::All)).await.unwrap().rows.len(), 1);
        }
        let count = "SELECT count(*)::text AS value FROM users WHERE user_id LIKE 'round%'";
        assert_eq!(direct.text(count).await, "0");
    });
    manager.close();
}

#[test]
fn reads_of_all_shards_go_on_after_a_primary_froze_while_it_carried_out_others() {
    let mut trio = Trio::start();
    let manager = connect(&trio.address());
    runtime().block_on(async {
        put(&manager, "k", &at(Level::Quorum)).await.unwrap();
        let mut direct = SideSession::open(trio.node("shard1-primary"), "shard1").await;
        let mut looker = SideSession::open(trio.node("shard1-primary"), "shard1").await;
        direct.run("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await;
        let all = ReadQuery::all(&manager.schema(Rights::ALL).table("users").unwrap());
        let options = within(60_000, Level::All);
        let scan = || manager.data(Rights::ALL).read(all.clone(), None, &options);
        let waiting = "SELECT (count(*)>=2)::text AS value FROM pg_locks
            WHERE NOT granted AND relation='users'::regclass";
        let promoted = async {
            looker.until(waiting, "true").await;
            trio.cluster.commands().freeze("shard1-primary").unwrap();
            trio.cluster.commands().promote_best("shard1").unwrap();
            scan().await
        };
        // The first two occupy all connections for such reads, until another node is followed.
        let (first, second, later) = tokio::join!(scan(), scan(), promoted);
        assert_eq!(later.unwrap().rows.len(), 1);
        for read in [first, second] {
            let failure = read.unwrap_err();
            assert!(matches!(failure.error, Error::ShardUnavailable { .. }), "{failure:?}");
        }
    });
    manager.close();
}

#[test]
fn a_primary_that_cannot_confirm_its_role_answers_no_strong_read() {
    let mut trio = Trio::start();
    let manager = connect(&trio.address());
    runtime().block_on(async {
        put(&manager, "k", &at(Level::All)).await.unwrap();
        assert_eq!(get(&manager, "k", &at(Level::Quorum)).await.unwrap().rows.len(), 1);
        for replica in ["shard1-replica1", "shard1-replica2"] {
            trio.cluster.commands().freeze(replica).unwrap();
        }
        for level in [Level::Quorum, Level::All] {
            let failure = get(&manager, "k", &within(400, level)).await.unwrap_err();
            let unproven =
                matches!(failure.error, Error::TooFewReplicas { .. } | Error::DeadlinePassed);
            assert!(unproven, "{failure:?}");
        }
        assert_eq!(get(&manager, "k", &within(9_000, Level::One)).await.unwrap().rows.len(), 1);
        let failure = put(&manager, "k", &within(400, Level::Quorum)).await.unwrap_err();
        assert!(failure.outcome != Outcome::Unknown, "{failure:?}");
        trio.cluster.commands().thaw("shard1-replica1").unwrap();
        until_replicas(&manager, 1).await;
        assert_eq!(get(&manager, "k", &at(Level::Quorum)).await.unwrap().rows.len(), 1);
    });
    manager.close();
}
