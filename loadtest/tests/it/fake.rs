//! Fake: a fake router whose misbehaviour a test chooses.
//!
//! **Invariant:** written rows are stored correctly, even if responses return wrong values on
//! purpose.
//!
//! **Not here:** HTTP features that the load tester does not use: no chunked bodies, no pipelining.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// Time from the first request to the start of the stall, and the length of the stall.
const STALL: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(1_000));
/// Number of writes of which one is affected by a behaviour with "some" in its name.
const SOME: u64 = 5;

/// Behaviour of the fake.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Honest,
    RefusesSomeWrites,
    DropsSomeWrites,
    ReturnsAnotherUsersRow,
    LosesRows,
    /// Sends no response for one second, beginning half a second after the first write or read.
    StallsOnce,
    NotReady,
    Silent,
    /// The table that the tester writes to has rows of another client.
    HasForeignRows,
    /// Accepts writes and deletes of rows, but does not remove any row.
    KeepsRows,
}

/// Running fake router. Its threads end with the process of the test.
pub(crate) struct Fake {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    behaviour: Behaviour,
    rows: Mutex<HashSet<String>>,
    writes: AtomicU64,
    began: OnceLock<Instant>,
}

struct Request {
    line: String,
    key: String,
    body: String,
}

impl Fake {
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            behaviour,
            rows: Mutex::default(),
            writes: AtomicU64::default(),
            began: OnceLock::new(),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || serve(&state, &stream));
            }
        });
        Self { address, state }
    }

    pub(crate) fn host(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the number of stored rows.
    pub(crate) fn rows(&self) -> usize {
        self.state.rows.lock().unwrap().len()
    }
}

/// Returns the address of a port on which no program listens; the port was free a moment ago.
pub(crate) fn closed_host() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// Serves one connection, which is kept alive until either side closes it.
fn serve(state: &State, stream: &TcpStream) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = receive(&mut reader) {
        let Some(answer) = state.answer(&request) else { return };
        if (&mut &*stream).write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn receive(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&length| length > 0)?;
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let header = |name: &str| {
        head.iter().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let length = header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let key = header("x-shard-key").unwrap_or_default();
    Some(Request { key, line: head.remove(0), body: String::from_utf8(body).ok()? })
}

impl State {
    /// Returns the response to a request; `None` closes the connection.
    fn answer(&self, request: &Request) -> Option<String> {
        let path = request.line.split(' ').nth(1).unwrap();
        let answer = match path {
            "/ready" if self.behaviour == Behaviour::NotReady => response("503 Busy", "", "{}"),
            "/ready" if self.behaviour == Behaviour::Silent => loop {
                thread::park();
            },
            "/ready" => response("200 OK", "", "{}"),
            "/api/shard-map" => response("200 OK", "", r#"{"keyspace":"hash","parameters":{}}"#),
            "/api/tables" => response("201 Created", "", "{}"),
            "/api/bulk-write" if request.body.contains(r#""op":"delete""#) => {
                self.remove(&request.body)
            }
            "/api/bulk-write" => self.fill(&request.body),
            path if path.contains("run=eq.") => self.page(),
            path if path.contains("run=not.") && self.behaviour == Behaviour::HasForeignRows => {
                response("200 OK", "", r#"{"data":[{"user_id":"user_1"}]}"#)
            }
            path if path.contains("run") => response("200 OK", "", r#"{"data":[]}"#),
            _ if self.stalls() => unreachable!("a stall has an end"),
            "/api/write" => return self.write(&request.key),
            "/api/read?table=loadtest_users&limit=10" => self.read(&request.key),
            _ => response("404 Not Found", "", r#"{"code":"TSR111"}"#),
        };
        Some(answer)
    }

    /// Sleeps until the end of the stall if it has begun. Sleeping is the only way to simulate an
    /// unresponsive server. The function always returns false.
    fn stalls(&self) -> bool {
        let began = self.began.get_or_init(Instant::now);
        let (from, lasts) = STALL;
        if self.behaviour == Behaviour::StallsOnce && began.elapsed() >= from {
            thread::sleep((from + lasts).saturating_sub(began.elapsed()));
        }
        false
    }

    /// Stores the rows that the tester writes before the run.
    fn fill(&self, body: &str) -> String {
        self.rows.lock().unwrap().extend(ids(body).map(str::to_owned));
        response("201 Created", "", "{}")
    }

    /// Removes the rows that the tester deletes after the run.
    fn remove(&self, body: &str) -> String {
        if self.behaviour == Behaviour::KeepsRows {
            return response("503 Service Unavailable", "", r#"{"code":"TSR201","detail":"away"}"#);
        }
        let mut rows = self.rows.lock().unwrap();
        ids(body).for_each(|id| assert!(rows.remove(id), "{id}"));
        response("200 OK", "", "{}")
    }

    /// Returns a page of the stored rows.
    fn page(&self) -> String {
        let rows = self.rows.lock().unwrap();
        let rows: Vec<_> =
            rows.iter().take(30).map(|id| format!(r#"{{"user_id":"{id}"}}"#)).collect();
        response("200 OK", "", &format!(r#"{{"data":[{}]}}"#, rows.join(",")))
    }

    fn write(&self, key: &str) -> Option<String> {
        let some = self.writes.fetch_add(1, Ordering::Relaxed) % SOME == SOME - 1;
        let problem = concat!(
            r#"{"code":"TSR201","title":"Shard unavailable","#,
            r#""detail":"primary of shard3 did not answer","outcome":"rejected"}"#
        );
        match self.behaviour {
            Behaviour::DropsSomeWrites if some => return None,
            Behaviour::RefusesSomeWrites if some => {
                return Some(response("503 Service Unavailable", key, problem));
            }
            Behaviour::Honest
            | Behaviour::RefusesSomeWrites
            | Behaviour::DropsSomeWrites
            | Behaviour::ReturnsAnotherUsersRow
            | Behaviour::LosesRows
            | Behaviour::StallsOnce
            | Behaviour::NotReady
            | Behaviour::Silent
            | Behaviour::HasForeignRows
            | Behaviour::KeepsRows => {}
        }
        self.rows.lock().unwrap().insert(key.to_owned());
        Some(response("201 Created", key, r#"{"success":true}"#))
    }

    fn read(&self, key: &str) -> String {
        let stored = self.rows.lock().unwrap().contains(key);
        let rows = match self.behaviour {
            Behaviour::LosesRows => String::new(),
            Behaviour::ReturnsAnotherUsersRow => r#"{"user_id":"another_user"}"#.to_owned(),
            Behaviour::Honest
            | Behaviour::RefusesSomeWrites
            | Behaviour::DropsSomeWrites
            | Behaviour::StallsOnce
            | Behaviour::NotReady
            | Behaviour::Silent
            | Behaviour::HasForeignRows
            | Behaviour::KeepsRows => {
                if stored {
                    format!(r#"{{"user_id":"{key}"}}"#)
                } else {
                    String::new()
                }
            }
        };
        response("200 OK", key, &format!(r#"{{"success":true,"data":[{rows}]}}"#))
    }
}

/// Returns the ids of all rows in a body.
fn ids(body: &str) -> impl Iterator<Item = &str> {
    body.split(r#""user_id":""#).skip(1).filter_map(|rest| rest.split('"').next())
}

/// Builds a response. The shard is chosen by a simple rule, because for the tester any rule that
/// spreads keys over shards is sufficient.
fn response(status: &str, key: &str, body: &str) -> String {
    let shard = match key {
        "" => String::new(),
        key => format!("x-shard: shard{}\r\n", key.bytes().map(u32::from).sum::<u32>() % 3 + 1),
    };
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{shard}content-length: {length}\r\n\r\n{body}")
}
