//! Tests of faults: rows that break constraints, callers that disconnect, connections that are cut,
//! servers that are restarted.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use shard_manager::access::rights::Rights;
use shard_manager::consistency::Level;
use shard_manager::error::{Error, Outcome};
use shard_manager::keyspace::ShardKey;
use shard_manager::local::{LocalNode, Stop};
use shard_manager::manager::Manager;
use shard_manager::query::{OrderBy, ReadQuery};
use shard_manager::row_change::Operation::{self, Insert, Upsert};
use shard_manager::row_change::RowDone;
use shard_manager::shard_map::KeyLocation;

use crate::cluster::{Databases, SideSession, connect, mortal};
use crate::read_write_steps::put_fails;
use crate::rows::{RowOutcome, acknowledged_rows, options, prepare, rows, write, write_all};
use crate::server::runtime;

const USER: &str = r#"{"name":"n","email":"e"}"#;

/// Backends of the engine in a database, by purpose.
fn backends(purpose: &str, rest: &str) -> String {
    format!(
        "SELECT count(*)::text AS value FROM pg_stat_activity
         WHERE datname=current_database() AND application_name LIKE 'tessera {purpose}' {rest}"
    )
}

async fn one_shard() -> (Databases, Manager, SideSession) {
    let databases = Databases::new(1).await;
    let manager = connect(&databases.address());
    let direct = databases.direct_session(0).await;
    (databases, manager, direct)
}

fn user(
    manager: &Manager,
    operation: Operation,
    key: &str,
    email: &str,
) -> (KeyLocation, shard_manager::row_change::RowWrite) {
    let json = format!(r#"{{"name":"n","email":"{email}"}}"#);
    prepare(manager, "users", operation, key, &json)
}

/// Asserts that each row was stored once: a row stored twice has another version than the reported
/// one.
async fn assert_stored_once(direct: &mut SideSession, reported: &BTreeMap<String, RowOutcome>) {
    let stored = "SELECT user_id||' '||version AS value FROM users ORDER BY user_id";
    let good = reported.iter().filter_map(|(key, outcome)| Some((key, outcome.as_ref().ok()?)));
    let good: Vec<String> = good.map(|(key, done)| format!("{key} {}", done.version)).collect();
    assert_eq!(direct.texts(stored).await, good);
}

#[tokio::test]
async fn a_row_that_breaks_a_constraint_fails_alone_and_its_neighbours_are_stored_once() {
    let (_databases, manager, mut direct) = one_shard().await;
    direct
        .run("ALTER TABLE users ADD CHECK (email <> 'bad'); CREATE UNIQUE INDEX ON users (email)")
        .await;
    for operation in [Upsert, Insert] {
        direct.run("DELETE FROM users").await;
        write(&manager, "users", Insert, "first", r#"{"name":"n","email":"taken"}"#).await.unwrap();
        let email = |n: usize| match n {
            17 => "bad".to_owned(),
            23 => "taken".to_owned(),
            31 | 32 => "both".to_owned(),
            n => format!("e{n}"),
        };
        let keys: Vec<String> = (0..60).map(|n| format!("k{n:02}")).collect();
        let changes = keys.iter().enumerate();
        let changes = changes.map(|(n, key)| user(&manager, operation, key, &email(n))).collect();
        let outcomes = write_all(&manager, changes, false).await;
        for (n, outcome) in outcomes.iter().enumerate() {
            let rule = |rule| Err((Error::Constraint { rule }, Outcome::Rejected));
            match n {
                17 => assert_eq!(*outcome, rule("check")),
                23 => assert_eq!(*outcome, rule("unique")),
                31 | 32 => {}
                _ => assert!(outcome.is_ok(), "{operation:?} {n}: {outcome:?}"),
            }
        }
        assert!(outcomes[31].is_ok() != outcomes[32].is_ok(), "{:?}", &outcomes[31..33]);
        let mut reported: BTreeMap<String, RowOutcome> = keys.into_iter().zip(outcomes).collect();
        direct.run("DELETE FROM users WHERE user_id='first'").await;
        reported.retain(|_, outcome| outcome.is_ok());
        assert_stored_once(&mut direct, &reported).await;
    }
}

/// The callers are independent; their rows meet in one transaction.
#[tokio::test]
async fn a_caller_whose_row_breaks_a_constraint_does_not_affect_other_callers() {
    let (_databases, manager, mut direct) = one_shard().await;
    direct.run("ALTER TABLE users ADD CHECK (email <> 'bad')").await;
    let written = (0..200).map(async |n| {
        let (operation, key) = (if n % 3 == 0 { Insert } else { Upsert }, format!("k{n:03}"));
        let email = if n % 50 == 7 { "bad" } else { "good" };
        let (place, row) = user(&manager, operation, &key, email);
        let written = manager.data(Rights::ALL).write(place, row, &options()).await;
        (
            key,
            written.map(|written| written.row).map_err(|failure| (failure.error, failure.outcome)),
        )
    });
    let shown: BTreeMap<String, RowOutcome> = join_all(written).await.into_iter().collect();
    let bad: Vec<_> = shown.iter().filter(|(_, outcome)| outcome.is_err()).collect();
    assert_eq!(
        bad.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(),
        ["k007", "k057", "k107", "k157"]
    );
    let check = Err((Error::Constraint { rule: "check" }, Outcome::Rejected));
    assert!(bad.iter().all(|(_, outcome)| **outcome == check), "{bad:?}");
    assert_stored_once(&mut direct, &shown).await;
}

/// Returns the outcomes of a transaction of three rows, one of which was refused.
fn refused_with(culprit: usize, error: &Error) -> Vec<RowOutcome> {
    let undone = Error::Undone { row: culprit, cause: Box::new(error.clone()) };
    let error = |row: usize| if row == culprit { error.clone() } else { undone.clone() };
    (0..3).map(|row| Err((error(row), Outcome::Rejected))).collect()
}

#[tokio::test]
async fn a_transaction_with_a_row_that_breaks_a_constraint_names_it_and_stores_nothing() {
    let (_databases, manager, mut direct) = one_shard().await;
    direct.run("ALTER TABLE users ADD CHECK (email <> 'bad')").await;
    let rows = ["a", "bad", "c"].map(|email| user(&manager, Upsert, &format!("k{email}"), email));
    let outcomes = write_all(&manager, rows.into(), true).await;
    assert_eq!(outcomes, refused_with(1, &Error::Constraint { rule: "check" }));
    assert_eq!(direct.text("SELECT count(*)::text AS value FROM users").await, "0");
}

/// Inserts users with these emails at once, each with an idempotency key.
async fn insert_keyed(manager: &Manager, emails: &[&str], whole: bool) -> Vec<RowOutcome> {
    let rows = emails.iter().enumerate().map(|(n, email)| {
        let (place, mut row) = user(manager, Insert, &format!("k{n}"), email);
        row.idempotency_key = Some(format!("once {n}"));
        (place, row)
    });
    write_all(manager, rows.collect(), whole).await
}

#[tokio::test]
async fn a_refusal_by_a_constraint_is_repeated_under_its_key_although_the_constraint_is_gone() {
    for whole in [false, true] {
        let (_databases, manager, mut direct) = one_shard().await;
        direct.run("ALTER TABLE users ADD CONSTRAINT good CHECK (email <> 'bad')").await;
        let emails = ["a", "bad", "c"];
        let first = insert_keyed(&manager, &emails, whole).await;
        let refused = refused_with(1, &Error::Constraint { rule: "check" });
        match whole {
            true => assert_eq!(first, refused),
            false => {
                assert!(first[0].is_ok() && first[2].is_ok(), "{first:?}");
                assert_eq!(first[1], refused[1]);
            }
        }
        direct.run("ALTER TABLE users DROP CONSTRAINT good").await;
        let repeated = |row: RowOutcome| match row {
            Ok(done) => Ok(RowDone { replayed: true, ..done }),
            Err((error, outcome)) => Err((Error::Remembered(Box::new(error)), outcome)),
        };
        let expected: Vec<RowOutcome> = first.into_iter().map(repeated).collect();
        for _ in 0..2 {
            assert_eq!(insert_keyed(&manager, &emails, whole).await, expected);
        }
        let stored = direct.text("SELECT count(*)::text AS value FROM users").await;
        assert_eq!(stored, if whole { "0" } else { "2" });
    }
}

#[tokio::test]
async fn callers_that_disconnect_leave_no_open_transaction_and_queued_writes_are_stored() {
    let (_databases, manager, mut direct) = one_shard().await;
    let table = manager.schema(Rights::ALL).table("users").unwrap();
    for n in 0..150 {
        let operation = if n % 2 == 0 { Insert } else { Upsert };
        let (place, row) = user(&manager, operation, &format!("k{n:03}"), "e");
        // Polled once and dropped: while it is queued, in flight, or being answered.
        let options = options();
        let written = manager.data(Rights::ALL).write(place, row, &options);
        let counted = ReadQuery { counts: true, ..ReadQuery::all(&table) };
        let scattered = manager.data(Rights::ALL).read(counted, None, &options);
        let keyed = manager.data(Rights::ALL).read(
            ReadQuery::all(&table),
            Some(ShardKey::parse("k000").unwrap()),
            &options,
        );
        let asked = async { tokio::join!(written, scattered, keyed) };
        let _ = tokio::time::timeout(Duration::from_micros(n * 20), asked).await;
    }
    direct.until("SELECT count(*)::text AS value FROM users", "150").await;
    direct.until(&backends("%", "AND state<>'idle'"), "0").await;
    write(&manager, "users", Insert, "after", USER).await.unwrap();
    assert_eq!(rows(&manager, "users", None).await.len(), 151);
}

#[tokio::test]
async fn after_the_lanes_connection_was_cut_the_next_write_is_stored() {
    let (_databases, manager, mut direct) = one_shard().await;
    for n in 0..10 {
        let operation = if n % 2 == 0 { Insert } else { Upsert };
        write(&manager, "users", operation, &format!("k{n}"), USER).await.unwrap();
        direct
            .run(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
             WHERE datname=current_database() AND application_name='tessera lane'",
            )
            .await;
    }
    write(&manager, "users", Upsert, "last", USER).await.unwrap();
    assert_eq!(rows(&manager, "users", None).await.len(), 11);
}

/// The outcome of a write whose connection is cut during the commit is unknown, and is reported so.
/// A write that was cut off before is sent again.
#[tokio::test]
async fn a_write_that_is_cut_off_reports_its_real_outcome_and_the_next_one_is_stored() {
    let (databases, manager, mut direct) = one_shard().await;
    write(&manager, "users", Upsert, "there", USER).await.unwrap();
    let (mut fence, mut watch) =
        (databases.direct_session(0).await, databases.direct_session(0).await);
    for operation in [Upsert, Insert] {
        fence.run("BEGIN; SELECT pg_advisory_xact_lock(1950, 1)").await;
        let written = write(&manager, "users", operation, "new", USER);
        let cut = async {
            direct.until(&backends("lane", "AND wait_event_type='Lock'"), "1").await;
            let lane =
                backends("lane", "").replace("count(*)", "count(pg_terminate_backend(pid, 10000))");
            assert_eq!(direct.text(&lane).await, "1");
        };
        if operation == Insert {
            let again = async {
                cut.await;
                watch.until(&backends("lane", "AND wait_event_type='Lock'"), "1").await;
                fence.run("ROLLBACK").await;
            };
            let (written, ()) = tokio::join!(written, again);
            written.unwrap();
            assert_eq!(direct.text("SELECT count(*)::text AS value FROM users").await, "2");
            continue;
        }
        let (written, ()) = tokio::join!(written, cut);
        let failure = written.unwrap_err();
        assert!(matches!(failure.error, Error::ShardUnavailable { .. }), "{failure:?}");
        assert_eq!(direct.text("SELECT count(*)::text AS value FROM users").await, "1");
        fence.run("ROLLBACK").await;
        write(&manager, "users", operation, "new", USER).await.unwrap();
        fence.run("DELETE FROM users WHERE user_id='new'").await;
    }
}

#[test]
fn readers_survive_a_restart_of_their_server() {
    let servers = mortal();
    runtime().block_on(restart_and_read(servers.primaries().next().unwrap()));
}

async fn restart_and_read(node: &LocalNode) {
    let databases = Databases::on(&[node]).await;
    let manager = connect(&databases.address());
    write(&manager, "users", Upsert, "u", USER).await.unwrap();
    let table = manager.schema(Rights::ALL).table("users").unwrap();
    let sorted = || {
        let by = OrderBy { column: table.find("name").unwrap(), descending: true };
        ReadQuery { order: vec![by], counts: true, ..ReadQuery::all(&table) }
    };
    let all = async |key: Option<&str>, query: ReadQuery| {
        let key = key.map(|key| ShardKey::parse(key).unwrap());
        manager.data(Rights::ALL).read(query, key, &options()).await.map(|read| read.rows.len())
    };
    let each = || {
        [(Some("u"), ReadQuery::all(&table)), (Some("u"), sorted()), (None, sorted())].into_iter()
    };
    for how in [Stop::Fast, Stop::Immediate] {
        for (key, query) in each() {
            assert_eq!(all(key, query).await.unwrap(), 1);
        }
        node.stop(how).unwrap();
        // Each of them waits for a replica before it fails.
        for failed in join_all(each().map(|(key, query)| all(key, query))).await {
            let failure = failed.unwrap_err();
            assert!(matches!(failure.error, Error::ShardUnavailable { .. }), "{failure:?}");
        }
        let failure = put_fails(&manager, "v", 200, Level::One).await;
        assert!(matches!(failure.error, Error::NoPrimary { .. }), "{failure:?}");
        assert_eq!(failure.outcome, Outcome::Rejected);
        node.start().unwrap();
        for (key, query) in each() {
            // A router that could not reach a node avoids it for a moment.
            while all(key, query.clone()).await.is_err() {
                tokio::task::yield_now().await;
            }
        }
        write(&manager, "users", Upsert, "u", USER).await.unwrap();
    }
    assert_eq!(all(None, sorted()).await.unwrap(), 1);
}

#[tokio::test]
async fn hundreds_of_callers_share_a_handful_of_connections() {
    let databases = Databases::new(1).await;
    let manager = connect(&databases.with_replicas().await);
    let mut direct = databases.direct_session(0).await;
    let replica = crate::cluster::shared().replicas_of(0).next().unwrap();
    let mut behind = SideSession::open(replica, &databases.names[0]).await;
    let table = manager.schema(Rights::ALL).table("users").unwrap();
    let callers = (0..300).map(async |n| {
        let key = format!("k{n}");
        write(&manager, "users", if n % 2 == 0 { Upsert } else { Insert }, &key, USER)
            .await
            .unwrap();
        for counts in [false, true] {
            let query = ReadQuery { counts, ..ReadQuery::all(&table) };
            let parsed = ShardKey::parse(&key).unwrap();
            manager.data(Rights::ALL).read(query.clone(), Some(parsed), &options()).await.unwrap();
            if counts {
                manager
                    .data(Rights::ALL)
                    .read(ReadQuery { limit: 5, ..query }, None, &options())
                    .await
                    .unwrap();
            }
        }
    });
    let looked = async {
        let mut most = (0, 0);
        for _ in 0..40 {
            let counted = direct.text(&backends("%", "")).await.parse().unwrap();
            let behind = behind.text(&backends("%", "")).await.parse().unwrap();
            most = (most.0.max(counted), most.1.max(behind));
        }
        most
    };
    let (_, (primary, replica)): (_, (u32, u32)) = tokio::join!(join_all(callers), looked);
    assert!((1..=8).contains(&primary) && (1..=8).contains(&replica), "{primary}, {replica}");
    assert_eq!(direct.text(&backends("lane", "")).await, "1");
    assert_eq!(acknowledged_rows(&manager, "users", None).await.len(), 300);
}
