//! Tests of the fence: once a slot is fenced, no write to it succeeds, however far it had come.
//!
//! The tests hold the fence lock like a process that moves slots, wait until a writer waits for the
//! lock, and commit.

use std::time::{Duration, Instant};

use shard_manager::error::{Error, Outcome};
use shard_manager::manager::{Manager, RequestOptions};
use shard_manager::row_change::Operation::{self, Delete, Insert, Update, Upsert};

use crate::cluster::{Databases, SideSession, connect};
use crate::rows::{RowOutcome, prepare, write, write_all_by};

/// Number of sessions that wait for the fence lock of the current database.
const WAITING: &str =
    "SELECT count(*)::text AS value FROM pg_locks WHERE locktype='advisory' AND NOT granted
    AND classid=1950 AND objid=1
    AND database=(SELECT oid FROM pg_database WHERE datname=current_database())";

const USER: &str = r#"{"name":"n","email":"e"}"#;

/// A cluster of one shard with a user `there`, a direct session that holds the fence lock, and one
/// that observes.
async fn fenced() -> (Databases, Manager, SideSession, SideSession) {
    let databases = Databases::new(1).await;
    let manager = connect(&databases.address());
    write(&manager, "users", Upsert, "there", USER).await.unwrap();
    let (mut fence, looker) =
        (databases.direct_session(0).await, databases.direct_session(0).await);
    fence.run("BEGIN; SELECT pg_advisory_xact_lock(1950, 1)").await;
    (databases, manager, fence, looker)
}

fn slot(manager: &Manager, key: &str) -> u16 {
    prepare(manager, "users", Upsert, key, USER).0.slot.number()
}

async fn users(direct: &mut SideSession) -> String {
    direct
        .text("SELECT string_agg(user_id||' '||name, ',' ORDER BY user_id) AS value FROM users")
        .await
}

/// Deadline of writes that are refused: they wait so long, and others are much faster.
fn patience(seconds: u64) -> RequestOptions {
    RequestOptions::by(Instant::now() + Duration::from_secs(seconds))
}

fn is_strange(outcome: &RowOutcome) -> bool {
    matches!(outcome, Err((Error::SlotRefused(_), Outcome::Rejected)))
}

/// Starts a write, which waits for the lock, and asserts that it is refused after the fence was
/// committed.
async fn refused_after(mark: &str, operation: Operation, key: &str, json: &str, whole: bool) {
    let (_databases, manager, mut fence, mut looker) = fenced().await;
    let slot = slot(&manager, key);
    fence.run(&format!("UPDATE tessera_slots SET {mark} WHERE slot={slot}")).await;
    let row = prepare(&manager, "users", operation, key, json);
    let options = patience(10);
    let written = write_all_by(&manager, vec![row], whole, &options);
    let freed = async {
        looker.until(WAITING, "1").await;
        fence.run("COMMIT").await;
    };
    let (outcomes, ()) = tokio::join!(written, freed);
    assert!(is_strange(&outcomes[0]), "{mark} {operation:?}: {outcomes:?}");
    assert_eq!(users(&mut looker).await, "there n", "{mark} {operation:?}");
}

#[tokio::test]
async fn a_plain_write_that_waited_for_the_fence_is_refused() {
    refused_after("state='fenced'", Upsert, "new", USER, false).await;
    refused_after(
        "state='moved', moved_to='x'",
        Upsert,
        "there",
        r#"{"name":"x","email":"e"}"#,
        false,
    )
    .await;
}

#[tokio::test]
async fn a_conditional_write_that_waited_for_the_fence_is_refused() {
    refused_after("state='fenced'", Insert, "new", USER, false).await;
    refused_after("state='moved'", Update, "there", r#"{"name":"x"}"#, false).await;
    refused_after("state='fenced', until=now()+'1h'", Upsert, "new", USER, true).await;
}

#[tokio::test]
async fn a_removal_that_waited_for_the_fence_is_refused() {
    refused_after("state='fenced'", Delete, "there", "{}", false).await;
}

/// A naive statement writes after the fence. It takes the lock and checks whether the slot is
/// owned, but with the snapshot from before its wait.
#[tokio::test]
async fn a_naive_statement_writes_after_the_fence() {
    let (databases, manager, mut fence, mut looker) = fenced().await;
    let slot = slot(&manager, "new");
    fence.run(&format!("UPDATE tessera_slots SET state='fenced' WHERE slot={slot}")).await;
    let obvious = format!(
        "WITH own AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared(1950, 1))
         INSERT INTO users (slot, shard_key, user_id, name, email, version, created_at, updated_at)
         SELECT {slot}, 'new', 'new', 'n', 'e', 1, now(), now() FROM own
         WHERE EXISTS (SELECT FROM tessera_slots WHERE slot={slot} AND state='owned')"
    );
    let mut writer = databases.direct_session(0).await;
    let freed = async {
        looker.until(WAITING, "1").await;
        fence.run("COMMIT").await;
    };
    tokio::join!(writer.run(&obvious), freed);
    assert_eq!(users(&mut looker).await, "new n,there n", "it slips through");
    let row = prepare(&manager, "users", Upsert, "new", USER);
    let refused = write_all_by(&manager, vec![row], false, &patience(5)).await;
    assert!(is_strange(&refused[0]), "and the engine's does not");
}

/// A snapshot that is older than the lock does not contain the fence.
#[tokio::test]
async fn a_transaction_that_keeps_its_snapshot_may_not_enter() {
    let (databases, manager, mut fence, mut looker) = fenced().await;
    fence.run("ROLLBACK").await;
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        fence.run(&format!("BEGIN ISOLATION LEVEL {level}")).await;
        for alone in ["false", "true"] {
            let refused = fence.try_run(&format!("SELECT tessera_enter('{{1}}', {alone})")).await;
            let said = refused.unwrap_err();
            assert!(said.contains("tessera_enter needs READ COMMITTED"), "{said}");
            fence.run(&format!("ROLLBACK; BEGIN ISOLATION LEVEL {level}")).await;
        }
        fence.run("ROLLBACK").await;
    }
    // The engine's sessions override the database's default for all sessions.
    let name = &databases.names[0];
    fence
        .run(&format!("ALTER DATABASE {name} SET default_transaction_isolation='serializable'"))
        .await;
    manager.close();
    let manager = connect(&databases.address());
    write(&manager, "users", Upsert, "a", USER).await.unwrap();
    write(&manager, "users", Insert, "b", USER).await.unwrap();
    assert_eq!(users(&mut looker).await, "a n,b n,there n");
}

#[tokio::test]
async fn a_fence_holds_until_its_time_has_passed_and_every_other_state_for_good() {
    let (_databases, manager, mut fence, mut looker) = fenced().await;
    fence.run("COMMIT").await;
    let stories = [
        ("state='fenced', until=now()-interval '1s'", true),
        ("state='fenced', until=now()+interval '1h'", false),
        ("state='fenced', until=NULL", false),
        ("state='moved', until=now()-interval '1s'", false),
        ("state='importing', until=now()-interval '1s'", false),
        ("state='owned', until=NULL", true),
    ];
    for (number, (mark, goes)) in stories.into_iter().enumerate() {
        for operation in [Upsert, Insert] {
            let key = format!("{}{number}", operation.name());
            let slot = slot(&manager, &key);
            fence.run(&format!("UPDATE tessera_slots SET {mark} WHERE slot={slot}")).await;
            let row = prepare(&manager, "users", operation, &key, USER);
            let outcomes = write_all_by(&manager, vec![row], false, &patience(4)).await;
            let fits = if goes { outcomes[0].is_ok() } else { is_strange(&outcomes[0]) };
            assert!(fits, "{mark} {operation:?}: {outcomes:?}");
        }
    }
    let slot = slot(&manager, "gone");
    fence.run(&format!("DELETE FROM tessera_slots WHERE slot={slot}")).await;
    let row = prepare(&manager, "users", Upsert, "gone", USER);
    let refused = write_all_by(&manager, vec![row], false, &patience(4)).await;
    assert!(is_strange(&refused[0]), "{refused:?}");
    assert_eq!(users(&mut looker).await, "insert0 n,insert5 n,there n,upsert0 n,upsert5 n");
}

#[tokio::test]
async fn rows_of_a_fenced_slot_do_not_affect_their_neighbours() {
    let (_databases, manager, mut fence, mut looker) = fenced().await;
    let keys: Vec<String> = (0..40).map(|n| format!("k{n:02}")).collect();
    let strange = |n: usize| n % 7 == 3;
    for (_, key) in keys.iter().enumerate().filter(|(n, _)| strange(*n)) {
        let slot = slot(&manager, key);
        fence.run(&format!("UPDATE tessera_slots SET state='moved' WHERE slot={slot}")).await;
    }
    fence.run("COMMIT").await;
    for operation in [Upsert, Update] {
        // Each row is written twice, so that it occurs more than once in its batch.
        let rows = keys.iter().chain(&keys);
        let rows = rows.map(|key| prepare(&manager, "users", operation, key, USER)).collect();
        let outcomes = write_all_by(&manager, rows, false, &patience(5)).await;
        for (at, outcome) in outcomes.iter().enumerate() {
            let fits = if strange(at % 40) { is_strange(outcome) } else { outcome.is_ok() };
            assert!(fits, "{operation:?} {at}: {outcome:?}");
        }
    }
    // In a transaction of several rows, one refusal undoes all.
    let rows =
        ["k00", "k01", "k03", "k04"].map(|key| prepare(&manager, "users", Delete, key, "{}"));
    let outcomes = write_all_by(&manager, rows.into(), true, &patience(5)).await;
    assert!(outcomes.iter().all(Result::is_err) && is_strange(&outcomes[2]), "{outcomes:?}");
    let left: Vec<_> = keys.iter().enumerate().filter(|(n, _)| !strange(*n)).collect();
    let counted =
        looker.text("SELECT count(*)::text AS value FROM users WHERE user_id<>'there'").await;
    assert_eq!(counted, left.len().to_string());
}

#[tokio::test]
async fn a_row_that_is_refused_beside_a_moved_slot_stores_no_outcome_of_the_transaction() {
    let (_databases, manager, mut fence, mut looker) = fenced().await;
    let slot = slot(&manager, "elsewhere");
    fence.run(&format!("UPDATE tessera_slots SET state='moved' WHERE slot={slot}; COMMIT")).await;
    // The first row exists, so that it is refused before the second one is looked at.
    let rows = [(Insert, "there"), (Upsert, "elsewhere")].map(|(operation, key)| {
        let mut row = prepare(&manager, "users", operation, key, USER);
        row.1.idempotency_key = Some("k".into());
        row
    });
    let outcomes = write_all_by(&manager, rows.into(), true, &patience(5)).await;
    assert!(outcomes.iter().all(Result::is_err) && is_strange(&outcomes[1]), "{outcomes:?}");
    let records = "SELECT count(*)::text AS value FROM tessera_idempotency";
    assert_eq!(looker.text(records).await, "0");
}
