//! Tests of attacks that try to make the verifier interpret a token differently from its issuer:
//! keys of other algorithms, other spellings of base64 and other spellings of numbers.

use access::auth_error::{AuthOutcome, AuthReason};
use access::jwt::issuer::{Issuer, IssuerSettings};
use access::jwt::key_set::KeySet;
use access::jwt::{Issuers, TOKEN_LEN_MAX, TokenAlgorithm};
use serde_json::{Value, json};

use crate::signers::{
    NOW, Signer, base64url, claims, claims_with, document, issuers, loaded, refusal, settings,
    verify,
};

fn header(algorithm: &str, id: Option<&str>) -> String {
    let mut header = json!({"alg": algorithm});
    if let Some(id) = id {
        header["kid"] = json!(id);
    }
    header.to_string()
}

#[test]
fn a_signature_is_good_only_for_its_own_key_and_algorithm() {
    let signers = [Signer::rsa(), Signer::p256(), Signer::ed25519()];
    let issuers = issuers(&[&signers[0], &signers[1], &signers[2]]);
    let ids = ["one", "two", "three"];
    for (signer, own_id) in signers.iter().zip(ids) {
        for algorithm in TokenAlgorithm::ALL {
            for id in ids.map(Some).into_iter().chain([None]) {
                let text = header(algorithm.name(), id);
                let token = signer.sign_text(&text, &claims().to_string());
                let is_own = algorithm == signer.algorithm() && id.is_none_or(|id| id == own_id);
                let verified = verify(&issuers, &token);
                assert_eq!(verified.is_ok(), is_own, "{:?}: {text}", signer.algorithm());
            }
        }
    }
}

#[test]
fn no_public_key_is_a_secret_in_any_spelling() {
    let signers = [Signer::rsa(), Signer::p256(), Signer::ed25519()];
    let issuers = issuers(&[&signers[0], &signers[1], &signers[2]]);
    let mut secrets = vec![document(&[&signers[0], &signers[1], &signers[2]]), Vec::new()];
    for signer in &signers {
        let jwk = signer.jwk("one");
        secrets.push(jwk.to_string().into_bytes());
        for member in ["n", "x", "y"] {
            let Some(text) = jwk[member].as_str() else { continue };
            secrets.push(text.as_bytes().to_vec());
            secrets.push(signer.public_bytes(member));
        }
    }
    for secret in secrets {
        let forger = Signer::Secret(secret);
        for algorithm in TokenAlgorithm::ALL {
            for id in [Some("one"), Some("two"), Some("three"), None] {
                let text = header(algorithm.name(), id);
                assert!(verify(&issuers, &forger.sign_text(&text, &claims().to_string())).is_err());
            }
        }
    }
}

#[test]
fn a_secret_verifies_nothing_but_hs256() {
    let issuers = issuers(&[&Signer::secret()]);
    for signer in [Signer::rsa(), Signer::p256(), Signer::ed25519()] {
        assert_eq!(refusal(&issuers, &signer.sign(&claims())), AuthReason::TokenAlgorithm);
        let token = signer.sign_text(&header("HS256", None), &claims().to_string());
        assert_eq!(refusal(&issuers, &token), AuthReason::TokenSignature);
    }
    let forger = Signer::Secret(vec![0; 32]);
    assert_eq!(refusal(&issuers, &forger.sign(&claims())), AuthReason::TokenSignature);
}

/// Changes the unused bits of the last base64 character of a string; `None` if it has no unused
/// bits.
fn with_other_unused_bits(text: &str) -> Option<String> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (last, rest) = text.as_bytes().split_last()?;
    let value = DIGITS.iter().position(|digit| digit == last)?;
    (!text.len().is_multiple_of(4))
        .then(|| format!("{}{}", String::from_utf8_lossy(rest), char::from(DIGITS[value ^ 1])))
}

#[test]
fn each_part_has_one_spelling_in_base64() {
    let signer = Signer::ed25519();
    let issuers = issuers(&[&signer]);
    // Both parts are padded to one byte more than a multiple of three, so that their last base64
    // character has unused bits.
    let pad = |mut text: String| {
        while text.len() % 3 != 1 {
            text.push(' ');
        }
        base64url(text)
    };
    let (header, claims) = (pad(header("EdDSA", None)), pad(claims().to_string()));
    let good = signer.sign_encoded(&header, &claims);
    assert!(verify(&issuers, &good).is_ok());
    let spellings = |text: &str| {
        let ends = ["=", "==", " ", "\n", "\0", "+", "%3D"].map(|end| format!("{text}{end}"));
        let changed = with_other_unused_bits(text).expect("the last character has unused bits");
        [changed, format!(" {text}"), format!("{}\n{}", &text[..8], &text[8..])]
            .into_iter()
            .chain(ends)
    };
    for other in spellings(&header) {
        let token = signer.sign_encoded(&other, &claims);
        assert_eq!(refusal(&issuers, &token), AuthReason::TokenMalformed, "{other:?}");
    }
    for other in spellings(&claims) {
        let token = signer.sign_encoded(&header, &other);
        assert_eq!(refusal(&issuers, &token), AuthReason::TokenMalformed, "{other:?}");
    }
    let (message, signature) = good.rsplit_once('.').unwrap();
    for other in spellings(signature) {
        let token = format!("{message}.{other}");
        assert_eq!(refusal(&issuers, &token), AuthReason::TokenMalformed, "{other:?}");
    }
}

#[test]
fn a_token_has_three_parts_and_a_bounded_length() {
    let signer = Signer::ed25519();
    let issuers = issuers(&[&signer]);
    let good = signer.sign(&claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, claims) = message.split_once('.').unwrap();
    for text in [
        message.to_owned(),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{signature}"),
        format!("{header}.{header}.{claims}.{signature}.{signature}"),
        format!("{header}..{signature}"),
        format!(".{claims}.{signature}"),
    ] {
        assert_eq!(refusal(&issuers, &text), AuthReason::TokenMalformed, "{text}");
    }
    let of_length = |length: usize| {
        let empty = signer.sign(&claims_with("x", json!(""))).len();
        let filling = "x".repeat((length - empty) * 3 / 4);
        signer.sign(&claims_with("x", json!(filling)))
    };
    let longest = of_length(TOKEN_LEN_MAX);
    assert!(longest.len() > TOKEN_LEN_MAX - 3 && longest.len() <= TOKEN_LEN_MAX);
    assert!(verify(&issuers, &longest).is_ok());
    let longer = of_length(TOKEN_LEN_MAX + 4);
    assert_eq!(refusal(&issuers, &longer), AuthReason::TokenTooLong);
}

#[test]
fn deep_json_is_refused_before_the_stack_ends() {
    let signer = Signer::ed25519();
    let issuers = issuers(&[&signer]);
    let text = claims().to_string();
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for (depth, is_good) in [(100, true), (200, false), (700, false)] {
            let nested = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let deep = text.replacen('{', &format!("{{\"x\":{nested},"), 1);
            let token = signer.sign_text(&header("EdDSA", None), &deep);
            assert_eq!(verify(&issuers, &token).is_ok(), is_good, "{depth} of {open}");
        }
    }
}

#[test]
fn a_time_is_a_number_in_any_spelling_and_within_bounds() {
    let signer = Signer::ed25519();
    let issuers = issuers(&[&signer]);
    let with_exp = |number: &str| {
        let text = claims().to_string();
        let text = text.replace(&format!("\"exp\":{}", NOW + 600), &format!("\"exp\":{number}"));
        signer.sign_text(&header("EdDSA", None), &text)
    };
    for number in ["1800000600.0", "1.8000006e9", "18000006E2", "1800000600.999"] {
        let token = verify(&issuers, &with_exp(number)).unwrap();
        assert_eq!(token.expires_at.seconds(), NOW + 600, "{number}");
    }
    for number in [
        "-1",
        "-0.5",
        "-1e300",
        "253402300800",
        "1e12",
        "1e300",
        "9007199254740993",
        "18446744073709551615",
        "18446744073709551616",
        "340282366920938463463374607431768211456",
        "null",
        "true",
        "[]",
        "{}",
        "\"1800000600\"",
    ] {
        let reason = refusal(&issuers, &with_exp(number));
        assert_eq!(reason, AuthReason::TokenClaim("exp"), "{number}");
    }
    for number in ["1e400", "-1e400", "0x6b49d200", "01800000600", "+1800000600", "NaN", ""] {
        let reason = refusal(&issuers, &with_exp(number));
        assert_eq!(reason, AuthReason::TokenMalformed, "{number}");
    }
    for number in ["0", "-0", "0.0", "1e-300"] {
        let reason = refusal(&issuers, &with_exp(number));
        assert_eq!(reason.outcome(), AuthOutcome::Expired, "{number}");
    }
}

#[test]
fn the_longest_life_that_can_be_set_is_no_overflow() {
    let signer = Signer::ed25519();
    let set = KeySet::from_jwks(&document(&[&signer])).unwrap();
    let settings = IssuerSettings { lifetime_max: u64::MAX, ..settings(&[TokenAlgorithm::EdDsa]) };
    let issuers = Issuers::new(vec![Issuer::new(settings, loaded(set)).unwrap()]).unwrap();
    let late = signer.sign(&claims_with("exp", json!(253_402_300_799_u64)));
    assert!(verify(&issuers, &late).is_ok());
}

#[test]
fn a_member_that_is_spelled_by_escapes_is_the_same_member() {
    let signer = Signer::ed25519();
    let issuers = issuers(&[&signer]);
    let text = claims().to_string();
    let sign = |claims: &str| signer.sign_text(&header("EdDSA", None), claims);
    let escaped = text.replace("\"role\"", "\"r\\u006fle\"");
    assert_eq!(&*verify(&issuers, &sign(&escaped)).unwrap().role, "shop");
    for member in ["r\\u006fle", "\\u0065xp", "\\u0069ss", "a\\u0075d"] {
        let twice = text.replacen('{', &format!("{{\"{member}\":1,"), 1);
        assert_eq!(refusal(&issuers, &sign(&twice)), AuthReason::TokenMalformed, "{member}");
    }
    let lone = text.replacen('{', "{\"\\ud800\":1,", 1);
    assert_eq!(refusal(&issuers, &sign(&lone)), AuthReason::TokenMalformed);
    let hidden = signer.sign_text(r#"{"alg":"EdDSA","cr\u0069t":["exp"]}"#, &text);
    assert_eq!(refusal(&issuers, &hidden), AuthReason::TokenHeader("crit"));
}

#[test]
fn a_token_without_a_role_is_bad_credentials() {
    let signer = Signer::ed25519();
    let issuers = issuers(&[&signer]);
    for token in [
        signer.sign(&claims_with("role", Value::Null)),
        signer.sign(&claims_with("role", json!({"name": "shop"}))),
        signer.sign(&claims_with("role", json!("shop\0"))),
        signer.sign(&claims_with("role", json!("x".repeat(65)))),
    ] {
        let reason = refusal(&issuers, &token);
        assert_eq!((reason, reason.outcome()), (AuthReason::TokenRole, AuthOutcome::Invalid));
    }
}
