//! Tests of `GET /metrics`: the reference parser of the format accepts the text, the counts are
//! those of the requests that were sent, and the text contains no shard key.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Router, eventually};
use crate::metrics::some_requests;
use crate::prerequisites::{Prerequisite, skip};
use crate::python::{program, text};

/// Reads the text on its standard input with the parser of OpenMetrics, and prints the result as
/// JSON.
const READ: &str = r#"
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
found = []
for family in text_string_to_metric_families(sys.stdin.read()):
    for sample in family.samples:
        exemplar = sample.exemplar and {"labels": sample.exemplar.labels, "value": sample.exemplar.value}
        found.append({"family": family.name, "type": family.type, "unit": family.unit, "name": sample.name,
                      "labels": sample.labels, "value": sample.value, "exemplar": exemplar})
json.dump(found, sys.stdout)
"#;

/// Returns the metrics of a scrape; `None` if there is no parser.
fn scrape(router: &Router) -> Option<Vec<Value>> {
    let python = match program("python") {
        Ok(python) => python,
        Err(why) => {
            let reason = format!("the parser of OpenMetrics is missing: {why}");
            skip(Prerequisite::Python, &reason);
            return None;
        }
    };
    let reply = router.get("/metrics");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(reply.header("content-type"), Some(kind));
    let mut child = Command::new(python)
        .args(["-c", READ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&reply.body).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{}", text(&output), reply.text());
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Returns the samples of this name.
fn named<'f>(found: &'f [Value], name: &str) -> Vec<&'f Value> {
    found.iter().filter(|sample| sample["name"] == name).collect()
}

/// Returns the sum of the samples with this name and these labels.
fn sum(found: &[Value], name: &str, labels: &[(&str, &str)]) -> f64 {
    let is_meant =
        |sample: &&&Value| labels.iter().all(|(label, value)| sample["labels"][label] == *value);
    named(found, name).iter().filter(is_meant).map(|sample| sample["value"].as_f64().unwrap()).sum()
}

#[test]
fn the_parser_of_others_finds_the_requests_that_were_made() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::start();
    some_requests(&router);
    if scrape(&router).is_none() {
        return;
    }
    // A shard whose primary answers late is reported as down.
    let found = eventually("every shard is up", || {
        let found = scrape(&router)?;
        (sum(&found, "tessera_shard_up", &[]) > 2.5).then_some(found)
    });
    let count = "http_server_request_duration_seconds_count";
    assert_eq!(sum(&found, count, &[]), 12.0);
    for (labels, wanted) in [
        ([("http_route", "/api/write"), ("http_response_status_code", "201")], 2.0),
        ([("http_route", "/api/write"), ("http_response_status_code", "200")], 1.0),
        ([("http_route", "/api/write"), ("http_response_status_code", "409")], 1.0),
        ([("http_route", "/api/write"), ("http_response_status_code", "404")], 1.0),
        ([("http_route", "/api/bulk-write"), ("operation", "write")], 1.0),
        ([("http_route", "/api/read"), ("http_response_status_code", "200")], 3.0),
        ([("http_route", "/api/read"), ("http_response_status_code", "400")], 2.0),
    ] {
        assert_eq!(sum(&found, count, &labels), wanted, "{labels:?}");
    }
    assert_eq!(sum(&found, "tessera_errors_total", &[]), 5.0);
    // Three reads succeeded, on any node.
    assert_eq!(sum(&found, "tessera_read_target_total", &[]), 3.0);
    for name in ["tessera_shard_up", "tessera_shard_slots", "tessera_lane_waiting"] {
        assert_eq!(named(&found, name).len(), 3, "{name}");
    }
    for (name, budgets) in
        [("tessera_responses_evicted_total", 1), ("tessera_reads_refused_total", 2)]
    {
        assert_eq!((named(&found, name).len(), sum(&found, name, &[])), (budgets, 0.0), "{name}");
    }
    assert_eq!(sum(&found, "tessera_shard_slots", &[]), 16_384.0);
    assert_eq!(sum(&found, "tessera_shard_up", &[]), 3.0);
    assert_eq!(sum(&found, "http_server_active_requests", &[]), 0.0);
    assert_eq!(
        named(&found, "tessera_build_info")[0]["labels"]["version"],
        env!("CARGO_PKG_VERSION")
    );
}

#[test]
fn a_bucket_names_the_trace_of_a_request_that_fell_into_it() {
    let router = Router::start();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let Some(before) = scrape(&router) else { return };
    assert!(before.iter().all(|sample| sample["exemplar"].is_null()), "no request had a trace");
    router.send("GET", "/api/read?table=users", &[("traceparent", &parent)], None);
    let Some(found) = scrape(&router) else { return };
    let with: Vec<&Value> = found.iter().filter(|sample| !sample["exemplar"].is_null()).collect();
    assert_eq!(with.len(), 1, "{with:?}");
    assert_eq!(with[0]["name"], "http_server_request_duration_seconds_bucket");
    assert_eq!(with[0]["exemplar"]["labels"], json!({"trace_id": trace}));
    let bound = with[0]["labels"]["le"].as_str().unwrap();
    let value = with[0]["exemplar"]["value"].as_f64().unwrap();
    assert!(value > 0.0 && (bound == "+Inf" || value <= bound.parse().unwrap()), "{with:?}");
}

#[test]
fn counts_never_go_back_and_have_no_key() {
    let router = Router::start();
    let key = "canary-key-7291";
    let mut last = 0.0;
    for n in 1..=3 {
        for _ in 0..20 {
            router.write_user(key, "Name");
            router.send(
                "PUT",
                &format!("/api/kv/{key}"),
                &[("content-type", "application/json")],
                Some(b"1"),
            );
            router.read(key, "table=nope");
        }
        let text = router.get("/metrics").text();
        assert!(!text.contains("canary"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        let Some(found) = scrape(&router) else { return };
        let now = sum(&found, "http_server_request_duration_seconds_count", &[]);
        assert_eq!(now, f64::from(n * 60));
        assert!(now > last);
        last = now;
    }
    // The key is the hottest one in the JSON metrics.
    let figures = router.get("/api/analytics/metrics").json();
    assert_eq!(figures["metrics"]["hot_keys"][0]["key"], key, "{figures}");
}
