//! Tests of key sets: which keys of a JWKS document are used, and which documents are refused.

use access::jwt::key_set::{KeySet, KeySetError};
use serde_json::{Value, json};

use crate::signers::{SECRET, Signer, base64url};

fn parse(keys: &[Value]) -> Result<KeySet, KeySetError> {
    KeySet::from_jwks(json!({ "keys": keys }).to_string().as_bytes())
}

fn with(signer: &Signer, member: &str, value: Value) -> Value {
    let mut jwk = signer.jwk("one");
    jwk[member] = value;
    jwk
}

#[test]
fn a_secret_of_less_than_32_bytes_is_refused() {
    assert_eq!(
        KeySet::from_secret(&SECRET[..31]).unwrap_err(),
        KeySetError::SecretTooShort { len: 31 }
    );
    assert!(KeySet::from_secret(SECRET).is_ok());
}

#[test]
fn a_short_rsa_key_is_not_used() {
    let rsa = Signer::rsa();
    for bits in [1_024, 2_047] {
        let mut modulus = vec![0xff_u8; bits / 8 + usize::from(bits % 8 > 0)];
        if bits % 8 > 0 {
            modulus[0] = 0x7f;
        }
        let short = with(&rsa, "n", json!(base64url(&modulus)));
        assert!(matches!(parse(&[short]), Err(KeySetError::NoneFits { .. })), "{bits}");
    }
    // Leading zeros make a number longer but not larger.
    let padded = with(&rsa, "n", json!(base64url([vec![0_u8; 200], vec![0xff; 128]].concat())));
    assert!(matches!(parse(&[padded]), Err(KeySetError::NoneFits { .. })));
    for exponent in [[1_u8].as_slice(), &[2], &[0], &[1, 0, 0, 0, 1]] {
        let odd = with(&rsa, "e", json!(base64url(exponent)));
        assert!(matches!(parse(&[odd]), Err(KeySetError::NoneFits { .. })), "{exponent:?}");
    }
}

#[test]
fn a_document_with_a_secret_is_refused_whole() {
    let good = Signer::ed25519();
    for secret in [
        json!({"kty": "oct", "k": base64url(SECRET)}),
        json!({"kty": "oct"}),
        with(&good, "d", json!("AAAA")),
        with(&Signer::rsa(), "p", json!("AAAA")),
    ] {
        let refused = parse(&[good.jwk("one"), secret]).unwrap_err();
        assert_eq!(refused, KeySetError::Secret { index: 1 });
    }
}

#[test]
fn keys_for_other_purposes_are_skipped() {
    let (good, rsa) = (Signer::ed25519(), Signer::rsa());
    let others = [
        with(&rsa, "use", json!("enc")),
        with(&rsa, "key_ops", json!(["encrypt"])),
        with(&rsa, "alg", json!("RSA-OAEP")),
        with(&rsa, "alg", json!("PS256")),
        with(&rsa, "kid", json!(7)),
        json!({"kty": "EC", "crv": "P-384", "x": "AAAA", "y": "AAAA"}),
        with(&Signer::p256(), "x", json!("AAAA")),
        json!({"kty": "OKP", "crv": "Ed448", "x": "AAAA"}),
        json!({"kty": "unknown"}),
    ];
    let set = parse(&[&[good.jwk("one")][..], &others].concat()).unwrap();
    assert_eq!((set.len(), set.skipped().len()), (1, others.len()));
    assert!(matches!(parse(&others), Err(KeySetError::NoneFits { .. })));
    let signs = with(&rsa, "use", json!("sig"));
    assert_eq!(parse(&[signs]).unwrap().len(), 1);
}

#[test]
fn malformed_documents_are_refused() {
    for document in [
        "",
        "[]",
        "{}",
        r#"{"keys":{}}"#,
        r#"{"keys":[1]}"#,
        r#"{"keys":[],"keys":[]}"#,
        r#"{"keys":[{"kty":"RSA","kty":"oct"}]}"#,
    ] {
        assert_eq!(
            KeySet::from_jwks(document.as_bytes()).unwrap_err(),
            KeySetError::Malformed,
            "{document}"
        );
    }
    let key = Signer::ed25519().jwk("one");
    let many = vec![key.clone(); KeySet::KEYS_MAX + 1];
    assert_eq!(parse(&many).unwrap_err(), KeySetError::TooMany { count: 65 });
    assert_eq!(parse(&many[1..]).unwrap().len(), KeySet::KEYS_MAX);
    let long = with(&Signer::ed25519(), "x5c", json!("x".repeat(KeySet::DOCUMENT_LEN_MAX)));
    assert_eq!(parse(&[long]).unwrap_err(), KeySetError::TooLong);
}

#[test]
fn a_key_set_does_not_print_keys() {
    let set = KeySet::from_secret(SECRET).unwrap();
    assert_eq!(format!("{set:?}"), "1 keys");
}
