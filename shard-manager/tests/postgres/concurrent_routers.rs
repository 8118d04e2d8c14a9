//! Tests of two routers that write the same rows at the same time.

use std::collections::BTreeSet;
use std::sync::Mutex;

use futures_util::future::join_all;
use shard_manager::access::rights::Rights;
use shard_manager::error::{Error, Failure, Outcome};
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{Manager, WriteReceipt};
use shard_manager::query::ReadQuery;
use shard_manager::row_change::Operation::{self, Delete, Insert, Update, Upsert};
use shard_manager::row_change::{Precondition, RowWrite};
use shard_manager::shard_map::KeyLocation;

use crate::cluster::{Databases, SideSession, connect};
use crate::rows::{options, prepare, rows, write, write_all};

/// Two routers of one cluster, and a direct session to its only shard.
async fn two() -> (Databases, [Manager; 2], SideSession) {
    let databases = Databases::new(1).await;
    let managers = [connect(&databases.address()), connect(&databases.address())];
    let direct = databases.direct_session(0).await;
    (databases, managers, direct)
}

const USER: &str = r#"{"name":"n","email":"e"}"#;

fn user(manager: &Manager, operation: Operation, key: &str) -> (KeyLocation, RowWrite) {
    let json = if operation == Delete { "{}" } else { USER };
    prepare(manager, "users", operation, key, json)
}

#[tokio::test]
async fn of_all_inserts_of_a_new_key_one_succeeds() {
    let (_databases, managers, _direct) = two().await;
    for round in 0..12 {
        let keys: Vec<String> = (0..8).map(|n| format!("r{round}k{n}")).collect();
        let callers = (0..4).flat_map(|_| &managers).enumerate().map(async |(n, manager)| {
            // Some routers start at once, in either order; some one after the other.
            let mut keys = keys.clone();
            if n % 2 == 1 {
                keys.reverse();
            }
            if n < 4 {
                let changes = keys.iter().map(|key| user(manager, Insert, key)).collect();
                let done = write_all(manager, changes, false).await;
                return keys.into_iter().zip(done).collect::<Vec<_>>();
            }
            let written = keys.into_iter().map(async |key| {
                let written = write(manager, "users", Insert, &key, USER).await;
                (
                    key,
                    written
                        .map(|done| done.row)
                        .map_err(|failure| (failure.error, failure.outcome)),
                )
            });
            join_all(written).await
        });
        let reported = join_all(callers).await.concat();
        for key in &keys {
            let of_key: Vec<_> = reported.iter().filter(|(of, _)| of == key).collect();
            let made = of_key.iter().filter(|(_, outcome)| outcome.is_ok()).count();
            let exists = Err((Error::Exists, Outcome::Rejected));
            let exist = of_key.iter().filter(|(_, outcome)| *outcome == exists).count();
            assert_eq!((made, exist), (1, 7), "{of_key:?}");
        }
    }
}

/// Adds one to the value it has read, unless another write has come between.
async fn add(manager: &Manager) -> Result<WriteReceipt, Failure> {
    let table = manager.schema(Rights::ALL).table("transactions").unwrap();
    let key = ShardKey::parse("a").unwrap();
    let read =
        manager.data(Rights::ALL).read(ReadQuery::all(&table), Some(key), &options()).await?;
    let row: serde_json::Value = serde_json::from_slice(read.rows.row(0)).unwrap();
    let json = format!(r#"{{"tx_id":"t","amount":{}}}"#, row["amount"].as_i64().unwrap() + 1);
    let (place, mut row) = prepare(manager, "transactions", Update, "a", &json);
    row.precondition = Some(Precondition::Versions(vec![read.rows.version.unwrap()]));
    manager.data(Rights::ALL).write(place, row, &options()).await
}

#[tokio::test]
async fn no_update_under_a_version_is_lost() {
    let (_databases, managers, mut direct) = two().await;
    write(&managers[0], "transactions", Insert, "a", r#"{"tx_id":"t","amount":0}"#).await.unwrap();
    let callers = (0..3).flat_map(|_| &managers).map(async |manager| {
        for _ in 0..12 {
            while let Err(failure) = add(manager).await {
                assert_eq!(failure.error, Error::VersionDiffers);
            }
        }
    });
    join_all(callers).await;
    assert_eq!(direct.text("SELECT amount::text AS value FROM transactions").await, "72");
}

#[tokio::test]
async fn versions_of_a_row_only_grow_whichever_router_changes_it() {
    let (_databases, managers, mut direct) = two().await;
    // By key: the highest version that any client has seen, and all versions.
    let reported: Vec<Mutex<(i64, BTreeSet<i64>)>> = (0..3).map(|_| Mutex::default()).collect();
    let callers = (0..3).flat_map(|_| &managers).enumerate().map(async |(caller, manager)| {
        let operations = [Upsert, Insert, Delete, Update, Upsert, Delete, Insert];
        for n in 0..40 {
            let at = (caller + n) % reported.len();
            let operation = operations[(caller * 3 + n) % operations.len()];
            let before = reported[at].lock().unwrap().0;
            let (place, row) = user(manager, operation, &format!("k{at}"));
            match manager.data(Rights::ALL).write(place, row, &options()).await {
                Ok(written) => {
                    let version = written.row.version;
                    assert!(version > before, "{operation:?} of k{at}: {version} after {before}");
                    let mut known = reported[at].lock().unwrap();
                    known.0 = known.0.max(version);
                    assert!(known.1.insert(version), "two changes of k{at} have version {version}");
                }
                Err(failure) => {
                    let expected = matches!(failure.error, Error::Exists | Error::NoSuchRow);
                    assert!(expected, "{operation:?} of k{at}: {failure:?}");
                }
            }
        }
    });
    join_all(callers).await;
    let stored = "SELECT user_id||' '||version AS value FROM users";
    for row in direct.texts(stored).await {
        let (key, version) = row.split_once(' ').unwrap();
        let at: usize = key[1..].parse().unwrap();
        assert_eq!(reported[at].lock().unwrap().0.to_string(), version, "{key}");
    }
}

/// Writes the same rows in all orders, of two tables, by the pipelined path and the sequential one,
/// and expects no deadlock.
#[tokio::test]
async fn batches_that_cross_each_other_are_all_stored() {
    let (_databases, managers, mut direct) = two().await;
    let deadlocks =
        "SELECT deadlocks::text AS value FROM pg_stat_database WHERE datname=current_database()";
    for round in 0..10 {
        let callers = (0..3).flat_map(|_| &managers).enumerate().map(async |(caller, manager)| {
            let mut keys: Vec<usize> = (0..40).collect();
            keys.rotate_left((caller * 7 + round) % 40);
            if caller % 2 == 0 {
                keys.reverse();
            }
            let changes = keys.iter().flat_map(|key| {
                let key = format!("k{key}");
                let json = r#"{"tx_id":"t","amount":1}"#;
                let (place, mut second) = prepare(manager, "transactions", Upsert, &key, json);
                // A third of the callers uses the sequential path.
                let long = caller % 3 == 2;
                second.idempotency_key = long.then(|| format!("{round} {caller} {key}"));
                let mut first = user(manager, Upsert, &key);
                if caller % 2 == 1 && key.ends_with('7') {
                    // Some rows are given other columns, and so need a statement of their own.
                    let json = r#"{"name":"n","email":"e","partition_key":"p"}"#;
                    first = prepare(manager, "users", Upsert, &key, json);
                }
                let changes = [first, (place, second)];
                if caller % 2 == 0 {
                    changes
                } else {
                    let [a, b] = changes;
                    [b, a]
                }
            });
            write_all(manager, changes.collect(), false).await
        });
        for outcome in join_all(callers).await.concat() {
            assert!(outcome.is_ok(), "{outcome:?}");
        }
    }
    assert_eq!(rows(&managers[1], "users", None).await.len(), 40);
    assert_eq!(rows(&managers[0], "transactions", None).await.len(), 40);
    // Sessions report their statistics when they end, at the latest.
    managers.iter().for_each(Manager::close);
    let open = "SELECT count(*)::text AS value FROM pg_stat_activity
        WHERE datname=current_database() AND application_name LIKE 'tessera %'";
    direct.until(open, "0").await;
    assert_eq!(direct.text(deadlocks).await, "0");
}

/// Two routers that receive one request carry it out only once.
#[tokio::test]
async fn an_idempotency_key_holds_across_routers() {
    let (_databases, managers, _direct) = two().await;
    for n in 0..20 {
        let callers = (0..2).flat_map(|_| &managers).map(async |manager| {
            let (place, mut row) = user(manager, Insert, &format!("k{n}"));
            row.idempotency_key = Some("once".to_owned());
            manager.data(Rights::ALL).write(place, row, &options()).await.unwrap().row
        });
        let reported = join_all(callers).await;
        assert_eq!(reported.iter().filter(|row| !row.replayed).count(), 1, "{reported:?}");
        assert!(
            reported
                .iter()
                .all(|row| row.json == reported[0].json && row.version == reported[0].version)
        );
    }
}

/// Each router has the row refused by the database, and stores the refusal under the same key.
#[tokio::test]
async fn routers_that_store_the_same_refusal_at_once_store_it_once() {
    let (_databases, managers, mut direct) = two().await;
    direct.run("ALTER TABLE users ADD CONSTRAINT closed CHECK (name <> 'n')").await;
    let insert = async |manager: &Manager, n: i32| {
        let (place, mut row) = user(manager, Insert, &format!("k{n}"));
        row.idempotency_key = Some("once".to_owned());
        manager.data(Rights::ALL).write(place, row, &options()).await.unwrap_err()
    };
    let first = Error::Constraint { rule: "check" };
    let again = Error::Remembered(Box::new(first.clone()));
    for n in 0..20 {
        let callers = (0..2).flat_map(|_| &managers).map(async |manager| insert(manager, n).await);
        for failure in join_all(callers).await {
            assert!([&first, &again].contains(&&failure.error), "{failure:?}");
            assert_eq!(failure.outcome, Outcome::Rejected);
        }
    }
    direct.run("ALTER TABLE users DROP CONSTRAINT closed").await;
    for n in 0..20 {
        for manager in &managers {
            assert_eq!(insert(manager, n).await.error, again);
        }
    }
}
