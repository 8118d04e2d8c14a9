//! Tests of traces: the trace of a request, the headers of its response, and the records with its
//! id (W3C Trace Context).

use std::process::Stdio;

use crate::backend;
use crate::harness::Router;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// Returns the trace in the response to a request.
fn returned(router: &Router, path: &str, headers: &[(&str, &str)]) -> Option<String> {
    let reply = router.send("GET", path, headers, None);
    reply.header("traceparent").map(str::to_owned)
}

#[test]
fn a_client_in_a_trace_finds_it_in_the_answer_with_a_span_of_our_own() {
    let router = Router::shared();
    for (flags, sampled) in [("00", "00"), ("01", "01"), ("03", "01"), ("ff", "01")] {
        let parent = format!("00-{TRACE}-{PARENT}-{flags}");
        let mut spans = Vec::new();
        for path in ["/api/read?table=users", "/api/read?table=nope", "/live", "/nowhere"] {
            let reported = returned(&router, path, &[("traceparent", &parent)]).expect("a trace");
            let parts: Vec<&str> = reported.split('-').collect();
            assert_eq!((parts.len(), parts[0], parts[1]), (4, "00", TRACE), "{path}: {reported}");
            assert_eq!(parts[3], sampled, "{path}: {reported}");
            let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
            assert!(parts[2].len() == 16 && parts[2].chars().all(hex), "{reported}");
            assert!(parts[2] != PARENT && parts[2] != "0".repeat(16), "{reported}");
            spans.push(parts[2].to_owned());
        }
        spans.sort_unstable();
        spans.dedup();
        assert_eq!(spans.len(), 4, "each request is a span");
    }
}

#[test]
fn a_version_to_come_is_read_as_far_as_it_is_known() {
    let router = Router::shared();
    let known = |parent: &str| returned(&router, "/live", &[("traceparent", parent)]);
    for parent in [
        format!("01-{TRACE}-{PARENT}-01"),
        format!("cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like"),
    ] {
        assert!(
            known(&parent).is_some_and(|reported| reported.starts_with(&format!("00-{TRACE}-"))),
            "{parent}"
        );
    }
}

#[test]
fn a_parent_that_the_standard_calls_invalid_is_as_good_as_none() {
    let router = Router::start();
    let (zeros, none) = ("0".repeat(32), "0".repeat(16));
    for bad in [
        String::new(),
        "nonsense".to_owned(),
        format!("ff-{TRACE}-{PARENT}-01"),
        format!("00-{zeros}-{PARENT}-01"),
        format!("00-{TRACE}-{none}-01"),
        format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
        format!("00-{TRACE}-{PARENT}-0"),
        format!("00-{TRACE}-{PARENT}-0x"),
        format!("00-{TRACE}-{PARENT}-01-more"),
        format!("00-{TRACE}-{PARENT}-01x"),
        format!("01-{TRACE}-{PARENT}-01more"),
        format!("0-{TRACE}-{PARENT}-01"),
        format!("00_{TRACE}-{PARENT}-01"),
        format!("00-{TRACE}g-{PARENT}-01"),
        format!("00-{}-{PARENT}-01", &TRACE[1..]),
    ] {
        let reply = router.send("GET", "/api/read?table=nope", &[("traceparent", &bad)], None);
        assert_eq!((reply.status, reply.header("traceparent")), (404, None), "{bad}");
        let errors = router.get("/api/analytics/errors?limit=1").json();
        assert_eq!(errors["errors"][0]["trace_id"], serde_json::Value::Null, "{bad}: {errors}");
    }
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let twice = [("traceparent", &*parent), ("traceparent", &*parent)];
    assert_eq!(returned(&router, "/live", &twice), None, "two of them contradict each other");
    assert_eq!(returned(&router, "/live", &[]), None, "no trace was requested");
}

#[test]
fn an_error_remembers_the_trace_of_its_request() {
    let router = Router::start();
    let parent = format!("00-{TRACE}-{PARENT}-00");
    router.send("GET", "/api/read?table=nope", &[("traceparent", &parent)], None);
    let errors = router.get("/api/analytics/errors").json();
    assert_eq!(errors["errors"][0]["trace_id"], TRACE, "{errors}");
}

#[test]
fn a_line_of_the_log_names_the_trace_of_what_was_not_served() {
    crate::backend::files_only!("the test holds up a node of files");
    let folder = crate::folders::temporary();
    let log = folder.path().join("log");
    let file = std::fs::File::create(&log).unwrap();
    let command = backend::command(
        &folder.path().join("data"),
        &["--lab", "--shards", "1", "--replicas", "0"],
    );
    let mut router = Router::start_logging(command, Stdio::from(file));
    let cut = router.send(
        "PUT",
        "/api/lab/nodes/shard1-primary",
        &[("content-type", "application/json")],
        Some(br#"{"state":"cut"}"#),
    );
    assert_eq!(cut.status, 200, "{}", cut.text());
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let headers = [("traceparent", &*parent), ("x-deadline-ms", "200")];
    let reply = router.send("GET", "/api/kv/some-key", &headers, None);
    assert_eq!(reply.status / 100, 5, "{}", reply.text());
    router.end();
    let said = std::fs::read_to_string(&log).unwrap();
    let line = said.lines().find(|line| line.contains(TRACE));
    let line = line.unwrap_or_else(|| panic!("no line names the trace: {said}"));
    assert!(line.contains(reply.header("x-request-id").unwrap()), "{line}");
    assert!(line.contains("/api/kv/{key}") && !line.contains("some-key"), "{line}");
}
