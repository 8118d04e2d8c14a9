//! Snapshots and the authenticator: revocations, denials and expiry times take effect immediately.

use std::collections::BTreeSet;
use std::sync::Arc;

use access::auth_error::{AuthError, AuthOutcome, AuthReason};
use access::authenticator::{AuthSettings, Authenticator};
use access::caller::{Caller, Principal};
use access::denial::{Denial, DenialSubject};
use access::jwt::issuer::{Issuer, LoadedKeys};
use access::jwt::key_set::KeySet;
use access::jwt::{Issuers, TokenAlgorithm};
use access::key::{ApiKey, NewApiKey};
use access::key_record::{KeyRecord, is_last_admin};
use access::limit::limit_cells::LimitCells;
use access::operation::RowOperations;
use access::rights::{Rights, RowRequest};
use access::role::AccessRole;
use access::snapshot::{LimitSource, Snapshot, SnapshotContents, SnapshotError};
use access::tenant::Tenants;
use access::unix_time::UnixTime;
use model::fair_share::FairShare;
use serde_json::json;

use crate::signers::{
    ISSUER, NOW, SECRET, Signer, claims, claims_with, document, issuers, loaded, now, settings,
};

fn key(byte: u8) -> NewApiKey {
    NewApiKey::from_random(&[byte; NewApiKey::RANDOM_LEN])
}

fn record(key: &NewApiKey, role: &str, tenants: &[&str]) -> KeyRecord {
    KeyRecord {
        id: key.id(),
        digest: key.digest(),
        role: role.into(),
        tenants: Tenants::parse(tenants.iter().copied()).unwrap(),
        name: "test".into(),
        made_by: "test".into(),
        made_at: now(),
        expires_at: None,
        revoked_at: None,
        is_suspended: false,
        used_on: None,
    }
}

fn shop() -> AccessRole {
    let grants = json!([{"tables": ["*"], "may": ["read"], "keys": "$tenant:*"}]);
    let limits = json!({"requests_per_s": 5, "concurrent": 1});
    let role = json!({"role": "shop", "grants": grants, "limits": limits});
    AccessRole::parse(&role.to_string()).unwrap()
}

fn contents(keys: Vec<KeyRecord>, denials: Vec<DenialSubject>) -> SnapshotContents {
    let denials = denials.into_iter().map(|subject| Denial { subject, until: None }).collect();
    SnapshotContents { keys, roles: vec![shop()], denials, generation: 1, read_at: now() }
}

fn build(contents: SnapshotContents) -> Snapshot {
    let cells = LimitCells::new([0; 16]);
    Snapshot::build(contents, &LimitSource { cells: &cells, routers: 1 }).unwrap()
}

fn authenticator(contents: SnapshotContents, issuers: Issuers) -> Authenticator {
    let settings = AuthSettings { stale_max: 100, limit_routers: 1 };
    let cells = Arc::new(LimitCells::new([0; 16]));
    Authenticator::new(build(contents), issuers, settings, cells, [1; 16])
}

fn ask(authenticator: &Authenticator, text: &str) -> Result<Arc<Caller>, AuthReason> {
    authenticator.authenticate(text, now(), || true).map_err(|error: AuthError| error.reason)
}

fn may_read(caller: &Caller, key: &str) -> bool {
    let (operations, columns) = (RowOperations::READ, [].into_iter());
    let request = RowRequest { operations, table: "users", columns };
    caller.rights.allow_key(&request, model::keyspace::ShardKey::parse(key).unwrap()).is_ok()
}

#[test]
fn a_good_key_finds_its_caller() {
    let key = key(1);
    let gate =
        authenticator(contents(vec![record(&key, "shop", &["acme"])], vec![]), Issuers::default());
    let caller = ask(&gate, key.reveal()).unwrap();
    assert_eq!(caller.principal, Principal::Key(key.id()));
    assert!(may_read(&caller, "acme:1") && !may_read(&caller, "acme2:1"));
}

#[test]
fn unknown_wrong_revoked_and_suspended_keys_look_alike() {
    let keys: Vec<NewApiKey> = (1..=5).map(key).collect();
    let mut records: Vec<KeyRecord> =
        keys[..4].iter().map(|key| record(key, "shop", &["acme"])).collect();
    records[1].revoked_at = Some(now());
    records[2].is_suspended = true;
    records[3].digest = keys[0].digest();
    let gate = authenticator(contents(records, vec![]), Issuers::default());
    assert!(ask(&gate, keys[0].reveal()).is_ok());
    for (key, expected) in [
        (&keys[1], AuthReason::KeyRevoked),
        (&keys[2], AuthReason::KeySuspended),
        (&keys[3], AuthReason::KeyWrong),
        (&keys[4], AuthReason::KeyUnknown),
    ] {
        let reason = ask(&gate, key.reveal()).unwrap_err();
        assert_eq!(reason, expected);
        assert_eq!(reason.outcome(), AuthOutcome::Invalid);
        assert_eq!(AuthError::from(reason).to_string(), "the credentials are not valid");
    }
    assert_eq!(ask(&gate, "tsr_wrong").unwrap_err(), AuthReason::KeyMalformed);
    assert_eq!(ask(&gate, "").unwrap_err().outcome(), AuthOutcome::Invalid);
}

#[test]
fn a_key_expires_at_its_time_and_only_its_owner_gets_the_reason() {
    let (owner, thief) = (key(1), key(2));
    let mut record = record(&owner, "shop", &[]);
    record.expires_at = Some(now());
    let snapshot = build(contents(vec![record.clone()], vec![]));
    let before = UnixTime::from_seconds(NOW - 1);
    assert!(snapshot.keys().authenticate(owner.reveal(), before).is_ok());
    let refused = snapshot.keys().authenticate(owner.reveal(), now()).unwrap_err();
    assert_eq!(refused.outcome(), AuthOutcome::Expired);
    record.digest = thief.digest();
    let snapshot = build(contents(vec![record], vec![]));
    let refused = snapshot.keys().authenticate(owner.reveal(), now()).unwrap_err();
    assert_eq!(refused.outcome(), AuthOutcome::Invalid);
}

#[test]
fn a_key_of_a_missing_role_has_no_rights() {
    let key = key(1);
    let snapshot = build(contents(vec![record(&key, "gone", &["acme"])], vec![]));
    let caller = snapshot.keys().authenticate(key.reveal(), now()).unwrap();
    assert!(!may_read(caller, "acme:1") && !caller.rights.reach().has_table("users"));
    let anonymous = snapshot.anonymous();
    assert!(!anonymous.rights.reach().has_table("users"));
}

#[test]
fn a_stored_role_replaces_anonymous_and_no_other_built_in_role() {
    let open = r#"{"role":"anonymous","grants":[{"tables":["users"],"may":["read"],"keys":"*"}]}"#;
    let mut contents = contents(vec![], vec![]);
    contents.roles.push(AccessRole::parse(open).unwrap());
    let [admin, _, reader, ..] = AccessRole::built_in();
    contents.roles.push(admin);
    let snapshot = build(contents);
    assert!(snapshot.anonymous().rights.reach().has_table("users"));
    assert!(!snapshot.anonymous().rights.reach().has_table("orders"));
    assert_eq!(snapshot.role("reader").unwrap().role(), &reader);
}

#[test]
fn a_denied_tenant_or_token_is_refused_though_it_was_cached() {
    let signer = Signer::ed25519();
    let key = key(1);
    let records = || vec![record(&key, "shop", &["acme"])];
    let gate = authenticator(contents(records(), vec![]), issuers(&[&signer]));
    let token = signer.sign(&claims());
    assert!(ask(&gate, &token).is_ok() && ask(&gate, key.reveal()).is_ok());
    let issuer = || ISSUER.into();
    for (subject, reason) in [
        (DenialSubject::TokenId { issuer: issuer(), id: "t1".into() }, AuthReason::TokenDenied),
        (
            DenialSubject::Subject { issuer: issuer(), subject: "ann".into() },
            AuthReason::TokenDenied,
        ),
        (DenialSubject::IssuedBefore { issuer: issuer(), time: now() }, AuthReason::TokenDenied),
        (DenialSubject::Tenant("acme".into()), AuthReason::TenantDenied),
    ] {
        let denied = gate.with_snapshot(build(contents(records(), vec![subject.clone()])));
        assert_eq!(ask(&denied, &token).unwrap_err(), reason, "{subject:?}");
        let is_tenant = matches!(subject, DenialSubject::Tenant(_));
        assert_eq!(ask(&denied, key.reveal()).is_err(), is_tenant, "{subject:?}");
    }
    let others = [
        DenialSubject::TokenId { issuer: "https://other.example".into(), id: "t1".into() },
        DenialSubject::Tenant("acme2".into()),
        DenialSubject::IssuedBefore { issuer: issuer(), time: UnixTime::from_seconds(NOW - 60) },
    ];
    let others = gate.with_snapshot(build(contents(records(), others.to_vec())));
    assert!(ask(&others, &token).is_ok() && ask(&others, key.reveal()).is_ok());
}

#[test]
fn a_denial_ends_at_its_time() {
    let key = key(1);
    let mut contents = contents(vec![record(&key, "shop", &["acme"])], vec![]);
    let subject = DenialSubject::Tenant("acme".into());
    contents.denials = vec![Denial { subject, until: Some(UnixTime::from_seconds(NOW + 1)) }];
    let snapshot = build(contents);
    assert!(snapshot.keys().authenticate(key.reveal(), now()).is_err());
    assert!(snapshot.keys().authenticate(key.reveal(), UnixTime::from_seconds(NOW + 1)).is_ok());
}

#[test]
fn a_changed_secret_refuses_old_tokens_at_once_though_cached() {
    let (old, new) = (Signer::secret(), Signer::Secret(vec![9; 32]));
    let gate = authenticator(contents(vec![], vec![]), issuers(&[&old]));
    let token = old.sign(&claims());
    assert!(ask(&gate, &token).is_ok() && ask(&gate, &token).is_ok());
    let gate = gate.with_issuers(issuers(&[&new]));
    assert_eq!(ask(&gate, &token).unwrap_err(), AuthReason::TokenSignature);
    assert!(ask(&gate, &new.sign(&claims())).is_ok());
}

#[test]
fn a_cached_token_needs_no_check_and_expires_all_the_same() {
    let signer = Signer::ed25519();
    let gate = authenticator(contents(vec![], vec![]), issuers(&[&signer]));
    let token = signer.sign(&claims());
    let first = ask(&gate, &token).unwrap();
    let again = gate.authenticate(&token, now(), || panic!("no signature is verified")).unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    let later = UnixTime::from_seconds(NOW + 630);
    gate.snapshot().confirm(later);
    let refused = gate.authenticate(&token, later, || true).unwrap_err();
    assert_eq!(refused.reason, AuthReason::TokenExpired);
}

#[test]
fn an_issuer_gives_roles_with_scopes_only_if_they_are_named() {
    let signer = Signer::ed25519();
    let token = signer.sign(&claims_with("role", json!("admin")));
    let gate = authenticator(contents(vec![], vec![]), issuers(&[&signer]));
    assert_eq!(ask(&gate, &token).unwrap_err(), AuthReason::TokenRole);
    let with_roles = |roles: &[&str]| {
        let mut settings = settings(&[TokenAlgorithm::EdDsa]);
        settings.roles = Some(roles.iter().map(|role| (*role).to_owned()).collect());
        let set = KeySet::from_jwks(&document(&[&signer])).unwrap();
        Issuers::new(vec![Issuer::new(settings, loaded(set)).unwrap()]).unwrap()
    };
    assert!(ask(&gate.with_issuers(with_roles(&["admin"])), &token).is_ok());
    let other = gate.with_issuers(with_roles(&["shop"]));
    assert_eq!(ask(&other, &token).unwrap_err(), AuthReason::TokenRole);
}

#[test]
fn a_token_whose_tenant_contains_the_separator_is_refused() {
    let signer = Signer::ed25519();
    let gate = authenticator(contents(vec![], vec![]), issuers(&[&signer]));
    let token = signer.sign(&claims_with("tenant", json!("acme:x")));
    assert_eq!(ask(&gate, &token).unwrap_err(), AuthReason::Tenant);
    let token = signer.sign(&claims_with("tenant", json!(null)));
    assert!(!may_read(&ask(&gate, &token).unwrap(), ":1"), "no tenant matches nothing");
}

#[test]
fn a_stale_snapshot_answers_nothing() {
    let key = key(1);
    let gate = authenticator(contents(vec![record(&key, "shop", &[])], vec![]), Issuers::default());
    let later = UnixTime::from_seconds(NOW + 101);
    let refused = gate.authenticate(key.reveal(), later, || true).unwrap_err();
    assert_eq!(refused.outcome(), AuthOutcome::Unavailable);
    assert!(gate.anonymous(later).is_err());
    gate.snapshot().confirm(later);
    assert!(gate.authenticate(key.reveal(), later, || true).is_ok());
}

#[test]
fn limits_outlive_a_change_and_are_shared_by_a_tenant() {
    let keys = [key(1), key(2), key(3)];
    let records = || {
        vec![
            record(&keys[0], "shop", &["acme"]),
            record(&keys[1], "shop", &["acme"]),
            record(&keys[2], "shop", &[]),
        ]
    };
    let cells = LimitCells::new([0; 16]);
    let source = LimitSource { cells: &cells, routers: 1 };
    let before = Snapshot::build(contents(records(), vec![]), &source).unwrap();
    let after = Snapshot::build(contents(records(), vec![]), &source).unwrap();
    let limits = |snapshot: &Snapshot, index: usize| {
        let caller = snapshot.keys().authenticate(keys[index].reveal(), now()).unwrap();
        caller.limits.clone().unwrap()
    };
    let running = limits(&before, 0).enter().unwrap();
    assert!(running.is_some() && limits(&after, 0).enter().is_err());
    assert!(limits(&after, 1).enter().is_err(), "one tenant shares its limits");
    assert!(limits(&after, 2).enter().is_ok(), "another caller has its own");
    drop(running);
    assert!(limits(&after, 1).enter().is_ok());
}

#[test]
fn callers_have_the_share_of_their_tenant_or_of_their_own() {
    let keys = [key(1), key(2), key(3), key(4), key(5)];
    let records = || {
        let owners: [(&str, &[&str]); 5] = [
            ("shop", &["acme"]),
            ("shop", &["acme"]),
            ("shop", &["beta"]),
            ("reader", &[]),
            ("reader", &[]),
        ];
        let pairs = keys.iter().zip(owners);
        pairs.map(|(key, (role, tenants))| record(key, role, tenants)).collect()
    };
    let cells = LimitCells::new([0; 16]);
    let source = LimitSource { cells: &cells, routers: 1 };
    let heavy = AccessRole::parse(r#"{"role":"shop","grants":[],"weight":7}"#).unwrap();
    let built = |roles: Vec<AccessRole>| {
        let contents = SnapshotContents { roles, ..contents(records(), vec![]) };
        Snapshot::build(contents, &source).unwrap()
    };
    let (before, after) = (built(vec![shop()]), built(vec![heavy]));
    let share = |snapshot: &Snapshot, index: usize| {
        snapshot.keys().authenticate(keys[index].reveal(), now()).unwrap().rights.share()
    };
    let numbers: Vec<u64> = (0..5).map(|index| share(&before, index).number()).collect();
    assert_eq!(numbers[0], numbers[1], "one tenant");
    let all: BTreeSet<u64> = numbers.iter().copied().collect();
    assert_eq!(all.len(), 4, "other tenants, and keys without a tenant: {numbers:?}");
    assert!(!all.contains(&FairShare::COMMON.number()));
    assert_eq!(share(&before, 0).weight(), 1);
    assert_eq!(share(&after, 0), FairShare::new(numbers[0], 7), "only the weight has changed");
    let anonymous = before.anonymous().rights.share();
    assert!(!anonymous.is_common() && !all.contains(&anonymous.number()));
    assert!(Rights::all().share().is_common());
}

#[test]
fn the_last_administrator_is_known() {
    let (first, second, other) = (key(1), key(2), key(3));
    let mut records = vec![
        record(&first, "admin", &[]),
        record(&second, "admin", &[]),
        record(&other, "shop", &[]),
    ];
    assert!(!is_last_admin(&records, first.id(), now()));
    records[1].expires_at = Some(now());
    assert!(is_last_admin(&records, first.id(), now()));
    assert!(
        !is_last_admin(&records, second.id(), now()) && !is_last_admin(&records, other.id(), now())
    );
    records[0].revoked_at = Some(now());
    assert!(!is_last_admin(&records, first.id(), now()), "a revoked key is not an administrator's");
}

#[test]
fn a_snapshot_is_bounded() {
    let record = record(&key(1), "shop", &[]);
    let contents = contents(vec![record; Snapshot::KEYS_MAX + 1], vec![]);
    let cells = LimitCells::new([0; 16]);
    let refused = Snapshot::build(contents, &LimitSource { cells: &cells, routers: 1 });
    assert_eq!(refused.unwrap_err(), SnapshotError::TooManyKeys { count: 100_001 });
    assert!(!ApiKey::is_like("eyJ"));
}

#[test]
fn an_id_that_occurs_twice_takes_no_refusal_back() {
    let key = key(1);
    let usable = record(&key, "shop", &["acme"]);
    let mut revoked = usable.clone();
    revoked.revoked_at = Some(now());
    for records in [[usable.clone(), revoked.clone()], [revoked, usable]] {
        let snapshot = build(contents(records.to_vec(), vec![]));
        let refused = snapshot.keys().authenticate(key.reveal(), now()).unwrap_err();
        assert_eq!((refused.reason, snapshot.keys().count()), (AuthReason::KeyRevoked, 1));
    }
}

#[test]
fn a_clock_that_was_corrected_does_not_make_a_snapshot_seem_current() {
    let key = key(1);
    let gate = authenticator(contents(vec![record(&key, "shop", &[])], vec![]), Issuers::default());
    gate.snapshot().confirm(UnixTime::from_seconds(NOW + 1_000_000));
    gate.snapshot().confirm(now());
    let later = UnixTime::from_seconds(NOW + 101);
    assert_eq!(gate.snapshot().age(later), 101);
    assert!(gate.authenticate(key.reveal(), later, || true).is_err());
}

#[test]
fn a_cached_token_is_not_valid_longer_than_its_keys() {
    let signer = Signer::ed25519();
    let set = KeySet::from_jwks(&document(&[&signer])).unwrap();
    let end = UnixTime::from_seconds(NOW + 10);
    let keys = LoadedKeys { set: Arc::new(set), usable_until: Some(end) };
    let issuer = Issuer::new(settings(&[TokenAlgorithm::EdDsa]), Some(keys)).unwrap();
    let gate = authenticator(contents(vec![], vec![]), Issuers::new(vec![issuer]).unwrap());
    let token = signer.sign(&claims());
    assert!(ask(&gate, &token).is_ok());
    let refused = gate.authenticate(&token, end, || true).unwrap_err();
    assert_eq!(refused.outcome(), AuthOutcome::Unavailable);
}

#[test]
fn a_caller_of_a_token_lasts_as_long_as_the_token_is_accepted() {
    let signer = Signer::ed25519();
    let gate = authenticator(contents(vec![], vec![]), issuers(&[&signer]));
    let token = signer.sign(&claims());
    let end = ask(&gate, &token).unwrap().expires_at.unwrap();
    gate.snapshot().confirm(end);
    let before = UnixTime::from_seconds(end.seconds() - 1);
    assert!(gate.authenticate(&token, before, || true).is_ok());
    assert!(gate.authenticate(&token, end, || true).is_err());
}

#[test]
fn credentials_of_a_mebibyte_are_refused_by_their_length() {
    let gate = authenticator(contents(vec![], vec![]), Issuers::default());
    for (text, reason) in [
        ("x".repeat(1 << 20), AuthReason::TokenTooLong),
        (format!("tsr_{}", "x".repeat(1 << 20)), AuthReason::KeyMalformed),
    ] {
        let refused = gate.authenticate(&text, now(), || panic!("no signature is verified"));
        assert_eq!(refused.unwrap_err().reason, reason);
    }
}

#[test]
fn nothing_prints_a_secret_of_the_gate() {
    let key = key(1);
    let cells = Arc::new(LimitCells::new([201; 16]));
    let snapshot = build(contents(vec![record(&key, "shop", &["acme"])], vec![]));
    let settings = AuthSettings { stale_max: 0, limit_routers: 1 };
    let issuers = issuers(&[&Signer::secret()]);
    let gate = Authenticator::new(snapshot, issuers, settings, cells, [202; 16]);
    let printed = format!("{gate:?}");
    let secret = &key.reveal()[17..60];
    let digest = format!("{:?}", key.digest().as_bytes());
    let shared = format!("{:?}", SECRET.as_slice());
    for hidden in ["201, 201", "202, 202", secret, &key.digest().to_hex(), &digest, &shared] {
        assert!(!printed.contains(hidden), "{printed}");
    }
    assert!(printed.contains("***") && !printed.contains("0123456789abcdef"));
}

#[test]
fn a_refusal_has_the_time_of_a_retry_if_one_can_succeed() {
    for (reason, seconds) in [
        (AuthReason::KeyWrong, None),
        (AuthReason::TokenExpired, None),
        (AuthReason::SessionForged, None),
        (AuthReason::TooManyChecks, Some(1)),
        (AuthReason::SnapshotStale, Some(1)),
        (AuthReason::KeySetUnavailable, Some(10)),
    ] {
        assert_eq!(AuthError::from(reason).retry_after(), seconds, "{reason:?}");
    }
}
