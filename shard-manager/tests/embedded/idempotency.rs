//! Tests of idempotency keys: requests that are repeated in the same batch, after a restart, and
//! after expiry.

use std::path::Path;

use serde_json::json;
use shard_manager::access::rights::Rights;
use shard_manager::error::{Error, Failure};
use shard_manager::manager::WriteReceipt;
use shard_manager::row_change::Operation::{self, Delete, Insert, Update, Upsert};
use shard_manager::row_change::Precondition;

use crate::cluster::{Cluster, execute, ints, options};

async fn write(
    cluster: &Cluster,
    operation: Operation,
    name: &str,
    key: &str,
) -> Result<WriteReceipt, Failure> {
    let json = match operation {
        Delete => "{}".to_owned(),
        Upsert | Insert | Update => json!({"name": name, "email": "a@example.com"}).to_string(),
    };
    let (place, mut row) = cluster.prepare("users", operation, "ada", &json);
    row.idempotency_key = Some(key.to_owned());
    cluster.manager.data(Rights::ALL).write(place, row, &options()).await
}

fn records(file: &Path) -> i64 {
    ints(file, "SELECT count(*) AS value FROM tessera_idempotency")[0]
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer_and_changes_nothing() {
    let cluster = Cluster::with_shards(1);
    let first = write(&cluster, Insert, "Ada", "k1").await.expect("made").row;
    assert!(!first.replayed);
    write(&cluster, Update, "Ada L.", "k2").await.expect("changed");
    let again = write(&cluster, Insert, "Ada", "k1").await.expect("as before").row;
    assert!(again.replayed);
    assert_eq!((again.change, again.version), (first.change, first.version));
    assert_eq!(again.json, first.json, "as it was then");
    let rows = cluster.rows("users", Some("ada")).await;
    assert_eq!(rows[0]["name"], "Ada L.", "what came between stays");
    let cluster = cluster.restart_after(|_| {});
    assert!(write(&cluster, Insert, "Ada", "k1").await.expect("as before").row.replayed);
    let other = write(&cluster, Insert, "Bob", "k1").await.expect_err("another request");
    assert_eq!(other.error, Error::KeyReused);
}

#[tokio::test]
async fn a_refused_request_stays_refused_when_it_is_repeated() {
    let cluster = Cluster::with_shards(1);
    let refused = write(&cluster, Update, "Ada", "k1").await.expect_err("there is no row");
    assert_eq!(refused.error, Error::NoSuchRow);
    assert!(refused.seen.is_some(), "the client has learnt something of the shard");
    write(&cluster, Insert, "Ada", "k2").await.expect("made");
    let again = write(&cluster, Update, "Ada", "k1").await.expect_err("as before");
    assert_eq!(again.error, Error::Remembered(Box::new(Error::NoSuchRow)));
    assert_eq!(
        cluster.rows("users", Some("ada")).await[0]["version"],
        2,
        "one record lies between"
    );
    for (operation, precondition, error) in [
        (Upsert, Precondition::Versions(vec![1, 77]), Error::VersionDiffers),
        (Upsert, Precondition::Absent, Error::Exists),
    ] {
        let json = json!({"name": "x", "email": "x"}).to_string();
        let (place, mut row) = cluster.prepare("users", operation, "ada", &json);
        row.precondition = Some(precondition);
        let refused = cluster
            .manager
            .data(Rights::ALL)
            .write(place, row, &options())
            .await
            .expect_err("it differs");
        assert_eq!(refused.error, error);
    }
}

/// SQL expression of a time at this distance from now.
fn ago(what: &str) -> String {
    format!("strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '{what}')")
}

#[tokio::test]
async fn a_repeated_request_is_recognised_although_the_clock_was_changed() {
    let cluster = Cluster::with_shards(1);
    let file = cluster.file(1);
    write(&cluster, Upsert, "Ada", "k1").await.expect("made");
    // Simulates a clock that has since been set forward or back by this much.
    for jump in ["-23 hours", "-25 hours", "-10 years", "+10 years"] {
        let age = format!("UPDATE tessera_idempotency SET created_at = {}", ago(jump));
        execute(&file, &age);
        assert!(write(&cluster, Upsert, "Ada", "k1").await.expect("kept").row.replayed, "{jump}");
        let other = write(&cluster, Upsert, "Bob", "k1").await.expect_err("another request");
        assert_eq!(other.error, Error::KeyReused, "{jump}");
    }
    for jump in ["-3 days", "-10 years", "+10 years"] {
        let age = format!("UPDATE tessera_idempotency SET created_at = {}", ago(jump));
        let cluster = Cluster::with_shards(1);
        write(&cluster, Upsert, "Ada", "k1").await.expect("made");
        let file = cluster.file(1);
        let cluster = cluster.restart_after(|_| execute(&file, &age));
        for n in 0..3 {
            write(&cluster, Upsert, "Ada", &format!("{n}")).await.expect("stored");
            let again = write(&cluster, Upsert, "Ada", "k1").await.expect("kept");
            assert!(again.row.replayed, "{jump}, and a start");
        }
    }
}

#[tokio::test]
async fn expired_answers_are_removed_however_many_there_are() {
    let cluster = Cluster::with_shards(1);
    let file = cluster.file(1);
    write(&cluster, Upsert, "Ada", "k1").await.expect("made");
    let insert = |rows: usize, slot: usize, at: &str| {
        execute(
            &file,
            &format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
                 INSERT INTO tessera_idempotency SELECT {slot}, 'old', 'k' || i, 'f', '{{}}', 1,
                 {at}, {at} FROM n"
            ),
        );
    };
    let cluster = cluster.restart_after(|_| {
        insert(900, 0, &ago("-3 days"));
        insert(1, 1, &ago("-1 hour"));
    });
    for n in 0..4 {
        assert!(records(&file) > 100, "only some at a time");
        write(&cluster, Upsert, "Ada", &format!("new{n}")).await.expect("stored");
    }
    assert_eq!(records(&file), 6, "those of today");
}

#[tokio::test]
async fn expired_answers_of_slots_that_accept_no_writes_or_move_are_kept() {
    let cluster = Cluster::with_shards(1);
    let file = cluster.file(1);
    write(&cluster, Upsert, "Ada", "k1").await.expect("made");
    let cluster = cluster.restart_after(|_| {
        let (old, today) = (ago("-3 days"), ago("-1 hour"));
        for (slot, at) in [(0, &old), (1, &today), (5, &old), (6, &old), (7, &old), (8, &old)] {
            let row = format!("{slot}, 'old', 'k', 'f', '{{}}', 1, {at}, {at}");
            execute(&file, &format!("INSERT INTO tessera_idempotency SELECT {row}"));
        }
        let states = "UPDATE tessera_slots SET state = 'moved', moved_to = '1' WHERE slot = 5;
            UPDATE tessera_slots SET state = 'fenced', until = '9000' WHERE slot = 6;
            UPDATE tessera_slots SET state = 'fenced', until = '2000' WHERE slot = 7";
        execute(&file, states);
        let moving = "INSERT INTO tessera_moves (id, role, other, slots, leg, term, mover, pass,
            round, feed_timeline, feed_begun_timeline, feed_begun, cursor, traced_after,
            begun_timeline, begun, version) VALUES ('00000000-0000-0000-0000-000000000007',
            'source', 1, '[8]', 1, 1, '1', 1, 0, 0, 0, 0, 'empty', 0, 1, 0, 0)";
        execute(&file, moving);
    });
    write(&cluster, Upsert, "Ada", "k2").await.expect("stored");
    let kept =
        "SELECT slot AS value FROM tessera_idempotency WHERE shard_key = 'old' ORDER BY slot";
    assert_eq!(ints(&file, kept), [1, 5, 6, 8]);
}
