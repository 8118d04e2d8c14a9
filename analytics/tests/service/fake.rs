//! Fake: a fake router, and the HTTP server on which it is based, which can also receive alerts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use analytics::{
    Cell, CellLabel, ClusterNow, ErrorEvent, Fanout, Frame, LatencyHistogram, NodeNow, Operation,
    Outcome, PartTimes, Parts, Role, ShardNow, Step,
};
use serde_json::json;

use crate::free_port::free_port;

/// A request that the fake server has received.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) line: String,
    head: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.head.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| &**value)
    }

    pub(crate) fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap()
    }

    /// Returns the value of a numeric parameter of the query string.
    fn number(&self, name: &str) -> u64 {
        let (_, query) = self.path().split_once('?').unwrap_or_default();
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(known, _)| *known == name).map_or(0, |(_, value)| value.parse().unwrap())
    }
}

/// HTTP server. Its threads end with the process of the test.
pub(crate) struct Server(pub(crate) SocketAddr);

impl Server {
    /// Starts a server that responds with the bytes that `answer` returns; `None` closes the
    /// connection.
    pub(crate) fn start(
        answer: impl Fn(&Request) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answer = Arc::clone(&answer);
                thread::spawn(move || serve(&stream, &*answer));
            }
        });
        Self(address)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0)
    }
}

/// Returns an address on which no program listens. The system does not assign its port to another
/// program.
pub(crate) fn unused_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

fn serve(stream: &TcpStream, answer: &dyn Fn(&Request) -> Option<Vec<u8>>) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = receive(&mut reader) {
        let Some(bytes) = answer(&request) else { return };
        if (&mut &*stream).write_all(&bytes).is_err() {
            return;
        }
    }
}

fn receive(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&length| length > 0)?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let line = lines.remove(0);
    let pair = |line: &String| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_owned(), value.trim().to_owned())
    };
    let mut request = Request { line, head: lines.iter().map(pair).collect(), body: String::new() };
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    request.body = String::from_utf8(body).ok()?;
    Some(request)
}

pub(crate) fn response(status: u16, body: &str) -> Vec<u8> {
    response_as("application/json", status, body)
}

fn response_as(kind: &str, status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Contents of a fake router's responses.
pub(crate) struct FakeResponses {
    pub(crate) started: String,
    pub(crate) now: ClusterNow,
    pub(crate) frames: Vec<Frame>,
    /// Difference of the router's clock from the true time, in ms.
    pub(crate) clock_ms: i64,
    /// Periods in which the router reports to have counted requests.
    pub(crate) counted: Vec<(u64, u64)>,
    pub(crate) errors: Vec<ErrorEvent>,
    /// Faulty response that is sent in place of the correct one, if any.
    pub(crate) instead: Option<Instead>,
}

/// Response of a faulty router.
#[derive(Clone, Copy)]
pub(crate) enum Instead {
    /// Bytes that are not HTTP.
    Noise,
    /// A status code other than success.
    Refusal,
    /// Valid JSON that is not a response with frames.
    OtherJson,
    /// A response of twice the permitted size.
    Huge,
    /// No response, with the connection kept open.
    Silence,
    /// Only the head of a response.
    HalfAnAnswer,
    /// Counts that are impossibly large.
    Nonsense,
    /// Counts in periods that lie in the future.
    Future,
    /// Identical frames in every response, with the claim that there are more.
    Endless,
}

/// A fake router that serves the frames of a test.
pub(crate) struct FakeRouter {
    server: Server,
    pub(crate) responses: Arc<Mutex<FakeResponses>>,
}

impl FakeRouter {
    /// Starts a router with these shards, all of them healthy.
    pub(crate) fn start(shards: &[&str]) -> Self {
        let shard = |name: &&str| ShardNow {
            shard: (*name).to_owned(),
            up: true,
            weight: 1,
            nodes: vec![NodeNow {
                node: format!("{name}-replica1"),
                role: "replica".to_owned(),
                up: true,
                lag_ms: Some(0.0),
                ..NodeNow::default()
            }],
            ..ShardNow::default()
        };
        let started =
            chrono::DateTime::from_timestamp_millis(unix_ms() as i64 - 3_600_000).unwrap();
        let now = ClusterNow {
            epoch: 1,
            backend: "sqlite".to_owned(),
            version: "0.1.0".to_owned(),
            shards: shards.iter().map(shard).collect(),
            ..ClusterNow::default()
        };
        let (frames, errors) = (Vec::new(), Vec::new());
        let (started, counted) = (started.to_rfc3339(), Vec::new());
        let responses =
            FakeResponses { started, now, frames, clock_ms: 0, counted, errors, instead: None };
        let responses = Arc::new(Mutex::new(responses));
        let asked = Arc::clone(&responses);
        let server = Server::start(move |request| answer(&asked, request));
        Self { server, responses }
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// Returns the default name of the router, which is its address.
    pub(crate) fn name(&self) -> String {
        self.server.0.to_string()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut FakeResponses)) {
        change(&mut self.responses.lock().unwrap());
    }
}

fn answer(responses: &Mutex<FakeResponses>, request: &Request) -> Option<Vec<u8>> {
    let responses = responses.lock().unwrap();
    if !request.path().starts_with("/api/analytics/frames") {
        let asked = json!({"asked": request.path(), "host": request.header("host")});
        // The body is JSON, although the response claims another content type.
        return Some(response_as("text/html", 200, &asked.to_string()));
    }
    let instead = responses.instead;
    let text = frames(&responses, request, matches!(instead, Some(Instead::Endless)));
    drop(responses);
    let Some(instead) = instead else { return Some(response(200, &text)) };
    match instead {
        Instead::Noise => Some(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n\0\xff\xfe".to_vec()),
        Instead::Refusal => {
            Some(response(404, r#"{"code":"TSR111","detail":"there is nothing at this path"}"#))
        }
        Instead::OtherJson => Some(response(200, r#"{"success":true,"frames":"all of them"}"#)),
        Instead::Huge => Some(response(200, &format!("{text}{}", " ".repeat(33 << 20)))),
        Instead::Silence => loop {
            thread::park();
        },
        Instead::HalfAnAnswer => {
            let half = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"success\":".to_vec();
            Some(half)
        }
        Instead::Nonsense => {
            Some(response(200, &text.replace("\"total\":", "\"total\":9999999999999")))
        }
        Instead::Future => {
            Some(response(200, &text.replace("\"counted\":[]", "\"counted\":[[0,99999999999]]")))
        }
        Instead::Endless => Some(response(200, &text)),
    }
}

fn frames(responses: &FakeResponses, request: &Request, more: bool) -> String {
    let after = |step: Step| request.number(&format!("after_{}", step.seconds()));
    let new = responses.frames.iter().filter(|frame| frame.start > after(frame.step));
    let errors =
        responses.errors.get(request.number("errors_after") as usize..).unwrap_or_default();
    let at_ms = unix_ms().saturating_add_signed(responses.clock_ms);
    let answer = json!({
        "success": true, "router": "fake", "started": responses.started, "at_ms": at_ms, "now": responses.now,
        "frames": new.collect::<Vec<_>>(), "counted": responses.counted, "errors": errors, "errors_seq": responses.errors.len(), "more": more,
    });
    answer.to_string()
}

/// Returns the time this many seconds ago, in s since 1970.
pub(crate) fn ago(seconds: u64) -> u64 {
    unix_ms() / 1_000 - seconds
}

/// Returns a frame of an interval with `requests` reads on one shard, each of which took `ms`
/// milliseconds.
pub(crate) fn frame(step: Step, start: u64, shard: &str, requests: u64, ms: u64) -> Frame {
    frame_with_outcome(step, start, shard, (requests, ms), Outcome::Success)
}

pub(crate) fn frame_with_outcome(
    step: Step,
    start: u64,
    shard: &str,
    (requests, ms): (u64, u64),
    outcome: Outcome,
) -> Frame {
    let mut latencies = LatencyHistogram::new();
    (0..requests).for_each(|_| latencies.record(Duration::from_millis(ms)));
    let micros = requests * ms * 1_000;
    let part = || PartTimes { total: requests, micros, latencies: latencies.packed() };
    let label = CellLabel {
        route: "/api/read".to_owned(),
        operation: Operation::Read,
        shard: Some(shard.to_owned()),
        role: Some(Role::Replica),
        outcome,
    };
    let cell =
        Cell { label: Arc::new(label), total: requests, micros, latencies: latencies.packed() };
    let parts = Parts { shard: Some(shard.into()), queue: part(), database: part(), rest: part() };
    Frame {
        step,
        start: start / step.seconds() * step.seconds(),
        cells: vec![cell],
        parts: vec![parts],
        fanout: Fanout { requests, shards: requests, max: 1 },
        hot: Vec::new(),
    }
}
