//! Tests of requests that begin before a move of slots and end after it: walks by cursor, streams,
//! and writes that wait.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};

use serde_json::{Value, json};

use crate::backend::not_on_citus;
use crate::client::keys_on;
use crate::fences::until_parked;
use crate::harness::{Router, eventually};
use crate::moves::{OPERATE, names, order, place, show, until};
use crate::streams::{NDJSON, count, line, lines, stream};
use crate::streams_live::begin as begin_stream;

const WHY: &str = "Citus places rows itself";
/// Rows of a walk, rows of a page, and the maximum number of those whose slots move.
const ROWS: usize = 200;
const PAGE: usize = 20;
const MOVED: usize = 40;
/// Rows of a stream whose slots move, and those of them that are stored before the move begins.
const STREAMED: usize = 60;
const BEFORE: usize = 20;

/// Begins to move the slots of these keys from the first shard to the second one, once the replicas
/// follow.
fn begin(router: &Router, keys: &[String], keep: u64) -> Value {
    let slots: BTreeSet<u64> = keys.iter().map(|key| place(router, key).0).collect();
    let slots: Vec<[u64; 2]> = slots.into_iter().map(|slot| [slot, slot]).collect();
    let wished = json!({"slots": slots, "from": "shard1", "to": "shard2", "keep": keep});
    eventually("the replicas follow and the move begins", || {
        let reply = router.post("/api/moves", &[], &wished);
        (reply.status == 202).then(|| reply.json())
    })
}

/// Walk over all users by cursor.
struct Walk<'r> {
    router: &'r Router,
    found: Vec<String>,
    /// Cursor of the next page; empty before the first one, and `None` after the last one.
    cursor: Option<String>,
}

impl Walk<'_> {
    /// Reads the next page. Returns false after the last one.
    fn go_on(&mut self) -> bool {
        let Some(cursor) = &self.cursor else { return false };
        let path = format!("/api/read?table=users&select=user_id&order=user_id&limit={PAGE}");
        let next = if cursor.is_empty() { path } else { format!("{path}&cursor={cursor}") };
        let reply = self.router.get(&next);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let answer = reply.json();
        let rows = answer["data"].as_array().unwrap().iter();
        self.found.extend(rows.map(|row| row["user_id"].as_str().unwrap().to_owned()));
        self.cursor = answer["next_cursor"].as_str().map(str::to_owned);
        true
    }
}

#[test]
fn a_walk_by_cursor_meets_each_row_once_while_slots_move_there_and_back() {
    not_on_citus!(WHY);
    let router = Router::start_with(OPERATE);
    let stored = stream(&router, &[NDJSON], lines(0..ROWS).as_bytes());
    assert_eq!(stored.status, 201, "{}", stored.text());
    let all: Vec<String> = (0..ROWS).map(|number| format!("u{number:06}")).collect();
    let of_first = all.iter().filter(|key| place(&router, key).1 == "shard1");
    let moved: Vec<String> = of_first.take(MOVED).cloned().collect();
    let new_walk = || Walk { router: &router, found: Vec::new(), cursor: Some(String::new()) };
    let mut walk = new_walk();
    assert!(walk.go_on());
    let begun = begin(&router, &moved, 600);
    assert!(walk.go_on());
    until(&router, &begun, "keeping");
    assert!(walk.go_on());
    assert_eq!(order(&router, &begun, "rollback").status, 200);
    assert!(walk.go_on());
    until(&router, &begun, "rolled_back");
    while walk.go_on() {}
    assert_eq!(walk.found, all);
    // The slots may move again, and this time the source is cleaned in the middle of the walk.
    let mut walk = new_walk();
    assert!(walk.go_on());
    let begun = begin(&router, &moved, 0);
    assert!(walk.go_on());
    until(&router, &begun, "done");
    while walk.go_on() {}
    assert_eq!(walk.found, all);
}

#[test]
fn a_written_pair_names_the_shard_that_stored_it_although_its_slot_moved_meanwhile() {
    not_on_citus!(WHY);
    let router = Router::start_with(OPERATE);
    let keys = keys_on(&router, "shard1", 1);
    let slot = place(&router, &keys[0]).0.to_string();
    let fenced = router.post("/api/slots/fence", &[], &json!({"slots": slot, "seconds": 60}));
    assert_eq!(fenced.status, 200, "{}", fenced.text());
    let pair = json!({"key": keys[0], "value": 1});
    let (written, begun) = std::thread::scope(|scope| {
        let write = scope.spawn(|| router.post("/write", &[("x-deadline-ms", "30000")], &pair));
        until_parked(&router, 1);
        let begun = begin(&router, &keys, 0);
        (write.join().unwrap(), begun)
    });
    assert_eq!(written.status, 200, "{}", written.text());
    // It is the second one, unless the fence of the move ended before the slot was handed over.
    let shard = written.header("x-shard").unwrap();
    assert_eq!(written.json()["shard"], shard, "{}", written.text());
    until(&router, &begun, "done");
    let read = router.get(&format!("/read?key={}", keys[0])).json();
    assert_eq!((&read["value"], &read["shard"]), (&json!(1), &json!("shard2")));
}

#[test]
fn a_stream_that_lasts_longer_than_a_move_stores_each_of_its_rows_once() {
    not_on_citus!(WHY);
    let router = Router::start_with(OPERATE);
    let keys = keys_on(&router, "shard1", STREAMED);
    let later = (0..).map(|number| format!("later{number}"));
    let mut unsent = keys.iter().cloned().chain(later);
    let head = "x-deadline-ms: 60000\r\ntransfer-encoding: chunked\r\n";
    let mut body = begin_stream(&router, head, b"");
    let mut sent = 0;
    let mut send = || {
        let text = unsent.next().map(|key| line(&key)).unwrap();
        body.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).unwrap();
        sent += 1;
        sent
    };
    while send() < BEFORE {}
    eventually("the first rows are stored", || {
        (count(&router, "users") >= BEFORE as u64).then_some(())
    });
    let begun = begin(&router, &keys, 0);
    // A row at each look, first of slots that move: the body does not stall.
    eventually("the move is done", || {
        send();
        let shown = show(&router, &begun);
        assert!(shown["phase"] == "done" || shown["ended_at"].is_null(), "{shown}");
        (shown["phase"] == "done").then_some(())
    });
    while send() < STREAMED {}
    body.write_all(b"0\r\n\r\n").unwrap();
    let mut answer = String::new();
    body.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    assert_eq!(count(&router, "users"), sent as u64);
    for key in &keys {
        assert_eq!(names(&router, key), [format!("name of {key}")]);
    }
}
