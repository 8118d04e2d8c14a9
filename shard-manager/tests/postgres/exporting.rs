//! Tests of `export` on servers: the lines are those of files, and each row is there once, also
//! while slots change hands.

use std::collections::BTreeSet;
use std::io::Read;
use std::process::Stdio;

use shard_manager::assembly::{self, EmbeddedCluster};
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::engine::export::ExportFormat;
use shard_manager::engine::move_record::{MoveOrder, MovePhase};
use shard_manager::manager::Manager;
use shard_manager::node_address::ClusterAddress;
use shard_manager::row_change::Operation::Insert;
use shard_manager::store::postgres::export::ServerExport;

use crate::cluster::{Databases, connect};
use crate::commands::{program, run_on, run_with, urls};
use crate::move_steps::{LONG, begin, kept_up, new, order, store_large, until};
use crate::random_changes::{pairs, things};
use crate::rows::{make, write};
use crate::scratch;

/// Rows of `things`: key, members beside `id` and `owner`.
const THINGS: &[(&str, &str)] = &[
    ("ключ", r#""must":"","word":"a\"b\\","n":-9223372036854775808,"x":-0.0,"flag":true"#),
    (
        "🦀 'x",
        r#""must":"a, b","word":"line\r\nline","n":9007199254740993,"x":5e-324,"flag":false"#,
    ),
    ("B", r#""must":" x","at":"0001-01-01T00:00:00Z","u":"FFFFFFFF-ffff-ffff-ffff-ffffffffffff""#),
    ("b", r#""must":"\uffff","at":"2026-11-21T12:00:00.000001+02:00","x":1.7976931348623157e308"#),
    ("c", r#""must":"m","doc":{ "b" : 1 , "a" : [2.50, null] },"x":0.1"#),
];

/// Stores the same rows in a cluster of either engine.
async fn fill(manager: &Manager) {
    make(manager, &things()).await;
    make(manager, &pairs()).await;
    for (number, (key, members)) in THINGS.iter().enumerate() {
        for id in ["1", "2"] {
            let json = format!(r#"{{"id":"{number}-{id}","owner":{key:?},{members}}}"#);
            write(manager, "things", Insert, key, &json).await.unwrap();
        }
        let json = format!(
            r#"{{"number":{number},"at":"2000-02-29T00:00:00.5Z",
                "who":"0191e8a0b5c07000800000000000abcd","value":"a  b","note":null}}"#
        );
        write(manager, "pairs", Insert, key, &json).await.unwrap();
    }
    for number in 0..40 {
        let json = r#"{"name":"n","email":"e"}"#;
        write(manager, "users", Insert, &format!("user_{number}"), json).await.unwrap();
    }
}

#[tokio::test]
async fn the_lines_of_servers_are_those_of_files_byte_by_byte() {
    let databases = Databases::new(3).await;
    let manager = connect(&databases.address());
    fill(&manager).await;
    let dir = scratch::folder();
    let wanted = ClusterSpec { shards: Some(3), replicas: Some(0), ..ClusterSpec::default() };
    let files =
        assembly::open(&EmbeddedCluster { data_dir: dir.path().to_owned(), wanted }).unwrap();
    fill(&files).await;
    let data_dir = dir.path().to_str().unwrap();
    for table in ["users", "things", "pairs", "kv"] {
        for format in ["ndjson", "csv"] {
            let arguments = ["export", "--table", table, "--format", format];
            let exported = run_on(&databases, &arguments).expect(0);
            let of_files = run_with(&[("TESSERA_DATA_DIR", data_dir)], &arguments).expect(0);
            assert_eq!(exported.out, of_files.out, "{table} as {format}");
            assert_eq!(exported.err, of_files.err);
        }
    }
    let out = scratch::folder();
    let folder = out.path().join("new");
    let arguments = ["export", "--all", "--system", "--output", folder.to_str().unwrap(), "--json"];
    let exported = run_on(&databases, &arguments).expect(0).json();
    assert_eq!(exported.as_array().unwrap().len(), 7);
    let users = std::fs::read_to_string(folder.join("users.ndjson")).unwrap();
    let first: serde_json::Value = serde_json::from_str(users.lines().next().unwrap()).unwrap();
    assert!(first["version"].as_i64().unwrap() > 0);
    assert!(first["updated_at"].as_str().unwrap().ends_with('Z'));
}

/// Exports a table, and returns the values of a member.
async fn exported(address: &ClusterAddress, (table, member): (&str, &str)) -> Vec<String> {
    let mut export = ServerExport::begin(address).await.unwrap();
    let mut out = Vec::new();
    let format = (ExportFormat::Ndjson, false);
    let rows = export.write(table, format, &mut out, &|_| ()).await.unwrap();
    let lines = String::from_utf8(out).unwrap();
    let read = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        row[member].as_str().unwrap().to_owned()
    };
    let found: Vec<String> = lines.lines().map(read).collect();
    assert_eq!(found.len() as u64, rows);
    found
}

#[tokio::test]
async fn each_row_is_exported_once_while_its_slot_moves_and_afterwards() {
    let databases = Databases::new(2).await;
    let (address, manager) = (databases.address(), connect(&databases.address()));
    let slots = store_large(&manager, 30).await;
    for number in 0..20 {
        let json = format!(r#"{{"value":{number}}}"#);
        write(&manager, "kv", Insert, &format!("small{number}"), &json).await.unwrap();
    }
    let expected: BTreeSet<String> = exported(&address, ("kv", "key")).await.into_iter().collect();
    assert_eq!(expected.len(), 50);
    kept_up(&manager, async {
        let id = begin(&manager, new(&slots, LONG)).await;
        let mut is_settled = false;
        loop {
            let phase = manager.moves().get(id).await.unwrap().phase;
            let found = exported(&address, ("kv", "key")).await;
            assert_eq!(found.len(), 50, "{phase:?}");
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected, "{phase:?}");
            if phase == MovePhase::Keeping && !is_settled {
                order(&manager, id, MoveOrder::Settle).await;
                is_settled = true;
            }
            if phase == MovePhase::Done {
                break;
            }
        }
        until(&manager, id, &[MovePhase::Done]).await;
    })
    .await;
}

#[tokio::test]
async fn an_export_sees_one_moment_of_each_shard() {
    let databases = Databases::new(1).await;
    let (address, manager) = (databases.address(), connect(&databases.address()));
    write(&manager, "kv", Insert, "before", r#"{"value":1}"#).await.unwrap();
    let mut export = ServerExport::begin(&address).await.unwrap();
    write(&manager, "kv", Insert, "after", r#"{"value":1}"#).await.unwrap();
    let mut out = Vec::new();
    let format = (ExportFormat::Csv, false);
    assert_eq!(export.write("kv", format, &mut out, &|_| ()).await.unwrap(), 1);
    assert_eq!(out, b"key,value\r\nbefore,1\r\n");
}

#[tokio::test]
async fn a_closed_pipe_ends_an_export_of_servers_quietly() {
    let databases = Databases::new(1).await;
    let manager = connect(&databases.address());
    store_large(&manager, 30).await;
    let variables = [("SHARD_URLS", &*urls(&databases))];
    let mut command = program(&variables, &["export", "--table", "kv"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
}

#[tokio::test]
async fn an_export_of_servers_that_cannot_be_made_is_refused_with_the_reason() {
    let databases = Databases::new(2).await;
    let arguments = ["export", "--table", "users"];
    run_on(&databases, &arguments).refused("there is no cluster in these databases");
    let manager = connect(&databases.address());
    run_on(&databases, &["export", "--table", "nothing"]).refused("there is no table `nothing`");
    let all = urls(&databases);
    let both = [("SHARD_URLS", &*all), ("TESSERA_DATA_DIR", "/tmp")];
    run_with(&both, &arguments).refused("leave one of them out");
    let shown = run_with(&[("SHARD_URLS", "postgres://a:canary@@/")], &arguments);
    assert!(!shown.err.contains("canary"), "{shown:#?}");
    shown.refused("SHARD_URLS");
    // The other shard is found in the catalog, at a host that the settings have.
    let first = all.split(',').next().unwrap();
    run_with(&[("SHARD_URLS", first)], &arguments).expect(0);
    drop(manager);
    let mut direct = databases.direct_session(1).await;
    direct.run("UPDATE tessera.tessera_shard SET shard = 'another'").await;
    run_with(&[("SHARD_URLS", first)], &arguments).refused("the database is not that of shard2");
}
