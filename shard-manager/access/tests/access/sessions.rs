//! Tests of sessions: a session lasts one hour, proves one key, cannot be forged and ends with its
//! key.

use std::sync::Arc;

use access::auth_error::{AuthOutcome, AuthReason};
use access::authenticator::{AuthSettings, Authenticator};
use access::jwt::Issuers;
use access::key::NewApiKey;
use access::key_record::KeyRecord;
use access::limit::limit_cells::LimitCells;
use access::session::{BrowserSession, SessionSecret, cookie};
use access::snapshot::{LimitSource, Snapshot, SnapshotContents};
use access::tenant::Tenants;
use access::unix_time::UnixTime;
use proptest::prelude::*;

use crate::signers::{NOW, now};

fn secret() -> SessionSecret {
    SessionSecret::new(&[7; SessionSecret::LEN], 3)
}

fn key(byte: u8) -> NewApiKey {
    NewApiKey::from_random(&[byte; NewApiKey::RANDOM_LEN])
}

fn session() -> BrowserSession {
    BrowserSession::begin(key(1).id(), None, now())
}

fn later(seconds: u64) -> UnixTime {
    now().plus(seconds)
}

#[test]
fn a_session_is_read_as_it_was_made_until_it_ends() {
    let text = secret().seal(&session());
    assert_eq!(secret().open(&text, now()), Ok(session()));
    assert_eq!(secret().open(&text, later(3_599)), Ok(session()));
    assert_eq!(secret().open(&text, later(3_600)), Err(AuthReason::SessionExpired));
    assert_eq!(AuthReason::SessionExpired.outcome(), AuthOutcome::Expired);
    let end = later(10);
    assert_eq!(BrowserSession::begin(key(1).id(), Some(end), now()).expires_at, end);
    assert_eq!(BrowserSession::begin(key(1).id(), Some(later(9_999)), now()), session());
}

#[test]
fn a_session_of_another_secret_or_generation_is_refused() {
    let text = secret().seal(&session());
    let other = SessionSecret::new(&[8; SessionSecret::LEN], 3);
    assert_eq!(other.open(&text, now()), Err(AuthReason::SessionForged));
    assert_eq!(other.open(&text, later(9_999)), Err(AuthReason::SessionForged), "not: expired");
    for generation in [0, 2, 4, u64::MAX] {
        let other = SessionSecret::new(&[7; SessionSecret::LEN], generation);
        assert_eq!(other.open(&text, now()), Err(AuthReason::SessionEnded));
        assert_eq!(other.open(&other.seal(&session()), now()), Ok(session()));
    }
    assert_eq!(AuthReason::SessionEnded.outcome(), AuthOutcome::Invalid);
}

#[test]
fn a_forged_session_is_refused() {
    let good = secret().seal(&session());
    for index in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[index] = if bytes[index] == b'1' { b'2' } else { b'1' };
        let forged = String::from_utf8(bytes).unwrap();
        let refused = secret().open(&forged, now()).expect_err(&forged);
        assert_eq!(refused.outcome(), AuthOutcome::Invalid, "{forged}");
    }
    let parts: Vec<&str> = good.split('.').collect();
    let [id, end, generation, code] = parts.as_slice() else { panic!("{good}") };
    let own = key(2).id();
    for forged in [
        String::new(),
        format!("{id}.{end}.{generation}"),
        format!("{id}.{end}.{generation}."),
        format!("{good}.{code}"),
        format!("{good}="),
        format!(" {good}"),
        format!("{own}.{end}.{generation}.{code}"),
        format!("{id}.{}.{generation}.{code}", NOW + 999_999),
        format!("{id}.0{end}.{generation}.{code}"),
        format!("{id}.+{end}.{generation}.{code}"),
        format!("{id}.-1.{generation}.{code}"),
        format!("{id}.18446744073709551615.{generation}.{code}"),
        format!("{id}.18446744073709551616.{generation}.{code}"),
        format!("{id}.{end}.+{generation}.{code}"),
        format!("{id}.{end}.{generation}.{}", &code[..42]),
        "x".repeat(1 << 20),
    ] {
        assert!(secret().open(&forged, now()).is_err(), "{forged}");
    }
}

#[test]
fn a_session_authorises_reading_only() {
    for method in ["GET", "HEAD"] {
        assert!(BrowserSession::permits(method));
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "", "GET "] {
        assert!(!BrowserSession::permits(method), "{method}");
    }
}

#[test]
fn a_cookie_is_found_in_its_own_name_only() {
    let text = secret().seal(&session());
    let name = cookie::NAME;
    let set = cookie::set(&session(), &text, now(), true);
    let attributes = "; Path=/; Max-Age=3600; HttpOnly; SameSite=Strict; Secure";
    assert_eq!(set, format!("{name}={text}{attributes}"));
    let plain = cookie::set(&session(), &text, later(3_000), false);
    assert!(plain.starts_with("tessera_session=") && plain.contains("Max-Age=600;"), "{plain}");
    assert!(!plain.contains("Secure"));
    assert!(cookie::remove(true).contains("Max-Age=0;"));
    let header = format!("a=b; {name}={text};c=d");
    let found = |headers: &[&'static str]| cookie::find(headers.iter().copied(), true);
    assert_eq!(cookie::find([&*header], true), Ok(Some(&*text)));
    assert_eq!(cookie::find(["x=1", &*header], true), Ok(Some(&*text)));
    assert_eq!(cookie::find([&*header], false), Ok(None), "TLS and plain text have other names");
    for header in [
        "",
        ";;",
        "=",
        "__Host-tessera_session",
        "tessera_session=x",
        "__host-tessera_session=x",
        "a=__Host-tessera_session=x",
        "x__Host-tessera_session=x",
    ] {
        assert_eq!(found(&[header]), Ok(None), "{header}");
    }
    let twice = ["__Host-tessera_session=x; __Host-tessera_session=y"];
    assert_eq!(found(&twice), Err(AuthReason::SessionMalformed));
    let apart = ["__Host-tessera_session=x", "__Host-tessera_session=x"];
    assert_eq!(found(&apart), Err(AuthReason::SessionMalformed));
}

#[test]
fn a_cookie_is_found_beside_others_of_any_bytes_and_must_itself_be_text() {
    let found = |header: &'static [u8]| cookie::find([header], false);
    for header in [&b"a=\xff; tessera_session=x"[..], b"tessera_session=x;\xff\xfe=\x80;;"] {
        assert_eq!(found(header), Ok(Some("x")), "{header:?}");
    }
    for header in [&b"tessera_session=\xff"[..], b"tessera_session=x; tessera_session=\xff"] {
        assert_eq!(found(header), Err(AuthReason::SessionMalformed), "{header:?}");
    }
}

fn gate(change: impl Fn(&mut KeyRecord)) -> Authenticator {
    let key = key(1);
    let mut record = KeyRecord {
        id: key.id(),
        digest: key.digest(),
        role: "reader".into(),
        tenants: Tenants::parse(["acme"]).unwrap(),
        name: "test".into(),
        made_by: "test".into(),
        made_at: now(),
        expires_at: None,
        revoked_at: None,
        is_suspended: false,
        used_on: None,
    };
    change(&mut record);
    let cells = Arc::new(LimitCells::new([0; 16]));
    let contents =
        SnapshotContents { keys: vec![record], read_at: now(), ..SnapshotContents::default() };
    let snapshot = Snapshot::build(contents, &LimitSource { cells: &cells, routers: 1 }).unwrap();
    let settings = AuthSettings { stale_max: 100, limit_routers: 1 };
    Authenticator::new(snapshot, Issuers::default(), settings, cells, [1; 16])
}

#[test]
fn a_session_is_good_only_while_its_key_is() {
    let text = secret().seal(&session());
    let ask = |gate: &Authenticator, now: UnixTime| {
        let found = gate.authenticate_session(&text, &secret(), now);
        found.map(|(caller, _)| caller.role.clone()).map_err(|error| error.reason)
    };
    assert_eq!(ask(&gate(|_| ()), now()), Ok("reader".into()));
    let revoked = gate(|record| record.revoked_at = Some(now()));
    assert_eq!(ask(&revoked, now()), Err(AuthReason::KeyRevoked));
    let suspended = gate(|record| record.is_suspended = true);
    assert_eq!(ask(&suspended, now()), Err(AuthReason::KeySuspended));
    let expired = gate(|record| record.expires_at = Some(later(60)));
    assert!(ask(&expired, later(59)).is_ok());
    assert_eq!(ask(&expired, later(60)), Err(AuthReason::KeyExpired));
    let removed = gate(|record| record.id = key(2).id());
    assert_eq!(ask(&removed, now()), Err(AuthReason::KeyUnknown));
    assert_eq!(ask(&gate(|_| ()), later(101)), Err(AuthReason::SnapshotStale));
}

#[test]
fn a_session_does_not_print_its_secret() {
    assert_eq!(format!("{:?}", SessionSecret::new(&[65; 32], 1)), "***");
    assert!(secret().seal(&session()).len() <= 98);
}

proptest! {
    #[test]
    fn no_text_is_a_session(text in "[0-9A-Za-z]{12}\\.[0-9+-]{0,21}\\.[0-9]{0,21}\\.[0-9A-Za-z_-]{0,44}") {
        prop_assert!(secret().open(&text, now()).is_err());
    }

    #[test]
    fn any_session_is_read_as_it_was_made(
        id in any::<[u8; 48]>(), seconds in 1..3_600_u64, generation in any::<u64>(),
    ) {
        let secret = SessionSecret::new(&[9; SessionSecret::LEN], generation);
        let key = NewApiKey::from_random(&id).id();
        let session = BrowserSession { key, expires_at: later(seconds) };
        prop_assert_eq!(secret.open(&secret.seal(&session), now()), Ok(session));
    }
}
