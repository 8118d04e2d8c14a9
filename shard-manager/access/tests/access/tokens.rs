//! Tests of tokens that are accepted, and of the values that are read from them.

use access::auth_error::{AuthOutcome, AuthReason};
use access::jwt::Issuers;
use access::jwt::issuer::{Issuer, IssuerError, LoadedKeys};
use access::jwt::key_set::KeySet;
use access::jwt::{SKEW_SECONDS, TokenAlgorithm};
use serde_json::json;

use crate::signers::{
    ISSUER, NOW, SECRET, Signer, claims, claims_with, document, issuers, loaded, now, refusal,
    settings, verify,
};

#[test]
fn a_token_of_each_algorithm_is_accepted() {
    for signer in [Signer::rsa(), Signer::p256(), Signer::ed25519(), Signer::secret()] {
        let token = verify(&issuers(&[&signer]), &signer.sign(&claims())).unwrap();
        assert_eq!(token.issuer.name(), ISSUER);
        assert_eq!(token.subject.as_deref(), Some("ann"));
        assert_eq!(token.id.as_deref(), Some("t1"));
        assert_eq!(&*token.role, "shop");
        assert_eq!(token.tenants.as_slice(), ["acme".into()]);
        assert_eq!(token.expires_at.seconds(), NOW + 600);
    }
}

#[test]
fn a_key_is_found_by_its_id_or_because_only_it_fits() {
    let (rsa, ed25519) = (Signer::rsa(), Signer::ed25519());
    let both = issuers(&[&rsa, &ed25519]);
    let sign = |header| ed25519.sign_text(header, &claims().to_string());
    assert!(verify(&both, &sign(r#"{"alg":"EdDSA","kid":"two"}"#)).is_ok());
    assert!(verify(&both, &sign(r#"{"alg":"EdDSA"}"#)).is_ok());
    let twins = issuers(&[&Signer::ed25519(), &ed25519]);
    assert_eq!(refusal(&twins, &sign(r#"{"alg":"EdDSA"}"#)), AuthReason::TokenKeyAmbiguous);
    assert!(verify(&twins, &sign(r#"{"alg":"EdDSA","kid":"two"}"#)).is_ok());
}

#[test]
fn an_audience_may_stand_in_a_list() {
    let signer = Signer::ed25519();
    let token = signer.sign(&claims_with("aud", json!(["other", "tessera"])));
    assert!(verify(&issuers(&[&signer]), &token).is_ok());
}

#[test]
fn clocks_may_differ_a_little_and_a_future_iat_is_no_fault() {
    let signer = Signer::ed25519();
    let issuers = issuers(&[&signer]);
    for (member, seconds) in
        [("exp", NOW - SKEW_SECONDS + 1), ("nbf", NOW + SKEW_SECONDS), ("iat", NOW + 500)]
    {
        let token = signer.sign(&claims_with(member, json!(seconds)));
        assert!(verify(&issuers, &token).is_ok(), "{member} {seconds}");
    }
    let fraction = signer.sign(&claims_with("exp", json!(NOW as f64 + 60.5)));
    assert_eq!(verify(&issuers, &fraction).unwrap().expires_at.seconds(), NOW + 60);
}

#[test]
fn expiry_is_reported_only_for_a_token_with_a_valid_signature() {
    let signer = Signer::ed25519();
    let issuers = issuers(&[&signer]);
    let expired = claims_with("exp", json!(NOW - SKEW_SECONDS));
    let token = signer.sign(&expired);
    assert_eq!(refusal(&issuers, &token), AuthReason::TokenExpired);
    assert_eq!(AuthReason::TokenExpired.outcome(), AuthOutcome::Expired);
    let forged = Signer::ed25519().sign(&expired);
    assert_eq!(refusal(&issuers, &forged), AuthReason::TokenSignature);
    assert_eq!(AuthReason::TokenSignature.outcome(), AuthOutcome::Invalid);
}

#[test]
fn claims_are_found_by_json_pointers() {
    let signer = Signer::ed25519();
    let mut settings = settings(&[TokenAlgorithm::EdDsa]);
    settings.role_claim = "/realm~1access/roles/0".to_owned();
    settings.tenant_claim = Some("/org".to_owned());
    let set = KeySet::from_jwks(&document(&[&signer])).unwrap();
    let issuers = Issuers::new(vec![Issuer::new(settings, loaded(set)).unwrap()]).unwrap();
    let mut claims = claims_with("realm/access", json!({"roles": ["reader", "other"]}));
    claims["org"] = json!(["b", "a"]);
    let token = verify(&issuers, &signer.sign(&claims)).unwrap();
    assert_eq!(&*token.role, "reader");
    assert_eq!(token.tenants.as_slice(), ["a".into(), "b".into()]);
}

#[test]
fn a_missing_or_empty_tenant_is_no_tenant() {
    let signer = Signer::ed25519();
    let issuers = issuers(&[&signer]);
    for tenant in [json!(null), json!(""), json!([])] {
        let token = verify(&issuers, &signer.sign(&claims_with("tenant", tenant))).unwrap();
        assert!(token.tenants.is_empty());
    }
}

#[test]
fn keys_that_are_missing_or_too_old_make_tokens_unavailable_not_wrong() {
    let signer = Signer::ed25519();
    let token = signer.sign(&claims());
    let set = || KeySet::from_jwks(&document(&[&signer])).unwrap().into();
    for keys in [None, Some(LoadedKeys { set: set(), usable_until: Some(now()) })] {
        let issuer = Issuer::new(settings(&[TokenAlgorithm::EdDsa]), keys).unwrap();
        let reason = refusal(&Issuers::new(vec![issuer]).unwrap(), &token);
        assert_eq!(reason.outcome(), AuthOutcome::Unavailable);
    }
}

#[test]
fn no_signature_is_verified_if_too_many_are() {
    let signer = Signer::ed25519();
    let refused = issuers(&[&signer]).verify(&signer.sign(&claims()), now(), || false);
    assert_eq!(refused.unwrap_err().outcome(), AuthOutcome::Limited);
    let checks_none = || panic!("a token without a known issuer costs no signature");
    let token = signer.sign(&claims_with("iss", json!("https://other.example")));
    assert!(issuers(&[&signer]).verify(&token, now(), checks_none).is_err());
}

#[test]
fn bad_settings_of_an_issuer_are_refused() {
    let refused = |change: fn(&mut access::jwt::issuer::IssuerSettings)| {
        let mut settings = settings(&[TokenAlgorithm::EdDsa]);
        change(&mut settings);
        Issuer::new(settings, None).unwrap_err()
    };
    assert_eq!(refused(|settings| settings.audiences.clear()), IssuerError::NoAudience);
    assert_eq!(refused(|settings| settings.issuer.clear()), IssuerError::NoName);
    assert_eq!(refused(|settings| settings.algorithms.clear()), IssuerError::NoAlgorithm);
    assert_eq!(refused(|settings| settings.lifetime_max = 0), IssuerError::Lifetime);
    let pointer = refused(|settings| settings.role_claim = "role".to_owned());
    assert_eq!(pointer, IssuerError::Pointer { member: "role_claim" });
    let mixed = refused(|settings| settings.algorithms.push(TokenAlgorithm::Hs256));
    assert_eq!(mixed, IssuerError::MixedAlgorithms);
    let keys = loaded(KeySet::from_secret(SECRET).unwrap());
    let source = Issuer::new(settings(&[TokenAlgorithm::Rs256]), keys).unwrap_err();
    assert_eq!(source, IssuerError::Source);
    let twin = || Issuer::new(settings(&[TokenAlgorithm::EdDsa]), None).unwrap();
    assert_eq!(Issuers::new(vec![twin(), twin()]).unwrap_err(), IssuerError::Twice);
}
