//! Tests of replacing the keys and roles of the access gate, from any source.

use std::sync::Arc;

use api_router::access::clock::unix_now;
use api_router::access::files::FileRecords;
use api_router::access::gate::{AccessGate, RANDOM_LEN};
use api_router::access::sources::AccessSources;
use api_router::config::{AccessConfig, AccessMode, AuditConfig, TrustedProxies};
use shard_manager::access::authenticator::AuthSettings;
use shard_manager::access::jwt::Issuers;
use shard_manager::access::key::NewApiKey;
use shard_manager::access::keys_file;
use shard_manager::access::session::{BrowserSession, SessionSecret, SessionSeed};
use shard_manager::access::snapshot::{Snapshot, SnapshotContents};
use shard_manager::access::unix_time::UnixTime;
use shard_manager::engine::access_store::AccessState;
use tokio::sync::watch;

use super::guarded::{admin, key, line, reader};

fn contents(key: &NewApiKey, generation: u64) -> SnapshotContents {
    SnapshotContents {
        keys: keys_file::parse(&line(key, "admin", &[], None)).unwrap(),
        generation,
        read_at: unix_now(),
        ..SnapshotContents::default()
    }
}

fn knows(gate: &AccessGate, key: &NewApiKey) -> bool {
    gate.authenticator.get().authenticate(key.reveal(), unix_now(), || true).is_ok()
}

fn config() -> AccessConfig {
    AccessConfig {
        mode: AccessMode::On,
        keys_file: None,
        roles_file: None,
        limits: AuthSettings { stale_max: 0, limit_routers: 1 },
        cors_origins: Vec::new(),
        audit: AuditConfig::default(),
        trusted_proxies: TrustedProxies::default(),
        issuers: Vec::new(),
        is_tls: false,
        certificates: Vec::new(),
    }
}

#[test]
fn keys_are_replaced_as_a_whole_and_never_by_older_ones() {
    let (first, second) = (admin(), reader());
    let random = [1; RANDOM_LEN];
    let gate =
        AccessGate::new(&config(), contents(&first, 5), Issuers::default(), &random).unwrap();
    assert!(knows(&gate, &first));
    for older in [4, 5] {
        gate.authenticator.apply(contents(&second, older)).unwrap();
        assert!(knows(&gate, &first) && !knows(&gate, &second), "{older}");
    }
    gate.authenticator.apply(contents(&second, 6)).unwrap();
    assert!(!knows(&gate, &first) && knows(&gate, &second));
    let line = line(&key(9), "admin", &[], None);
    let record = keys_file::parse(&line).unwrap().remove(0);
    let too_many = SnapshotContents {
        keys: vec![record; Snapshot::KEYS_MAX + 1],
        generation: 7,
        read_at: UnixTime::default(),
        ..SnapshotContents::default()
    };
    gate.authenticator.apply(too_many).expect_err("there are too many keys");
    assert!(knows(&gate, &second), "nothing has changed");
}

#[test]
fn a_secret_of_sessions_that_was_replaced_does_not_come_back_into_force() {
    let random = [1; RANDOM_LEN];
    let gate = AccessGate::new(&config(), contents(&admin(), 1), Issuers::default(), &random);
    let gate = Arc::new(gate.unwrap());
    let sources = AccessSources::new(Arc::clone(&gate), FileRecords::default(), UnixTime::MAX);
    let state = |generation: u64, byte: u8| {
        let seed = SessionSeed::from_random([byte; SessionSecret::LEN]).of_generation(generation);
        Arc::new(AccessState { sessions: Some(seed), generation, ..AccessState::default() })
    };
    let (sender, states) = watch::channel(state(5, 1));
    sources.attach(states);
    let now = UnixTime::from_seconds(1_800_000_000);
    let session = BrowserSession { key: admin().id(), expires_at: now.plus(60) };
    let cookie = || gate.sessions.cookie(&session, now).unwrap();
    sources.apply_catalog(now).unwrap();
    let first = cookie();
    sender.send_replace(state(6, 2));
    sources.apply_catalog(now).unwrap();
    let second = cookie();
    assert_ne!(second, first);
    sender.send_replace(state(5, 1));
    sources.apply_catalog(now).unwrap();
    assert_eq!(cookie(), second);
}
