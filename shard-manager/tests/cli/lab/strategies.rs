//! Tests of `lab strategies`.

use std::fs;

use serde_json::{Value, json};

use super::rows;
use crate::cluster::run;
use crate::scratch;

const ARGS: [&str; 6] = ["lab", "strategies", "--keys", "500", "--json", "--seed"];

fn compare(seed: &str, more: &[&str]) -> Value {
    run(&[&ARGS[..], &[seed], more].concat()).expect(0).json()
}

/// The tables, without the one that has times.
fn without_times(report: &Value) -> Vec<&Value> {
    let tables = report["tables"].as_array().expect("tables");
    tables.iter().filter(|table| table["columns"][3] != "lookup").collect()
}

#[test]
fn every_keyspace_and_placement_is_tried_and_equal_seeds_give_equal_numbers() {
    let report = compare("7", &[]);
    for (set, keyspaces) in [
        ("Keys `matrix`", &["hash", "matrix:id", "matrix:server", "range-text"][..]),
        ("Keys `numeric`", &["hash", "modulo", "range"]),
        ("Keys `tenants`", &["hash", "modulo", "range-text", "list"]),
        ("Keys `hot-end`", &["hash", "modulo", "range"]),
    ] {
        let rows = rows(&report, set);
        for keyspace in keyspaces {
            let of_it = rows.iter().filter(|row| row[0] == *keyspace).map(|row| row[1].clone());
            let placements: Vec<Value> = of_it.collect();
            let mut expected =
                vec!["even", "weighted", "modulo", "ring:160", "rendezvous", "jump", "rebalance"];
            expected.extend((*keyspace == "list").then_some("partitions"));
            expected.push("manual");
            assert_eq!(placements, expected, "{set} {keyspace}");
        }
    }
    let hot = rows(&report, "Keys `hot-end`");
    let skew = |keyspace| hot.iter().find(|row| row[0] == keyspace).map(|row| row[2].as_f64());
    assert!(skew("range") > Some(Some(2.0)) && skew("hash") < Some(Some(1.3)), "{hot:#?}");
    assert_eq!(without_times(&compare("7", &[])), without_times(&report));
    assert_ne!(without_times(&compare("8", &[])), without_times(&report));
}

#[test]
fn each_placement_has_the_bytes_of_the_structure_that_its_table_is_computed_from() {
    // Without the times.
    let costs = || -> Vec<Value> {
        let rows = rows(&compare("7", &["--set", "tenants"]), "Cost of a lookup");
        let rows = rows.iter().filter(|row| row[0] == "tenants" && row[1] == "hash");
        rows.map(|row| json!([row[2], row[4], row[5], row[6]])).collect()
    };
    let found = costs();
    assert_eq!(costs(), found, "equal seeds give equal numbers");
    // Three shards of two bytes each, three weights, 480 points of eight bytes, …
    let expected = [
        ("even", 6),
        ("weighted", 24),
        ("modulo", 6),
        ("ring:160", 3_840),
        ("rendezvous", 48),
        ("jump", 6),
    ];
    for (row, (placement, bytes)) in found.iter().zip(expected) {
        assert_eq!((&row[0], &row[2]), (&json!(placement), &json!(bytes)), "{found:#?}");
        assert_eq!(row[1], found[0][1], "every placement has the same slot table");
    }
    assert_eq!((&found[0][3], &found[2][3]), (&json!(3), &json!(16_384)), "{found:#?}");
    assert_eq!((found.len(), &found[6][0]), (7, &json!("manual")), "{found:#?}");
}

#[test]
fn weights_and_keys_of_the_user_are_tried_and_written_into_a_new_folder() {
    let dir = scratch::folder();
    let keys = dir.path().join("ids.txt");
    fs::write(&keys, "10\n20\n30\n40\n").expect("written");
    let (keys, out) = (keys.to_str().expect("UTF-8"), dir.path().join("out"));
    let folder = out.to_str().expect("UTF-8");
    let more = ["--weights", "1,1,2", "--keys-file", keys, "--report", folder];
    let report = compare("1", &[&more[..], &["--keyspace", "range:15,25,35"]].concat());
    let rows = rows(&report, "Keys `ids.txt` on 3 shards");
    let fullest = |keyspace: &str| {
        let of_it = rows.iter().filter(|row| row[0] == keyspace && row[1] == "weighted");
        of_it.map(|row| row[3].as_f64()).collect::<Vec<_>>()
    };
    // Ranges of equal width, and those of the command line, which have one key each.
    assert_eq!(fullest("range").len(), 1, "{rows:#?}");
    assert_eq!(fullest("range (--keyspace)"), [Some(0.5)], "{rows:#?}");
    let page = fs::read_to_string(out.join("report.html")).expect("a page");
    assert!(page.contains("Ring with 8 virtual nodes") && page.contains("default-src 'none'"));
    assert!(!page.contains("<script") && !page.contains("NaN"), "{page}");
    let stored = fs::read_to_string(out.join("report.json")).expect("a document");
    assert_eq!(serde_json::from_str::<Value>(&stored).expect("JSON")["tables"], report["tables"]);
    let markdown = fs::read_to_string(out.join("report.md")).expect("a document");
    assert!(markdown.contains("| hash | weighted |"), "{markdown}");
    run(&["lab", "strategies", "--report", folder]).refused("needs a new or empty folder");
}

#[test]
fn impossible_settings_are_named_and_leave_no_folder() {
    let dir = scratch::folder();
    let out = dir.path().join("out");
    let folder = out.to_str().expect("UTF-8");
    let keys = dir.path().join("keys");
    fs::write(&keys, "ada\nbob\n").expect("written");
    let keys = keys.to_str().expect("UTF-8");
    for (more, with) in [
        (&["--shards", "0"][..], "1 to 256 shards, not 0"),
        (&["--shards", "10000"], "1 to 256 shards, not 10000"),
        (&["--weights", "1,x"], "it is not a number"),
        (&["--shards", "2", "--weights", "1,1"], "cannot be used with"),
        (&["--keys", "0"], "0 is not in 1..=1000000"),
        (&["--set", "uuid"], "possible values: matrix, numeric, tenants, hot-end"),
        (&["--keys-file", "/nowhere"], "/nowhere"),
        (&["--keys-file", keys, "--keyspace", "modulo"], "has no slot for some of the keys"),
        (&["--keyspace", "modulo"], "--keys-file"),
        (
            &["--keys-file", keys, "--keyspace", "list(partition_key):A=50,B=50"],
            "takes the partition from the column partition_key of a row, and the keys have no rows",
        ),
    ] {
        run(&[&["lab", "strategies", "--report", folder], more].concat()).refused(with);
        assert!(!out.exists(), "{more:?}");
    }
}
