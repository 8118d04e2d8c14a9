//! Tests of denials: their JSON, and the faults for which it is refused.

use access::denial::{Denial, DenialSubject};
use access::unix_time::UnixTime;
use proptest::prelude::*;

fn subjects() -> impl Strategy<Value = DenialSubject> {
    let text = || "[^\\p{Cc}]{1,20}".prop_map(String::into_boxed_str);
    let any_text = || ".{1,20}".prop_map(String::into_boxed_str);
    let time = (0..=UnixTime::MAX.seconds()).prop_map(UnixTime::from_seconds);
    prop_oneof![
        (any_text(), any_text()).prop_map(|(issuer, id)| DenialSubject::TokenId { issuer, id }),
        (any_text(), any_text())
            .prop_map(|(issuer, subject)| DenialSubject::Subject { issuer, subject }),
        text().prop_map(DenialSubject::Tenant),
        (any_text(), time).prop_map(|(issuer, time)| DenialSubject::IssuedBefore { issuer, time }),
    ]
}

proptest! {
    #[test]
    fn a_denial_is_read_as_it_was_written(
        subject in subjects(),
        until in proptest::option::of(0..=UnixTime::MAX.seconds()),
    ) {
        let denial = Denial { subject, until: until.map(UnixTime::from_seconds) };
        prop_assert_eq!(Denial::parse(&denial.to_json()).unwrap(), denial);
    }
}

#[test]
fn the_json_of_a_denial_is_as_documented() {
    let denial = Denial {
        subject: DenialSubject::TokenId { issuer: "https://i.example".into(), id: "t1".into() },
        until: Some(UnixTime::from_seconds(1_900_000_000)),
    };
    let json = r#"{"issuer":"https://i.example","jti":"t1","until":"2030-03-17T17:46:40Z"}"#;
    assert_eq!(denial.to_json(), json);
}

#[test]
fn an_error_names_the_member() {
    let long = format!(r#"{{"issuer":"i","sub":"{}"}}"#, "x".repeat(8_193));
    for (json, member) in [
        ("", "the denial"),
        ("[]", "the denial"),
        (r#"["i","t1"]"#, "the denial"),
        ("{}", "the denial"),
        (r#"{"issuer":"i"}"#, "the denial"),
        (r#"{"issuer":"i","jti":"a","sub":"b"}"#, "the denial"),
        (r#"{"tenant":"a","tenant":"b"}"#, "the denial"),
        (r#"{"tenant":"a","t\u0065nant":"b"}"#, "the denial"),
        (r#"{"tenant":"a","unti":"2030-03-17T17:46:40Z"}"#, "the denial"),
        (r#"{"jti":"a"}"#, "issuer"),
        (r#"{"sub":"a"}"#, "issuer"),
        (r#"{"issued_before":"2030-03-17T17:46:40Z"}"#, "issuer"),
        (r#"{"issuer":"i","tenant":"a"}"#, "issuer"),
        (r#"{"issuer":1,"jti":"a"}"#, "issuer"),
        (r#"{"issuer":"","jti":"a"}"#, "issuer"),
        (r#"{"issuer":"i","jti":["a"]}"#, "jti"),
        (r#"{"issuer":"i","sub":null}"#, "sub"),
        (&long, "sub"),
        (r#"{"tenant":""}"#, "tenant"),
        (r#"{"tenant":"a\u0000"}"#, "tenant"),
        (r#"{"issuer":"i","issued_before":1900000000}"#, "issued_before"),
        (r#"{"issuer":"i","issued_before":"tomorrow"}"#, "issued_before"),
        (r#"{"tenant":"a","until":"1969-12-31T00:00:00Z"}"#, "until"),
    ] {
        assert_eq!(Denial::parse(json).unwrap_err().member, member, "{json}");
    }
    let error = Denial::parse(r#"{"tenant":"a","unti":"x"}"#).unwrap_err().to_string();
    assert!(error.contains("`unti`"), "{error}");
}
