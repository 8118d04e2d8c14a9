//! Benchmark of the gate: nanoseconds and allocations from credentials to the permission of a row,
//! the cost of verifying a signature, and time and memory of a full snapshot.
//!
//! `cargo bench -p access`

#![expect(clippy::unwrap_used, reason = "what cannot be measured ends the measurement")]
#![expect(
    unsafe_code,
    reason = "counting allocations needs an allocator, which is an unsafe trait"
)]

#[path = "../tests/access/counted_heap.rs"]
mod counted_heap;
#[path = "../tests/access/signers.rs"]
#[expect(dead_code, reason = "tests need more of it")]
mod signers;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

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
use serde_json::json;

use counted_heap::{allocations_of, bytes_of};
use signers::{Signer, claims, claims_with, issuers, now};

/// Number of runs. Odd, so that the median is one of them.
const RUNS: usize = 21;
const ROLE: &str = r#"{"role":"shop","limits":{"requests_per_s":1000000000},"grants":[
    {"tables":["users","orders","kv"],"may":["read","insert","update"],"keys":"$tenant:*"},
    {"tables":["products"],"may":["read"],"keys":"*","columns":["product_id","name","price"]}]}"#;

fn main() {
    let keys: Vec<NewApiKey> = (0..Snapshot::KEYS_MAX).map(key).collect();
    let contents = contents(keys.iter().map(record).collect());
    let cells = Arc::new(LimitCells::new([0; 16]));
    let source = LimitSource { cells: &cells, routers: 1 };
    let began = Instant::now();
    let (snapshot, bytes) = bytes_of(|| Snapshot::build(contents, &source).unwrap());
    let (count, millis) = (snapshot.key_count(), began.elapsed().as_millis());
    println!("snapshot of {count} keys: {millis} ms, {bytes} bytes beyond the records");

    let signer = Signer::ed25519();
    let settings = AuthSettings { stale_max: 0, limit_routers: 1 };
    let gate = Authenticator::new(snapshot, issuers(&[&signer]), settings, cells, [1; 16]);
    report("rights without bounds", 1_000_000, |_| assert!(may_read(&Rights::all())));
    report("key, and a row", 100_000, |turn| {
        pass(&gate, keys[turn * 7_919 % keys.len()].reveal());
    });
    for length in [300, 1_000] {
        let empty = signer.sign(&claims_with("x", json!(""))).len();
        let filling = "x".repeat(usize::saturating_sub(length, empty) * 3 / 4);
        let token = signer.sign(&claims_with("x", json!(filling)));
        let name = format!("cached token of {} bytes, and a row", token.len());
        report(&name, 100_000, |_| pass(&gate, &token));
    }
    for signer in [Signer::rsa(), Signer::p256(), Signer::ed25519(), Signer::secret()] {
        let (issuers, token) = (issuers(&[&signer]), signer.sign(&claims()));
        report(&format!("{} verified", signer.algorithm().name()), 1_000, |_| {
            drop(black_box(issuers.verify(&token, now(), || true).unwrap()));
        });
    }
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

/// Does what the gate does for a request about one row.
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

/// Prints the median time of a turn, and its allocations.
fn report(name: &str, turns: usize, mut turn: impl FnMut(usize)) {
    (0..turns / 10).for_each(&mut turn);
    let mut times: Vec<u128> = (0..RUNS)
        .map(|_| {
            let began = Instant::now();
            (0..turns).for_each(&mut turn);
            began.elapsed().as_nanos() / turns as u128
        })
        .collect();
    times.sort_unstable();
    let allocations = allocations_of(|| (0..turns).for_each(&mut turn)) / turns as u64;
    println!("{name}: {} ns, {allocations} allocations", times[RUNS / 2]);
}
