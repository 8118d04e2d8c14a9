//! Tests of `key`, `role` and `access`, with a running cluster and with a stopped one.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use shard_manager::access::key::ApiKey;
use shard_manager::access::keys_file;
use shard_manager::engine::access_store::AccessMode;

use crate::cluster::{Cluster, Ended, block_on, file, meddle, program, run_in};
use crate::migrate::SHARDS_IN_COLUMNS;

const SHOP: &str = r#"{"role":"shop","grants":[
    {"tables":["users"],"may":["read"],"keys":"$tenant:*"}],"scopes":[]}"#;

/// Creates a key, and returns it.
fn create(dir: &Path, args: &[&str]) -> String {
    let ended = run_in(dir, &[&["key", "create"], args].concat()).expect(0);
    let key = ended.out.trim_end().to_owned();
    assert!(ApiKey::parse(&key).is_some(), "{}", ended.out);
    assert!(!ended.err.contains(&key), "{}", ended.err);
    key
}

fn id(key: &str) -> String {
    ApiKey::parse(key).expect("a key").id().to_string()
}

fn list(dir: &Path) -> Vec<Value> {
    let listed = run_in(dir, &["key", "list", "--format", "json"]).expect(0).json();
    listed.as_array().expect("an array").clone()
}

/// Returns the state of a key.
fn state(dir: &Path, id: &str) -> String {
    let keys = list(dir);
    let key = keys.iter().find(|key| key["id"] == id).expect("the key is listed");
    key["state"].as_str().expect("a text").to_owned()
}

fn apply(dir: &Path, text: &str) -> Ended {
    let path = dir.join("roles.json");
    fs::write(&path, text).expect("a file");
    let path = path.to_str().expect("UTF-8").to_owned();
    run_in(dir, &["role", "apply", &path])
}

/// Uses all commands on a data directory, with or without a process that holds it.
fn use_every_command(dir: &Path) {
    apply(dir, SHOP).expect(0);
    let roles = run_in(dir, &["role", "list", "--json"]).expect(0).json();
    let names = roles.as_array().expect("an array").iter();
    let names: Vec<&Value> = names.map(|role| &role["document"]["role"]).collect();
    assert_eq!(names, ["admin", "service", "reader", "scraper", "anonymous", "shop"]);
    let listed = run_in(dir, &["role", "list"]).expect(0).out;
    assert!(listed.contains("shop\tthe catalog\t1\tyes\t-"), "{listed}");
    let args = ["--role", "shop", "--tenant", "acme", "--tenant", "b c", "--expires", "90d"];
    let old = create(dir, &args);
    let ended = run_in(dir, &["key", "rotate", &id(&old), "--overlap", "24h"]).expect(0);
    let new = ended.out.trim_end();
    assert_eq!(state(dir, &id(&old)), "usable", "both work until the overlap is over");
    assert_eq!(state(dir, &id(new)), "usable");
    let keys = list(dir);
    assert!(keys.iter().all(|key| key["tenants"] == json!(["acme", "b c"])), "{keys:?}");
    assert!(keys.iter().all(|key| key["name"] == "shop"), "{keys:?}");
    run_in(dir, &["key", "suspend"]).refused("--all");
    run_in(dir, &["key", "suspend", "--all"]).expect(0);
    assert_eq!(state(dir, &id(new)), "suspended");
    run_in(dir, &["key", "resume", &id(new)]).expect(0);
    run_in(dir, &["key", "revoke", &id(new)]).expect(0);
    assert_eq!(state(dir, &id(new)), "revoked");
    run_in(dir, &["access", "off"]).expect(0);
    let ended = run_in(dir, &["access", "end-sessions"]).expect(0).out;
    assert!(ended.contains("log in again"), "{ended}");
    let whole = run_in(dir, &["key", "list"]).expect(0).out;
    for key in [old.as_str(), new] {
        let secret = key.rsplit('_').next().expect("a part");
        assert!(!whole.contains(secret), "{whole}");
    }
}

#[test]
fn every_command_works_through_the_socket_of_a_running_cluster() {
    let cluster = Cluster::new(1, 0);
    let mut states = block_on(async {
        cluster.manager.access().subscribe().await.expect("the catalog answers")
    });
    states.borrow_and_update();
    use_every_command(cluster.path());
    // The cluster has the changes without reading its catalog again.
    let state = states.borrow().clone();
    assert_eq!((state.keys.len(), state.mode), (2, AccessMode::Off));
}

#[test]
fn every_command_works_on_a_stopped_cluster() {
    let dir = Cluster::new(1, 0).stop();
    use_every_command(dir.path());
    let status = run_in(dir.path(), &["status", "--json"]).expect(0).json();
    assert_eq!(status["router"]["clean"], true);
}

#[test]
fn bad_input_is_refused_with_the_flag() {
    let dir = Cluster::new(1, 0).stop();
    let dir = dir.path();
    apply(dir, SHOP).expect(0);
    let create = |args: &[&str]| run_in(dir, &[&["key", "create", "--role"], args].concat());
    create(&["shopp"]).refused("--role: there is no role `shopp`; there are admin, service");
    create(&["shop", "--tenant", "acme:x"]).refused("--tenant: the role separates tenants");
    create(&["shop", "--tenant", ""]).refused("--tenant: a tenant has at least one byte");
    create(&["shop", "--name", "a\nb"]).refused("--name: must have 1 to 200 bytes");
    create(&["shop", "--expires", "2020-01-01T00:00:00Z"]).refused("--expires");
    create(&["shop", "--expires", "90"]).refused("--expires");
    create(&["shop", "--expires", "0s"]).refused("not in the future");
    run_in(dir, &["key", "create"]).refused("--role");
    run_in(dir, &["key", "revoke", "short"]).refused("ID: an id has 12");
    run_in(dir, &["key", "revoke", "aaaaaaaaaaaa"]).refused("ID: there is no key aaaaaaaaaaaa");
    run_in(dir, &["key", "rotate", "aaaaaaaaaaaa"]).refused("--overlap");
    run_in(dir, &["key", "rotate", "aaaaaaaaaaaa", "--overlap", "x"]).refused("--overlap");
    apply(dir, r#"{"role":"admin","grants":[]}"#).refused("role is a built-in role");
    apply(dir, r#"{"role":"a","grants":[{"tables":["*"],"may":["read"]}]}"#)
        .refused("grants[0].keys is missing");
    apply(dir, "[]").refused("no roles");
    run_in(dir, &["role", "apply", "/nowhere/roles.json"]).refused("/nowhere/roles.json");
    assert!(list(dir).is_empty());
}

/// The command line shows its arguments to other users, so a whole key is not accepted there, and
/// the message does not repeat it.
#[test]
fn a_whole_key_in_the_place_of_an_id_is_refused_and_not_repeated() {
    let dir = Cluster::new(1, 0).stop();
    let key = create(dir.path(), &["--role", "reader"]);
    let secret = key.rsplit('_').next().expect("a part").to_owned();
    let ended = run_in(dir.path(), &["key", "revoke", &key]).expect(2);
    assert!(ended.err.contains("this is a key, not its id"), "{}", ended.err);
    assert!(!ended.err.contains(&secret) && ended.out.is_empty(), "{ended:?}");
}

#[test]
fn without_a_cluster_there_are_no_keys() {
    let dir = tempfile::tempdir().expect("a folder");
    let absent = dir.path().join("none");
    for args in [&["key", "create", "--role", "admin"][..], &["key", "list"], &["access", "off"]] {
        run_in(&absent, args).refused("there is no cluster here");
    }
    assert!(!absent.exists(), "nothing was created");
}

#[test]
fn a_catalog_of_an_earlier_program_is_migrated_first() {
    let dir = Cluster::new(1, 0).stop();
    meddle(&file(dir.path(), "catalog"), SHARDS_IN_COLUMNS);
    meddle(
        &file(dir.path(), "catalog"),
        "DROP TABLE tessera_groups; DROP TABLE tessera_indexes;
         DROP TABLE tessera_access; DROP TABLE tessera_access_keys;
         DROP TABLE tessera_access_roles; DROP TABLE tessera_access_denials;
         DROP TABLE tessera_access_usage; DROP TABLE tessera_access_log;
         DROP TABLE tessera_audit; DROP TABLE tessera_audit_heads;
         DELETE FROM __diesel_schema_migrations WHERE version >= '20261123000005'",
    );
    run_in(dir.path(), &["key", "create", "--role", "admin"]).refused("shard-manager migrate");
    run_in(dir.path(), &["migrate"]).expect(0);
    create(dir.path(), &["--role", "admin"]);
}

#[test]
fn an_offline_key_has_a_line_for_a_keys_file_and_touches_no_catalog() {
    let dir = tempfile::tempdir().expect("a folder");
    let args =
        ["key", "create", "--role", "shop", "--tenant", "a b", "--expires", "1d", "--offline"];
    let ended = run_in(&dir.path().join("none"), &args).expect(0);
    let key = ApiKey::parse(ended.out.trim_end()).expect("a key");
    let records = keys_file::parse(&ended.err).expect("a line of a keys file");
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].id, records[0].digest), (key.id(), key.digest()));
    assert_eq!(&*records[0].role, "shop");
    assert!(records[0].expires_at.is_some());
    assert!(!dir.path().join("none").exists());
    let args = ["key", "create", "--role", "No Role", "--offline"];
    run_in(dir.path(), &args).refused("--role: must be the name of a role");
}

#[test]
fn json_holds_the_key_and_nothing_else_is_on_standard_output() {
    let dir = Cluster::new(1, 0).stop();
    let args = ["key", "create", "--role", "reader", "--name", "Robot", "--json"];
    let document = run_in(dir.path(), &args).expect(0).json();
    let key = document["key"].as_str().expect("a text");
    assert_eq!(document["id"], id(key));
    assert_eq!(document["name"], "Robot");
    assert_eq!(list(dir.path())[0]["made_by"], "command line");
}

/// Runs a command with these variables and without a data directory.
fn run_with(variables: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command: Command = program(args);
    command.envs(variables.iter().copied()).output().expect("the program starts")
}

#[test]
fn servers_are_named_by_variables_and_no_password_is_shown() {
    let url = "postgres://tessera:canary@127.0.0.1:1/app?connect_timeout=1&sslmode=disable";
    for name in ["MAINDB_URL", "SHARD_URLS"] {
        let output = run_with(&[(name, url)], &["key", "list"]);
        let reported = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{reported}");
        assert!(reported.contains("catalog") && !reported.contains("canary"), "{reported}");
    }
    let both = [("MAINDB_URL", url), ("TESSERA_DATA_DIR", "/nowhere")];
    let reported = run_with(&both, &["access", "off"]).stderr;
    assert!(String::from_utf8_lossy(&reported).contains("leave one of them out"));
    let bad = run_with(&[("SHARD_URLS", "postgres://a:canary@@/")], &["role", "list"]).stderr;
    let bad = String::from_utf8_lossy(&bad).into_owned();
    assert!(bad.contains("SHARD_URLS") && !bad.contains("canary"), "{bad}");
}
