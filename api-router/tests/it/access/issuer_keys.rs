//! Tests of the time for which fetched keys are used, on a clock that the test sets.

use std::sync::Arc;

use api_router::access::clock::unix_now;
use api_router::access::gate::{AccessGate, RANDOM_LEN};
use api_router::config::{AccessConfig, AccessMode, AuditConfig, TrustedProxies};
use issuers::config::{IssuerConfig, IssuerKeys};
use issuers::key_sets::{self, IssuerKeySets, SERVED_FOR};
use shard_manager::access::auth_error::{AuthOutcome, AuthReason};
use shard_manager::access::authenticator::AuthSettings;
use shard_manager::access::jwt::TokenAlgorithm;
use shard_manager::access::jwt::issuer::IssuerSettings;
use shard_manager::access::jwt::key_set::KeySet;
use shard_manager::access::snapshot::SnapshotContents;
use shard_manager::access::unix_time::UnixTime;

use super::guarded::{AUDIENCE, ISSUER, Signer, claims};

fn config() -> AccessConfig {
    let settings = IssuerSettings {
        issuer: ISSUER.to_owned(),
        audiences: vec![AUDIENCE.to_owned()],
        algorithms: vec![TokenAlgorithm::EdDsa],
        role_claim: "/role".to_owned(),
        tenant_claim: None,
        roles: None,
        lifetime_max: 10 * SERVED_FOR,
    };
    let keys = IssuerKeys::Url("https://issuer.example/keys".to_owned());
    AccessConfig {
        mode: AccessMode::On,
        keys_file: None,
        roles_file: None,
        limits: AuthSettings { stale_max: 0, limit_routers: 1 },
        cors_origins: Vec::new(),
        audit: AuditConfig::default(),
        is_tls: false,
        trusted_proxies: TrustedProxies::default(),
        issuers: vec![IssuerConfig { settings, keys }],
        certificates: Vec::new(),
    }
}

fn gate(config: &AccessConfig) -> (Arc<AccessGate>, IssuerKeySets) {
    let sets = vec![None];
    let issuers = key_sets::issuers(&config.issuers, &sets).unwrap();
    let contents = SnapshotContents { read_at: unix_now(), ..SnapshotContents::default() };
    let gate = AccessGate::new(config, contents, issuers, &[1; RANDOM_LEN]).map(Arc::new).unwrap();
    (Arc::clone(&gate), IssuerKeySets::new(gate, config.issuers.clone(), sets))
}

#[test]
fn fetched_keys_are_used_for_a_day_after_they_were_last_seen() {
    let (gate, keys) = gate(&config());
    let signer = Signer::new();
    let mut claims = claims();
    let now = unix_now();
    claims["exp"] = (now.seconds() + 3 * SERVED_FOR).into();
    let token = signer.sign(&claims);
    let verify = |at: UnixTime, may_check: bool| {
        let caller = gate.authenticator.get().authenticate(&token, at, || may_check);
        caller.map(drop).map_err(|error| error.reason)
    };
    assert_eq!(verify(now, true), Err(AuthReason::KeySetUnavailable));
    assert_eq!(AuthReason::KeySetUnavailable.outcome(), AuthOutcome::Unavailable);
    let set = || Some(Arc::new(KeySet::from_jwks(signer.document().as_bytes()).unwrap()));
    keys.apply_fetched(0, set(), now).unwrap();
    let last = now.plus(SERVED_FOR - 1);
    assert_eq!(verify(last, true), Ok(()));
    assert_eq!(verify(last.plus(1), true), Err(AuthReason::KeySetUnavailable), "cached or not");
    // The same keys are fetched again: until the old end of their use, cached tokens need not be
    // verified again.
    let later = now.plus(100);
    keys.apply_fetched(0, None, later).unwrap();
    assert_eq!(verify(last, false), Ok(()), "the cache has it");
    assert_eq!(verify(last.plus(1), false), Err(AuthReason::TooManyChecks));
    assert_eq!(verify(last.plus(100), true), Ok(()));
    assert_eq!(verify(last.plus(101), true), Err(AuthReason::KeySetUnavailable));
    // Other keys are fetched: a token that was verified with the old ones is verified again, and
    // refused.
    keys.apply_fetched(0, set(), now).unwrap();
    assert_eq!(verify(now, false), Err(AuthReason::TooManyChecks));
    let other = KeySet::from_jwks(Signer::of_seed(9).document().as_bytes()).unwrap();
    keys.apply_fetched(0, Some(Arc::new(other)), now).unwrap();
    assert_eq!(verify(now, true), Err(AuthReason::TokenSignature));
    // Files that are read again leave fetched keys as they are.
    keys.apply_files(vec![None]).unwrap();
    assert_eq!(verify(now, true), Err(AuthReason::TokenSignature));
}
