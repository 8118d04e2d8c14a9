//! Tests of merging: equal refusals share one line per second, each refusal is counted once, and
//! memory is bounded.

use std::net::{IpAddr, Ipv4Addr};

use access::audit::event::{AuditCaller, AuditEvent, AuditOutcome};
use access::audit::merging::{INTERVAL_MS, MERGED_MAX, RefusalMerger};

use crate::audit::event;

fn refusal(request: usize) -> AuditEvent {
    AuditEvent { request: request.to_string().into(), count: 1, ..event("same") }
}

#[test]
fn equal_refusals_are_one_line_a_second() {
    let mut merger = RefusalMerger::default();
    let mut written = Vec::new();
    for ms in 0..3 * INTERVAL_MS {
        written.extend(merger.take(refusal(ms as usize), ms));
        written.extend(merger.take_due(ms));
    }
    let counts: Vec<u64> = written.iter().map(|event| event.count).collect();
    assert_eq!(counts, [1, INTERVAL_MS, INTERVAL_MS]);
    assert_eq!(&*written[1].request, "1000", "a line has the members of the last one");
    written.extend(merger.take_all());
    let all: u64 = written.iter().map(|event| event.count).sum();
    assert_eq!(all, 3 * INTERVAL_MS, "each is counted once");
    assert!(merger.is_empty());
}

#[test]
fn a_second_without_a_refusal_ends_the_merging() {
    let mut merger = RefusalMerger::default();
    assert!(merger.take(refusal(1), 0).is_some());
    assert!(!merger.is_empty());
    assert!(merger.take_due(INTERVAL_MS).is_empty());
    assert!(merger.is_empty());
    assert!(merger.take(refusal(2), INTERVAL_MS + 1).is_some());
}

#[test]
fn refusals_that_differ_and_other_events_are_not_merged() {
    let mut merger = RefusalMerger::default();
    let other = IpAddr::V4(Ipv4Addr::BROADCAST);
    for different in [
        refusal(1),
        AuditEvent { address: Some(other), ..refusal(1) },
        AuditEvent { caller: AuditCaller::Unknown, ..refusal(1) },
        AuditEvent { route: "/api/write", ..refusal(1) },
        AuditEvent { method: "PUT".into(), ..refusal(1) },
        AuditEvent { code: Some("TSR429"), ..refusal(1) },
    ] {
        assert!(merger.take(different.clone(), 0).is_some(), "{different:?}");
        assert!(merger.take(different.clone(), 0).is_none(), "{different:?}");
    }
    let served = AuditEvent { outcome: AuditOutcome::Served, ..refusal(1) };
    assert!((0..9).all(|_| merger.take(served.clone(), 0).is_some()));
    assert_eq!(merger.take_due(INTERVAL_MS).len(), 6);
}

#[test]
fn many_addresses_keep_memory_bounded() {
    let mut merger = RefusalMerger::default();
    for number in 0..4 * MERGED_MAX as u32 {
        let address = Some(IpAddr::V4(Ipv4Addr::from_bits(number)));
        let event = AuditEvent { address, caller: AuditCaller::Unknown, ..refusal(1) };
        assert!(merger.take(event.clone(), 0).is_some(), "the first of its kind is written");
        let is_merged = merger.take(event, 0).is_none();
        assert_eq!(is_merged, (number as usize) < MERGED_MAX, "{number}");
    }
    assert_eq!(merger.take_due(INTERVAL_MS).len(), MERGED_MAX);
}
