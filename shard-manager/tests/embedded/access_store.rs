//! Tests of keys, roles and denials in the catalog of an embedded cluster.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use shard_manager::access::denial::{Denial, DenialSubject};
use shard_manager::access::role::AccessRole;
use shard_manager::engine::access_store::{AccessChange, AccessMode, ChangeAuthor};
use shard_manager::engine::cluster_spec::ClusterSpec;

use crate::access_contract::{LOG, check, create, new_key, now, shop};
use crate::cluster::{Cluster, execute, open, shards, texts};

/// Test in the process that is killed, and the variable that names its data directory.
const VICTIM_TEST: &str = "access_store::creating_keys_until_it_is_killed";
const VICTIM: &str = "TESSERA_TEST_DIR";

fn log(dir: &Path) -> Vec<String> {
    texts(&dir.join("catalog.db"), LOG)
}

#[tokio::test]
async fn the_contract_holds_for_a_catalog_file() {
    let cluster = Cluster::with_shards(1);
    let dir = cluster.dir.path().to_owned();
    check(&cluster.manager, async || log(&dir)).await;
}

#[tokio::test]
async fn keys_outlive_a_restart_and_other_changes_of_the_catalog() {
    let cluster = Cluster::with_shards(1);
    let id = create(&cluster.manager, AccessRole::READER).await;
    let before = cluster.manager.access().load().await.expect("the catalog answers");
    let cluster = cluster.restart_after(|_| ());
    let after = cluster.manager.access().load().await.expect("the catalog answers");
    assert_eq!(after, before);
    assert_eq!(after.keys.iter().map(|key| key.id).collect::<Vec<_>>(), [id]);
}

#[tokio::test]
#[ignore = "run by a_change_that_returned_survives_a_killed_process"]
async fn creating_keys_until_it_is_killed() {
    let Some(dir) = std::env::var_os(VICTIM) else { return };
    let manager = open(Path::new(&dir), shards(1)).expect("the cluster starts");
    loop {
        let id = create(&manager, AccessRole::READER).await;
        println!("created {id}");
    }
}

#[tokio::test]
async fn a_change_that_returned_survives_a_killed_process() {
    let dir = crate::scratch::folder();
    let this = std::env::current_exe().expect("the tests themselves");
    let mut command = Command::new(this);
    command.args(["--exact", VICTIM_TEST, "--ignored", "--nocapture"]).env(VICTIM, dir.path());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let created = lines.map(|line| line.expect("UTF-8"));
    let created = created.filter_map(|line| line.split("created ").nth(1).map(str::to_owned));
    let created: Vec<String> = created.take(20).collect();
    child.kill().expect("it is killed");
    child.wait().expect("it ends");
    let manager = open(dir.path(), ClusterSpec::default()).expect("the cluster starts again");
    let state = manager.access().load().await.expect("the catalog answers");
    let kept: Vec<String> = state.keys.iter().map(|key| key.id.to_string()).collect();
    assert_eq!(created.len(), 20);
    assert!(created.iter().all(|id| kept.contains(id)), "{created:?} {kept:?}");
    // Each key has its line, also the one during whose creation the process ended.
    let lines = log(dir.path()).len();
    assert_eq!((lines, state.generation), (kept.len(), 1 + kept.len() as u64));
}

#[tokio::test]
async fn ended_denials_leave_room_for_new_ones() {
    let cluster = Cluster::with_shards(1).restart_after(|dir| {
        let sql = "INSERT INTO tessera_access_denials (kind, issuer, subject, void_at)
            WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT 10000)
            SELECT 'tenant', '', 'tenant' || n, 1 FROM numbers";
        execute(&dir.join("catalog.db"), sql);
    });
    let denial = Denial { subject: DenialSubject::Tenant("acme".into()), until: None };
    let put = AccessChange::PutDenial(denial.clone());
    let changed = cluster.manager.access().change(&put, &ChangeAuthor::CommandLine, now()).await;
    changed.expect("no other denial is in force");
    let state = cluster.manager.access().load().await.expect("the catalog answers");
    assert_eq!(state.denials, [denial]);
}

#[tokio::test]
async fn the_log_of_changes_keeps_its_last_100_000_lines() {
    let cluster = Cluster::with_shards(1).restart_after(|dir| {
        let sql = "INSERT INTO tessera_access_log (at, author, kind, id, what)
            WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT 100001)
            SELECT '', '', 'key', n, '' FROM numbers";
        execute(&dir.join("catalog.db"), sql);
    });
    let id = create(&cluster.manager, AccessRole::READER).await;
    let lines = log(cluster.dir.path());
    assert_eq!(lines.len(), 100_000);
    assert_eq!(lines[0], "|key|3|", "the oldest ones are removed");
    assert!(lines[99_999].contains(&id.to_string()), "{}", lines[99_999]);
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_left_out_and_the_others_stay() {
    let cluster = Cluster::with_shards(1);
    let good = create(&cluster.manager, AccessRole::READER).await;
    let bad = create(&cluster.manager, AccessRole::READER).await;
    let cluster = cluster.restart_after(|dir| {
        let sql = format!(
            "UPDATE tessera_access_keys SET tenants = '[\"\"]' WHERE id = '{bad}';
             INSERT INTO tessera_access_roles VALUES ('later', '{{\"role\":\"later\",\"new\":1}}')"
        );
        execute(&dir.join("catalog.db"), &sql);
    });
    let state = cluster.manager.access().load().await.expect("the catalog answers");
    assert_eq!(state.keys.iter().map(|key| key.id).collect::<Vec<_>>(), [good]);
    assert!(state.roles.is_empty());
    let change = AccessChange::CreateKey(new_key("later", &[], None));
    let made = cluster.manager.access().change(&change, &ChangeAuthor::CommandLine, now()).await;
    let error = made.expect_err("nothing is known of what the role grants").to_string();
    assert!(error.contains("use the later one that wrote it"), "{error}");
}

/// A command sends a change to the process that holds a data directory as JSON.
#[test]
fn a_change_is_the_same_after_it_was_sent() {
    let issuer = || "https://a".into();
    let subjects = [
        DenialSubject::TokenId { issuer: issuer(), id: "j".into() },
        DenialSubject::Subject { issuer: issuer(), subject: "s".into() },
        DenialSubject::Tenant("é".into()),
        DenialSubject::IssuedBefore { issuer: issuer(), time: now() },
    ];
    let denials = subjects.map(|subject| Denial { subject, until: Some(now().plus(60)) });
    let key = new_key("shop", &["acme", "b\"c"], Some(now()));
    let (id, digest) = (key.id, key.digest);
    let rotation = AccessChange::RotateKey { id, successor: id, digest, overlap_s: 60 };
    let changes = [
        AccessChange::CreateKey(key),
        AccessChange::RevokeKey(id),
        rotation,
        AccessChange::ResumeKey(id),
        AccessChange::SuspendAllKeys,
        AccessChange::PutRoles(vec![shop()]),
        AccessChange::RemoveRole("shop".into()),
        AccessChange::SetMode(AccessMode::On),
    ];
    let removals = denials.iter().map(|denial| AccessChange::RemoveDenial(denial.subject.clone()));
    let removals: Vec<AccessChange> = removals.collect();
    let puts = denials.into_iter().map(AccessChange::PutDenial);
    for change in changes.into_iter().chain(removals).chain(puts) {
        let json = change.to_json();
        assert_eq!(AccessChange::from_json(&json).as_ref(), Ok(&change), "{json}");
        let unknown = json.replacen('{', "{\"unknown\":1,", 1);
        assert!(AccessChange::from_json(&unknown).is_err(), "{unknown}");
    }
}
