//! Tests of the error log: its bounds, the order of events, filters and groups.

use analytics::{ErrorEvent, ErrorFilter, ErrorLog, FilterError};
use serde_json::json;

fn event(at_ms: u64) -> ErrorEvent {
    ErrorEvent {
        at_ms,
        code: "TSR201".into(),
        status: 503,
        route: "/api/write".into(),
        shard: Some("shard3".into()),
        request_id: format!("request-{at_ms}"),
        trace_id: None,
        message: "primary of shard3 did not answer".into(),
    }
}

fn times(events: &[ErrorEvent]) -> Vec<u64> {
    events.iter().map(|event| event.at_ms).collect()
}

#[test]
fn only_the_newest_ten_thousand_are_kept_and_all_are_counted() {
    let log = ErrorLog::new();
    (0..25_000).for_each(|at_ms| log.push(event(at_ms)));
    let kept = log.query(&ErrorFilter { limit: usize::MAX, ..ErrorFilter::default() });
    assert_eq!((log.total(), kept.len()), (25_000, ErrorLog::KEPT_MAX));
    assert_eq!((kept[0].at_ms, kept[9_999].at_ms), (24_999, 15_000));
}

#[test]
fn a_query_without_parameters_returns_the_newest_fifty() {
    let log = ErrorLog::new();
    (0..60).for_each(|at_ms| log.push(event(at_ms)));
    assert_eq!(times(&log.query(&ErrorFilter::default())), (10..60).rev().collect::<Vec<_>>());
}

#[test]
fn filters_are_combined() {
    let log = ErrorLog::new();
    log.push(event(1));
    log.push(ErrorEvent { code: "TSR100".into(), shard: None, ..event(2) });
    log.push(ErrorEvent { shard: Some("shard1".into()), ..event(3) });
    log.push(event(4));
    let all = ErrorFilter::default();
    let query = |filter| times(&log.query(&filter));
    assert_eq!(query(ErrorFilter { shard: Some("shard3"), ..all }), [4, 1]);
    assert_eq!(query(ErrorFilter { code: Some("TSR100"), ..all }), [2]);
    assert_eq!(query(ErrorFilter { since_ms: Some(3), ..all }), [4, 3]);
    assert_eq!(query(ErrorFilter { since_ms: Some(2), shard: Some("shard3"), ..all }), [4]);
    assert_eq!(query(ErrorFilter { limit: 1, ..all }), [4]);
    assert_eq!(query(ErrorFilter { code: Some("' or 1=1"), ..all }), [0; 0]);
}

#[test]
fn groups_count_by_code_shard_and_route_with_the_newest_first() {
    let log = ErrorLog::new();
    log.push(event(1_000));
    log.push(ErrorEvent { code: "TSR100".into(), shard: None, ..event(2_000) });
    log.push(ErrorEvent { message: "still silent".into(), ..event(3_000) });
    log.push(ErrorEvent { route: "/api/read".into(), ..event(2_500) });

    let groups = log.grouped(&ErrorFilter::default());
    let counts: Vec<_> =
        groups.iter().map(|group| (&*group.code, &*group.route, group.count)).collect();
    let (read, write) = ("/api/read", "/api/write");
    assert_eq!(counts, [("TSR201", read, 1), ("TSR201", write, 2), ("TSR100", write, 1)]);
    assert_eq!(
        serde_json::to_value(&groups[1]).unwrap(),
        json!({
            "code": "TSR201", "shard": "shard3", "route": "/api/write", "count": 2,
            "first": "1970-01-01T00:00:01.000Z", "last": "1970-01-01T00:00:03.000Z",
            "sample_request_id": "request-3000", "message": "still silent",
        })
    );
    assert_eq!(log.grouped(&ErrorFilter { limit: 1, ..ErrorFilter::default() }).len(), 1);
}

#[test]
fn texts_are_cut_between_characters_and_hold_no_more_memory_than_they_show() {
    let log = ErrorLog::new();
    let long = "ß".repeat(1_000_000);
    log.push(ErrorEvent {
        shard: Some(long.clone()),
        request_id: long.clone(),
        trace_id: Some(long.clone()),
        message: long,
        ..event(1)
    });
    let kept = log.query(&ErrorFilter::default()).remove(0);
    assert_eq!(kept.message, "ß".repeat(300));
    assert_eq!((kept.request_id.len(), kept.trace_id.unwrap().len()), (256, 256));
    assert_eq!(kept.shard.unwrap().len(), 256);
}

#[test]
fn an_event_is_written_with_its_time_in_rfc_3339() {
    let event = ErrorEvent { trace_id: Some("4bf9".into()), ..event(1_795_255_200_042) };
    assert_eq!(
        serde_json::to_string(&event).unwrap(),
        "{\"time\":\"2026-11-21T10:00:00.042Z\",\"code\":\"TSR201\",\"status\":503,\
         \"route\":\"/api/write\",\"shard\":\"shard3\",\"request_id\":\"request-1795255200042\",\
         \"trace_id\":\"4bf9\",\"message\":\"primary of shard3 did not answer\"}"
    );
    let end_of_time = serde_json::to_value(self::event(u64::MAX)).unwrap();
    assert_eq!(end_of_time["time"], "9999-12-31T23:59:59.999Z");
}

#[test]
fn limits_and_times_of_a_query_are_parsed_or_refused() {
    assert_eq!(["1", "50", "1000"].map(ErrorFilter::parse_limit), [Ok(1), Ok(50), Ok(1_000)]);
    for text in ["", "0", "1001", "-1", "+5", "1.0", "abc", "99999999999999999999999"] {
        assert_eq!(ErrorFilter::parse_limit(text), Err(FilterError::Limit), "{text}");
    }
    assert_eq!(ErrorFilter::parse_since("1795255200042"), Ok(1_795_255_200_042));
    assert_eq!(ErrorFilter::parse_since("2026-11-21T11:00:00.042+01:00"), Ok(1_795_255_200_042));
    assert_eq!(ErrorFilter::parse_since("1969-12-31T23:59:59Z"), Ok(0));
    for text in ["", "yesterday", "2026-11-21", "-5", "1e3", "99999999999999999999999"] {
        assert_eq!(ErrorFilter::parse_since(text), Err(FilterError::Since), "{text}");
    }
}

/// A service that polls for new events receives each exactly once.
#[test]
fn events_are_fetched_by_number() {
    let log = ErrorLog::new();
    assert_eq!(log.events_after(0, 10).1, 0);
    (1..=25).for_each(|at_ms| log.push(event(at_ms)));
    let (mut seq, mut seen) = (0, Vec::new());
    loop {
        let (events, next) = log.events_after(seq, 10);
        if events.is_empty() {
            break;
        }
        seen.extend(events.iter().map(|event| event.at_ms));
        seq = next;
    }
    assert_eq!((seq, seen), (25, (1..=25).collect::<Vec<_>>()));
    log.push(event(26));
    assert_eq!(log.events_after(seq, 10).0[0].at_ms, 26);
    // A request that comes too late gets the events that are still kept. A request with a number
    // from before a restart of the log gets no wrong events.
    (27..=20_000).for_each(|at_ms| log.push(event(at_ms)));
    let (late, next) = log.events_after(seq, 1);
    assert_eq!((late[0].at_ms, next), (10_001, 10_001));
    assert_eq!(log.events_after(99_999, 10), (Vec::new(), 20_000));
}

#[test]
fn an_event_that_was_sent_is_the_same_when_it_is_read() {
    let sent = ErrorEvent { trace_id: Some("4bf9".into()), ..event(1_795_255_200_042) };
    let text = serde_json::to_string(&sent).unwrap();
    assert_eq!(serde_json::from_str::<ErrorEvent>(&text).unwrap(), sent);
    assert!(serde_json::from_str::<ErrorEvent>(&text.replace("2026", "soon")).is_err());
}

#[test]
fn the_longest_events_stay_within_the_memory_that_is_documented() {
    let log = ErrorLog::new();
    let long = "\u{1F9E9}".repeat(1_000);
    for at_ms in 0..12_000 {
        log.push(ErrorEvent {
            code: long.clone().into(),
            route: long.clone().into(),
            shard: Some(long.clone()),
            request_id: long.clone(),
            trace_id: Some(long.clone()),
            message: long.clone(),
            ..event(at_ms)
        });
    }
    assert!(log.bytes() <= ErrorLog::BYTES_MAX && log.bytes() > ErrorLog::BYTES_MAX / 2);
    assert_eq!(log.query(&ErrorFilter { limit: 1, ..ErrorFilter::default() })[0].at_ms, 11_999);
}
