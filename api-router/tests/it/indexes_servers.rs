//! Tests of indexes on PostgreSQL: several routers, servers that continue a build after the router
//! has ended, and plans that use an index.

use std::path::Path;

use serde_json::json;

use crate::backend::{ask_primary, not_on_citus, servers_only, url_of};
use crate::client::{refusal, refused};
use crate::databases::try_query;
use crate::folders;
use crate::harness::{Router, eventually};
use crate::indexes::{by_status, listed, make, on_shard, order, send, until};
use crate::streams::NDJSON;

const CITUS: &str = "Tessera does not build indexes on Citus";
const WHY: &str = "its shards are databases";
/// Query for the sessions that build an index.
const BUILDERS: &str = "SELECT pid::text FROM pg_stat_activity \
    WHERE datname = current_database() AND query LIKE 'CREATE%INDEX CONCURRENTLY%' AND state = 'active'";
/// Query for the indexes that are not valid.
const INVALID: &str = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid";
/// Ends the sessions of [`hold`] and [`keep_snapshot`] in a database.
const RELEASE: &str = "SELECT pg_terminate_backend(pid, 10000)::text FROM pg_stat_activity \
    WHERE datname = current_database() AND query LIKE '%pg_sleep(3600)' AND pid <> pg_backend_pid()";

/// Keeps a lock that a build waits for, until a [`HeldSession`] ends the session.
fn hold(url: &str) {
    let sql = "BEGIN; LOCK TABLE public.orders IN ROW EXCLUSIVE MODE; SELECT pg_sleep(3600)";
    let _ended = try_query(url, sql);
}

/// Session of [`hold`] or [`keep_snapshot`] at this URL. It ends with this value, even if the test
/// fails: the scope of the test waits for it.
struct HeldSession<'u>(&'u str);

impl Drop for HeldSession<'_> {
    fn drop(&mut self) {
        let _released = try_query(self.0, RELEASE);
    }
}

/// Waits until a session holds the lock.
fn await_holder(data: &Path, shard: usize) {
    eventually("the lock is held", || {
        let sql = "SELECT 1::text FROM pg_locks WHERE relation = 'public.orders'::regclass \
            AND mode = 'RowExclusiveLock' AND granted AND pid <> pg_backend_pid()";
        (!ask_primary(data, shard, sql).is_empty()).then_some(())
    });
}

#[test]
fn an_index_that_a_crash_has_left_invalid_is_built_again_by_the_next_start() {
    not_on_citus!(CITUS);
    servers_only!(WHY);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &["--replicas", "0"]);
    let url = url_of(&data, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| hold(&url));
        let _held = HeldSession(&url);
        await_holder(&data, 1);
        assert_eq!(make(&router, &by_status()).status, 202);
        eventually("the second shard builds", || {
            (!ask_primary(&data, 1, INVALID).is_empty()).then_some(())
        });
        // Rows are written during the build, on that shard as well.
        for n in 0..12 {
            assert_eq!(order(&router, &format!("u{n}"), "o", "n").status, 201);
        }
        let half = listed(&router, "by_status").unwrap();
        assert_eq!((&half["state"], &half["built"]), (&json!("building"), &json!(1)));
        router.kill();
        router.wait();
        let end =
            format!("SELECT pg_terminate_backend(pid::int, 10000)::text FROM ({BUILDERS}) AS b");
        ask_primary(&data, 1, &end);
        assert_eq!(ask_primary(&data, 1, INVALID).len(), 1, "the remainder");
    });
    let router = Router::start_in(&data, &["--replicas", "0"]);
    until(&router, "by_status", "ready");
    for shard in 0..3 {
        assert_eq!(on_shard(&data, shard).len(), 1);
        assert!(ask_primary(&data, shard, INVALID).is_empty());
    }
}

#[test]
fn a_router_takes_over_an_index_and_waits_for_the_server_that_still_builds_it() {
    not_on_citus!(CITUS);
    servers_only!(WHY);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let mut first = Router::start_in(&data, &["--replicas", "0"]);
    let second = Router::start_in(&data, &["--replicas", "0"]);
    let url = url_of(&data, 2);
    std::thread::scope(|scope| {
        scope.spawn(|| hold(&url));
        let _held = HeldSession(&url);
        await_holder(&data, 2);
        assert_eq!(make(&second, &by_status()).status, 202);
        eventually("the third shard builds", || {
            (!ask_primary(&data, 2, INVALID).is_empty()).then_some(())
        });
        assert_eq!(listed(&first, "by_status"), listed(&second, "by_status"), "both list it");
        assert_eq!(make(&first, &by_status()).status, 200, "it is known to both");
        // The first router ends, which may be the leader or not.
        first.kill();
        first.wait();
    });
    until(&second, "by_status", "ready");
    assert!((0..3).all(|shard| on_shard(&data, shard).len() == 1));
    let third = Router::start_in(&data, &["--replicas", "0"]);
    let path = "/api/tables/orders/indexes/by_status";
    assert_eq!(send(&third, "DELETE", path, None).status, 202);
    eventually("the index is gone", || listed(&second, "by_status").is_none().then_some(()));
    assert!((0..3).all(|shard| on_shard(&data, shard).is_empty()));
}

/// Keeps a snapshot that the end of a build waits for, and no lock of a table, until a
/// [`HeldSession`] ends the session.
fn keep_snapshot(url: &str) {
    let sql = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; SELECT pg_sleep(3600)";
    let _ended = try_query(url, sql);
}

#[test]
fn an_index_that_is_dropped_during_its_build_is_cancelled_and_leaves_nothing() {
    not_on_citus!(CITUS);
    servers_only!(WHY);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, &["--replicas", "0"]);
    let url = url_of(&data, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| keep_snapshot(&url));
        let _held = HeldSession(&url);
        eventually("the snapshot is kept", || {
            let sql = "SELECT pid::text FROM pg_stat_activity WHERE backend_xmin IS NOT NULL \
                AND datname = current_database() AND query LIKE '%pg_sleep(3600)' \
                AND pid <> pg_backend_pid()";
            (!ask_primary(&data, 1, sql).is_empty()).then_some(())
        });
        assert_eq!(make(&router, &by_status()).status, 202);
        eventually("the second shard builds", || {
            (!ask_primary(&data, 1, INVALID).is_empty()).then_some(())
        });
        let path = "/api/tables/orders/indexes/by_status";
        assert_eq!(send(&router, "DELETE", path, None).status, 202);
        // The snapshot is still kept, so the build cannot have ended by itself.
        eventually("the index is gone", || listed(&router, "by_status").is_none().then_some(()));
        for shard in 0..3 {
            assert!(on_shard(&data, shard).is_empty());
            assert!(ask_primary(&data, shard, INVALID).is_empty());
        }
    });
    assert_eq!(make(&router, &by_status()).status, 202);
    until(&router, "by_status", "ready");
}

#[test]
fn filters_and_orders_of_reads_use_an_index() {
    not_on_citus!(CITUS);
    servers_only!(WHY);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, &["--replicas", "0"]);
    let rows = (0..6_000).map(|n| {
        let row = json!({"order_id": format!("o{n}"), "user_id": format!("u{n}"), "amount": n,
            "status": format!("s{}", n % 600), "note": format!("n{n}")});
        format!("{row}\n")
    });
    let body: String = rows.collect();
    let reply =
        router.send("POST", "/api/bulk-write?table=orders", &[NDJSON], Some(body.as_bytes()));
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(make(&router, &by_status()).status, 202);
    until(&router, "by_status", "ready");
    let by_amount = json!({"name": "by_amount", "columns": ["amount"]});
    assert_eq!(make(&router, &by_amount).status, 202);
    until(&router, "by_amount", "ready");
    (0..3).for_each(|shard| drop(ask_primary(&data, shard, "ANALYZE public.orders")));
    for (index, query, first) in [
        ("by_status", "status=eq.s7&amount=gte.1000", json!(1207)),
        ("by_status", "status=eq.s7&order=amount.desc", json!(5407)),
        ("by_amount", "order=amount&limit=5", json!(0)),
        ("by_amount", "order=amount.desc&limit=5", json!(5999)),
    ] {
        let sql = format!(
            "SELECT coalesce(sum(idx_scan), 0)::text FROM pg_stat_user_indexes \
             WHERE indexrelname LIKE 'tessera\\_ix\\_{index}%'"
        );
        let scans = || -> u64 { ask_primary(&data, 0, &sql)[0].parse().unwrap() };
        let before = scans();
        let found = eventually(&format!("{query} uses {index}"), || {
            let found = router.get(&format!("/api/read?table=orders&{query}"));
            assert_eq!(found.status, 200, "{}", found.text());
            (scans() > before).then(|| found.json())
        });
        let mut amounts: Vec<_> =
            found["data"].as_array().unwrap().iter().map(|row| row["amount"].clone()).collect();
        if !query.contains("order=") {
            amounts.sort_by_key(serde_json::Value::as_i64);
        }
        assert_eq!(amounts[0], first, "{query}");
    }
    let plan = ask_primary(&data, 0, "EXPLAIN SELECT * FROM public.orders WHERE status = 's7'");
    assert!(plan.iter().any(|line| line.contains("tessera_ix_by_status")), "{plan:?}");
    assert_eq!(
        refusal(&send(&router, "DELETE", "/api/tables/orders/indexes/none", None)),
        refused(404, "TSR345")
    );
}
