//! Tests of the mutation `one_statement_fence`: the commit of a move takes the fence lock and looks
//! for changes in the same statement, so that it does not see the write for which it has waited.
//!
//! In the regular tests, a write is stopped at exactly this moment. A move at a random moment meets
//! such a write only once in thousands of operations, so that test is run by a separate command.
//!
//! **Not here:** random moves of routers with other mutations (`moves`).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Router, cluster_folder, start_program};
use crate::cluster::Cluster;
use crate::database_session::DatabaseSession;
use crate::http::try_send;
use crate::move_client::Ending::Done;
use crate::move_client::{FROM, MoveClient};
use crate::router::tester;
use crate::{found, report, sabotage};

/// Longest wait for the router to freeze itself, and the pause between two polls.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);

const MUTATION: &str = "one_statement_fence";
/// Checks that detect the mutation.
const CHECKS: [&str; 4] = ["C3", "C6", "C7", "C9"];
/// Maximum number of operations until the mutation is found.
const OPERATIONS_MAX: u64 = 100_000;
/// Number that is written by the write for which the commit must wait.
const LAST: u64 = 1_000_000;

/// Statement that ends when another session waits for the fence lock, so that the transaction can
/// commit then. The database itself waits, because a client that polls might be slower than the
/// lock timeout of the move.
const COMMIT_ONCE_AWAITED: &str = "DO $$ BEGIN
    WHILE NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
        AND classid = 1950 AND objid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
    LOOP PERFORM pg_sleep(0.001); END LOOP;
END $$; COMMIT";

/// Begins the move of a client's slots, and waits until the router has frozen itself. The client
/// does not write meanwhile.
fn stop(router: &Router, client: &mut MoveClient) {
    client.begin_move(|| router.is_frozen());
    let began = Instant::now();
    while !router.is_frozen() {
        assert!(began.elapsed() < PATIENCE, "the commit is not reached");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Moves slots while a write holds the fence lock at the time of the commit, and returns the number
/// that is read afterwards.
fn number_after(cluster: &Cluster, switch: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let environment = cluster.dir().join("tessera.env");
    let options = (folder.path(), &["--operate"][..]);
    let variables = [("TESSERA_SABOTAGE", switch), ("TESSERA_STOP_AT", "freeze:before_commit")];
    let router = start_program(&sabotage::PROGRAM, &environment, options, &variables);
    let place = (router.host(), switch.to_owned());
    let mut client = MoveClient::begin(place, Done, &format!("one{switch}"), &[]);
    let (key, slot) = {
        let moved = client.keys.iter().find(|key| key.moves).unwrap();
        (moved.name.clone(), moved.slot)
    };
    let variables = std::fs::read_to_string(&environment).unwrap();
    let mut urls = variables.split(['=', ',', '\n', '\'', '"']);
    let direct =
        DatabaseSession::open(urls.find(|url| url.ends_with(&format!("/{FROM}"))).unwrap());
    stop(&router, &mut client);
    // If the slots are fenced, the statement is repeated, because the fence ends by itself.
    let enter = format!("SELECT coalesce(tessera_enter_one({slot})::text, 'fenced')");
    let mut version = "fenced".to_owned();
    while version == "fenced" {
        version = direct.rows(&format!("ROLLBACK; BEGIN; {enter}")).concat();
    }
    let value = json!({"number": LAST});
    direct.rows(&format!(
        "UPDATE kv SET value = '{value}', version = {version} WHERE slot = {slot} AND key = '{key}'"
    ));
    router.thaw();
    direct.rows(COMMIT_ONCE_AWAITED);
    while client.shown().is_none_or(|shown| shown["ended_at"].is_null()) {
        assert!(client.shown().is_none_or(|shown| shown["phase"] != "failed"));
    }
    let read = try_send(
        &router.host(),
        ("GET", &format!("/api/kv/{key}")),
        &[("x-consistency", "all")],
        "",
    );
    read.unwrap().body["number"].clone()
}

#[test]
fn a_commit_sees_the_write_that_it_waited_for_and_in_one_statement_it_does_not() {
    let Some(_) = cluster_folder() else { return };
    let Some(cluster) = Cluster::up("2", "1") else { return };
    assert_eq!(number_after(&cluster, ""), LAST);
    assert_ne!(number_after(&cluster, MUTATION), LAST, "the mutation loses the write");
}

#[test]
#[ignore = "takes minutes: cargo test -p loadtest --test it a_fence_in_one_statement -- --ignored --nocapture"]
fn a_fence_in_one_statement_is_found_within_100_000_operations() {
    let Some(cluster) = Cluster::up("2", "1") else { return };
    let mut operations = 0;
    for seed in 1_u64.. {
        let mut command = tester();
        command.args([
            "--verify",
            "--chaos",
            "--users",
            "8",
            "--json",
            "--faults",
            "move,rollback",
        ]);
        command.args(["--run-time", "6", "--seed", &seed.to_string(), "--cluster"]);
        command.arg(cluster.dir()).arg("--router").arg(&*sabotage::PROGRAM);
        command.arg("--shard-manager").arg(&*crate::router::MANAGER);
        // The tester keeps the directory of a router that has broken a promise, so the directory is
        // made in a folder that is removed here.
        let kept = tempfile::tempdir().unwrap();
        command.env("TMPDIR", kept.path()).env("TESSERA_SABOTAGE", MUTATION);
        let output = command.output().unwrap();
        let report = report(&output);
        operations += report["verified"]["operations"].as_u64().unwrap();
        let found = found(&report);
        let is_found = found.iter().any(|name| {
            let check = name.split(' ').next().unwrap();
            CHECKS.contains(&check)
        });
        if is_found {
            assert_eq!(output.status.code(), Some(1), "{report:#}");
            eprintln!("{MUTATION}: {found:?} in {operations} operations");
            return;
        }
        assert!(operations <= OPERATIONS_MAX, "{found:?} in {operations} operations: {report:#}");
    }
}
