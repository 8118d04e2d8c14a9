//! Tests of replacing the keys and roles of the access gate, from any source.

use api_router::access::clock::unix_now;
use api_router::access::gate::{AccessGate, RANDOM_LEN};
use api_router::config::{AccessConfig, AccessMode, AuditConfig, TrustedProxies};
use shard_manager::access::authenticator::AuthSettings;
use shard_manager::access::jwt::Issuers;
use shard_manager::access::key::NewApiKey;
use shard_manager::access::keys_file;
use shard_manager::access::snapshot::{Snapshot, SnapshotContents};
use shard_manager::access::unix_time::UnixTime;

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

#[test]
fn keys_are_replaced_as_a_whole_and_never_by_older_ones() {
    let config = AccessConfig {
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
    };
    let (first, second) = (admin(), reader());
    let random = [1; RANDOM_LEN];
    let gate = AccessGate::new(&config, contents(&first, 5), Issuers::default(), &random).unwrap();
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
