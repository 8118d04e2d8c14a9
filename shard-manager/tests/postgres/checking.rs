//! Tests of `check` on servers: healthy clusters pass while they are written to and while slots
//! move, and each kind of damage is found.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use shard_manager::engine::audit_report::{AuditOptions, AuditReport};
use shard_manager::engine::move_record::{MoveOrder, MovePhase};
use shard_manager::manager::Manager;
use shard_manager::node_address::ClusterAddress;
use shard_manager::row_change::Operation::{Insert, Upsert};
use shard_manager::store::postgres::audit::audit;

use crate::cluster::{Databases, connect, shared};
use crate::commands::{Ended, run_on, run_with, urls};
use crate::move_steps::{LONG, begin, kept_up, new, order, store_large};
use crate::rows::write;

const USER: &str = r#"{"name":"n","email":"e"}"#;

async fn fill(manager: &Manager, users: std::ops::Range<usize>) {
    for number in users {
        write(manager, "users", Upsert, &format!("user_{number}"), USER).await.unwrap();
    }
}

async fn audited(address: &ClusterAddress) -> AuditReport {
    audit(address, &AuditOptions { deep: false, threads: 2 }, &|_| ()).await.unwrap()
}

/// Runs `check` with the replicas of the databases.
fn check(databases: &Databases, arguments: &[&str]) -> Ended {
    let replica = shared().replicas_of(0).next().unwrap();
    let replicas: Vec<String> = databases.names.iter().map(|name| replica.url(name)).collect();
    let variables = [("SHARD_URLS", &*urls(databases)), ("REPLICA_URLS", &*replicas.join(","))];
    run_with(&variables, &[&["check"], arguments].concat())
}

/// Damages a cluster of two shards, and returns what `check` finds.
async fn found(damage: &str, on: usize) -> Vec<Value> {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    fill(&manager, 0..20).await;
    drop(manager);
    databases.direct_session(on).await.run(damage).await;
    let report = run_on(&databases, &["check", "--json"]).expect(1).json();
    report["findings"].as_array().unwrap().clone()
}

fn texts(findings: &[Value]) -> Vec<String> {
    findings.iter().map(|finding| finding["what"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_healthy_cluster_of_servers_passes_with_its_replicas() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.with_replicas().await);
    fill(&manager, 0..60).await;
    let report = check(&databases, &["--json"]).expect(0).json();
    let shards = report["shards"].as_array().unwrap();
    let rows: u64 = shards.iter().map(|shard| shard["tables"]["users"].as_u64().unwrap()).sum();
    assert_eq!((report["found"].as_u64(), rows), (Some(0), 60));
    for shard in shards {
        let name = shard["shard"].as_str().unwrap();
        assert_eq!(shard["replicas"][0], format!("{name}-replica1"));
    }
    let shown = check(&databases, &["--deep"]).expect(0);
    assert!(shown.out.contains("no fault was found"), "{shown:#?}");
    assert!(shown.out.contains("note: the pages of servers were not checked"), "{shown:#?}");
}

#[tokio::test]
async fn a_cluster_of_servers_passes_while_it_is_written_to() {
    let databases = Databases::new(2).await;
    let address = databases.with_replicas().await;
    let manager = connect(&address);
    fill(&manager, 0..200).await;
    let is_over = AtomicBool::new(false);
    let writing = async {
        let mut round = 0;
        while !is_over.load(Ordering::Relaxed) {
            fill(&manager, round % 150..round % 150 + 50).await;
            round += 7;
        }
    };
    let checking = async {
        for _ in 0..5 {
            let report = audited(&address).await;
            assert_eq!(report.findings, []);
        }
        is_over.store(true, Ordering::Relaxed);
    };
    futures_util::future::join(writing, checking).await;
}

#[tokio::test]
async fn slots_that_move_are_no_fault_at_any_step() {
    let databases = Databases::new(2).await;
    let (address, manager) = (databases.address(), connect(&databases.address()));
    let slots = store_large(&manager, 20).await;
    kept_up(&manager, async {
        let id = begin(&manager, new(&slots, LONG)).await;
        let (mut is_settled, mut differing) = (false, 0);
        loop {
            let phase = manager.moves().get(id).await.unwrap().phase;
            let report = audited(&address).await;
            assert_eq!(report.findings, [], "{phase:?}");
            let rows: u64 = report.shards.iter().map(|shard| shard.tables["kv"]).sum();
            // The shards are read at different moments. While slots are handed over, both may have
            // counted their rows, or neither; the catalog lists the phase a moment later.
            differing = if rows == 20 { 0 } else { differing + 1 };
            let is_over = [MovePhase::Keeping, MovePhase::Done].contains(&phase);
            assert!(differing == 0 || !is_over && differing < 20, "{rows} rows, {phase:?}");
            if phase == MovePhase::Keeping && !is_settled {
                assert!(report.notes.iter().any(|note| note.contains("are in a move")));
                order(&manager, id, MoveOrder::Settle).await;
                is_settled = true;
            }
            if phase == MovePhase::Done {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn rows_in_the_wrong_place_are_found() {
    let moved = found(
        "UPDATE users SET slot = 16383 - slot WHERE user_id = (SELECT min(user_id) FROM users)",
        0,
    );
    let moved = moved.await;
    assert!(texts(&moved)[0].starts_with("its slot column says"), "{moved:?}");
    assert_eq!(moved[0]["table"], "users");
    assert_eq!(moved[0]["node"], "shard1-primary");
    let named =
        found("UPDATE users SET user_id = 'x' WHERE user_id = (SELECT min(user_id) FROM users)", 1);
    assert_eq!(texts(&named.await), ["its user_id is x"]);
    let newer = found(
        "UPDATE users SET version = 1000000 WHERE user_id = (SELECT min(user_id) FROM users)",
        0,
    );
    assert_eq!(texts(&newer.await), ["its version is 1000000"]);
}

#[tokio::test]
async fn rows_of_another_shard_are_found() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    fill(&manager, 0..20).await;
    let row = "SELECT quote_literal(shard_key)||','||slot AS value FROM users LIMIT 1";
    let row = databases.direct_session(0).await.text(row).await;
    let stray = format!(
        "INSERT INTO users (shard_key,slot,user_id,name,email,version,created_at,updated_at)
         SELECT k,s,k,'n','e',1,now(),now() FROM (VALUES ({row})) AS v (k,s)"
    );
    databases.direct_session(1).await.run(&stray).await;
    let ended = run_on(&databases, &["check"]).expect(1);
    assert!(ended.out.contains("the row lies on this shard; expected: on shard1"), "{ended:#?}");
    assert_eq!(ended.err.lines().last(), Some("one fault was found"));
}

#[tokio::test]
async fn slots_that_the_map_and_the_shards_disagree_about_are_found() {
    let twice = "INSERT INTO tessera.tessera_slots (slot,state) SELECT slot,'owned'
        FROM generate_series(0,16383) AS slot ON CONFLICT DO NOTHING";
    let faults = found(twice, 0).await;
    assert!(texts(&faults)[0].contains("is owned in the shard's tessera_slots"), "{:?}", faults[0]);
    assert_eq!(faults[0]["expected"], "owned by shard2, as the map says");
    let none = "DELETE FROM tessera.tessera_slots WHERE slot = (SELECT max(slot) FROM tessera.tessera_slots)";
    let faults = found(none, 1).await;
    assert!(texts(&faults)[0].contains("is missing in the shard's tessera_slots"), "{faults:?}");
    let bits = "UPDATE tessera.tessera_owned SET bits = set_bit(bits, 3, 1 - get_bit(bits, 3))";
    let faults = found(bits, 0).await;
    assert_eq!(texts(&faults), ["the bits in tessera_owned are not those of the slots"]);
}

#[tokio::test]
async fn tables_that_differ_and_indexes_and_constraints_that_do_not_hold_are_found() {
    let faults = found("ALTER TABLE users ADD another TEXT", 1).await;
    let different = texts(&faults);
    assert!(different.iter().any(|what| what.contains("`another text`")), "{faults:?}");
    let declared = "DELETE FROM tessera.tessera_tables WHERE name = 'products'";
    assert_eq!(texts(&found(declared, 1).await), ["the shard declares other tables"]);
    let constraint = "ALTER TABLE orders ADD CONSTRAINT positive CHECK (amount > 0) NOT VALID";
    let expected = ["the constraint positive of orders is not valid"];
    assert_eq!(texts(&found(constraint, 0).await), expected);
    let index = "CREATE INDEX by_name ON users (name);
        UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'by_name'::regclass";
    assert_eq!(texts(&found(index, 0).await), ["the index by_name of users is not valid"]);
}

#[tokio::test]
async fn triggers_without_a_move_are_noted() {
    let databases = Databases::new(1).await;
    drop(connect(&databases.address()));
    let enable = "SELECT tessera.tessera_enable_recording('users', '{user_id}', '')";
    databases.direct_session(0).await.run(enable).await;
    let ended = run_on(&databases, &["check"]).expect(0);
    assert!(ended.out.contains("note: shard1 records changes of users"), "{ended:#?}");
}

#[tokio::test]
async fn triggers_of_a_whole_copy_stay_enabled_for_the_activation_that_needs_them() {
    let databases = Databases::new(1).await;
    drop(connect(&databases.address()));
    let target = "SELECT tessera.tessera_enable_recording('users', '{user_id}', '');
        INSERT INTO tessera.tessera_slot_moves (id, role, other, slots, leg, term, mover, pass, round,
            feed_timeline, feed_begun_timeline, feed_begun, cursor, begun_timeline, begun, version, system)
        VALUES ('00000000-0000-0000-0000-000000000007', 'target', 1, '[7]', 0, 1, '1', 0, 1,
            1, 1, 1, 'whole', 1, 1, 1, '1')";
    let mut session = databases.direct_session(0).await;
    session.run(target).await;
    let note = "note: shard1 records changes of users";
    let ended = run_on(&databases, &["check"]);
    assert!(!ended.out.contains(note), "{ended:#?}");
    // A source that is not followed needs no triggers.
    session.run("UPDATE tessera.tessera_slot_moves SET role = 'source'").await;
    let ended = run_on(&databases, &["check"]);
    assert!(ended.out.contains(note), "{ended:#?}");
}

#[tokio::test]
async fn a_cluster_that_cannot_be_checked_is_refused() {
    let databases = Databases::new(2).await;
    run_on(&databases, &["check"]).refused("there is no cluster in these databases");
    drop(connect(&databases.address()));
    databases.direct_session(1).await.run("DROP TABLE tessera.tessera_slot_moves CASCADE").await;
    run_on(&databases, &["check"]).refused("its schema is older than this program");
}

#[tokio::test]
async fn a_replica_that_does_not_answer_is_found_and_a_shard_without_a_primary_is_refused() {
    let databases = Databases::new(1).await;
    let manager = connect(&databases.address());
    write(&manager, "users", Insert, "u", USER).await.unwrap();
    let own = urls(&databases);
    let dead = own.replace(&format!(":{}/", port(&own)), ":1/");
    let variables = [("SHARD_URLS", &*own), ("REPLICA_URLS", &*dead)];
    let report = run_with(&variables, &["check", "--json"]).expect(1).json();
    assert_eq!(report["findings"][0]["node"], "shard1-replica1");
    run_with(&[("SHARD_URLS", &*dead)], &["check"]).expect(2);
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_not_taken_for_one_without_a_cluster() {
    let dead = "postgres://u:p@127.0.0.1:1/x";
    let reason = "error: catalog: 127.0.0.1:1/x cannot be reached (Connection refused (os error 111)): is the \
        server running, and are host and port right?";
    let folder = crate::scratch::folder();
    let copy = folder.path().join("copy");
    let backup = ["backup", "--to", copy.to_str().unwrap()];
    for arguments in [&["check"][..], &["export", "--table", "users"], &backup] {
        run_with(&[("SHARD_URLS", dead)], arguments).refused(reason);
    }
    // The server of the shard answers and has no catalog, but the one of the catalog does not.
    let databases = Databases::new(1).await;
    let variables = [("SHARD_URLS", &*urls(&databases)), ("MAINDB_URL", dead)];
    run_with(&variables, &["check"]).refused(reason);
    // The second shard answers and has no catalog, but the first one does not.
    let both = format!("{dead},{}", urls(&databases));
    run_with(&[("SHARD_URLS", &*both)], &["check"]).refused(reason);
}

fn port(url: &str) -> &str {
    let end = url.rfind('/').unwrap();
    let begin = url[..end].rfind(':').unwrap();
    &url[begin + 1..end]
}
