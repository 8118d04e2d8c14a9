//! Tests of the hot path: checking valid credentials and the rights to granted rows allocates no
//! memory.

use std::hint::black_box;
use std::sync::Arc;

use access::authenticator::{AuthSettings, Authenticator};
use access::key::NewApiKey;
use access::key_record::KeyRecord;
use access::limit::limit_cells::LimitCells;
use access::operation::RowOperations;
use access::rights::{Rights, RowRequest};
use access::role::AccessRole;
use access::snapshot::{LimitSource, Snapshot, SnapshotContents};
use access::tenant::Tenants;
use access::unix_time::UnixTime;
use model::keyspace::ShardKey;

use crate::counted_heap::{allocations_of, bytes_of};
use crate::signers::{Signer, claims, issuers, now};

const ROLE: &str = r#"{"role":"shop","grants":[
    {"tables":["orders"],"may":["read"],"keys":"*","columns":["id"]},
    {"tables":["users","orders"],"may":["read","insert"],"keys":"$tenant:*","columns":["id","name"]}]}"#;

const RATE: &str = r#"{"requests_per_s":1000000000}"#;
const ALL_LIMITS: &str = r#"{"requests_per_s":1000000000,"rows_per_s":1000000000,
    "rows_per_day":1000000000000,"concurrent":9}"#;

/// Returns the role `ROLE` with these limits.
fn role(limits: &str) -> AccessRole {
    let rest = ROLE.strip_prefix('{').unwrap();
    AccessRole::parse(&format!("{{\"limits\":{limits},{rest}")).unwrap()
}

fn record(key: &NewApiKey) -> KeyRecord {
    KeyRecord {
        id: key.id(),
        digest: key.digest(),
        role: "shop".into(),
        tenants: Tenants::parse(["acme"]).unwrap(),
        name: "test".into(),
        made_by: "test".into(),
        made_at: UnixTime::default(),
        expires_at: None,
        revoked_at: None,
        is_suspended: false,
        used_on: None,
    }
}

fn contents(keys: Vec<KeyRecord>, limits: &str) -> SnapshotContents {
    SnapshotContents {
        keys,
        roles: vec![role(limits)],
        read_at: now(),
        ..SnapshotContents::default()
    }
}

fn gate(key: &NewApiKey, signer: &Signer, limits: &str) -> Authenticator {
    let contents = contents(vec![record(key)], limits);
    let cells = Arc::new(LimitCells::new([0; 16]));
    let snapshot = Snapshot::build(contents, &LimitSource { cells: &cells, routers: 1 }).unwrap();
    let settings = AuthSettings { stale_max: 0, limit_routers: 1 };
    Authenticator::new(snapshot, issuers(&[signer]), settings, cells, [1; 16])
}

#[test]
fn good_credentials_and_granted_rows_allocate_nothing() {
    let (key, signer) = (NewApiKey::from_random(&[1; 48]), Signer::ed25519());
    let (gate, token) = (gate(&key, &signer, RATE), signer.sign(&claims()));
    let columns = ["id", "name"];
    let question = |rights: &Rights| {
        let (operations, columns) = (RowOperations::READ, columns.iter().copied());
        let request = RowRequest { operations, table: "orders", columns };
        let key = ShardKey::parse("acme:1").unwrap();
        rights.allow_key(&request, key).is_ok() && rights.allow_bound(&request).is_ok()
    };
    for credentials in [key.reveal(), &token] {
        let pass = || {
            let caller = gate.authenticate(credentials, now(), || true).unwrap();
            let limits = caller.limits.as_ref().unwrap();
            assert!(limits.admit(1, std::time::Duration::ZERO, now()).is_ok());
            assert!(black_box(question(&caller.rights)));
        };
        pass();
        assert_eq!(allocations_of(|| (0..100).for_each(|_| pass())), 0);
    }
    assert_eq!(allocations_of(|| assert!(black_box(question(&Rights::all())))), 0);
    assert!(allocations_of(|| drop(black_box(vec![1]))) > 0, "the counter counts");
}

#[test]
fn counting_against_every_limit_allocates_nothing() {
    let (key, signer) = (NewApiKey::from_random(&[1; 48]), Signer::ed25519());
    let gate = gate(&key, &signer, ALL_LIMITS);
    let pass = || {
        let caller = gate.authenticate(key.reveal(), now(), || true).unwrap();
        let limits = caller.limits.clone().unwrap();
        let place = limits.enter().unwrap();
        assert!(limits.admit(1, std::time::Duration::ZERO, now()).is_ok());
        limits.charge_request(1, 3, std::time::Duration::ZERO);
        black_box(limits.charge_rows(3, std::time::Duration::ZERO, now()));
        drop(place);
    };
    pass();
    assert_eq!(allocations_of(|| (0..100).for_each(|_| pass())), 0);
}

#[test]
fn a_key_takes_less_than_a_kibibyte() {
    const KEYS: u16 = 1_000;
    let key = |number: u16| {
        let mut random = [0; NewApiKey::RANDOM_LEN];
        random[..2].copy_from_slice(&number.to_le_bytes());
        record(&NewApiKey::from_random(&random))
    };
    let cells = LimitCells::new([0; 16]);
    let source = LimitSource { cells: &cells, routers: 1 };
    let make = || Snapshot::build(contents((0..KEYS).map(key).collect(), RATE), &source).unwrap();
    let (snapshot, bytes) = bytes_of(make);
    assert_eq!(snapshot.keys().count(), usize::from(KEYS));
    assert!(bytes > 0 && bytes < i64::from(KEYS) * 1_024, "{bytes}");
}
