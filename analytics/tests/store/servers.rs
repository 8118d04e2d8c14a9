//! Tests of history in a PostgreSQL database.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use analytics::store::{HistoryWriter, StoreAddress};
use analytics::{History, Step};

use crate::prerequisites::{Prerequisite, skip};
use crate::{await_state, frame, history, now, requests, seconds, stored_history};

/// Returns the URL of a database for the tests; `None` if there is none.
fn database() -> Option<String> {
    let Some(folder) = std::env::var_os("TESSERA_TEST_POSTGRES").map(PathBuf::from) else {
        let reason = "TESSERA_TEST_POSTGRES names no cluster; ./setup.sh test makes one";
        skip(Prerequisite::Servers, reason);
        return None;
    };
    let text = std::fs::read_to_string(folder.join("plain/tessera.env")).unwrap();
    let urls = text.lines().find_map(|line| line.strip_prefix("SHARD_URLS=")).unwrap();
    let urls = urls.trim_matches(['\'', '"']);
    Some(urls.split(',').next().unwrap().to_owned())
}

fn address(url: &str) -> StoreAddress {
    StoreAddress::parse(url).unwrap().unwrap()
}

/// Returns a source name that no other test uses.
fn source(story: &str) -> String {
    format!("{story}-{}-{}", std::process::id(), now())
}

/// Proxy port that forwards connections to a server until it is closed. While the port is frozen,
/// it accepts connections but forwards nothing.
struct Way {
    port: u16,
    is_closed: Arc<AtomicBool>,
    is_frozen: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Way {
    fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_closed, open) =
            (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let is_frozen = Arc::new(AtomicBool::new(false));
        let way = Self {
            port,
            is_closed: Arc::clone(&is_closed),
            is_frozen: Arc::clone(&is_frozen),
            open: Arc::clone(&open),
        };
        std::thread::spawn(move || {
            for client in listener.incoming().map(Result::unwrap) {
                if is_closed.load(Ordering::SeqCst) {
                    continue;
                }
                let server = TcpStream::connect(&server).unwrap();
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    open.lock().unwrap().push(from.try_clone().unwrap());
                    let is_frozen = Arc::clone(&is_frozen);
                    std::thread::spawn(move || carry(from, to, &is_frozen));
                }
            }
        });
        way
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        for end in self.open.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    fn open(&self) {
        self.is_closed.store(false, Ordering::SeqCst);
    }

    fn freeze(&self, is_frozen: bool) {
        self.is_frozen.store(is_frozen, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, is_frozen: &AtomicBool) {
    let mut bytes = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        while is_frozen.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn the_history_in_a_database_is_loaded_by_each_of_its_sources() {
    let Some(url) = database() else { return };
    let (north, south) = (source("north"), source("south"));
    let minute = now() / 60 * 60;
    let history_writer = HistoryWriter::open(address(&url)).unwrap();
    let north_has = history(seconds(20).chain([frame(Step::Minute, minute - 120, 7)]));
    history_writer.keep(&*north, north_has, || ());
    // Another writer starts at the same time; one of the two creates the tables.
    HistoryWriter::start(address(&url), &*south, history(seconds(3))).unwrap().close();
    history_writer.close();
    let (read, state) = stored_history(&address(&url), &north);
    assert_eq!(requests(&read, Step::Second), (1..=20).collect::<Vec<_>>());
    assert_eq!(requests(&read, Step::Minute), [7]);
    assert_eq!((state.loaded, state.store_errors), (21, 0));
    assert_eq!(requests(&stored_history(&address(&url), &south).0, Step::Second), [1, 2, 3]);
}

#[test]
fn one_of_two_routers_that_start_at_once_gets_the_earlier_history_in_a_database() {
    let Some(url) = database() else { return };
    let earlier = source("earlier");
    HistoryWriter::start(address(&url), &*earlier, history(seconds(5))).unwrap().close();
    let names = ["one", "other"].map(source);
    let histories = [History::new(), History::new()].map(Arc::new);
    let start = |(name, history): (&String, &Arc<History>)| {
        HistoryWriter::start_renamed(address(&url), &**name, &*earlier, history.clone()).unwrap()
    };
    let writers: Vec<_> = names.iter().zip(&histories).map(start).collect();
    await_state(&writers[0], |state| state.loaded + writers[1].state().loaded == 5);
    writers.into_iter().for_each(HistoryWriter::close);
    let stored = |name: &String| requests(&stored_history(&address(&url), name).0, Step::Second);
    let mut of_both = names.each_ref().map(stored);
    of_both.sort();
    assert_eq!(of_both, [vec![], vec![1, 2, 3, 4, 5]]);
    assert_eq!(stored(&earlier), [0; 0]);
}

#[test]
fn an_unreachable_server_gets_all_intervals_of_the_rings_when_it_is_back() {
    let Some(url) = database() else { return };
    let (before, server) = url.rsplit_once('@').unwrap();
    let (server, name) = server.split_once('/').unwrap();
    let way = Way::to(server.to_owned());
    let proxied = format!("{before}@127.0.0.1:{}/{name}", way.port);
    let source = source("away");
    let history = history(seconds(5));
    let history_writer =
        HistoryWriter::start(address(&proxied), &*source, history.clone()).unwrap();
    await_state(&history_writer, |state| state.written == 5);
    way.close();
    history.absorb(frame(Step::Second, now(), 6));
    let state = await_state(&history_writer, |state| state.is_unavailable);
    assert_eq!((state.written, state.store_errors), (5, 1));
    way.open();
    await_state(&history_writer, |state| !state.is_unavailable);
    history_writer.close();
    let (read, _) = stored_history(&address(&url), &source);
    assert_eq!(requests(&read, Step::Second), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_frozen_server_is_reported_and_gets_all_intervals_when_it_answers_again() {
    let Some(url) = database() else { return };
    let (before, server) = url.rsplit_once('@').unwrap();
    let (server, name) = server.split_once('/').unwrap();
    let way = Way::to(server.to_owned());
    let proxied = format!("{before}@127.0.0.1:{}/{name}", way.port);
    let source = source("frozen");
    let history = history(seconds(5));
    let history_writer =
        HistoryWriter::start(address(&proxied), &*source, history.clone()).unwrap();
    await_state(&history_writer, |state| state.written == 5);
    way.freeze(true);
    history.absorb(frame(Step::Second, now(), 6));
    let state = await_state(&history_writer, |state| state.is_unavailable);
    assert_eq!((state.written, state.store_errors), (5, 1));
    way.freeze(false);
    await_state(&history_writer, |state| !state.is_unavailable);
    history_writer.close();
    let (read, _) = stored_history(&address(&url), &source);
    assert_eq!(requests(&read, Step::Second), [1, 2, 3, 4, 5, 6]);
}

/// Behaves like a server while a connection is opened and its settings are made, until the first
/// simple query. From then on it reads but never responds.
fn serve_until_query(mut client: TcpStream) -> Option<()> {
    let mut length = [0; 4];
    client.read_exact(&mut length).ok()?;
    client.read_exact(&mut vec![0; u32::from_be_bytes(length) as usize - 4]).ok()?;
    let ready = b"Z\0\0\0\x05I";
    client.write_all(b"R\0\0\0\x08\0\0\0\0").and_then(|()| client.write_all(ready)).ok()?;
    let mut is_silent = false;
    loop {
        let mut kind = [0];
        client.read_exact(&mut kind).ok()?;
        client.read_exact(&mut length).ok()?;
        client.read_exact(&mut vec![0; u32::from_be_bytes(length) as usize - 4]).ok()?;
        is_silent |= kind == *b"Q";
        let answer: &[u8] = match &kind {
            _ if is_silent => b"",
            // Parse, Describe, Bind, Execute, Close, Sync.
            b"P" => b"1\0\0\0\x04",
            b"D" => b"t\0\0\0\x06\0\0n\0\0\0\x04",
            b"B" => b"2\0\0\0\x04",
            b"E" => b"C\0\0\0\x08SET\0",
            b"C" => b"3\0\0\0\x04",
            b"S" => ready,
            other => panic!("an unexpected message: {other:?}"),
        };
        client.write_all(answer).ok()?;
    }
}

/// The server responds until the history writer begins the migrations.
#[test]
fn a_server_that_stops_answering_before_the_migrations_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://me@{}/figures", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming().map(Result::unwrap) {
            std::thread::spawn(move || serve_until_query(client));
        }
    });
    let history_writer = HistoryWriter::start(address(&url), "x", history(seconds(1))).unwrap();
    let state = await_state(&history_writer, |state| state.is_unavailable);
    assert_eq!((state.written, state.store_errors), (0, 1));
}

#[test]
fn a_wrong_password_stores_nothing_and_is_not_logged() {
    let Some(url) = database() else { return };
    let (user, server) = url.rsplit_once('@').unwrap();
    let user = user.rsplit_once(':').unwrap().0;
    let wrong = format!("{user}:not-it@{server}");
    let history_writer = HistoryWriter::start(address(&wrong), "x", history(seconds(1))).unwrap();
    let state = await_state(&history_writer, |state| state.is_unavailable);
    assert_eq!(state.written, 0);
}
