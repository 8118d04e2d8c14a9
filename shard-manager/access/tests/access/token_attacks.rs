//! Tests of attacks with forged and malformed tokens. Each token must be refused, and for the
//! expected reason.

use access::auth_error::{AuthOutcome, AuthReason};
use access::jwt::TOKEN_LEN_MAX;
use serde_json::{Value, json};

use crate::signers::{NOW, Signer, base64url, claims, claims_with, issuers, refusal, verify};

fn text() -> String {
    claims().to_string()
}

#[test]
fn an_unsigned_token_is_refused() {
    for algorithm in ["none", "None", "NONE", ""] {
        let header = json!({"alg": algorithm}).to_string();
        for signature in ["", "AAAA"] {
            let token = format!("{}.{}.{signature}", base64url(&header), base64url(text()));
            assert_eq!(refusal(&issuers(&[&Signer::rsa()]), &token), AuthReason::TokenAlgorithm);
        }
    }
    let token = Signer::ed25519().sign(&claims());
    let cut = &token[..=token.rfind('.').unwrap()];
    assert!(verify(&issuers(&[&Signer::ed25519()]), cut).is_err());
}

#[test]
fn a_public_key_is_no_secret() {
    let rsa = Signer::rsa();
    let jwk = rsa.jwk("one");
    let document = json!({"keys": [jwk]}).to_string();
    for secret in [document.as_str(), jwk["n"].as_str().unwrap()] {
        let forger = Signer::Secret(secret.as_bytes().to_vec());
        let token = forger.sign(&claims());
        assert_eq!(refusal(&issuers(&[&rsa]), &token), AuthReason::TokenAlgorithm);
    }
}

#[test]
fn the_algorithm_is_that_of_the_key() {
    let (rsa, p256) = (Signer::rsa(), Signer::p256());
    let both = issuers(&[&rsa, &p256]);
    // The key with the id `one` is an RSA key.
    let token = p256.sign_text(r#"{"alg":"ES256","kid":"one"}"#, &text());
    assert_eq!(refusal(&both, &token), AuthReason::TokenAlgorithm);
    let token = p256.sign_text(r#"{"alg":"RS256","kid":"two"}"#, &text());
    assert_eq!(refusal(&both, &token), AuthReason::TokenAlgorithm);
    let token = p256.sign_text(r#"{"alg":"RS256","kid":"one"}"#, &text());
    assert_eq!(refusal(&both, &token), AuthReason::TokenSignature);
    for algorithm in ["RS512", "PS256", "HS512", "ES384", "rs256"] {
        let token = rsa.sign_text(&json!({"alg": algorithm, "kid": "one"}).to_string(), &text());
        assert_eq!(refusal(&both, &token), AuthReason::TokenAlgorithm, "{algorithm}");
    }
}

#[test]
fn times_of_a_wrong_type_or_out_of_range_are_refused() {
    let signer = Signer::ed25519();
    let issuers = issuers(&[&signer]);
    let bad = [json!("1800000600"), json!(-1), json!(1e300), json!(u64::MAX), json!(true)];
    for member in ["exp", "nbf", "iat"] {
        for value in &bad {
            let token = signer.sign(&claims_with(member, value.clone()));
            assert_eq!(refusal(&issuers, &token), AuthReason::TokenClaim(member), "{value}");
        }
        let list = signer.sign(&claims_with(member, json!([NOW + 60])));
        assert_eq!(refusal(&issuers, &list).outcome(), AuthOutcome::Invalid);
        let header = r#"{"alg":"EdDSA"}"#;
        let null = text().replacen('{', &format!("{{\"{member}\":null,"), 1);
        let null = null.replace(&format!(",\"{member}\":{}", claims()[member]), "");
        assert!(verify(&issuers, &signer.sign_text(header, &null)).is_err(), "{null}");
    }
    let missing = signer.sign(&claims_with("exp", Value::Null));
    assert_eq!(refusal(&issuers, &missing), AuthReason::TokenClaim("exp"));
    let early = signer.sign(&claims_with("nbf", json!(NOW + 31)));
    assert_eq!(refusal(&issuers, &early), AuthReason::TokenNotYet);
}

#[test]
fn a_token_that_lives_too_long_is_refused() {
    let signer = Signer::ed25519();
    let issuers = issuers(&[&signer]);
    let token = signer.sign(&claims_with("exp", json!(NOW + 86_400)));
    assert_eq!(refusal(&issuers, &token), AuthReason::TokenLifetime);
    let mut without_iat = claims_with("exp", json!(NOW + 86_400 + 31));
    without_iat.as_object_mut().unwrap().remove("iat");
    assert_eq!(refusal(&issuers, &signer.sign(&without_iat)), AuthReason::TokenLifetime);
    let mut future = claims_with("iat", json!(NOW + 10_000_000));
    future["exp"] = json!(NOW + 10_000_060);
    assert_eq!(refusal(&issuers, &signer.sign(&future)), AuthReason::TokenLifetime);
}

#[test]
fn a_repeated_member_is_refused_at_any_depth() {
    let signer = Signer::ed25519();
    let issuers = issuers(&[&signer]);
    let header = r#"{"alg":"EdDSA"}"#;
    let repeated = [
        text().replacen('{', r#"{"tenant":"other","#, 1),
        text().replacen('{', r#"{"t\u0065nant":"other","#, 1),
        text().replacen('{', r#"{"x":{"a":1,"a":2},"#, 1),
        text().replacen('{', r#"{"x":[{"a":1,"a":1}],"#, 1),
    ];
    for claims in repeated {
        assert_eq!(
            refusal(&issuers, &signer.sign_text(header, &claims)),
            AuthReason::TokenMalformed,
            "{claims}"
        );
    }
    let token = signer.sign_text(r#"{"alg":"EdDSA","alg":"EdDSA"}"#, &text());
    assert_eq!(refusal(&issuers, &token), AuthReason::TokenMalformed);
}

#[test]
fn a_kid_is_only_compared() {
    let signer = Signer::ed25519();
    let issuers = issuers(&[&signer]);
    let ids = ["../../dev/null", "https://evil.example/jwks", "' OR 1=1 --", "one\0", "", "ONE"];
    for id in ids {
        let token = signer.sign_text(&json!({"alg": "EdDSA", "kid": id}).to_string(), &text());
        assert_eq!(refusal(&issuers, &token), AuthReason::TokenKeyUnknown, "{id}");
    }
    for id in [json!(1), json!(null), json!(["one"]), json!("x".repeat(257))] {
        let token = signer.sign_text(&json!({"alg": "EdDSA", "kid": id}).to_string(), &text());
        assert_eq!(refusal(&issuers, &token), AuthReason::TokenHeader("kid"), "{id}");
    }
}

#[test]
fn keys_inside_a_token_are_not_used() {
    let (signer, forger) = (Signer::ed25519(), Signer::ed25519());
    let issuers = issuers(&[&signer]);
    for extra in [
        json!({"jwk": forger.jwk("one")}),
        json!({"jku": "https://evil.example/jwks"}),
        json!({"x5u": "https://evil.example/chain"}),
        json!({"x5c": ["AAAA"]}),
    ] {
        let mut header = json!({"alg": "EdDSA", "kid": "one"});
        header.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let token = forger.sign_text(&header.to_string(), &text());
        let reason = refusal(&issuers, &token);
        assert_eq!(reason.outcome(), AuthOutcome::Invalid, "{header}");
        assert!(matches!(reason, AuthReason::TokenSignature | AuthReason::TokenMalformed));
    }
}

#[test]
fn extensions_and_other_types_are_refused() {
    let signer = Signer::ed25519();
    let issuers = issuers(&[&signer]);
    for (header, member) in [
        (json!({"alg": "EdDSA", "crit": ["exp"], "exp": 1}), "crit"),
        (json!({"alg": "EdDSA", "crit": []}), "crit"),
        (json!({"alg": "EdDSA", "b64": false}), "b64"),
        (json!({"alg": "EdDSA", "zip": "DEF"}), "zip"),
        (json!({"alg": "EdDSA", "typ": "secevent+jwt"}), "typ"),
        (json!({"alg": "EdDSA", "typ": "JWE"}), "typ"),
        (json!({"alg": "EdDSA", "typ": 1}), "typ"),
        (json!({"alg": 1}), "alg"),
        (json!({"typ": "JWT"}), "alg"),
    ] {
        let token = signer.sign_text(&header.to_string(), &text());
        assert_eq!(refusal(&issuers, &token), AuthReason::TokenHeader(member), "{header}");
    }
    for kind in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
        let header = json!({"alg": "EdDSA", "typ": kind}).to_string();
        assert!(verify(&issuers, &signer.sign_text(&header, &text())).is_ok(), "{kind}");
    }
}

#[test]
fn malformed_and_oversized_texts_are_refused() {
    let signer = Signer::ed25519();
    let issuers = issuers(&[&signer]);
    let good = signer.sign(&claims());
    let five_parts = format!("{good}.AAAA.AAAA");
    let padded = format!("{good}=");
    let spaced = format!("{good} ");
    let nested = "[".repeat(5_000);
    let nested = format!("{}.{}.AAAA", base64url(r#"{"alg":"EdDSA"}"#), base64url(&nested));
    for token in ["", ".", "..", "a.b", "a.b.c", &five_parts, &padded, &spaced, &nested] {
        assert_eq!(refusal(&issuers, token).outcome(), AuthOutcome::Invalid, "{token}");
    }
    let long = signer.sign(&claims_with("x", json!("x".repeat(TOKEN_LEN_MAX))));
    assert_eq!(refusal(&issuers, &long), AuthReason::TokenTooLong);
    for part in ["[]", "1", "null", "\"text\"", "{", "{}x"] {
        let token = signer.sign_text(r#"{"alg":"EdDSA"}"#, part);
        assert_eq!(refusal(&issuers, &token), AuthReason::TokenMalformed, "{part}");
    }
}

#[test]
fn every_changed_character_spoils_a_token() {
    let signer = Signer::ed25519();
    let issuers = issuers(&[&signer]);
    let good = signer.sign(&claims());
    for index in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(verify(&issuers, &changed).is_err(), "at {index}");
    }
}

#[test]
fn another_issuer_or_audience_is_refused() {
    let signer = Signer::ed25519();
    let issuers = issuers(&[&signer]);
    for (member, value, reason) in [
        ("iss", json!("https://issuer.example/"), AuthReason::TokenIssuer),
        ("iss", json!(["https://issuer.example"]), AuthReason::TokenClaim("iss")),
        ("iss", json!(null), AuthReason::TokenClaim("iss")),
        ("aud", json!("tessera2"), AuthReason::TokenAudience),
        ("aud", json!(["a", "b"]), AuthReason::TokenAudience),
        ("aud", json!([]), AuthReason::TokenAudience),
        ("sub", json!(5), AuthReason::TokenClaim("sub")),
        ("jti", json!({}), AuthReason::TokenClaim("jti")),
    ] {
        let token = signer.sign(&claims_with(member, value.clone()));
        assert_eq!(refusal(&issuers, &token), reason, "{member} {value}");
    }
    for audience in [json!(["tessera", 1]), json!({"tessera": 1}), json!(null), json!(true)] {
        let token = signer.sign(&claims_with("aud", audience.clone()));
        assert_eq!(refusal(&issuers, &token).outcome(), AuthOutcome::Invalid, "{audience}");
    }
}

#[test]
fn roles_and_tenants_of_a_wrong_type_are_refused() {
    let signer = Signer::ed25519();
    let issuers = issuers(&[&signer]);
    for role in [json!(null), json!(1), json!(["shop"]), json!(""), json!("Shop"), json!("a b")] {
        let token = signer.sign(&claims_with("role", role));
        assert_eq!(refusal(&issuers, &token), AuthReason::TokenRole);
    }
    let many: Vec<String> = (0..17).map(|number| format!("t{number}")).collect();
    for tenant in [
        json!(1),
        json!({"id": "acme"}),
        json!("acme\0"),
        json!("ac\nme"),
        json!("x".repeat(201)),
        json!(many),
        json!(["acme", ""]),
        json!(["acme", 1]),
    ] {
        let token = signer.sign(&claims_with("tenant", tenant.clone()));
        assert_eq!(refusal(&issuers, &token), AuthReason::Tenant, "{tenant}");
    }
}
