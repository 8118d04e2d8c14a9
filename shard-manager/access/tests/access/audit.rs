//! Tests of the lines of an audit log and of their hash chain: the check finds every change of a
//! log.

use std::net::{IpAddr, Ipv4Addr};

use access::audit::chain::{AuditChain, AuditEntry, AuditHead};
use access::audit::check::{ChainCheck, ChainFault, HeadComparison};
use access::audit::event::{AuditCaller, AuditEvent, AuditKeys, AuditOutcome};
use access::audit::{AuditKeyForm, AuditLevel, AuditSecret, LINE_MAX};
use access::caller::Principal;
use proptest::prelude::*;
use serde_json::Value;

const TIME: u64 = 1_800_000_000_000;

pub(crate) fn event(text: &str) -> AuditEvent {
    AuditEvent {
        time_ms: TIME,
        level: AuditLevel::Denied,
        outcome: AuditOutcome::Refused,
        request: text.into(),
        trace: Some([7; 16]),
        caller: AuditCaller::Known {
            principal: Principal::Token {
                issuer: text.into(),
                subject: Some(text.into()),
                id: Some(text.into()),
            },
            role: text.into(),
            tenants: vec![text.into(); 16],
        },
        address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        method: text.into(),
        route: "/api/read",
        target: Some(text.into()),
        table: Some(text.into()),
        key: Some(text.into()),
        status: Some(403),
        code: Some("TSR403"),
        refused_rows: 2,
        count: 3,
    }
}

fn keys(form: AuditKeyForm) -> AuditKeys {
    AuditKeys::new(form, AuditSecret::new(&[5; AuditSecret::LEN]))
}

/// Returns the lines of a log with this many requests, and the last line as the catalog keeps it.
fn log(requests: usize) -> (Vec<String>, AuditHead) {
    let mut chain = AuditChain::begin(&[1; AuditChain::NAME_LEN]);
    let (mut text, keys) = (String::new(), keys(AuditKeyForm::Hash));
    chain.push(&mut text, TIME, AuditEntry::Start { version: "1", torn_bytes: 0 }, &keys);
    for number in 0..requests {
        let event = event(&format!("r{number}"));
        chain.push(&mut text, TIME, AuditEntry::Request(&event), &keys);
    }
    chain.push(&mut text, TIME, AuditEntry::End, &keys);
    (text.lines().map(str::to_owned).collect(), chain.head())
}

/// Returns the number of the first faulty line and its fault; `None` if the check finds no fault.
fn first_fault(lines: &[String], heads: Option<Vec<AuditHead>>) -> Option<(usize, ChainFault)> {
    let mut check = ChainCheck::new(heads);
    for (number, line) in (1..).zip(lines) {
        if let Err(fault) = check.push(line.as_bytes()) {
            return Some((number, fault));
        }
    }
    check.finish().err().map(|fault| (lines.len(), fault))
}

#[test]
fn a_line_has_the_members_of_its_event() {
    let mut chain = AuditChain::begin(&[1; AuditChain::NAME_LEN]);
    for (form, member) in [(AuditKeyForm::Hash, "key_hash"), (AuditKeyForm::Plain, "key")] {
        let mut text = String::new();
        chain.push(&mut text, TIME, AuditEntry::Request(&event("e")), &keys(form));
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["time"], "2027-01-15T08:00:00.000Z");
        assert_eq!(line["trace"], "07".repeat(16));
        assert_eq!(
            (&line["caller"], &line["issuer"], &line["id"]),
            (&"token".into(), &"e".into(), &"e".into())
        );
        assert_eq!(line["tenants"].as_array().unwrap().len(), 16);
        assert_eq!((&line["address"], &line["route"]), (&"127.0.0.1".into(), &"/api/read".into()));
        assert_eq!((&line["status"], &line["code"]), (&403.into(), &"TSR403".into()));
        assert_eq!((&line["outcome"], &line["count"]), (&"refused".into(), &3.into()));
        let key = line[member].as_str().unwrap();
        assert_eq!(key == "e", form == AuditKeyForm::Plain, "{text}");
    }
    let mut text = String::new();
    chain.push(&mut text, TIME, AuditEntry::Request(&event("e")), &keys(AuditKeyForm::None));
    let line: Value = serde_json::from_str(&text).unwrap();
    assert!(line.get("key").is_none() && line.get("key_hash").is_none(), "{text}");
}

#[test]
fn equal_keys_have_equal_hashes_under_one_secret_only() {
    let (one, other) = (AuditSecret::new(&[1; 32]), AuditSecret::new(&[2; 32]));
    assert_eq!(one.hash("acme"), one.clone().hash("acme"));
    assert_eq!(one.hash("acme").len(), 32);
    assert_ne!(one.hash("acme"), one.hash("acme2"));
    assert_ne!(one.hash("acme"), other.hash("acme"));
    assert!(!format!("{one:?}").contains('1'));
}

#[test]
fn the_longest_event_is_one_bounded_line() {
    for text in ["\n".repeat(1 << 20), "\u{202e}\"".repeat(1 << 18), "é".repeat(1 << 19)] {
        let mut chain = AuditChain::begin(&[1; AuditChain::NAME_LEN]);
        let mut line = String::new();
        let keys = keys(AuditKeyForm::Plain);
        chain.push(&mut line, TIME, AuditEntry::Request(&event(&text)), &keys);
        assert!(line.len() < LINE_MAX, "{}", line.len());
        assert_eq!(line.matches('\n').count(), 1);
        serde_json::from_str::<Value>(&line).unwrap();
    }
}

#[test]
fn a_whole_log_has_no_fault() {
    let (lines, head) = log(5);
    assert_eq!(first_fault(&lines, None), None);
    let mut check = ChainCheck::new(Some(vec![head]));
    lines.iter().for_each(|line| check.push(line.as_bytes()).unwrap());
    assert_eq!(check.finish(), Ok(HeadComparison::Equal));
    let summary = check.summary();
    assert_eq!((summary.lines, summary.requests, summary.starts, summary.crashes), (7, 15, 1, 0));
    // A log may begin with a later line than the first, because its oldest files are removed, but
    // only with a line that begins a file.
    let mut check = ChainCheck::new(None);
    let fault = check.push(lines[2].as_bytes()).unwrap_err();
    assert_eq!(fault, ChainFault::NoBeginning);
}

#[test]
fn the_first_wrong_line_is_named() {
    let (lines, head) = log(5);
    let with = |change: &dyn Fn(&mut Vec<String>)| {
        let mut changed = lines.clone();
        change(&mut changed);
        first_fault(&changed, None)
    };
    let changed = with(&|lines| lines[3] = lines[3].replace("\"r2\"", "\"r9\""));
    assert_eq!(changed, Some((4, ChainFault::Changed)));
    let last = with(&|lines| lines[6] = lines[6].replace("end", "End"));
    assert_eq!(last, Some((7, ChainFault::Changed)));
    let removed = with(&|lines| drop(lines.remove(3)));
    assert_eq!(removed, Some((4, ChainFault::Order { expected: 4, found: 5 })));
    let swapped = with(&|lines| lines.swap(3, 4));
    assert_eq!(swapped, Some((4, ChainFault::Order { expected: 4, found: 5 })));
    let repeated = with(&|lines| lines.insert(3, lines[2].clone()));
    assert_eq!(repeated, Some((4, ChainFault::Order { expected: 4, found: 3 })));
    let foreign = with(&|lines| lines[3] = "{}".to_owned());
    assert_eq!(foreign, Some((4, ChainFault::NotALine)));
    // Line 4 is replaced by a line of another chain that has the right number and a correct hash of
    // its own.
    let mut other = AuditChain::begin(&[1; AuditChain::NAME_LEN]);
    let mut text = String::new();
    for _ in 0..4 {
        text.clear();
        other.push(&mut text, TIME, AuditEntry::End, &AuditKeys::None);
    }
    let replaced = with(&|lines| lines[3] = text.trim_end().to_owned());
    assert_eq!(replaced, Some((4, ChainFault::Replaced)));
    // Without the catalog, missing lines at the end of a log are not detected.
    let short = &lines[..4];
    assert_eq!(first_fault(short, None), None);
    let kept = head.point.number;
    assert_eq!(first_fault(short, Some(vec![head])), Some((4, ChainFault::CutOff { kept })));
}

#[test]
fn a_log_that_was_made_again_differs_from_the_catalog() {
    let (lines, _) = log(5);
    let mut other = AuditChain::begin(&[1; AuditChain::NAME_LEN]);
    let mut text = String::new();
    for _ in 0..4 {
        other.push(&mut text, TIME, AuditEntry::End, &AuditKeys::None);
    }
    let heads = Some(vec![other.head()]);
    assert_eq!(first_fault(&lines, heads), Some((4, ChainFault::NotTheHead)));
    let unknown = AuditHead { log: "0".repeat(32).into(), ..other.head() };
    let mut check = ChainCheck::new(Some(vec![unknown]));
    lines.iter().for_each(|line| check.push(line.as_bytes()).unwrap());
    assert_eq!(check.finish(), Ok(HeadComparison::UnknownLog));
}

#[test]
fn a_start_without_an_end_before_it_is_a_crash_and_no_fault() {
    let mut chain = AuditChain::begin(&[1; AuditChain::NAME_LEN]);
    let (mut text, keys) = (String::new(), AuditKeys::None);
    for torn_bytes in [0, 9] {
        chain.push(&mut text, TIME, AuditEntry::Start { version: "1", torn_bytes }, &keys);
        chain.push(&mut text, TIME, AuditEntry::Lost(4), &keys);
    }
    let mut resumed = AuditChain::resume(chain.head());
    resumed.push(&mut text, TIME, AuditEntry::File, &keys);
    resumed.push(&mut text, TIME, AuditEntry::End, &keys);
    let mut check = ChainCheck::new(None);
    text.lines().for_each(|line| check.push(line.as_bytes()).unwrap());
    let summary = check.summary();
    assert_eq!((summary.starts, summary.crashes, summary.lost), (2, 1, 8));
}

proptest! {
    #[test]
    fn no_byte_of_a_log_can_be_changed(line in 0..6_usize, byte: usize, value: u8) {
        let (lines, _) = log(4);
        let mut changed: Vec<Vec<u8>> = lines.iter().map(|line| line.clone().into_bytes()).collect();
        let at = byte % changed[line].len();
        prop_assume!(changed[line][at] != value);
        changed[line][at] = value;
        let mut check = ChainCheck::new(None);
        let faults = changed.iter().position(|line| check.push(line).is_err());
        prop_assert_eq!(faults, Some(line));
    }

    #[test]
    fn any_text_of_a_client_is_a_json_text_in_one_line(text in any::<String>()) {
        let mut chain = AuditChain::begin(&[1; AuditChain::NAME_LEN]);
        let mut line = String::new();
        let keys = keys(AuditKeyForm::Plain);
        chain.push(&mut line, TIME, AuditEntry::Request(&event(&text)), &keys);
        prop_assert!(!line.trim_end_matches('\n').chars().any(char::is_control));
        let read: Value = serde_json::from_str(&line).unwrap();
        let key = read["key"].as_str().unwrap();
        prop_assert!(text == key || text.starts_with(key.strip_suffix('…').unwrap()));
    }
}
