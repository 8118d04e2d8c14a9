//! Reads whose filters name the shard keys: the server finds their rows by the primary key, as its
//! plans show.

use std::time::{Duration, Instant};

use shard_manager::access::rights::Rights;
use shard_manager::manager::Manager;
use shard_manager::query::{Comparison, Condition, OrderBy, ReadQuery, Test};
use shard_manager::row_change::Operation;
use shard_manager::value::Value;

use crate::cluster::{SideSession, Trio, connect};
use crate::rows::{options, prepare, write_all};
use crate::server::runtime;

/// So many rows that the server prefers an index to a sequential scan.
const ROWS: usize = 6_000;

fn row(number: usize) -> (String, String) {
    let key = format!("user_{number}");
    let json = format!(r#"{{"user_id":"{key}","name":"Name","email":"name@example.com"}}"#);
    (key, json)
}

/// Reads; returns the number of rows and the plan by which the server found them.
async fn planned(manager: &Manager, trio: &Trio, query: ReadQuery) -> (usize, String) {
    let log = trio.node("shard1-primary").dir.log();
    let reported = || std::fs::read_to_string(&log).unwrap();
    let before = reported().len();
    let read = manager.data(Rights::ALL).read(query, None, &options()).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let text = reported()[before..].to_owned();
        // Each plan ends where the next line with a time begins.
        let plans = text.split("duration:").find(|plan| plan.contains("FROM users"));
        if let Some(plan) = plans.filter(|plan| plan.contains("cost=")) {
            return (read.rows.len(), plan.to_owned());
        }
        assert!(Instant::now() < deadline, "no plan is logged: {text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn rows_of_the_keys_that_filters_name_are_found_by_the_primary_key() {
    let settings = [
        ("session_preload_libraries", "auto_explain"),
        ("auto_explain.log_min_duration", "0"),
        ("auto_explain.log_nested_statements", "off"),
    ];
    let trio = Trio::of(0, &settings);
    let manager = connect(&trio.address());
    runtime().block_on(async {
        let rows = (0..ROWS).map(row);
        let rows: Vec<_> = rows
            .map(|(key, json)| prepare(&manager, "users", Operation::Insert, &key, &json))
            .collect();
        for chunk in rows.chunks(1_000) {
            let done = write_all(&manager, chunk.to_vec(), false).await;
            assert!(done.iter().all(Result::is_ok));
        }
        let node = trio.node("shard1-primary");
        SideSession::open(node, &node.database()).await.run("ANALYZE users").await;
        let table = manager.schema(Rights::ALL).table("users").unwrap();
        let routing = table.routing().unwrap();
        let text = |key: &str| Value::Text(key.to_owned());
        let one = Condition::Column(routing, Test::Compare(Comparison::Equal, text("user_7")));
        let several = Condition::Column(
            routing,
            Test::In(["user_7", "user_70", "user_700"].map(text).into()),
        );
        let name = OrderBy { column: table.find("name").unwrap(), descending: true };
        for (conditions, order, found) in [
            (vec![one.clone()], vec![], 1),
            (vec![one], vec![name], 1),
            (vec![several.clone()], vec![], 3),
            (vec![several], vec![name], 3),
        ] {
            let query = ReadQuery { conditions, order, ..ReadQuery::all(&table) };
            let (rows, plan) = planned(&manager, &trio, query).await;
            assert_eq!(rows, found, "{plan}");
            assert!(plan.contains("users_pkey") && !plan.contains("Seq Scan on users"), "{plan}");
        }
    });
    manager.close();
}
