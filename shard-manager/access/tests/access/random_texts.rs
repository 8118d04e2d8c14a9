//! Tests of parsers with random strings: no parser panics, and an accepted value can be written and
//! read again.

use access::check::CheckRequest;
use access::denial::Denial;
use access::jwt::key_set::KeySet;
use access::key::{ApiKey, KeyId, SecretDigest};
use access::role::AccessRole;
use access::session::{SessionSecret, cookie};
use access::tenant::Tenants;
use access::unix_time::UnixTime;
use access::{keys_file, limit};
use proptest::prelude::*;
use proptest::sample::select;

use crate::signers::{Signer, base64url, claims, issuers, now, verify};

/// Parts of valid inputs. Random strings that are made of them pass the first checks of the
/// parsers.
static PIECES: [&str; 48] = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\",
    "\\u0061",
    "\\ud800",
    "null",
    "true",
    "1",
    "-1",
    "1e999",
    "0.5",
    "18446744073709551616",
    "\0",
    "\n",
    "\u{1b}",
    "é",
    "\u{301}",
    " ",
    "%",
    "%2",
    "-",
    "_",
    ".",
    "tsr_",
    "role",
    "grants",
    "tables",
    "may",
    "keys",
    "*",
    "$tenant",
    "$tenant:*",
    "shop",
    "issuer",
    "jti",
    "tenant",
    "until",
    "2027-01-31T12:00:00Z",
    "9999-12-31T23:59:60Z",
    "kty",
    "RSA",
    "AAAA",
    "=",
];

fn text() -> impl Strategy<Value = String> {
    let pieces = proptest::collection::vec(select(&PIECES[..]), 0..60);
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200)
            .prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        pieces.prop_map(|pieces| pieces.concat()),
    ]
}

/// Valid documents in which a part is replaced by a random string.
fn document() -> impl Strategy<Value = String> {
    let good = [
        concat!(
            r#"{"role":"shop","grants":[{"tables":["users"],"may":["read"],"keys":"$tenant:*","#,
            r#""columns":["id"]}],"scopes":["audit"],"weight":1,"limits":{"requests_per_s":200}}"#,
        ),
        r#"[{"role":"a","grants":[]},{"role":"b","grants":[]}]"#,
        r#"{"issuer":"i","jti":"t1","until":"2027-01-31T12:00:00Z"}"#,
        r#"{"role":"shop","tenant":["acme"],"operation":"read","table":"users","key":"acme:1","columns":["id"]}"#,
        r#"{"keys":[{"kty":"RSA","kid":"one","n":"AAAA","e":"AQAB"},{"kty":"OKP","crv":"Ed25519","x":"AAAA"}]}"#,
        concat!(
            "4fKq0ZxY81Ab 00000000000000000000000000000000000000000000000000000000000000ff ",
            "shop a%20b,- 2027-01-31T12:00:00Z",
        ),
        "tsr_4fKq0ZxY81Ab_0000000000000000000000000000000000000000000000000",
        "4fKq0ZxY81Ab.1800003600.7.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ];
    let cut = (select(good.to_vec()), any::<prop::sample::Index>(), 0..12_usize, text());
    cut.prop_map(|(good, index, length, other)| {
        let begin = index.index(good.len() + 1);
        let end = (begin + length).min(good.len());
        format!("{}{other}{}", &good[..begin], &good[end..])
    })
}

/// Passes a string to all parsers.
fn parse_all(text: &str) {
    ApiKey::parse(text);
    KeyId::parse(text);
    SecretDigest::parse_hex(text);
    Tenants::parse([text]).ok();
    UnixTime::parse(text).map(UnixTime::format);
    if let Ok(records) = keys_file::parse(text) {
        let lines: Vec<String> = records.iter().map(keys_file::format).collect();
        assert_eq!(keys_file::parse(&lines.join("\n")).unwrap(), records);
    }
    if let Ok(role) = AccessRole::parse(text) {
        assert_eq!(AccessRole::parse(&role.to_json()).unwrap(), role);
    }
    AccessRole::parse_file(text).ok();
    if let Ok(denial) = Denial::parse(text) {
        assert_eq!(Denial::parse(&denial.to_json()).unwrap(), denial);
    }
    if let Ok(request) = CheckRequest::parse(text) {
        assert!(!request.decide(None).to_json().is_empty());
    }
    KeySet::from_jwks(text.as_bytes()).ok();
    KeySet::from_secret(text.as_bytes()).ok();
    SessionSecret::new(&[0; SessionSecret::LEN], 0).open(text, now()).ok();
    cookie::find([text], true).ok();
    let rate = limit::Rate::new(text.len() as u64, 1);
    rate.map(limit::headers::policy);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_a_parser_panic(text in text()) {
        parse_all(&text);
    }

    #[test]
    fn no_damaged_document_makes_a_parser_panic(text in document()) {
        parse_all(&text);
    }

    #[test]
    fn no_bytes_make_a_key_set_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        KeySet::from_jwks(&bytes).ok();
    }
}

proptest! {
    #[test]
    fn no_text_is_a_token(texts in proptest::collection::vec(text(), 1..6), encodes in any::<bool>()) {
        let issuers = issuers(&[&Signer::secret()]);
        let parts: Vec<String> = texts
            .iter()
            .map(|text| if encodes { base64url(text) } else { text.clone() })
            .collect();
        prop_assert!(verify(&issuers, &parts.join(".")).is_err());
    }

    #[test]
    fn signed_nonsense_does_not_panic(text in text(), member in select(vec![
        "iss", "aud", "exp", "nbf", "iat", "sub", "jti", "role", "tenant",
    ])) {
        let signer = Signer::secret();
        let issuers = issuers(&[&signer]);
        verify(&issuers, &signer.sign_text(r#"{"alg":"HS256"}"#, &text)).ok();
        verify(&issuers, &signer.sign_text(&text, &claims().to_string())).ok();
        let good = claims()[member].to_string();
        let claims = claims().to_string().replace(&format!("\"{member}\":{good}"), &format!("\"{member}\":{text}"));
        verify(&issuers, &signer.sign_text(r#"{"alg":"HS256"}"#, &claims)).ok();
    }
}
