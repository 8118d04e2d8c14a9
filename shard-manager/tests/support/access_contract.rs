//! Contract of the access store, which the tests of each engine check: what a change stores, what
//! it refuses, and that both leave the log of changes complete.
//!
//! **Not here:** crashes and several routers, which differ between the engines.

use shard_manager::access::denial::{Denial, DenialSubject};
use shard_manager::access::key::{KeyId, NewApiKey};
use shard_manager::access::key_record::{KeyRecord, KeyState};
use shard_manager::access::limit::usage::UsageBatch;
use shard_manager::access::role::AccessRole;
use shard_manager::access::tenant::Tenants;
use shard_manager::access::unix_time::UnixTime;
use shard_manager::engine::access_store::{
    AccessChange, AccessError, AccessMode, AccessRefusal, AccessState, ChangeAuthor, NewKey,
    UsageFlush, make_key,
};
use shard_manager::manager::Manager;

/// Statement that reads the lines of the log.
pub(crate) const LOG: &str =
    "SELECT author || '|' || kind || '|' || id || '|' || what AS value FROM tessera_access_log
     ORDER BY number";

/// Time of all changes, unless a test needs another.
pub(crate) fn now() -> UnixTime {
    UnixTime::parse("2026-11-23T12:00:00Z").expect("a time")
}

/// Author without the powers of the command line.
pub(crate) fn caller() -> ChangeAuthor {
    ChangeAuthor::Caller("4fKq0ZxY81Ab".into())
}

/// Returns a role whose keys begin with a tenant and a colon.
pub(crate) fn shop() -> AccessRole {
    let json = r#"{"role":"shop","grants":[
        {"tables":["users","orders"],"may":["read","insert"],"keys":"$tenant:*","columns":["name"]}],
        "scopes":["metrics"],"weight":3,"limits":{"requests_per_s":10,"rows_per_day":7}}"#;
    AccessRole::parse(json).expect("a role")
}

/// Returns a key to be created, and the key itself.
pub(crate) fn new_key(role: &str, tenants: &[&str], expires_at: Option<UnixTime>) -> NewKey {
    let made: NewApiKey = make_key().expect("random bytes");
    NewKey {
        id: made.id(),
        digest: made.digest(),
        role: role.into(),
        tenants: Tenants::parse(tenants.iter().copied()).expect("tenants"),
        name: "Robert'); DROP TABLE users; -- é".into(),
        expires_at,
    }
}

async fn load(manager: &Manager) -> AccessState {
    manager.access().load().await.expect("the catalog answers")
}

/// Makes a change as the command line does.
pub(crate) async fn change(manager: &Manager, change: AccessChange) -> u64 {
    let changed = manager.access().change(&change, &ChangeAuthor::CommandLine, now()).await;
    changed.unwrap_or_else(|error| panic!("{change:?}: {error}"))
}

/// Creates a key and returns its id.
pub(crate) async fn create(manager: &Manager, role: &str) -> KeyId {
    let key = new_key(role, &[], None);
    let id = key.id;
    change(manager, AccessChange::CreateKey(key)).await;
    id
}

fn record(state: &AccessState, id: KeyId) -> &KeyRecord {
    state.keys.iter().find(|key| key.id == id).expect("the key is stored")
}

/// Checks that a change is refused and leaves nothing behind.
async fn refused(manager: &Manager, change: AccessChange, author: &ChangeAuthor) -> AccessRefusal {
    let before = load(manager).await;
    let changed = manager.access().change(&change, author, now()).await;
    assert_eq!(load(manager).await, before, "{change:?}");
    match changed {
        Err(AccessError::Refused(refusal)) => refusal,
        other => panic!("{change:?} is not refused: {other:?}"),
    }
}

/// Checks the whole contract on a new cluster. `log` reads the lines of the log.
pub(crate) async fn check(manager: &Manager, mut log: impl AsyncFnMut() -> Vec<String>) {
    let first = load(manager).await;
    assert!(first.keys.is_empty() && first.roles.is_empty() && first.denials.is_empty());
    assert_eq!(manager.access().mode().await, Ok(AccessMode::Off));
    assert!(first.generation > 0);
    check_keys(manager).await;
    check_refusals(manager).await;
    check_last_admin(manager).await;
    check_denials_and_mode(manager).await;
    check_feed(manager).await;
    check_usage(manager).await;
    check_dead_keys(manager).await;
    let lines = log().await;
    let last = load(manager).await;
    assert!(last.generation > first.generation);
    for key in &last.keys {
        let created = format!("|key|{}|created", key.id);
        assert!(lines.iter().any(|line| line.contains(&created)), "{created}: {lines:#?}");
        let digest = key.digest.to_hex();
        assert!(!lines.iter().any(|line| line.contains(&digest)), "{lines:#?}");
    }
    let removed = |line: &&String| line.starts_with("4fKq0ZxY81Ab|key|*|removed: ");
    let removed: Vec<_> = lines.iter().filter(removed).collect();
    assert_eq!(removed.len(), 2, "{lines:#?}");
    assert!(removed[0].ends_with("before 2026-11-23T12:00:01Z"), "{removed:?}");
    let refusal = AccessChange::RevokeKey(KeyId::parse("aaaaaaaaaaaa").expect("an id"));
    refused(manager, refusal, &ChangeAuthor::CommandLine).await;
    assert_eq!(log().await, lines, "a refused change has no line");
}

async fn check_keys(manager: &Manager) {
    change(manager, AccessChange::PutRoles(vec![shop()])).await;
    let expires_at = Some(now().plus(1_000));
    let key = new_key("shop", &["zeta", "acme"], expires_at);
    let before = load(manager).await;
    let generation = change(manager, AccessChange::CreateKey(key.clone())).await;
    let state = load(manager).await;
    assert_eq!(state.roles, [shop()]);
    assert_eq!((state.generation, before.generation), (generation, generation - 1));
    let stored = record(&state, key.id);
    let expected = KeyRecord {
        id: key.id,
        digest: key.digest,
        role: key.role.clone(),
        tenants: key.tenants.clone(),
        name: key.name.clone(),
        made_by: "command line".into(),
        made_at: now(),
        expires_at,
        revoked_at: None,
        is_suspended: false,
        used_on: None,
    };
    assert_eq!(*stored, expected);
    // The successor lives as long as the old key was meant to, which expires earlier than before.
    let successor = make_key().expect("random bytes");
    let rotation = AccessChange::RotateKey {
        id: key.id,
        successor: successor.id(),
        digest: successor.digest(),
        overlap_s: 60,
    };
    let later = now().plus(100);
    let rotated = manager.access().change(&rotation, &caller(), later).await;
    rotated.expect("a usable key is rotated");
    let state = load(manager).await;
    assert_eq!(record(&state, key.id).expires_at, Some(later.plus(60)));
    let new = record(&state, successor.id());
    assert_eq!((new.made_at, new.expires_at), (later, Some(later.plus(1_000))));
    assert_eq!((&new.role, &new.tenants, &new.name), (&key.role, &key.tenants, &key.name));
    assert_eq!(&*new.made_by, "4fKq0ZxY81Ab");
    change(manager, AccessChange::SuspendAllKeys).await;
    let state = load(manager).await;
    assert!(state.keys.iter().all(|key| key.state(now()) == KeyState::Suspended));
    change(manager, AccessChange::ResumeKey(key.id)).await;
    change(manager, AccessChange::RevokeKey(key.id)).await;
    assert_eq!(record(&load(manager).await, key.id).state(now()), KeyState::Revoked);
    let owner = ChangeAuthor::CommandLine;
    for again in [AccessChange::RevokeKey(key.id), AccessChange::ResumeKey(key.id), rotation] {
        let refusal = refused(manager, again, &owner).await;
        assert!(matches!(refusal, AccessRefusal::KeyState { .. }), "{refusal:?}");
    }
}

async fn check_refusals(manager: &Manager) {
    let owner = ChangeAuthor::CommandLine;
    let known = create(manager, AccessRole::READER).await;
    let key = |role: &str, tenants: &[&str]| new_key(role, tenants, None);
    let creations = [
        (key("shopp", &[]), "role"),
        (key("shop", &["acme:x"]), "tenants"),
        (NewKey { name: "".into(), ..key("shop", &[]) }, "name"),
        (NewKey { name: "a\nb".into(), ..key("shop", &[]) }, "name"),
        (new_key("shop", &[], Some(now())), "expires_at"),
        (NewKey { id: known, ..key("shop", &[]) }, "id"),
    ];
    for (key, member) in creations {
        let refusal = refused(manager, AccessChange::CreateKey(key), &owner).await;
        assert_eq!(refusal.member(), member, "{refusal}");
    }
    let refusal = refused(manager, AccessChange::CreateKey(key("shopp", &[])), &owner).await;
    let expected =
        "there is no role `shopp`; there are admin, service, reader, scraper, anonymous, shop";
    assert_eq!(refusal.to_string(), expected);
    let [admin, ..] = AccessRole::built_in();
    let roles = vec![shop(), admin];
    assert_eq!(refused(manager, AccessChange::PutRoles(roles), &owner).await.member(), "role");
    for role in ["shop", "admin", "nobody"] {
        let refusal = refused(manager, AccessChange::RemoveRole(role.into()), &owner).await;
        assert_eq!(refusal.member(), "role", "{refusal}");
    }
    let many = (0..1_001).map(|number| {
        let json = format!(r#"{{"role":"r{number}","grants":[]}}"#);
        AccessRole::parse(&json).expect("a role")
    });
    let refusal = refused(manager, AccessChange::PutRoles(many.collect()), &owner).await;
    assert_eq!(refusal, AccessRefusal::TooManyRoles { count: 1_002 });
}

/// The last key of an administrator is kept from all but the command line.
async fn check_last_admin(manager: &Manager) {
    let first = create(manager, AccessRole::ADMIN).await;
    let revoke = |id| AccessChange::RevokeKey(id);
    for change in [revoke(first), AccessChange::SuspendAllKeys] {
        assert_eq!(refused(manager, change, &caller()).await, AccessRefusal::LastAdmin);
    }
    let second = create(manager, AccessRole::ADMIN).await;
    let revoked = manager.access().change(&revoke(first), &caller(), now()).await;
    revoked.expect("another administrator is left");
    assert_eq!(refused(manager, revoke(second), &caller()).await, AccessRefusal::LastAdmin);
    let mut of_tenant = new_key(AccessRole::ADMIN, &["acme"], None);
    of_tenant.name = "with a tenant".into();
    let third = of_tenant.id;
    change(manager, AccessChange::CreateKey(of_tenant)).await;
    let revoked = manager.access().change(&revoke(second), &caller(), now()).await;
    revoked.expect("another administrator is left");
    let subject = DenialSubject::Tenant("acme".into());
    let denial = AccessChange::PutDenial(Denial { subject, until: None });
    assert_eq!(refused(manager, denial, &caller()).await, AccessRefusal::LastAdmin);
    change(manager, revoke(third)).await;
    // Without an administrator there is none to keep.
    manager.access().change(&AccessChange::SuspendAllKeys, &caller(), now()).await.expect("it is");
}

async fn check_denials_and_mode(manager: &Manager) {
    let subjects = [
        DenialSubject::TokenId { issuer: "https://a".into(), id: "j'1".into() },
        DenialSubject::Subject { issuer: "https://a".into(), subject: "s".into() },
        DenialSubject::Tenant("é".into()),
        DenialSubject::IssuedBefore { issuer: "https://a".into(), time: now() },
    ];
    for (subject, hours) in subjects.iter().zip(1..) {
        let until = Some(now().plus(hours * 3_600));
        let denial = Denial { subject: subject.clone(), until };
        change(manager, AccessChange::PutDenial(denial)).await;
    }
    let lasting = Denial { subject: subjects[2].clone(), until: None };
    change(manager, AccessChange::PutDenial(lasting.clone())).await;
    let denials = load(manager).await.denials;
    assert_eq!(denials.len(), subjects.len());
    assert!(denials.contains(&lasting));
    for subject in subjects {
        let denial = denials.iter().find(|denial| denial.subject == subject);
        assert!(denial.is_some(), "{subject:?}: {denials:?}");
        change(manager, AccessChange::RemoveDenial(subject.clone())).await;
        let again = AccessChange::RemoveDenial(subject);
        assert_eq!(refused(manager, again, &caller()).await, AccessRefusal::NoSuchDenial);
    }
    let long = DenialSubject::Tenant("x".repeat(1_001).into());
    let long = AccessChange::PutDenial(Denial { subject: long, until: None });
    assert_eq!(refused(manager, long, &caller()).await, AccessRefusal::DenialText);
    assert!(load(manager).await.denials.is_empty());
    check_ended_denials(manager).await;
    let on = AccessChange::SetMode(AccessMode::On);
    manager.access().change(&on, &ChangeAuthor::Router, now()).await.expect("a router sets it");
    assert_eq!(manager.access().mode().await, Ok(AccessMode::On));
    let off = AccessChange::SetMode(AccessMode::Off);
    let refusal = refused(manager, off.clone(), &caller()).await;
    assert_eq!(refusal, AccessRefusal::CommandLineOnly);
    change(manager, off).await;
    assert_eq!(load(manager).await.mode, AccessMode::Off);
}

/// Denials that have ended are removed when another one is put.
async fn check_ended_denials(manager: &Manager) {
    let put = async |tenant: &str, until, now| {
        let denial = Denial { subject: DenialSubject::Tenant(tenant.into()), until };
        let change = AccessChange::PutDenial(denial);
        manager.access().change(&change, &ChangeAuthor::CommandLine, now).await.expect("it is put");
        load(manager).await.denials.len()
    };
    let soon = now().plus(10);
    assert_eq!(put("a", Some(soon), now()).await, 1);
    assert_eq!(put("b", Some(soon.plus(1)), now()).await, 2);
    assert_eq!(put("c", None, soon).await, 2, "one has ended");
    assert_eq!(put("b", Some(soon.plus(9)), soon.plus(1)).await, 2, "it is put again");
    for tenant in ["b", "c"] {
        change(manager, AccessChange::RemoveDenial(DenialSubject::Tenant(tenant.into()))).await;
    }
}

/// A subscriber has a change once it was made.
async fn check_feed(manager: &Manager) {
    let mut states = manager.access().subscribe().await.expect("the catalog answers");
    assert!(states.has_changed().expect("the feed lives"));
    // No borrowed state is held while another may be published.
    let first = states.borrow_and_update().clone();
    assert_eq!(*first, load(manager).await);
    let id = create(manager, AccessRole::READER).await;
    assert!(states.has_changed().expect("the feed lives"));
    let state = states.borrow_and_update().clone();
    assert_eq!(*state, load(manager).await);
    assert_eq!(record(&state, id).state(now()), KeyState::Usable);
    let long_after = now().plus(1_000_000_000);
    let confirmed_at = manager.access().confirmed_at(long_after);
    assert!(confirmed_at.is_some_and(|time| time >= now()), "{confirmed_at:?}");
}

/// Returns a flush of a process with rows of callers.
pub(crate) fn flush(process: &str, number: u64, day: u32, rows: &[(&str, u64)]) -> UsageFlush {
    let rows = rows.iter().map(|(caller, rows)| ((*caller).into(), *rows)).collect();
    let batch = UsageBatch { number, day, rows };
    UsageFlush { process: process.into(), batch, key_uses: Vec::new(), today: day }
}

/// Returns the sums of a day, by caller.
pub(crate) async fn sums(manager: &Manager, day: u32) -> Vec<(String, u64)> {
    let mut sums = manager.access().usage(day).await.expect("the catalog answers");
    sums.sort();
    sums
}

/// Rows are added to the sums once, and the days of keys only grow.
async fn check_usage(manager: &Manager) {
    const DAY: u32 = 20_000;
    let add = async |flush: UsageFlush| manager.access().add_usage(&flush).await;
    let expected = |sums: &[(&str, u64)]| {
        sums.iter().map(|(caller, rows)| ((*caller).to_owned(), *rows)).collect::<Vec<_>>()
    };
    let (acme, zeta) = (r#"tenants shop ["acme\u0000é"]"#, "key 4fKq0ZxY81Ab");
    assert!(sums(manager, DAY).await.is_empty());
    assert_eq!(add(flush("one", 1, DAY, &[(acme, 3), (zeta, 1 << 40)])).await, Ok(()));
    for _ in 0..2 {
        let repeated = flush("two", 1, DAY, &[(acme, 4)]);
        assert_eq!(add(repeated).await, Ok(()));
    }
    assert_eq!(sums(manager, DAY).await, expected(&[(zeta, 1 << 40), (acme, 7)]));
    assert_eq!(add(flush("two", 2, DAY, &[(acme, 5)])).await, Ok(()));
    assert_eq!(add(flush("two", 1, DAY, &[(acme, 4)])).await, Ok(()), "an earlier one");
    assert_eq!(add(flush("two", 3, DAY + 1, &[(acme, 1)])).await, Ok(()));
    assert_eq!(sums(manager, DAY).await, expected(&[(zeta, 1 << 40), (acme, 12)]));
    assert_eq!(sums(manager, DAY + 1).await, expected(&[(acme, 1)]));
    let late = UsageFlush { today: DAY + 36, ..flush("one", 0, DAY + 36, &[]) };
    assert_eq!(add(late.clone()).await, Ok(()));
    assert!(sums(manager, DAY).await.is_empty(), "sums of long ago are removed");
    assert_eq!(sums(manager, DAY + 1).await, expected(&[(acme, 1)]));

    let (id, before) = (create(manager, AccessRole::READER).await, load(manager).await);
    let unknown = KeyId::parse("aaaaaaaaaaaa").expect("an id");
    for (day, expected) in [(20_001, 20_001), (20_003, 20_003), (20_002, 20_003)] {
        let key_uses = vec![(id, day), (unknown, day)];
        assert_eq!(add(UsageFlush { key_uses, ..late.clone() }).await, Ok(()));
        assert_eq!(record(&load(manager).await, id).used_on, Some(expected));
    }
    let after = load(manager).await;
    assert_eq!(after.generation, before.generation, "routers read nothing again");
    assert_eq!(after.keys.len(), before.keys.len());
}

/// Keys that were revoked or have expired 90 days ago are removed by the next change.
async fn check_dead_keys(manager: &Manager) {
    const DAY: u64 = 86_400;
    let role = AccessRole::parse(r#"{"role":"dead","grants":[]}"#).expect("a role");
    change(manager, AccessChange::PutRoles(vec![role])).await;
    let any = AccessChange::PutRoles(vec![shop()]);
    let at = async |time| {
        manager.access().change(&any, &caller(), time).await.expect("a role is defined");
        load(manager).await
    };
    let before = at(now().plus(85 * DAY)).await.keys.len();
    let revoked = create(manager, "dead").await;
    let expiring = new_key("dead", &[], Some(now().plus(DAY)));
    let expired = expiring.id;
    change(manager, AccessChange::CreateKey(expiring)).await;
    change(manager, AccessChange::RevokeKey(revoked)).await;
    let ids = |state: &AccessState| {
        let is_ours = |id: &KeyId| *id == revoked || *id == expired;
        state.keys.iter().map(|key| key.id).filter(is_ours).collect::<Vec<_>>()
    };
    assert_eq!(ids(&at(now().plus(90 * DAY)).await).len(), 2, "90 days are not over");
    let role = AccessChange::RemoveRole("dead".into());
    let refusal = refused(manager, role.clone(), &caller()).await;
    assert!(matches!(refusal, AccessRefusal::RoleInUse { keys: 1, .. }), "{refusal:?}");
    assert_eq!(ids(&at(now().plus(90 * DAY + 1)).await), [expired]);
    // A key that this change removes is none that it can be about, and keeps no role.
    let late = now().plus(91 * DAY + 1);
    let resumed = manager.access().change(&AccessChange::ResumeKey(expired), &caller(), late).await;
    assert_eq!(resumed, Err(AccessError::Refused(AccessRefusal::NoSuchKey(expired))));
    assert_eq!(ids(&load(manager).await), [expired], "a refused change removes nothing");
    manager.access().change(&role, &caller(), late).await.expect("no key has the role");
    let state = load(manager).await;
    assert!(ids(&state).is_empty() && state.keys.len() <= before, "{}", state.keys.len());
}
