//! Tests of unclean stops, which stay recorded until every file has been checked.

use std::fs;
use std::path::Path;

use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel::sqlite::SqliteConnection;

use crate::cluster::{Cluster, file, open, run_in};

#[derive(QueryableByName)]
struct RootPage {
    #[diesel(sql_type = BigInt)]
    rootpage: i64,
}

/// Overwrites a page that only a full check reads: the page of an empty table.
fn ruin(path: &Path) {
    let connection = SqliteConnection::establish(&path.to_string_lossy());
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'products'";
    let found = diesel::sql_query(sql).get_result(&mut connection.expect("the file opens"));
    let RootPage { rootpage } = found.expect("the table is there");
    let mut bytes = fs::read(path).expect("a file");
    let page = 4096 * (rootpage as usize - 1);
    bytes[page..page + 4096].fill(0xa5);
    fs::write(path, bytes).expect("it can be written");
}

/// A cluster as a killed process leaves it, with damage in the file of this node.
fn killed(node: &str) -> tempfile::TempDir {
    let dir = Cluster::filled().stop();
    ruin(&file(dir.path(), node));
    fs::write(dir.path().join("tessera.lock"), "1").expect("it can be written");
    dir
}

#[track_caller]
fn assert_clean(dir: &Path, clean: bool) {
    let status = run_in(dir, &["status", "--json"]).json();
    assert_eq!(status["router"]["clean"], clean, "{status}");
}

#[test]
fn a_short_command_leaves_an_unclean_stop_to_the_next_router_which_repairs_the_damage() {
    let dir = killed("shard2-replica1");
    let copies = tempfile::tempdir().unwrap();
    let (copy, rows) = (copies.path().join("copy"), copies.path().join("users.ndjson"));
    fs::write(&rows, "{\"user_id\":\"new\",\"name\":\"n\",\"email\":\"e\"}\n").unwrap();
    let home = dir.path().to_str().unwrap();
    let commands: [&[&str]; 3] = [
        &["backup", "--to", copy.to_str().unwrap()],
        &["import", "--table", "users", "--input", rows.to_str().unwrap(), "--data-dir", home],
        &["generate", "--users", "5", "--data-dir", home],
    ];
    for command in commands {
        run_in(dir.path(), command).expect(0);
        assert_clean(dir.path(), false);
    }
    // The first router finds and repairs the damage, the next one finds everything intact.
    let manager = open(dir.path(), 3, 1);
    while run_in(dir.path(), &["check", "--deep"]).code != 0 {
        std::thread::yield_now();
    }
    manager.close();
    drop(manager);
    let manager = open(dir.path(), 3, 1);
    while manager.status().is_unclean() {
        std::thread::yield_now();
    }
    manager.close();
    assert_clean(dir.path(), true);
    run_in(dir.path(), &["check", "--deep"]).expect(0);
}

#[test]
fn a_router_that_ends_before_all_files_are_checked_does_not_mark_them_clean() {
    let dir = killed("shard1-primary");
    for _ in 0..3 {
        open(dir.path(), 3, 1).close();
        assert_clean(dir.path(), false);
    }
}

#[test]
fn a_replica_that_is_not_configured_is_checked_too() {
    let dir = killed("shard3-replica1");
    open(dir.path(), 3, 0).close();
    assert_clean(dir.path(), false);
}
