//! Benchmark of the gate (the checks of credentials, rights and limits that each request passes):
//! nanoseconds and allocations of a request about one row, time to verify a signature, and time and
//! memory to build a full snapshot.
//!
//! `cargo bench -p access`

#![expect(clippy::unwrap_used, reason = "what cannot be measured ends the measurement")]
#![expect(
    unsafe_code,
    reason = "counting allocations needs an allocator, which is an unsafe trait"
)]

#[path = "../tests/access/changed_claims.rs"]
mod changed_claims;
#[path = "../tests/access/counted_heap.rs"]
mod counted_heap;
#[path = "../tests/access/signers.rs"]
#[expect(dead_code, reason = "tests need more of it")]
mod signers;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use access::authenticator::{AuthSettings, Authenticator};
use access::key::{ApiKey, NewApiKey};
use access::key_record::KeyRecord;
use access::limit::limit_cells::LimitCells;
use access::operation::RowOperations;
use access::rights::{Rights, RowRequest};
use access::role::AccessRole;
use access::snapshot::{LimitSource, Snapshot, SnapshotContents};
use access::tenant::Tenants;
use access::unix_time::UnixTime;
use model::keyspace::ShardKey;
use serde_json::json;

use counted_heap::{allocations_of, bytes_of};
use signers::{Signer, claims, claims_with, issuers, now};

/// Number of measured runs. It is odd, so that the median is one of the measured times.
const RUNS: usize = 21;
const ROLE: &str = r#"{"role":"shop","limits":{"requests_per_s":1000000000},"grants":[
    {"tables":["users","orders","kv"],"may":["read","insert","update"],"keys":"$tenant:*"},
    {"tables":["products"],"may":["read"],"keys":"*","columns":["product_id","name","price"]}]}"#;

fn main() {
    let keys: Vec<NewApiKey> = (0..Snapshot::KEYS_MAX).map(key).collect();
    let cells = Arc::new(LimitCells::new([0; 16]));
    let source = LimitSource { cells: &cells, routers: 1 };
    let mut millis = 0;
    let (snapshot, bytes) = bytes_of(|| {
        let contents = contents(keys.iter().map(record).collect());
        let began = Instant::now();
        let snapshot = Snapshot::build(contents, &source).unwrap();
        millis = began.elapsed().as_millis();
        snapshot
    });
    println!("snapshot of {} keys: {millis} ms, {bytes} bytes", snapshot.keys().count());

    let signer = Signer::ed25519();
    let settings = AuthSettings { stale_max: 0, limit_routers: 1 };
    let gate = Authenticator::new(snapshot, issuers(&[&signer]), settings, cells, [1; 16]);
    good_credentials(&gate, &keys, &signer);
    bad_keys(&gate, &keys[0]);
    for signer in [Signer::rsa(), Signer::p256(), Signer::ed25519(), Signer::secret()] {
        let (issuers, token) = (issuers(&[&signer]), signer.sign(&claims()));
        report(&format!("{} verified", signer.algorithm().name()), 500, |_| {
            drop(black_box(issuers.verify(&token, now(), || true).unwrap()));
        });
    }
}

/// Measures accepted requests, none of which may allocate memory.
fn good_credentials(gate: &Authenticator, keys: &[NewApiKey], signer: &Signer) {
    let mut allocations = report("rights without bounds", 100_000, |_| {
        assert!(may_read(black_box(&Rights::all())));
    });
    let text = keys[4_711].reveal();
    allocations += report("one key, and a row", 20_000, |_| pass(gate, text));
    // Usually only some keys of a snapshot are in use, and their entries are in the processor's
    // cache. The string that a request contains is always in that cache, so it is copied into one
    // buffer.
    let mut text = String::with_capacity(ApiKey::LEN);
    for used in [1_000, keys.len()] {
        let name = format!("each of {used} keys, and a row");
        let step = keys.len() / used;
        allocations += report(&name, 20_000, |turn| {
            text.clear();
            text.push_str(keys[turn * 7_919 % used * step].reveal());
            pass(gate, &text);
        });
    }
    for length in [300, 1_000] {
        let token = token(signer, length);
        let name = format!("cached token of {} bytes, and a row", token.len());
        allocations += report(&name, 20_000, |_| pass(gate, &token));
    }
    assert_eq!(allocations, 0, "good credentials and granted rows allocate nothing");
}

/// Measures refused keys. The times should not reveal the reason for the refusal.
fn bad_keys(gate: &Authenticator, good: &NewApiKey) {
    let unknown = NewApiKey::from_random(&[9; NewApiKey::RANDOM_LEN]);
    let mut random = [9; NewApiKey::RANDOM_LEN];
    random[..8].copy_from_slice(&0_usize.to_le_bytes());
    random[8..16].fill(7);
    let wrong = NewApiKey::from_random(&random);
    assert_eq!(wrong.id(), good.id());
    let mut revoked = record(good);
    revoked.revoked_at = Some(now());
    let cells = LimitCells::new([0; 16]);
    let source = LimitSource { cells: &cells, routers: 1 };
    let snapshot = Snapshot::build(contents(vec![revoked]), &source).unwrap();
    let of_one = gate.with_snapshot(snapshot);
    for (name, gate, key) in [
        ("unknown id", gate, &unknown),
        ("wrong secret", gate, &wrong),
        ("revoked key", &of_one, good),
    ] {
        report(&format!("{name}, refused"), 20_000, |_| {
            assert!(gate.authenticate(key.reveal(), now(), || true).is_err());
        });
    }
}

/// Signs a token of about this length.
fn token(signer: &Signer, length: usize) -> String {
    let sign = |filling: &str| {
        let mut claims = claims_with("x", json!(filling));
        for member in ["sub", "jti", "iat"] {
            claims.as_object_mut().unwrap().remove(member);
        }
        signer.sign(&claims)
    };
    sign(&"x".repeat(length.saturating_sub(sign("").len()) * 3 / 4))
}

fn key(number: usize) -> NewApiKey {
    let mut random = [7; NewApiKey::RANDOM_LEN];
    random[..8].copy_from_slice(&number.to_le_bytes());
    NewApiKey::from_random(&random)
}

fn record(key: &NewApiKey) -> KeyRecord {
    KeyRecord {
        id: key.id(),
        digest: key.digest(),
        role: "shop".into(),
        tenants: Tenants::parse(["acme"]).unwrap(),
        name: "bench".into(),
        made_by: "bench".into(),
        made_at: UnixTime::default(),
        expires_at: None,
        revoked_at: None,
        is_suspended: false,
        used_on: None,
    }
}

fn contents(keys: Vec<KeyRecord>) -> SnapshotContents {
    let roles = vec![AccessRole::parse(ROLE).unwrap()];
    SnapshotContents { keys, roles, ..SnapshotContents::default() }
}

/// Runs the checks that the gate makes for a request about one row.
fn pass(gate: &Authenticator, credentials: &str) {
    let caller = gate.authenticate(credentials, now(), || true).unwrap();
    assert!(may_read(&caller.rights));
    let limits = caller.limits.as_ref().unwrap();
    assert!(limits.admit(1, std::time::Duration::from_secs(now().seconds()), now()).is_ok());
}

fn may_read(rights: &Rights) -> bool {
    let columns = ["user_id", "name", "email"].iter().copied();
    let request = RowRequest { operations: RowOperations::READ, table: "users", columns };
    rights.allow_key(&request, black_box(ShardKey::parse("acme:17").unwrap())).is_ok()
}

/// Prints the median and the shortest time of one turn and its number of allocations. Returns the
/// number of allocations of all turns of a run.
fn report(name: &str, turns: usize, mut turn: impl FnMut(usize)) -> u64 {
    (0..turns / 10).for_each(&mut turn);
    let mut times: Vec<u128> = (0..RUNS)
        .map(|_| {
            let began = Instant::now();
            (0..turns).for_each(&mut turn);
            began.elapsed().as_nanos() / turns as u128
        })
        .collect();
    times.sort_unstable();
    let allocations = allocations_of(|| (0..turns).for_each(&mut turn));
    let (median, least) = (times[RUNS / 2], times[0]);
    let each = allocations as f64 / turns as f64;
    println!("{name}: {median} ns (at least {least}), {each} allocations");
    allocations
}
