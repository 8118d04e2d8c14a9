//! Tests of files of keys: a line that was written is read unchanged, and a file with one faulty
//! line is refused.

use access::key::NewApiKey;
use access::key_record::KeyRecord;
use access::keys_file::{KeysFileFault, format, parse};
use access::tenant::Tenants;
use access::unix_time::UnixTime;
use proptest::prelude::*;

fn record(tenants: &[&str], expires_at: Option<u64>) -> KeyRecord {
    let key = NewApiKey::from_random(&[3; NewApiKey::RANDOM_LEN]);
    KeyRecord {
        id: key.id(),
        digest: key.digest(),
        role: "shop".into(),
        tenants: Tenants::parse(tenants.iter().copied()).unwrap(),
        name: "access_keys_file".into(),
        made_by: "access_keys_file".into(),
        made_at: UnixTime::default(),
        expires_at: expires_at.map(UnixTime::from_seconds),
        revoked_at: None,
        is_suspended: false,
        used_on: None,
    }
}

#[test]
fn a_line_is_read_as_it_was_written() {
    for tenants in [&[][..], &["acme"], &["a b", "50%,", "é", "#x"], &["-"]] {
        for expires_at in [None, Some(1_900_000_000)] {
            let record = record(tenants, expires_at);
            let text = format!("# keys\n\n  {}  \r\n", format(&record));
            assert_eq!(parse(&text).unwrap(), [record]);
        }
    }
    let line = format(&record(&[], Some(1_900_000_000)));
    assert!(line.ends_with("shop - 2030-03-17T17:46:40Z"), "{line}");
}

#[test]
fn an_error_names_line_and_field_and_quotes_nothing() {
    let good = format(&record(&["acme"], Some(1_900_000_000)));
    let fields: Vec<&str> = good.split(' ').collect();
    let with = |index: usize, field: &str| {
        let mut fields = fields.clone();
        fields[index] = field;
        fields.join(" ")
    };
    for (line, member) in [
        (with(0, "short"), "id"),
        (with(1, "SECRET"), "sha256"),
        (with(2, "Shop"), "role"),
        (with(3, "a%2"), "tenant"),
        (with(3, "a%00"), "tenant"),
        (with(3, "a,,b"), "tenant"),
        (with(3, "%ff"), "tenant"),
        (with(4, "tomorrow"), "expires"),
        (with(4, "1969-12-31T00:00:00Z"), "expires"),
        (format!("{good} more"), "the line"),
        (fields[0].to_owned(), "sha256"),
        (fields[..2].join(" "), "role"),
    ] {
        let error = parse(&format!("# first\n{line}\n")).unwrap_err();
        assert_eq!((error.line, error.member), (2, member), "{line}");
        let text = error.to_string();
        assert!(text.starts_with(&format!("line 2: {member} ")), "{text}");
        assert!(!text.contains("SECRET") && !text.contains("tomorrow"), "{text}");
    }
    let error = parse(&format!("{good}\n{good}\n")).unwrap_err();
    assert_eq!((error.line, error.fault), (2, KeysFileFault::Twice));
}

proptest! {
    #[test]
    fn any_tenants_are_read_as_they_were_written(
        tenants in proptest::collection::vec("[^\\p{Cc}]{1,20}", 0..5),
    ) {
        let tenants: Vec<&str> = tenants.iter().map(String::as_str).collect();
        let record = record(&tenants, None);
        prop_assert_eq!(parse(&format(&record)).unwrap(), [record]);
    }
}
