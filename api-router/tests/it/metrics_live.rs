//! Tests of `GET /api/analytics/stream`: its events have the content of the JSON response, an event
//! is built once for all viewers, and streams end in order at a shutdown.

use std::io::{BufRead, BufReader, Read, Write};
use std::time::Instant;

use serde_json::Value;
use ureq::BodyReader;

use crate::harness::{PATIENCE, Reply, Router};
use crate::metrics::{metrics, some_requests};

/// Maximum number of viewers at once.
const VIEWERS_MAX: usize = 32;

/// A client that reads the stream.
struct Viewer {
    status: u16,
    head: String,
    lines: BufReader<BodyReader<'static>>,
}

impl Viewer {
    fn of(router: &Router, query: &str) -> Self {
        let url = router.url(&format!("/api/analytics/stream{query}"));
        let request = ureq::get(url).config().http_status_as_error(false).build();
        let response = request.call().unwrap();
        let status = response.status().as_u16();
        let head = format!("{:?}", response.headers());
        Self { status, head, lines: BufReader::new(response.into_body().into_reader()) }
    }

    /// Returns the data of the next event; `None` when the stream has ended.
    fn event(&mut self) -> Option<String> {
        let (mut name, mut data) = (String::new(), None);
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                assert!(data.is_none(), "an event broke off");
                return None;
            }
            let line = line.trim_end();
            match line.split_once(": ") {
                Some(("event", event)) => name = event.to_owned(),
                Some(("data", text)) => assert!(data.replace(text.to_owned()).is_none()),
                Some(("", _)) => {}
                Some(_) => panic!("{line} is unknown"),
                None if line.is_empty() && data.is_some() => {
                    assert_eq!(name, "metrics");
                    return data;
                }
                None => assert!(line.is_empty(), "{line}"),
            }
        }
    }

    fn figures(&mut self) -> Value {
        let answer: Value = serde_json::from_str(&self.event().expect("an event")).unwrap();
        assert_eq!(answer["success"], true);
        answer["metrics"].clone()
    }
}

/// Returns the members that do not change while there are no requests about rows.
fn lasting(metrics: &Value) -> Value {
    let rates = ["ops_per_s", "up", "rows", "bytes", "pool", "lane", "nodes", "lag_ms"];
    let without = |list: &Value| -> Vec<Value> {
        let strip = |entry: &Value| {
            let mut entry = entry.clone();
            rates.iter().for_each(|name| drop(entry.as_object_mut().unwrap().remove(*name)));
            entry
        };
        list.as_array().unwrap().iter().map(strip).collect()
    };
    serde_json::json!({
        "total": metrics["total"], "reads": metrics["reads"], "writes": metrics["writes"],
        "errors": metrics["errors"], "shardDistribution": metrics["shardDistribution"],
        "latency_ms": metrics["latency_ms"], "latency_parts_ms": metrics["latency_parts_ms"],
        "routes": without(&metrics["routes"]), "shards": without(&metrics["shards"]),
        "read_from": metrics["read_from"], "fanout": metrics["fanout"],
        "hot_keys": metrics["hot_keys"], "window_s": metrics["window_s"],
    })
}

#[test]
fn an_event_has_the_content_of_the_json() {
    let router = Router::start();
    some_requests(&router);
    for query in ["", "?window=1m&operation=write", "?route=/api/read&shard=shard1"] {
        let mut viewer = Viewer::of(&router, query);
        assert_eq!(viewer.status, 200, "{}", viewer.head);
        for header in ["text/event-stream", "no-store", "x-request-id"] {
            assert!(viewer.head.contains(header), "{header}: {}", viewer.head);
        }
        assert_eq!(lasting(&viewer.figures()), lasting(&metrics(&router, query)), "{query}");
        let next = viewer.figures();
        assert_eq!(lasting(&next), lasting(&metrics(&router, query)), "{query}: the next event");
    }
}

#[test]
fn a_stream_shows_the_next_requests() {
    let router = Router::start();
    let mut viewer = Viewer::of(&router, "");
    assert_eq!(viewer.figures()["total"], 0);
    some_requests(&router);
    let began = Instant::now();
    while viewer.figures()["total"] != 12 {
        assert!(began.elapsed() < PATIENCE, "the requests are not seen");
    }
}

#[test]
fn viewers_of_the_same_query_share_one_event() {
    let router = Router::start();
    let mut viewers: Vec<Viewer> = (0..3).map(|_| Viewer::of(&router, "?window=1m")).collect();
    let mut events: Vec<Vec<String>> = vec![Vec::new(); viewers.len()];
    let began = Instant::now();
    // If events were built for each viewer, no two would be equal, because an event contains the
    // time when it was built. The first viewer may have received some before the others connected.
    let is_shared =
        |events: &[Vec<String>], event: &String| events.iter().all(|seen| seen.contains(event));
    while events[0].len() < 3
        || events[0].iter().filter(|event| is_shared(&events, event)).count() < 2
    {
        assert!(began.elapsed() < PATIENCE, "{events:?}");
        for (viewer, seen) in viewers.iter_mut().zip(&mut events) {
            seen.push(viewer.event().expect("an event"));
        }
    }
    let at =
        |event: &String| serde_json::from_str::<Value>(event).unwrap()["metrics"]["at"].clone();
    let times: Vec<Value> = events[0].iter().map(at).collect();
    assert!(times[0] != times[1] && times[1] != times[2], "{times:?}");
}

#[test]
fn a_thirty_third_viewer_is_refused_until_later() {
    let router = Router::start();
    let mut viewers: Vec<Viewer> = (0..VIEWERS_MAX).map(|_| Viewer::of(&router, "")).collect();
    for viewer in &mut viewers {
        assert_eq!(viewer.status, 200, "{}", viewer.head);
        viewer.event().expect("an event");
    }
    let refused = router.get("/api/analytics/stream");
    assert_eq!((refused.status, &*refused.code()), (503, "TSR005"), "{}", refused.text());
    assert!(refused.header("retry-after").is_some() && refused.text().contains("32"));
    // A viewer that disconnects frees its place, as soon as the router notices that.
    drop(viewers.pop());
    let began = Instant::now();
    let mut newcomer = Viewer::of(&router, "");
    while newcomer.status != 200 {
        assert!(began.elapsed() < PATIENCE, "no room was made: {}", newcomer.head);
        newcomer = Viewer::of(&router, "");
    }
    newcomer.event().expect("an event");
    for mut viewer in viewers {
        viewer.event().expect("the others watch on");
    }
}

/// Ends a router whose stream has a viewer, and returns its responses of `/ready` and of a new
/// stream after the end of that stream, if it still served.
fn responses_after_a_stream() -> Option<[Reply; 2]> {
    let mut router = Router::start();
    let mut viewer = Viewer::of(&router, "");
    viewer.event().expect("an event");
    router.signal("TERM");
    while viewer.event().is_some() {}
    let [ready, late] = ["/ready", "/api/analytics/stream"]
        .map(|path| router.try_send("GET", path, &[], None).ok());
    assert_eq!(router.wait().code(), Some(0));
    Some([ready?, late?])
}

#[test]
fn a_stream_ends_as_soon_as_its_router_is_about_to() {
    // The router still responds for a while; it did not wait for its viewers. On a slow machine
    // that time may be over once, but not each time.
    let responses = (0..5).find_map(|_| responses_after_a_stream());
    let [ready, late] = responses.expect("the router responds after the end of the stream");
    assert_eq!(ready.status, 503);
    assert_eq!((late.status, &*late.code()), (503, "TSR005"), "{}", late.text());
}

#[test]
fn a_question_that_means_nothing_is_refused_before_the_stream_begins() {
    let router = Router::start();
    for (query, named) in [
        ("window=2m", "window"),
        ("timeRange=x", "timeRange"),
        ("shard=nowhere", "shard"),
        ("route=/nowhere", "route"),
        ("operation=delete", "operation"),
        ("speed=2", "speed"),
    ] {
        for path in ["stream", "metrics"] {
            let reply = router.get(&format!("/api/analytics/{path}?{query}"));
            assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{query}");
            assert!(reply.json()["detail"].as_str().unwrap().contains(named), "{}", reply.text());
        }
    }
    let head = router.send("HEAD", "/api/analytics/stream", &[], None);
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn a_request_is_in_flight_until_it_is_answered_or_its_client_has_gone() {
    crate::backend::files_only!("the test holds up a node of files");
    let router = Router::start_with(&["--lab", "--shards", "1", "--replicas", "0"]);
    let set = |state: &str| {
        let body = format!("{{\"state\":\"{state}\"}}");
        let json = [("content-type", "application/json")];
        let path = "/api/lab/nodes/shard1-primary";
        assert_eq!(router.send("PUT", path, &json, Some(body.as_bytes())).status, 200);
    };
    let until = |count: u64| {
        let began = Instant::now();
        while metrics(&router, "")["in_flight"] != count {
            assert!(began.elapsed() < PATIENCE, "there are not {count}");
        }
    };
    assert_eq!(metrics(&router, "")["in_flight"], 0);
    set("paused");
    let mut clients = Vec::new();
    for count in 1..=3 {
        let mut client = router.connect();
        let head = "PUT /api/kv/a HTTP/1.1\r\nhost: localhost\r\nx-deadline-ms: 60000\r\n\
                    content-length: 1\r\n\r\n1";
        client.write_all(head.as_bytes()).unwrap();
        clients.push(client);
        until(count);
    }
    drop(clients.pop());
    drop(clients.pop());
    set("running");
    let mut answer = [0; 12];
    clients[0].read_exact(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 20"), "{}", answer.escape_ascii());
    until(0);
}
