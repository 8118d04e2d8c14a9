//! Tests of `check` on damaged clusters: each kind of damage is found and named.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::cluster::{Cluster, file, meddle, run_in};

/// Findings of a check after the files of a healthy cluster were modified.
fn findings(meddling: impl FnOnce(&Path)) -> Vec<Value> {
    let dir = Cluster::filled().stop();
    meddling(dir.path());
    let report = run_in(dir.path(), &["check", "--json"]).expect(1).json();
    let findings = report["findings"].as_array().expect("findings").clone();
    assert_eq!(report["found"], findings.len());
    findings
}

/// The only finding whose text contains these words.
#[track_caller]
fn named<'f>(findings: &'f [Value], what: &str) -> &'f Value {
    let says = |finding: &&Value| finding["what"].as_str().expect("a text").contains(what);
    findings.iter().find(says).unwrap_or_else(|| panic!("nothing says `{what}`: {findings:#?}"))
}

/// Key of a user that lies on this shard.
const ONE: &str = "(SELECT shard_key FROM users ORDER BY shard_key LIMIT 1)";

#[test]
fn a_row_in_the_file_of_another_shard_is_found() {
    let found = findings(|dir| {
        let other = file(dir, "shard2-primary");
        let sql = format!(
            "ATTACH '{}' AS other; BEGIN;
             INSERT INTO other.users SELECT * FROM users WHERE shard_key = {ONE};
             DELETE FROM users WHERE shard_key = {ONE}; COMMIT;",
            other.display()
        );
        meddle(&file(dir, "shard1-primary"), &sql);
    });
    let row = named(&found, "the row lies on this shard");
    assert_eq!((&row["node"], &row["table"]), (&"shard2-primary".into(), &"users".into()));
    assert!(row["expected"].as_str().unwrap().contains("on shard1"), "{row}");
    assert!(row["key"].as_str().unwrap().starts_with("user_"), "{row}");
    named(&found, "tessera_counts says");
    named(&found, "the row is on the replica alone");
}

#[test]
fn a_row_that_is_on_two_shards_is_found_on_the_one_that_does_not_own_it() {
    let found = findings(|dir| {
        for node in ["shard3-primary", "shard3-replica1"] {
            let other = file(dir, node);
            let sql = format!(
                "ATTACH '{}' AS other; BEGIN;
                 INSERT INTO other.users SELECT * FROM users WHERE shard_key = {ONE};
                 UPDATE other.tessera_counts SET rows = rows + 1 WHERE name = 'users'; COMMIT;",
                other.display()
            );
            meddle(&file(dir, "shard1-primary"), &sql);
        }
    });
    let row = named(&found, "the row lies on this shard");
    assert_eq!(row["node"], "shard3-primary");
}

#[test]
fn a_wrong_slot_column_is_found() {
    let sql = format!("UPDATE users SET slot = slot + 1 WHERE shard_key = {ONE}");
    let found = findings(|dir| {
        meddle(&file(dir, "shard1-primary"), &sql);
        meddle(&file(dir, "shard1-replica1"), &sql);
    });
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        named(&found, "its slot column says")["expected"].as_str().unwrap().contains("as its key")
    );
}

#[test]
fn a_routing_column_that_does_not_spell_the_key_is_found() {
    let sql = format!("UPDATE users SET user_id = 'nobody' WHERE shard_key = {ONE}");
    let found = findings(|dir| {
        meddle(&file(dir, "shard1-primary"), &sql);
        meddle(&file(dir, "shard1-replica1"), &sql);
    });
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(named(&found, "its user_id is nobody")["id"], "nobody");
}

#[test]
fn a_row_newer_than_its_shard_is_found() {
    let sql = format!("UPDATE users SET version = 1000000 WHERE shard_key = {ONE}");
    let found = findings(|dir| {
        meddle(&file(dir, "shard1-primary"), &sql);
        meddle(&file(dir, "shard1-replica1"), &sql);
    });
    assert_eq!(found.len(), 1, "{found:#?}");
    named(&found, "its version is 1000000");
}

#[test]
fn a_byte_that_differs_on_a_replica_is_found_in_its_row() {
    let sql = format!("UPDATE users SET name = name || '.' WHERE shard_key = {ONE}");
    let found = findings(|dir| meddle(&file(dir, "shard2-replica1"), &sql));
    assert_eq!(found.len(), 1, "{found:#?}");
    let row = named(&found, "the row differs from the primary's");
    assert_eq!(row["node"], "shard2-replica1");
    assert_eq!(row["key"], row["id"]);
}

#[test]
fn a_row_that_is_missing_on_a_replica_is_found() {
    let sql = format!("DELETE FROM users WHERE shard_key = {ONE}");
    let found = findings(|dir| meddle(&file(dir, "shard2-replica1"), &sql));
    named(&found, "the row is missing on the replica");
    named(&found, "tessera_counts says");
}

#[test]
fn a_replica_ahead_of_its_primary_is_found() {
    let found = findings(|dir| {
        meddle(&file(dir, "shard3-replica1"), "UPDATE tessera_shard SET position = position + 5");
    });
    named(&found, "it holds changes up to");
}

#[test]
fn a_missing_file_and_a_foreign_file_are_found() {
    let found = findings(|dir| {
        fs::remove_file(file(dir, "shard1-primary")).unwrap();
        fs::copy(file(dir, "shard2-primary"), file(dir, "shard3-primary")).unwrap();
        fs::write(file(dir, "shard3-replica1"), "no database").unwrap();
    });
    let on = |node: &str| found.iter().find(|finding| finding["node"] == node).unwrap();
    assert!(on("shard1-primary")["what"].as_str().unwrap().contains("missing or empty"));
    assert!(on("shard3-primary")["what"].as_str().unwrap().contains("that of shard2"));
    assert!(on("shard3-replica1")["what"].as_str().unwrap().contains("not a database"));
}

#[test]
fn a_file_of_another_cluster_is_found() {
    let other = Cluster::new(3, 0).stop();
    let found = findings(|dir| {
        fs::copy(file(other.path(), "shard1-primary"), file(dir, "shard1-primary")).unwrap();
    });
    named(&found, "belongs to another cluster");
}

#[test]
fn slots_that_the_shard_does_not_record_as_its_own_are_found() {
    let found = findings(|dir| {
        let sql = "DELETE FROM tessera_slots WHERE slot = 7;
                   UPDATE tessera_slots SET state = 'moved' WHERE slot = 8;
                   INSERT INTO tessera_slots (slot, state) VALUES (16000, 'owned')";
        meddle(&file(dir, "shard1-primary"), sql);
    });
    assert_eq!(found.len(), 4, "{found:#?}");
    named(&found, "slot 7 is missing");
    named(&found, "slot 8 is moved");
    named(&found, "slot 16000 is owned");
    assert_eq!(named(&found, "and 2 more differ")["node"], "shard1-replica1");
}

#[test]
fn undeclared_tables_and_columns_are_found() {
    let found = findings(|dir| {
        meddle(&file(dir, "shard1-primary"), "CREATE TABLE notes (text TEXT)");
        meddle(&file(dir, "shard2-primary"), "ALTER TABLE users ADD COLUMN nickname TEXT");
        meddle(
            &file(dir, "shard3-primary"),
            "DELETE FROM tessera_tables WHERE name = 'kv'; DROP TABLE kv",
        );
    });
    assert_eq!(named(&found, "the table is there")["table"], "notes");
    named(&found, "column nickname is there but not declared");
    named(&found, "the shard declares other tables");
}

#[test]
fn a_replica_that_differs_in_more_than_rows_is_found() {
    let found = findings(|dir| {
        let sql = "CREATE TABLE notes (text TEXT);
                   UPDATE tessera_slots SET state = 'moved' WHERE slot < 3";
        meddle(&file(dir, "shard1-replica1"), sql);
        let sql = "UPDATE tessera_shard SET version = version + 1;
                   CREATE TABLE copies (slot INTEGER NOT NULL, shard_key TEXT NOT NULL,
                     key TEXT NOT NULL, value TEXT NOT NULL, version INTEGER NOT NULL,
                     created_at TEXT NOT NULL, updated_at TEXT NOT NULL) STRICT;
                   INSERT INTO tessera_tables (name, column_list, id, routing, made_at)
                   SELECT 'copies', column_list, id, routing, made_at
                   FROM tessera_tables WHERE name = 'kv';";
        meddle(&file(dir, "shard2-replica1"), sql);
        let sql = "UPDATE tessera_shard SET version = version - 1;
                   DELETE FROM tessera_counts WHERE name = 'users'";
        meddle(&file(dir, "shard3-replica1"), sql);
    });
    let mut reported: Vec<_> = found
        .iter()
        .map(|found| (found["node"].as_str().unwrap(), found["what"].as_str().unwrap()))
        .collect();
    reported.sort_unstable();
    let expected = [
        ("shard1-replica1", "slot 0 is moved in the shard's tessera_slots, and 2 more differ"),
        ("shard1-replica1", "the table is there"),
        ("shard2-replica1", "it declares the table, and its primary does not"),
        ("shard2-replica1", "its counter of versions stands at 18"),
        ("shard3-replica1", "its counter of versions stands at 22"),
        ("shard3-replica1", "tessera_counts says nothing of it"),
    ];
    assert_eq!(reported, expected);
}

#[test]
fn a_missing_counter_counts_as_zero() {
    let found = findings(|dir| {
        for node in ["shard1-primary", "shard1-replica1"] {
            let sql = "DELETE FROM tessera_counts WHERE name IN ('users', 'orders')";
            meddle(&file(dir, node), sql);
        }
    });
    // The table of orders is empty.
    let nodes: Vec<_> = found.iter().map(|finding| (&finding["node"], &finding["table"])).collect();
    let on = |node: &str| (node.into(), "users".into());
    let expected: [(Value, Value); 2] = [on("shard1-replica1"), on("shard1-primary")];
    for (node, table) in &expected {
        assert!(nodes.contains(&(node, table)), "{found:#?}");
    }
    assert_eq!(nodes.len(), 2, "{found:#?}");
    named(&found, "tessera_counts says nothing of it");
}

#[test]
fn a_damaged_page_is_found_by_a_deep_check() {
    let dir = Cluster::filled().stop();
    let path = file(dir.path(), "shard1-primary");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(8).position(|window| window == b"Name of ").expect("a row");
    // Overwrites the header of the page that holds the row.
    let page = at / 4096 * 4096;
    bytes[page + 3] ^= 0xff;
    fs::write(&path, bytes).unwrap();
    run_in(dir.path(), &["check", "--deep"]).expect(1);
}

#[test]
fn each_finding_is_printed_as_one_readable_line() {
    let dir = Cluster::filled().stop();
    let sql = format!("UPDATE users SET name = 'x' WHERE shard_key = {ONE}");
    meddle(&file(dir.path(), "shard1-replica1"), &sql);
    let ended = run_in(dir.path(), &["check"]).expect(1);
    let first = ended.out.lines().next().unwrap();
    assert!(first.starts_with("shard1-replica1 users \"user_"), "{ended:#?}");
    assert!(first.ends_with("expected: the primary's row"), "{ended:#?}");
    assert!(ended.err.contains("one fault was found"), "{ended:#?}");
}
