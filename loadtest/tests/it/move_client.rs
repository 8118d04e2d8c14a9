//! Move client: lets a router that stops during the move move some slots, writes to keys in these
//! slots and in others, and records which values may be read afterwards.
//!
//! **Invariant:** a write without a response counts as possibly stored.
//! **Not here:** stopping the router (`move_stops`, `servers::crashed_moves`).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::{Answer, PATIENCE, try_send, try_send_within};

/// Longest wait until a move makes progress after a crash; for shards in files, until it has ended.
pub(crate) const RESUMED_MAX: Duration = Duration::from_secs(30);
/// Pause before a request is sent again.
const RETRY_AFTER: Duration = Duration::from_millis(20);
/// Number of keys in slots that move. The next constant is the number of keys in slots that do not
/// move.
const MOVED_KEYS: usize = 4;
const OTHER_KEYS: usize = 2;
/// Number of keys with large values, which make copying slow. The next constant is the size of each
/// value in bytes.
const LARGE_KEYS: usize = 6;
const LARGE: usize = 900_000;

/// Source of the move. The next constant is the target.
pub(crate) const FROM: &str = "shard1";
pub(crate) const TO: &str = "shard2";

/// Ending of the move that the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The slots move to the target, and the source is cleaned.
    Done,
    /// The slots move to the target, after the source has lost changes while rows are copied, so
    /// that the copy begins again.
    CopiedAgain,
    /// The slots move to the target, and the move is rolled back.
    RolledBack,
    /// The move is cancelled while rows are copied.
    Cancelled,
}

impl Ending {
    /// Returns true if the ending requires that copying rows takes long enough for something to
    /// happen meanwhile.
    fn copies_slowly(self) -> bool {
        matches!(self, Cancelled | CopiedAgain)
    }

    /// Returns true if the target owns the slots in the end.
    fn is_forward(self) -> bool {
        matches!(self, Done | CopiedAgain)
    }
}

use Ending::{Cancelled, CopiedAgain, Done, RolledBack};

/// Key of a row, and the numbers of the values that were written to it.
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) slot: u64,
    pub(crate) moves: bool,
    /// True if the key has a large value, which is written only once.
    is_large: bool,
    /// Number of the last value that was acknowledged. The next field is that of the last value
    /// that was sent.
    acknowledged: u64,
    sent: u64,
    /// Numbers of the values whose writes got no response. A router that was frozen may store such
    /// a value after another router has stored later ones.
    unanswered: Vec<u64>,
    /// Response to the last write that was refused.
    refusal: Value,
}

/// Client of a router that moves slots.
pub(crate) struct MoveClient {
    /// Address of the router, as `host:port`.
    pub(crate) host: String,
    pub(crate) keys: Vec<Key>,
    /// Description of the crashes for failure messages.
    pub(crate) label: String,
    ending: Ending,
    headers: &'static [(&'static str, &'static str)],
    /// Longest wait for a response.
    pub(crate) patience: Duration,
}

impl MoveClient {
    /// Chooses keys whose names begin with `prefix`, and writes their first values. All writes have
    /// the given headers.
    pub(crate) fn begin(
        (host, label): (String, String),
        ending: Ending,
        prefix: &str,
        headers: &'static [(&'static str, &'static str)],
    ) -> Self {
        let mut client =
            Self { host, keys: Vec::new(), label, ending, headers, patience: PATIENCE };
        client.choose_keys(prefix);
        let began = Instant::now();
        while client.keys.iter().any(|key| key.acknowledged == 0) {
            assert!(began.elapsed() < RESUMED_MAX, "{}: nothing can be written", client.label);
            client.write_all(|| false);
        }
        client
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Option<Answer> {
        let is_write = method == "PUT";
        let headers = if is_write { self.headers } else { &[] };
        let body = body.to_string();
        try_send_within(self.patience, &self.host, (method, path), headers, &body).ok()
    }

    /// Chooses keys on the shard [`FROM`], each in a slot of its own.
    fn choose_keys(&mut self, prefix: &str) {
        let large = if self.ending.copies_slowly() { LARGE_KEYS } else { 0 };
        let moved = MOVED_KEYS + large;
        let began = Instant::now();
        for number in 0.. {
            assert!(began.elapsed() < RESUMED_MAX, "{}: no keys are found", self.label);
            let name = format!("{prefix}{number}");
            // A busy router may respond too late; then the key is not used.
            let route = self.ask("GET", &format!("/api/route?key={name}"), &json!({}));
            let Some(route) = route.filter(|route| route.status == 200) else { continue };
            let slot = route.body["slot"].as_u64().unwrap();
            if route.body["shard"] != FROM || self.keys.iter().any(|key| key.slot == slot) {
                continue;
            }
            let place = self.keys.len();
            let (moves, is_large) = (place < moved, (MOVED_KEYS..moved).contains(&place));
            self.keys.push(Key {
                name,
                slot,
                moves,
                is_large,
                acknowledged: 0,
                sent: 0,
                unanswered: Vec::new(),
                refusal: Value::Null,
            });
            if self.keys.len() == moved + OTHER_KEYS {
                break;
            }
        }
    }

    /// Writes the next value of each key, until the router is frozen.
    pub(crate) fn write_all(&mut self, is_frozen: impl Fn() -> bool) {
        let mut keys = std::mem::take(&mut self.keys);
        for key in keys.iter_mut().filter(|key| !key.is_large || key.acknowledged == 0) {
            if is_frozen() {
                break;
            }
            key.sent += 1;
            let padding = if key.is_large { "x".repeat(LARGE) } else { String::new() };
            let value = json!({"number": key.sent, "padding": padding});
            let answer = self.ask("PUT", &format!("/api/kv/{}", key.name), &value);
            match answer {
                Some(answer) if answer.status < 300 => key.acknowledged = key.sent,
                Some(answer) => key.refusal = answer.body,
                None => key.unanswered.push(key.sent),
            }
        }
        self.keys = keys;
    }

    /// Returns the slots that move, in the form that the API uses.
    pub(crate) fn slots(&self) -> Vec<[u64; 2]> {
        let moved = self.keys.iter().filter(|key| key.moves);
        moved.map(|key| [key.slot, key.slot]).collect()
    }

    /// Begins the move as soon as the replicas follow their primaries. The router may stop
    /// meanwhile.
    pub(crate) fn begin_move(&mut self, is_frozen: impl Fn() -> bool) {
        let keep = if self.ending == RolledBack { 600 } else { 0 };
        let mut wished = json!({"slots": self.slots(), "from": FROM, "to": TO, "keep": keep});
        if self.ending.copies_slowly() {
            wished["rate"] = json!(1);
        }
        let began = Instant::now();
        loop {
            match self.ask("POST", "/api/moves", &wished) {
                Some(answer) if answer.status == 409 && began.elapsed() < RESUMED_MAX => {
                    self.write_all(&is_frozen);
                }
                Some(answer) => return assert_eq!(answer.status, 202, "{}", answer.body),
                None => return,
            }
        }
    }

    /// Returns the move, if the router responds and lists it.
    pub(crate) fn shown(&self) -> Option<Value> {
        let moves = self.ask("GET", "/api/moves", &json!({}))?.body["moves"].clone();
        // The newest move is listed first.
        moves.as_array()?.first().cloned()
    }

    /// Sends the request (such as a cancellation) that leads to the wanted ending, if the move
    /// accepts it now. Returns true once the move has ended.
    pub(crate) fn direct(&self) -> bool {
        let Some(shown) = self.shown() else { return false };
        let order = match (self.ending, shown["phase"].as_str().unwrap()) {
            (RolledBack, "keeping") => "rollback",
            (Cancelled, "copying") => "cancel",
            _ => return !shown["ended_at"].is_null(),
        };
        if shown["actions"].as_array().unwrap().contains(&json!(order)) {
            let id = shown["id"].as_str().unwrap();
            // The response is lost if the router stops first.
            let _ = self.ask("POST", &format!("/api/moves/{id}/{order}"), &json!({}));
        }
        false
    }

    /// Writes until the move makes progress after a crash: until its phase or its number of rows
    /// differs from that in the first response, or until the move has ended.
    pub(crate) fn await_progress(&mut self) {
        let began = Instant::now();
        let mut first = None;
        while !self.direct() {
            let shown = self.shown();
            let now = shown.as_ref().map(|shown| (shown["phase"].clone(), shown["rows"].clone()));
            if now.is_some() && first.is_some() && now != first {
                return;
            }
            assert!(began.elapsed() < RESUMED_MAX, "{}: it does not go on: {shown:?}", self.label);
            first = first.or(now);
            self.write_all(|| false);
        }
    }

    /// Writes until the move has ended as wanted. If it does not end in time, the failure message
    /// contains `log`.
    pub(crate) fn await_end(&mut self, patience: Duration, log: impl Fn() -> String) {
        let began = Instant::now();
        while !self.direct() {
            let shown = || format!("{:?}\n{}", self.shown(), log());
            assert!(began.elapsed() < patience, "{}: {}", self.label, shown());
            self.write_all(|| false);
        }
        let shown = loop {
            if let Some(shown) = self.shown() {
                break shown;
            }
            assert!(began.elapsed() < patience, "{}: the move is not shown", self.label);
            std::thread::sleep(RETRY_AFTER);
        };
        let phase = match self.ending {
            Done | CopiedAgain => "done",
            RolledBack => "rolled_back",
            Cancelled => "cancelled",
        };
        assert_eq!(shown["phase"], phase, "{}: {shown}", self.label);
    }

    /// Repeats a read until the router responds in time, which a busy router may not do at first.
    fn read(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let began = Instant::now();
        loop {
            let answer = try_send(&self.host, ("GET", path), headers, "").ok();
            if let Some(answer) = answer.filter(|answer| answer.status < 500) {
                return answer;
            }
            assert!(began.elapsed() < RESUMED_MAX, "{}: no response to {path}", self.label);
            std::thread::sleep(RETRY_AFTER);
        }
    }

    /// Checks that each key has its last acknowledged value or a later one, that it is on the right
    /// shard, and that it can be written.
    pub(crate) fn check_rows(&mut self) {
        for Key { name, moves, acknowledged, sent, unanswered, .. } in &self.keys {
            let (path, headers) = (format!("/api/kv/{name}"), [("x-consistency", "all")]);
            let read = self.read(&path, &headers);
            let number = read.body["number"].as_u64();
            let is_right = number.is_some_and(|number| {
                (*acknowledged..=*sent).contains(&number) || unanswered.contains(&number)
            });
            let label = &self.label;
            assert!(
                is_right,
                "{label}: {name} is {number:?}, not {acknowledged} to {sent} or {unanswered:?}"
            );
            let route = self.read(&format!("/api/route?key={name}"), &[]);
            let owner = if *moves && self.ending.is_forward() { TO } else { FROM };
            assert_eq!(route.body["shard"], owner, "{}: {name}", self.label);
        }
        // A write is repeated, because a busy router may respond too late. It must succeed in the
        // end, because no fence may be left.
        for key in &mut self.keys {
            key.refusal = Value::Null;
        }
        let began = Instant::now();
        loop {
            self.write_all(|| false);
            let fenced = self.keys.iter().find(|key| key.refusal["code"] == "TSR203");
            assert!(fenced.is_none(), "{}: {:?}", self.label, fenced.map(|key| &key.refusal));
            let is_refused = |key: &&Key| !key.is_large && key.acknowledged != key.sent;
            let Some(key) = self.keys.iter().find(is_refused) else { return };
            let Key { name, refusal, .. } = key;
            assert!(began.elapsed() < RESUMED_MAX, "{}: {name} is refused: {refusal}", self.label);
        }
    }
}
