//! Tests of keys, roles and denials in a catalog that several routers share.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use shard_manager::access::audit::chain::{AuditChain, AuditEntry};
use shard_manager::access::audit::event::AuditKeys;
use shard_manager::access::denial::{Denial, DenialSubject};
use shard_manager::access::key::{ApiKey, KeyId};
use shard_manager::access::key_record::KeyState;
use shard_manager::access::role::AccessRole;
use shard_manager::access::unix_time::UnixTime;
use shard_manager::engine::access_store::{
    AccessChange, AccessError, AccessState, ChangeAuthor, NewKey, UsageFlush,
};
use shard_manager::manager::Manager;
use shard_manager::node_address::ClusterAddress;
use shard_manager::store::postgres::access_session::AccessSession;
use tokio::sync::watch;

use crate::access_contract::{LOG, change, check, create, flush, new_key, now, shop, sums};
use crate::cluster::{Databases, connect};

/// Time limit of a wait. Generous: a test that reaches it has found a defect.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) type States = watch::Receiver<Arc<AccessState>>;

/// Starts a router on a thread that may block.
async fn router(cluster: ClusterAddress) -> Manager {
    tokio::task::spawn_blocking(move || connect(&cluster)).await.unwrap()
}

/// Waits until a router has a state of this generation.
pub(crate) async fn until_known(states: &mut States, generation: u64) -> Arc<AccessState> {
    let known = states.wait_for(|state| state.generation >= generation);
    let known = tokio::time::timeout(PATIENCE, known).await;
    known.expect("the router follows the catalog").unwrap().clone()
}

#[tokio::test]
async fn the_contract_holds_for_a_catalog_on_a_server() {
    let databases = Databases::new(1).await;
    let manager = router(databases.address()).await;
    let mut direct = databases.direct_session(0).await;
    check(&manager, async || direct.texts(LOG).await).await;
}

#[tokio::test]
async fn routers_share_the_secret_of_audit_logs_and_keep_their_last_lines() {
    let databases = Databases::new(1).await;
    let routers = [router(databases.address()).await, router(databases.address()).await];
    let secrets = routers.iter().map(|manager| manager.access().audit_secret());
    let secrets = futures_util::future::try_join_all(secrets).await.unwrap();
    assert_eq!(secrets[0].hash("acme"), secrets[1].hash("acme"));
    let mut chain = AuditChain::begin(&[1; AuditChain::NAME_LEN]);
    let heads = [(); 2].map(|()| {
        chain.push(&mut String::new(), 0, AuditEntry::End, &AuditKeys::None);
        chain.head()
    });
    // The earlier line arrives last.
    for head in heads.iter().rev() {
        routers[0].access().keep_audit_head(head.clone(), now()).await.unwrap();
    }
    let session = AccessSession::open(&databases.address().shards[0].primary).await.unwrap();
    assert_eq!(session.audit_heads().await.unwrap(), heads[1..]);
}

#[tokio::test]
async fn a_change_on_one_router_is_in_force_on_another() {
    let databases = Databases::new(2).await;
    let (first, second) = (router(databases.address()).await, router(databases.address()).await);
    let mut states = second.access().subscribe().await.unwrap();
    let id = create(&first, AccessRole::READER).await;
    let generation = first.access().load().await.unwrap().generation;
    let state = until_known(&mut states, generation).await;
    assert_eq!(state.keys.iter().map(|key| key.id).collect::<Vec<_>>(), [id]);
    let generation = change(&first, AccessChange::RevokeKey(id)).await;
    let state = until_known(&mut states, generation).await;
    assert_eq!(state.keys[0].state(now()), KeyState::Revoked);
    let generation = change(&first, AccessChange::PutRoles(vec![shop()])).await;
    assert_eq!(until_known(&mut states, generation).await.roles, [shop()]);
    // Changes by a command reach both.
    let mut firsts = first.access().subscribe().await.unwrap();
    let session = AccessSession::open(&databases.address().shards[0].primary).await.unwrap();
    let key = AccessChange::CreateKey(new_key("shop", &["acme"], None));
    let generation = session.change(&key, &ChangeAuthor::CommandLine, now()).await.unwrap();
    assert_eq!(until_known(&mut firsts, generation).await.keys.len(), 2);
    assert_eq!(*until_known(&mut states, generation).await, session.load().await.unwrap());
}

/// Returns the change of a step, given the keys that were created before.
fn any_change(step: u64, created: &mut Vec<KeyId>, now: UnixTime) -> AccessChange {
    // A step is followed by another one of any kind, in an order that is the same in each run.
    let random = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    let any = created.get(random as usize % created.len().max(1)).copied();
    match (random % 11, any) {
        (0..4, _) | (_, None) => {
            let days = 10 + random % 150;
            let expires_at = (!random.is_multiple_of(3)).then(|| now.plus(days * 86_400));
            let key = new_key(AccessRole::READER, &[], expires_at);
            created.push(key.id);
            AccessChange::CreateKey(key)
        }
        (4, Some(id)) => {
            let NewKey { id: successor, digest, .. } = new_key(AccessRole::READER, &[], None);
            created.push(successor);
            AccessChange::RotateKey { id, successor, digest, overlap_s: 60 }
        }
        (5 | 6, Some(id)) => AccessChange::RevokeKey(id),
        (7, Some(id)) => AccessChange::ResumeKey(id),
        (8, _) => AccessChange::SuspendAllKeys,
        (9, _) => AccessChange::PutRoles(vec![shop()]),
        (_, _) => {
            let subject = DenialSubject::Tenant(format!("tenant{}", random % 3).into());
            AccessChange::PutDenial(Denial { subject, until: None })
        }
    }
}

/// Routers that add changes to what they know have what one reads that knows nothing.
#[tokio::test]
async fn changes_of_keys_lead_to_the_state_of_the_catalog() {
    let databases = Databases::new(1).await;
    let (first, second) = (router(databases.address()).await, router(databases.address()).await);
    let mut firsts = first.access().subscribe().await.unwrap();
    let mut seconds = second.access().subscribe().await.unwrap();
    let session = AccessSession::open(&databases.address().shards[0].primary).await.unwrap();
    let (mut created, mut removed, mut before) = (Vec::new(), 0, 0);
    for step in 0..120 {
        // Keys that have expired, or were revoked, are removed in the course of time.
        let time = now().plus(step * 5 * 86_400);
        let change = any_change(step, &mut created, time);
        let manager = if step % 2 == 0 { &first } else { &second };
        let changed = manager.access().change(&change, &ChangeAuthor::CommandLine, time).await;
        let generation = match changed {
            Ok(generation) => generation,
            Err(AccessError::Refused(_)) => continue,
            Err(AccessError::Catalog(error)) => panic!("{change:?}: {error}"),
        };
        let whole = session.load().await.unwrap();
        assert_eq!(whole.generation, generation);
        for states in [&mut firsts, &mut seconds] {
            let known = until_known(states, generation).await;
            assert_eq!(*known, whole, "after {change:?}");
        }
        removed += usize::from(whole.keys.len() < before);
        before = whole.keys.len();
        if let Some(key) = whole.keys.first().filter(|_| step % 3 == 0) {
            // Begins no generation: the next change brings it along.
            let rows: &[(&str, u64)] = &[];
            let day = 20_000 + step as u32;
            let key_uses = vec![(key.id, day)];
            let flush = UsageFlush { key_uses, ..flush("one", step + 1, day, rows) };
            first.access().add_usage(&flush).await.unwrap();
        }
    }
    assert!(before > 5 && removed > 2, "{before} keys are left after {removed} removals");
}

#[tokio::test]
async fn a_change_of_one_key_reads_no_other_key() {
    let databases = Databases::new(1).await;
    let manager = router(databases.address()).await;
    let mut states = manager.access().subscribe().await.unwrap();
    let other = create(&manager, AccessRole::READER).await;
    let known =
        until_known(&mut states, change(&manager, AccessChange::SuspendAllKeys).await).await;
    // A read that began before any state was published reads all keys, whenever it ends. The
    // follower has ended it once it confirms the state at the time of the clock, not at `now`.
    let confirmed = async || {
        while manager.access().confirmed_at(now()) == Some(now()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, confirmed()).await.expect("the follower confirms the state");
    let of_other = |state: &AccessState| state.keys.iter().find(|key| key.id == other).cloned();
    let mut direct = databases.direct_session(0).await;
    let quietly = |name: &str| {
        format!(
            "ALTER TABLE tessera_access_keys DISABLE TRIGGER USER;
             UPDATE tessera_access_keys SET name = '{name}' WHERE id = '{other}';
             ALTER TABLE tessera_access_keys ENABLE TRIGGER USER"
        )
    };
    direct.run(&quietly("unseen")).await;
    let id = create(&manager, AccessRole::READER).await;
    let generation = change(&manager, AccessChange::RevokeKey(id)).await;
    let state = until_known(&mut states, generation).await;
    assert_eq!(of_other(&state), of_other(&known), "its row has the number of before");
    assert_eq!(state.keys.len(), 2);
    // A key that is missing without a trace makes the router read all of them.
    direct
        .run(&format!(
            "ALTER TABLE tessera_access_keys DISABLE TRIGGER USER;
         DELETE FROM tessera_access_keys WHERE id = '{id}';
         ALTER TABLE tessera_access_keys ENABLE TRIGGER USER"
        ))
        .await;
    let generation = change(&manager, AccessChange::PutRoles(vec![shop()])).await;
    let state = until_known(&mut states, generation).await;
    assert_eq!(state.keys.len(), 1);
    assert_eq!(&*state.keys[0].name, "unseen");
}

#[tokio::test]
async fn changes_by_many_routers_are_made_one_after_another() {
    let databases = Databases::new(1).await;
    let routers = [router(databases.address()).await, router(databases.address()).await];
    let before = routers[0].access().load().await.unwrap().generation;
    let callers = (0..3).flat_map(|_| &routers).map(async |manager| {
        for _ in 0..5 {
            create(manager, AccessRole::READER).await;
        }
    });
    futures_util::future::join_all(callers).await;
    let state = routers[1].access().load().await.unwrap();
    assert_eq!((state.keys.len(), state.generation), (30, before + 30));
    assert_eq!(databases.direct_session(0).await.texts(LOG).await.len(), 30);
}

#[tokio::test]
async fn flushes_of_many_routers_are_summed_beside_changes_of_keys() {
    let databases = Databases::new(1).await;
    let routers = [router(databases.address()).await, router(databases.address()).await];
    let id = create(&routers[0], AccessRole::READER).await;
    let flushes = routers.iter().zip(["one", "two"]).map(async |(manager, process)| {
        for number in 1..=20 {
            let rows = [("a", 1), ("b", 2), ("c", 3)];
            let key_uses = vec![(id, 20_000)];
            let flush = UsageFlush { key_uses, ..flush(process, number, 20_000, &rows) };
            manager.access().add_usage(&flush).await.unwrap();
        }
    });
    let changes = async {
        for _ in 0..5 {
            change(&routers[0], AccessChange::SuspendAllKeys).await;
        }
    };
    tokio::join!(futures_util::future::join_all(flushes), changes);
    let expected = [("a", 40), ("b", 80), ("c", 120)].map(|(name, sum)| (name.to_owned(), sum));
    assert_eq!(sums(&routers[1], 20_000).await, expected);
    assert_eq!(routers[1].access().load().await.unwrap().keys[0].used_on, Some(20_000));
}

#[tokio::test]
async fn a_command_needs_the_catalog_of_a_cluster() {
    let databases = Databases::new(1).await;
    let at = &databases.address().shards[0].primary;
    let refused = AccessSession::open(at).await.err().unwrap().to_string();
    assert!(refused.contains("there is no cluster in this database"), "{refused}");
}

/// The first of several addresses is that of the catalog.
#[tokio::test]
async fn commands_change_the_catalog_that_the_variables_name() {
    let databases = Databases::new(2).await;
    let manager = router(databases.address()).await;
    let mut states = manager.access().subscribe().await.unwrap();
    let urls = databases.nodes.iter().zip(&databases.names).map(|(node, name)| node.url(name));
    let urls: Vec<String> = urls.collect();
    let run = async |variable: &str, value: &str, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shard-manager"));
        for name in ["TESSERA_DATA_DIR", "MAINDB_URL", "SHARD_URLS"] {
            command.env_remove(name);
        }
        command.args(args).env(variable, value);
        let ended = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(ended.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).unwrap()
    };
    let create = ["key", "create", "--role", "reader"];
    let key = run("SHARD_URLS", &urls.join(","), &create).await;
    let id = ApiKey::parse(key.trim_end()).unwrap().id();
    let generation = manager.access().load().await.unwrap().generation;
    assert_eq!(until_known(&mut states, generation).await.keys[0].id, id);
    run("MAINDB_URL", &urls[0], &["key", "suspend", "--all"]).await;
    let listed = run("MAINDB_URL", &urls[0], &["key", "list"]).await;
    assert!(listed.contains(&format!("{id}\tsuspended\treader")), "{listed}");
    run("MAINDB_URL", &urls[0], &["key", "resume", id.as_str()]).await;
    let state = until_known(&mut states, generation + 2).await;
    assert_eq!(state.keys[0].state(now()), KeyState::Usable);
    let listed = run("MAINDB_URL", &urls[0], &["shard", "list", "--json"]).await;
    for part in ["\"shard\": \"shard2\"", "\"state\": \"serving\"", &databases.names[1]] {
        assert!(listed.replace("\":\"", "\": \"").contains(part), "{part}: {listed}");
    }
    assert!(!listed.contains('@'), "{listed}");
}
