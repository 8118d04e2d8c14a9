//! Tests of sending traces to a collector inside the test, which decodes the wire format of
//! protocol buffers. They exist only with the feature `otlp`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use serde_json::json;

use crate::harness::{PATIENCE, Router};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// One field of a message.
enum Field<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

/// Returns the fields of a message, with their numbers.
fn fields(mut rest: &[u8]) -> Vec<(u64, Field<'_>)> {
    fn varint(rest: &mut &[u8]) -> u64 {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let (byte, after) = rest.split_first().unwrap();
            *rest = after;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return number;
            }
        }
        unreachable!()
    }
    let mut found = Vec::new();
    while !rest.is_empty() {
        let tag = varint(&mut rest);
        let length = match tag & 7 {
            0 => {
                found.push((tag >> 3, Field::Number(varint(&mut rest))));
                continue;
            }
            1 => 8,
            5 => 4,
            2 => varint(&mut rest) as usize,
            other => panic!("wire type {other}"),
        };
        let (bytes, after) = rest.split_at(length);
        rest = after;
        found.push((tag >> 3, Field::Bytes(bytes)));
    }
    found
}

/// Returns the messages and texts of the field with this number.
fn all(message: &[u8], number: u64) -> Vec<&[u8]> {
    let meant = |(found, field)| match field {
        Field::Bytes(bytes) if found == number => Some(bytes),
        Field::Bytes(_) | Field::Number(_) => None,
    };
    fields(message).into_iter().filter_map(meant).collect()
}

fn first(message: &[u8], number: u64) -> &[u8] {
    all(message, number).first().copied().unwrap_or_default()
}

fn number(message: &[u8], number: u64) -> u64 {
    let found = fields(message).into_iter().find(|(found, _)| *found == number);
    match found {
        Some((_, Field::Number(value))) => value,
        Some((_, Field::Bytes(bytes))) => u64::from_le_bytes(bytes.try_into().unwrap()),
        None => 0,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn string(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[derive(Clone, Debug)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    kind: u64,
    start: u64,
    end: u64,
    is_error: bool,
    attributes: BTreeMap<String, String>,
}

/// Returns the names and values of a list of attributes.
fn attributes(message: &[u8], field: u64) -> BTreeMap<String, String> {
    let pair = |pair: &&[u8]| {
        let value = first(pair, 2);
        let text = match first(value, 1) {
            [] => number(value, 3).to_string(),
            text => string(text),
        };
        (string(first(pair, 1)), text)
    };
    all(message, field).iter().map(pair).collect()
}

fn span(message: &[u8]) -> Span {
    Span {
        trace: hex(first(message, 1)),
        id: hex(first(message, 2)),
        parent: hex(first(message, 4)),
        name: string(first(message, 5)),
        kind: number(message, 6),
        start: number(message, 7),
        end: number(message, 8),
        is_error: number(first(message, 15), 3) == 2,
        attributes: attributes(message, 9),
    }
}

/// A collector, and the spans that it has received.
struct Collector {
    url: String,
    spans: Receiver<Span>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, spans) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let sender = sender.clone();
                std::thread::spawn(move || take(stream.unwrap(), &sender));
            }
        });
        Self { url, spans }
    }

    /// Returns the next spans, this many.
    fn receive_spans(&self, count: usize) -> Vec<Span> {
        (0..count).map(|_| self.spans.recv_timeout(PATIENCE).expect("a span is sent")).collect()
    }
}

/// Receives batches from a connection until it ends.
fn take(stream: TcpStream, spans: &Sender<Span>) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut line) = (String::new(), String::new());
        while reader.read_line(&mut line).unwrap() > 0 && !line.trim().is_empty() {
            head.push_str(&line.to_ascii_lowercase());
            line.clear();
        }
        if head.is_empty() {
            return;
        }
        assert!(head.starts_with("post /v1/traces "), "{head}");
        assert!(head.contains("content-type: application/x-protobuf"), "{head}");
        let length = head.split("content-length: ").nth(1).unwrap();
        let mut body = vec![0; length.split_whitespace().next().unwrap().parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        for resource in all(&body, 1) {
            let named = attributes(first(resource, 1), 1);
            assert_eq!(named["service.name"], "tessera-router", "{named:?}");
            for scope in all(resource, 2) {
                all(scope, 2).into_iter().for_each(|one| drop(spans.send(span(one))));
            }
        }
        let answer =
            "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        reader.get_mut().write_all(answer.as_bytes()).unwrap();
    }
}

fn traced(collector: &Collector) -> Router {
    Router::start_with(&["--otlp-endpoint", &collector.url])
}

#[test]
fn a_write_is_a_span_with_its_times_in_queue_and_database_below_it() {
    let collector = Collector::start();
    let router = traced(&collector);
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let body = json!({"table": "users", "data": {"user_id": "canary", "name": "N", "email": "e"}});
    let headers = [("traceparent", &*parent), ("x-shard-key", "canary")];
    let reply = router.post("/api/write", &headers, &body);
    assert_eq!(reply.status, 201, "{}", reply.text());
    let reported = reply.header("traceparent").unwrap().to_owned();
    let spans = collector.receive_spans(3);
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let server = named("POST /api/write");
    assert_eq!((&*server.trace, &*server.parent, server.kind), (TRACE, PARENT, 2), "{server:?}");
    assert_eq!(reported, format!("00-{TRACE}-{}-01", server.id));
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/api/write"),
        ("url.path", "/api/write"),
        ("url.scheme", "http"),
        ("http.response.status_code", "201"),
        ("tessera.shard", reply.header("x-shard").unwrap()),
        ("tessera.slot", reply.header("x-shard-slot").unwrap()),
    ] {
        assert_eq!(server.attributes[name], value, "{name}");
    }
    assert!(!server.is_error);
    for (name, kind) in [("queue", 1), ("database", 3)] {
        let part = named(name);
        assert_eq!((&*part.trace, &part.parent, part.kind), (TRACE, &server.id, kind), "{part:?}");
        assert!(server.start <= part.start && part.start < part.end, "{part:?} of {server:?}");
        assert!(part.end <= server.end, "{part:?} of {server:?}");
    }
    assert_eq!(named("database").attributes["db.operation.name"], "write");
    let said = format!("{spans:?}");
    assert!(!said.contains("canary"), "a key was sent: {said}");
}

#[test]
fn a_request_without_a_trace_begins_one_and_returns_it() {
    let collector = Collector::start();
    let router = traced(&collector);
    let reply = router.get("/api/read?table=nope");
    let reported = reply.header("traceparent").unwrap().to_owned();
    let server = collector.receive_spans(1).remove(0);
    assert_eq!(reported, format!("00-{}-{}-01", server.trace, server.id));
    assert_eq!((&*server.parent, server.is_error), ("", false), "404 is the client's: {server:?}");
    assert_eq!(server.attributes["http.response.status_code"], "404");
    let errors = router.get("/api/analytics/errors").json();
    assert_eq!(errors["errors"][0]["trace_id"], server.trace);
    // A request that is not about rows has no trace.
    assert_eq!(router.get("/live").header("traceparent"), None);
}

#[test]
fn a_trace_that_its_caller_does_not_record_is_not_sent() {
    let collector = Collector::start();
    let router = traced(&collector);
    let quiet = format!("00-{TRACE}-{PARENT}-00");
    let reply = router.send("GET", "/api/read?table=nope", &[("traceparent", &quiet)], None);
    assert!(reply.header("traceparent").unwrap().ends_with("-00"));
    router.get("/api/kv/there%20is%20none");
    // The first span that arrives is that of the second request.
    let server = collector.receive_spans(1).remove(0);
    assert_eq!(server.name, "GET /api/kv/{key}", "{server:?}");
    assert!(!format!("{server:?}").contains("there"), "a key was sent: {server:?}");
}

#[test]
fn the_last_spans_are_sent_before_the_router_has_ended() {
    let collector = Collector::start();
    let mut router = traced(&collector);
    for _ in 0..50 {
        router.get("/api/read?table=nope");
    }
    router.end();
    assert_eq!(collector.receive_spans(50).len(), 50);
}

#[test]
fn a_collector_that_is_away_costs_no_request_anything() {
    // The port is closed.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut router = Router::start_with(&["--otlp-endpoint", &format!("http://{closed}")]);
    for n in 0..200 {
        assert_eq!(router.write_user(&format!("user_{n}"), "N").status, 201);
    }
    router.end();
}
