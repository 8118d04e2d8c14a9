//! Tests of the HTTP interface: pages, parameters, problems, streams, and access control.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use analytics::Step;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake::{FakeRouter, ago, frame};
use crate::http::{Answer, send};
use crate::process::{Service, command};
use crate::{PATIENCE, eventually};

/// Starts a service with a router that has counted ten reads.
fn service() -> (TempDir, FakeRouter, Service) {
    let folder = tempfile::tempdir().unwrap();
    let router = FakeRouter::start(&["shard1", "shard2"]);
    router.change(|reported| reported.frames.push(frame(Step::Second, ago(5), "shard1", 10, 1)));
    let list = format!("north={}", router.url());
    let service = Service::start(folder.path(), &["--routers", &list, "--store", "none"]);
    service.await_total("", 10);
    (folder, router, service)
}

#[test]
fn a_browser_finds_the_dashboard_and_a_program_the_links() {
    let (_folder, _router, service) = service();
    let home = send(service.address, ("GET", "/"), &[("Accept", "text/html,*/*")], "").unwrap();
    assert_eq!((home.status, home.header("location")), (303, Some("/dashboard")));
    assert!(service.get("/").text().contains("GET  /api/analytics/metrics"));
    let page = service.get("/dashboard");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let known = [("If-None-Match", page.header("etag").unwrap())];
    assert_eq!(send(service.address, ("GET", "/dashboard"), &known, "").unwrap().status, 304);
    // Every file that the page names exists.
    let text = page.text();
    let files = text.split("=\"dashboard/").skip(1).map(|rest| rest.split('"').next().unwrap());
    let files: Vec<_> = files.collect();
    assert!(files.len() >= 2, "{text}");
    for file in files {
        assert_eq!(service.get(&format!("/dashboard/{file}")).status, 200, "{file}");
    }
    assert_eq!(service.get("/dashboard/").header("location"), Some("/dashboard"));
    assert_eq!(service.get("/dashboard/secrets.txt").status, 404);
}

#[test]
fn the_service_has_exactly_the_paths_of_the_document() {
    let (_folder, _router, service) = service();
    let document = service.get("/api-docs/openapi.json").json();
    let paths = document["paths"].as_object().unwrap();
    for wanted in [
        "/api/analytics/metrics",
        "/api/analytics/stream",
        "/api/analytics/alerts",
        "/metrics",
        "/api/advice",
    ] {
        assert!(paths.contains_key(wanted), "{wanted}");
    }
    for (path, item) in paths {
        assert!(item["get"]["summary"].is_string(), "{path} says nothing");
        if path != "/api/analytics/stream" && !path.contains('{') {
            let asked = if path == "/api/route" { "/api/route?key=a" } else { path };
            let answer = send(service.address, ("GET", asked), &[("Accept", "*/*")], "").unwrap();
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            assert!(answer.header("x-request-id").is_some(), "{path}");
            assert_guarded(&answer, path);
        }
        let posted = send(
            service.address,
            ("POST", &path.replace("{file}", "page.js").replace("{code}", "TSR100")),
            &[],
            "{}",
        );
        let posted = posted.unwrap();
        assert_eq!((posted.status, posted.header("allow")), (405, Some("GET, HEAD")), "{path}");
    }
    for path in [
        "/api/analytics/frames",
        "/api/write",
        "/nothing",
        "/../etc/passwd",
        "/dashboard/..%2f..%2fCargo.toml",
    ] {
        let answer = service.get(path);
        assert_eq!((answer.status, &answer.json()["code"]), (404, &json!("TSR111")), "{path}");
        assert_guarded(&answer, path);
    }
    let answer = send(service.address, ("HEAD", "/api/analytics/metrics"), &[], "").unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 0));
}

/// Asserts that the headers of a response forbid browsers to show it in a frame, to guess another
/// type, and to load or run anything.
fn assert_guarded(answer: &Answer, path: &str) {
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
    assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}");
    let policy = answer.header("content-security-policy").unwrap_or_default();
    assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
    assert!(policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
}

#[test]
fn a_content_type_claimed_by_a_router_is_not_passed_on() {
    let (_folder, _router, service) = service();
    for path in ["/api/route?key=a", "/api/shards", "/api/health"] {
        let answer = service.get(path);
        assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
        assert_guarded(&answer, path);
    }
}

#[test]
fn the_state_of_collecting_is_exported_to_scrapers() {
    let (_folder, _router, service) = service();
    let answer = service.get("/metrics");
    let kind = answer.header("content-type").unwrap();
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    let text = answer.text();
    for line in [
        "tessera_fleet_router_up{router=\"north\"} 1.0",
        "tessera_fleet_errors_total{router=\"north\"} 0",
        "tessera_fleet_latency_seconds{quantile=\"0.5\"} 0.001",
        "tessera_fleet_viewers 0.0",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}: {text}");
    }
    assert!(text.ends_with("# EOF\n") && !text.contains("tessera_store"), "{text}");
    assert_eq!(service.get("/metrics?router=south").status, 400);
}

#[test]
fn bad_parameters_are_refused_with_their_name() {
    let (_folder, _router, service) = service();
    for (path, detail) in [
        ("/api/analytics/metrics?window=2m", "window must be one of"),
        ("/api/analytics/metrics?timeRange=0", "timeRange must be"),
        ("/api/analytics/metrics?window=1m&timeRange=5", "window and timeRange"),
        ("/api/analytics/metrics?window=1m&window=1m", "window is given twice"),
        ("/api/analytics/metrics?windw=1m", "unknown parameter `windw`"),
        ("/api/analytics/metrics?operation=delete", "operation must be read or write"),
        ("/api/analytics/metrics?router=south", "router: there is no router of this name"),
        ("/api/analytics/metrics?shard=%ff", "the query string is not UTF-8"),
        ("/api/analytics/stream?router=south", "router: there is no router of this name"),
        ("/api/analytics/errors?limit=0", "limit must be a whole number from 1 to 1000"),
        ("/api/analytics/errors?limit=1&count=1", "limit and count are the same"),
        ("/api/analytics/errors?grouped=yes", "grouped must be true or false"),
        ("/api/analytics/errors?code=TSR1000", "code: there is no such error code"),
        ("/api/analytics/errors?shard=nope", "shard: there is no shard of this name"),
        ("/api/analytics/alerts?x=1", "unknown parameter `x`"),
    ] {
        let answer = service.get(path);
        let problem = answer.json();
        assert_eq!((answer.status, &problem["code"]), (400, &json!("TSR100")), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        let said = problem["detail"].as_str().unwrap();
        assert!(said.contains(detail), "{path}: {said}");
        assert_eq!(problem["request_id"], answer.header("x-request-id").unwrap());
        assert_eq!(problem["success"], false);
        let page = problem["type"].as_str().unwrap();
        assert!(service.get(page).text().starts_with("TSR100 Bad query string (status 400)"));
    }
}

#[test]
fn requests_from_foreign_pages_are_refused() {
    let (_folder, _router, service) = service();
    let own = format!("http://{}", service.address);
    for (headers, status) in [
        (&[("Origin", &*own)][..], 200),
        (&[("Sec-Fetch-Site", "same-origin")], 200),
        (&[("Host", "localhost:9")], 200),
        (&[("Origin", "http://evil.example.com")], 403),
        (&[("Sec-Fetch-Site", "cross-site")], 403),
        (&[("Host", "evil.example.com")], 403),
        (&[("Origin", "null")], 403),
    ] {
        for path in ["/api/analytics/metrics", "/dashboard", "/api/shards"] {
            let answer = send(service.address, ("GET", path), headers, "").unwrap();
            assert_eq!(answer.status, status, "{path} {headers:?}");
            if status == 403 {
                assert_eq!(answer.json()["code"], "TSR403");
            }
        }
    }
}

/// Returns the events of a stream, in order of arrival.
fn watch(service: &Service, path: &str) -> impl Iterator<Item = Value> + use<> {
    let mut stream = TcpStream::connect(service.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", service.address).unwrap();
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
}

#[test]
fn a_stream_sends_the_metrics_each_second_and_ends_with_the_service() {
    let (_folder, router, service) = service();
    let mut all = watch(&service, "/api/analytics/stream?window=5m");
    let mut none = watch(&service, "/api/analytics/stream?window=5m&shard=shard2");
    assert_eq!(all.next().unwrap()["metrics"]["total"], 10);
    assert_eq!(none.next().unwrap()["metrics"]["total"], 0);
    router.change(|reported| reported.frames.push(frame(Step::Second, ago(0), "shard2", 5, 1)));
    assert!(all.any(|event| event["metrics"]["total"] == 15));
    assert!(none.any(|event| event["metrics"]["total"] == 5));
    assert_eq!(service.end("TERM"), Some(0));
    // This consumes the stream to its end. If the stream did not end, the test would time out.
    assert!(all.all(|event| event["success"] == true));
}

#[test]
fn a_head_request_for_the_stream_is_answered_at_once_and_leaves_no_viewer() {
    let (_folder, _router, service) = service();
    let path = "/api/analytics/stream";
    // This is one more than the maximum number of streams.
    for number in 1..=analytics::event_stream::VIEWERS_MAX + 1 {
        let answer = send(service.address, ("HEAD", path), &[], "").unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 0), "request {number}");
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    }
    let mut events = watch(&service, path);
    assert_eq!(events.next().unwrap()["success"], true);
    drop(events);
    eventually("a service without viewers", || {
        let text = service.get("/metrics").text();
        text.lines().any(|line| line == "tessera_fleet_viewers 0.0").then_some(())
    });
}

#[test]
fn a_service_reports_its_shutdown_before_it_ends() {
    let (folder, _router, service) = service();
    let bind = service.address.to_string();
    let probe = |question: &str| {
        let mut command = command(folder.path());
        command.args(["--bind", &bind, "--probe", question]).output().unwrap().status.code()
    };
    assert_eq!((probe("live"), probe("ready")), (Some(0), Some(0)));
    service.signal("TERM");
    eventually("it says that it ends", || {
        let answer = send(service.address, ("GET", "/ready"), &[], "").ok()?;
        (answer.status == 503).then(|| assert_eq!(answer.json()["status"], "draining"))
    });
    assert_eq!(probe("ready"), Some(1));
    assert_eq!(service.end("INT"), Some(0));
    assert_eq!(probe("live"), Some(1));
}
