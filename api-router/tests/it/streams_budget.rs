//! Tests of the body budget: a slow client does not block other clients, and no small request takes
//! much memory.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::harness::{PATIENCE, Reply, Router};
use crate::streams::{CSV, GZIP, NDJSON, count, gzip, line, lines, stream};
use crate::streams_live::{begin, peak_kib};

/// Headers of a long body that is sent slowly.
const LONG: &str = "content-length: 100000000\r\nx-deadline-ms: 60000\r\n";

/// Returns the beginning of an incomplete row.
fn unfinished(bytes: usize) -> String {
    format!("{{\"user_id\":\"u\",\"email\":\"e\",\"name\":\"{}", "n".repeat(bytes))
}

/// Bytes of the name in a long body that is not complete.
const LONG_NAME: usize = 1_900_000;
/// Budget of all bodies, in bytes.
const BUDGET: usize = 128 << 20;

/// A client whose body is not complete, and its response so far.
struct Held {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Held {
    /// Returns the problem in its response, if there is one.
    fn problem(&mut self) -> Option<Value> {
        self.stream.set_nonblocking(true).unwrap();
        // The router closes after its response; a client that is still sending may not receive it.
        let _ = self.stream.read_to_end(&mut self.answer);
        self.stream.set_nonblocking(false).unwrap();
        let answer = String::from_utf8_lossy(&self.answer);
        serde_json::from_str(answer.split("\r\n\r\n").nth(1)?).ok()
    }
}

/// Sends a request until it is accepted. While a busy router still receives the bytes of clients
/// that it has not evicted yet, it may refuse a body that has just begun.
fn until_accepted(mut send: impl FnMut() -> Reply) -> Reply {
    let began = Instant::now();
    loop {
        let reply = send();
        if reply.status != 503 || began.elapsed() > PATIENCE * 4 {
            return reply;
        }
    }
}

/// Writes a row that needs much memory.
fn write_large(router: &Router) {
    let data = json!({"user_id": "ada", "name": "A".repeat(900_000), "email": "e"});
    let headers = [("x-shard-key", "ada"), ("x-deadline-ms", "60000")];
    let body = json!({"table": "users", "data": data});
    let reply = until_accepted(|| router.post("/api/write", &headers, &body));
    assert_eq!(reply.status, 201, "{}", reply.text());
}

/// Begins bodies until the budget is used up and one is evicted; returns its response, and keeps
/// the others.
fn fill(held: &mut Vec<Held>, mut begin: impl FnMut() -> TcpStream) -> Value {
    let began = Instant::now();
    loop {
        held.push(Held { stream: begin(), answer: Vec::new() });
        // On a slow machine the first may have stalled for too long before the budget is used up.
        let mut reported = held.iter_mut().filter_map(Held::problem);
        if let Some(problem) = reported.find(|problem| problem["code"] != "TSR004") {
            return problem;
        }
        assert!(began.elapsed() < PATIENCE * 4, "room for {} bodies", held.len());
    }
}

/// Checks the peak of a router's memory; `begun` is the peak before these clients connected, in
/// KiB.
///
/// Measured: at most 221 MiB with 72 single writes and 274 MiB with 59 streams, of which 23 MiB are
/// the new router's own.
#[track_caller]
fn assert_peak(router: &Router, begun: u64, held: &[Held]) {
    /// Memory of one connection that is not charged, in KiB: the read buffer, a part that waits for
    /// memory, and the first bytes of a body.
    const CONNECTION: u64 = 256 + 128 + 64;
    /// Memory that the allocator has not returned yet, in KiB. The buffer of a row grows by
    /// doubling: the smaller buffers that it has left are together as large as the last one.
    const FREED: u64 = BUDGET as u64 >> 10;
    let peak = peak_kib(router);
    let most = begun + (BUDGET as u64 >> 10) + CONNECTION * held.len() as u64 + FREED;
    assert!(peak < most, "{peak} KiB of {most} KiB, {} clients", held.len());
}

#[test]
fn streams_that_trickle_lock_no_client_out() {
    let router = Router::start();
    let trickling: Vec<TcpStream> = (0..40).map(|_| begin(&router, LONG, b"{")).collect();
    let reply = stream(&router, &[NDJSON], lines(0..2_000).as_bytes());
    assert_eq!((reply.status, &reply.json()["stored"]), (201, &json!(2_000)), "{}", reply.text());
    let records: Vec<Value> =
        (0..100).map(|n| json!({"user_id": format!("j{n}"), "name": "N", "email": "e"})).collect();
    let body = json!({"table": "users", "records": records});
    assert_eq!(router.post("/api/bulk-write", &[], &body).status, 201);
    assert_eq!(router.write_user("ada", &"A".repeat(500_000)).status, 201);
    drop(trickling);
}

#[test]
fn when_memory_runs_out_the_stream_that_recently_received_least_is_refused() {
    let router = Router::start();
    let begun = peak_kib(&router);
    let body = format!("{}{}", line("first"), unfinished(LONG_NAME));
    let mut held = Vec::new();
    let cut = fill(&mut held, || begin_from(&router, [127, 0, 0, 1], body.as_bytes()));
    assert_eq!((&cut["code"], &cut["status"]), (&json!("TSR005"), &json!(503)), "{cut}");
    assert_eq!((&cut["outcome"], &cut["next_index"]), (&json!("partial"), &json!(1)), "{cut}");
    assert!(cut["hint"].as_str().unwrap().contains("next_index"), "{cut}");
    assert_eq!(count(&router, "users"), 1);
    // The remaining ones lock no other client out.
    let reply = until_accepted(|| stream(&router, &[NDJSON], lines(0..500).as_bytes()));
    assert_eq!((reply.status, &reply.json()["stored"]), (201, &json!(500)), "{}", reply.text());
    write_large(&router);
    assert_peak(&router, begun, &held);
}

/// Connects from an address of this machine, with a small send buffer: when a write of 2 MB
/// returns, the router has received most of it.
///
/// With buffers of the default size, the kernel holds hundreds of bodies before the router has read
/// the first ones, and their number depends on the speed of the machine.
fn connect_from(router: &Router, address: [u8; 4]) -> TcpStream {
    /// Bytes; the system doubles it for its own use. Much less, and each segment of a loopback
    /// connection would wait for a delayed acknowledgement.
    const SEND_BUFFER: usize = 256 << 10;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_send_buffer_size(SEND_BUFFER).unwrap();
    socket.set_tcp_nodelay(true).unwrap();
    socket.bind(&std::net::SocketAddr::from((address, 0)).into()).unwrap();
    socket.connect(&router.address().into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Like [`begin`], from another address of this machine.
fn begin_from(router: &Router, address: [u8; 4], body: &[u8]) -> TcpStream {
    let mut stream = connect_from(router, address);
    let head = "POST /api/bulk-write?table=users HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\nx-deadline-ms: 60000\r\n\r\n";
    let _ = stream.write_all(head.as_bytes());
    let _ = chunk(&mut stream, body);
    stream
}

fn chunk(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes())?;
    stream.write_all(bytes)?;
    stream.write_all(b"\r\n")
}

#[test]
fn an_address_that_holds_most_gives_way_to_another_though_that_is_slower() {
    let router = Router::start();
    let part = unfinished(1_000_000);
    let mut slow = begin_from(&router, [127, 0, 0, 3], part.as_bytes());
    let long = unfinished(1_900_000);
    let mut held = Vec::new();
    let cut = fill(&mut held, || {
        // This body is slow, but continues.
        chunk(&mut slow, b"n").unwrap();
        begin_from(&router, [127, 0, 0, 2], long.as_bytes())
    });
    assert_eq!(cut["code"], "TSR005", "{cut}");
    chunk(&mut slow, b"\"}\n").unwrap();
    slow.write_all(b"0\r\n\r\n").unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

#[test]
fn unfinished_rows_of_streams_hold_no_more_than_they_are_charged() {
    let router = Router::start();
    let mut held: Vec<TcpStream> = (0..60)
        .map(|_| begin_from(&router, [127, 0, 0, 1], unfinished(900_000).as_bytes()))
        .collect();
    for _ in 0..20 {
        held.iter_mut().for_each(|stream| chunk(stream, b"nn").unwrap());
    }
    for (n, mut stream) in held.into_iter().enumerate() {
        chunk(&mut stream, b"\"}\n").unwrap();
        stream.write_all(b"0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201"), "{n}: {answer}");
    }
    let peak = peak_kib(&router);
    assert!(peak < 350 << 10, "{peak} KiB");
}

#[test]
fn single_writes_that_trickle_hold_no_more_than_there_is_room() {
    let router = Router::start();
    let begun = peak_kib(&router);
    let body = format!("{{\"table\":\"users\",\"data\":{}", unfinished(LONG_NAME));
    let head = "POST /api/write HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-shard-key: u\r\n\
                content-type: application/json\r\ncontent-length: 2000000\r\nx-deadline-ms: 60000\r\n\r\n";
    let mut held = Vec::new();
    let cut = fill(&mut held, || {
        let mut stream = connect_from(&router, [127, 0, 0, 1]);
        // A body may be evicted while it is sent.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(body.as_bytes());
        stream
    });
    assert_eq!((&cut["code"], &cut["outcome"]), (&json!("TSR005"), &json!("rejected")), "{cut}");
    write_large(&router);
    assert_peak(&router, begun, &held);
}

#[test]
fn json_of_many_tiny_values_takes_little_more_memory_than_its_text() {
    let router = Router::start();
    // As a tree, an object of one member takes some 700 bytes.
    let tiny = format!("[{}0]", r#"{"":0},"#.repeat(140_000));
    let put = |key: &str, value: &str| {
        let headers = [("x-deadline-ms", "60000")];
        let reply = router.send("PUT", &format!("/api/kv/{key}"), &headers, Some(value.as_bytes()));
        assert_eq!(reply.status, 201, "{}", reply.text());
        peak_kib(&router)
    };
    let of_text = put("a", &format!("\"{}\"", "x".repeat(tiny.len() - 2)));
    let grown = put("b", &tiny) - of_text;
    assert!(grown < 40 << 10, "{grown} KiB for {} bytes", tiny.len());
}

#[test]
fn a_row_that_comes_in_many_small_parts_is_whole() {
    let router = Router::start();
    let name = "n".repeat(900_000);
    let rows = [
        (
            NDJSON,
            format!("{{\"user_id\":\"a\",\"email\":\"e\",\"name\":\"{name}\"}}\n{}", line("b")),
        ),
        (CSV, format!("user_id,email,name\nc,e,\"{name}\"\r\nd,\"e\n\"\"\",{name}\n")),
    ];
    for ((_, kind), text) in rows {
        let mut stream = router.connect();
        let head = format!(
            "POST /api/bulk-write?table=users HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        text.as_bytes().chunks(701).for_each(|part| chunk(&mut stream, part).unwrap());
        stream.write_all(b"0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("\"stored\":2"), "{answer}");
    }
    // This client has no token of the other connections' writes: replicas may not have them yet.
    let read = |key: &str| {
        let headers = [("x-shard-key", key), ("x-consistency", "all")];
        router.send("GET", "/api/read?table=users", &headers, None).json()["data"][0].clone()
    };
    for key in ["a", "c", "d"] {
        assert_eq!(read(key)["name"].as_str().map(str::len), Some(name.len()), "{key}");
    }
    assert_eq!(read("d")["email"], "e\n\"");
}

#[test]
fn blank_lines_end_a_body_that_has_hardly_anything_else() {
    let router = Router::start();
    let patient = ("x-deadline-ms", "60000");
    let columns = b"user_id,name,email\n".to_vec();
    for (kind, head, blank) in [
        (NDJSON, line("a").into_bytes(), &b"\n"[..]),
        (NDJSON, line("a").into_bytes(), b"   \r\n"),
        (CSV, [&columns[..], b"a,N,e\n"].concat(), b"\n"),
        (CSV, [&columns[..], b"a,N,e\n"].concat(), b" \n"),
    ] {
        let body = [head, blank.repeat((4 << 20) / blank.len())].concat();
        let reply = stream(&router, &[kind, GZIP, patient], &gzip(&body));
        assert_eq!((reply.status, &*reply.code()), (413, "TSR108"), "{kind:?}: {}", reply.text());
        let problem = reply.json();
        assert_eq!((&problem["outcome"], &problem["stored"]), (&json!("partial"), &json!(1)));
        assert!(problem["detail"].as_str().unwrap().contains("blank lines"), "{problem}");
    }
    // As many bytes of blank lines as the rows have are accepted.
    let (name, blank) = ("n".repeat(600), "\n".repeat(600));
    let spread: String = (0..2_000)
        .map(|n| format!("{{\"user_id\":\"u{n}\",\"email\":\"e\",\"name\":\"{name}\"}}\n{blank}"))
        .collect();
    let reply = stream(&router, &[NDJSON, patient], spread.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
}

#[test]
fn a_gzip_that_becomes_far_more_than_it_is_ends_with_what_came_before() {
    let router = Router::start();
    let patient = ("x-deadline-ms", "60000");
    let name = "n".repeat(900_000);
    let row = format!("{{\"user_id\":\"a\",\"email\":\"e\",\"name\":\"{name}\"}}\n");
    let mut best = GzEncoder::new(Vec::new(), Compression::best());
    best.write_all(row.repeat(40).as_bytes()).unwrap();
    let reply = stream(&router, &[NDJSON, GZIP, patient], &best.finish().unwrap());
    assert_eq!((reply.status, &*reply.code()), (413, "TSR108"), "{}", reply.text());
    let problem = reply.json();
    assert!(problem["detail"].as_str().unwrap().contains("inflates"), "{problem}");
    assert_eq!(problem["stored"], problem["next_index"], "{problem}");
    assert!(problem["stored"].as_u64().is_some_and(|stored| stored >= 10), "{problem}");
    // Up to 16 MiB any ratio of compression is accepted.
    let reply = stream(&router, &[NDJSON, GZIP, patient], &gzip(row.repeat(15).as_bytes()));
    assert_eq!((reply.status, &reply.json()["stored"]), (201, &json!(15)), "{}", reply.text());
}
