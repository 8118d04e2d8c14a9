//! Clients of a router: a client that keeps its own session token, and clients without a token.
//! Also functions that stop and delay replicas, and that wait for them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::{LAB, is_servers};
use crate::harness::{PATIENCE, Reply, Router};

/// A client that sends the session token of its last response with its next request.
pub(crate) struct Client<'r> {
    router: &'r Router,
    token: Option<String>,
}

/// Returns a client without a session token.
pub(crate) fn tokenless(router: &Router) -> Client<'_> {
    Client { router, token: None }
}

impl<'r> Client<'r> {
    /// Returns a client with a session token, or with several.
    pub(crate) fn with(router: &'r Router, token: &str) -> Self {
        Self { router, token: Some(token.to_owned()) }
    }

    /// Returns the token that it would send next.
    pub(crate) fn token(&self) -> &str {
        self.token.as_deref().expect("a client that was answered has a token")
    }

    /// Sends a request about rows. Every successful response has a new token.
    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Reply {
        let body = body.map(Value::to_string);
        let mut all = headers.to_vec();
        if body.is_some() {
            all.push(("content-type", "application/json"));
        }
        if let Some(token) = &self.token {
            all.push(("x-session-token", token));
        }
        let body = body.as_deref().map(str::as_bytes);
        let reply = self.router.exchange(method, path, &all, body).unwrap();
        match reply.header("x-session-token") {
            Some(token) => self.token = Some(token.to_owned()),
            None => assert!(reply.status >= 400, "{method} {path}: no token: {}", reply.text()),
        }
        reply
    }

    /// Posts a write under a key, with more headers.
    pub(crate) fn write_with(
        &mut self,
        key: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Reply {
        let mut all = vec![("x-shard-key", key)];
        all.extend_from_slice(headers);
        let reply = self.send("POST", "/api/write", &all, Some(body));
        if reply.status < 300 && headers.contains(&("x-consistency", "all")) {
            await_shown(self.router, self, key);
        }
        reply
    }

    pub(crate) fn write(&mut self, key: &str, body: &Value) -> Reply {
        self.write_with(key, &[], body)
    }

    /// Writes a user whose id is the key, and checks that the write succeeds.
    pub(crate) fn write_user(&mut self, key: &str, name: &str) -> Reply {
        let reply = self.write(key, &user(key, name));
        assert!(reply.status < 300, "{key}: {}", reply.text());
        reply
    }

    /// Writes users at once, at this level.
    pub(crate) fn write_users(&mut self, keys: &[&str], name: &str, level: &str) -> Reply {
        let row = |key: &&str| user(key, name)["data"].clone();
        let body = json!({"table": "users", "records": keys.iter().map(row).collect::<Vec<_>>()});
        let reply = self.send("POST", "/api/bulk-write", &[("x-consistency", level)], Some(&body));
        assert_eq!(reply.status, 201, "{}", reply.text());
        if level == "all" {
            keys.iter().for_each(|key| await_shown(self.router, self, key));
        }
        reply
    }

    /// Reads with more headers: the rows of a key, or of all shards.
    pub(crate) fn read_with(
        &mut self,
        key: Option<&str>,
        headers: &[(&str, &str)],
        query: &str,
    ) -> Reply {
        let mut all: Vec<(&str, &str)> = key.map(|key| ("x-shard-key", key)).into_iter().collect();
        all.extend_from_slice(headers);
        self.send("GET", &format!("/api/read?{query}"), &all, None)
    }

    /// Reads a user at this level.
    pub(crate) fn user_at(&mut self, key: &str, level: &str) -> Seen {
        Seen::of(&self.read_with(Some(key), &[("x-consistency", level)], "table=users"))
    }

    /// Reads a user without naming a level.
    pub(crate) fn user(&mut self, key: &str) -> Seen {
        Seen::of(&self.read_with(Some(key), &[], "table=users"))
    }

    /// Returns the names of all users over all shards, in the order of their ids.
    pub(crate) fn all_names(&mut self) -> Vec<String> {
        let reply = self.read_with(None, &[], "table=users&order=user_id&limit=1000");
        Seen::of(&reply).names
    }
}

/// Result of a read of users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) names: Vec<String>,
    pub(crate) served_by: String,
}

impl Seen {
    /// Reads the result from a response, in which the header and the body must name the same role.
    pub(crate) fn of(reply: &Reply) -> Self {
        assert_eq!(reply.status, 200, "{}", reply.text());
        let body = reply.json();
        let served_by = body["served_by"].as_str().unwrap().to_owned();
        assert_eq!(reply.header("x-served-by"), Some(&*served_by), "{body}");
        let rows = body["data"].as_array().unwrap().iter();
        Self {
            names: rows.map(|row| row["name"].as_str().unwrap().to_owned()).collect(),
            served_by,
        }
    }

    pub(crate) fn by(served_by: &str, names: &[&str]) -> Self {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Self { names, served_by: served_by.to_owned() }
    }
}

/// Returns the body of a write of a user whose id is the key.
pub(crate) fn user(key: &str, name: &str) -> Value {
    json!({"table": "users", "data": {"user_id": key, "name": name, "email": "e"}})
}

/// Returns the body of an operation on a user; a delete has the id alone.
pub(crate) fn user_op(op: &str, key: &str, name: &str) -> Value {
    let mut body = user(key, name);
    if op == "delete" {
        body["data"] = json!({"user_id": key});
    }
    body["op"] = json!(op);
    body
}

/// Starts a router with `--lab`, whose nodes can be paused, delayed and cut.
pub(crate) fn lab(flags: &[&str]) -> Router {
    let mut all = vec!["--lab"];
    all.extend_from_slice(flags);
    Router::start_with(&all)
}

/// Requests a change of a node from the lab.
pub(crate) fn put_node(router: &Router, node: &str, wish: &Value) -> Reply {
    let path = format!("/api/lab/nodes/{node}");
    let headers = [("content-type", "application/json")];
    router.send("PUT", &path, &headers, Some(wish.to_string().as_bytes()))
}

/// Returns true if a node is reached through a proxy, because it is not the router's own.
fn is_on_a_wire(node: &str) -> bool {
    is_servers() && node.contains("-replica")
}

/// Sets the state of a node. It is in force when this returns. A replica that is `behind` shows no
/// new changes; on servers it still confirms that it has received them. On files there is no
/// difference, so it is paused.
pub(crate) fn set(router: &Router, node: &str, state: &str) {
    if is_on_a_wire(node) {
        LAB.set(node, state);
        if state == "cut" {
            await_loss(router, node);
        }
        return;
    }
    let state = if state == "behind" { "paused" } else { state };
    let reply = put_node(router, node, &json!({"state": state}));
    assert_eq!((reply.status, &reply.json()["state"]), (200, &json!(state)), "{}", reply.text());
}

/// Waits until the router reports that it cannot reach a replica.
fn await_loss(router: &Router, node: &str) {
    let shard = format!("/api/shards/{}", node.split('-').next().unwrap());
    let is_lost = |reported: &Value| reported["node"] == node && reported["up"] == false;
    let began = Instant::now();
    while !router.get(&shard).json()["nodes"].as_array().unwrap().iter().any(is_lost) {
        assert!(began.elapsed() < PATIENCE, "{node} is reached");
    }
}

/// Sets the delay of a node.
pub(crate) fn delay(router: &Router, node: &str, delay_ms: u64) {
    if is_on_a_wire(node) {
        return LAB.delay(node, Duration::from_millis(delay_ms));
    }
    let reply = put_node(router, node, &json!({"delay_ms": delay_ms}));
    assert_eq!((reply.status, &reply.json()["delay_ms"]), (200, &json!(delay_ms)));
}

/// Returns the names of all replicas, of all shards.
pub(crate) fn replicas(router: &Router) -> Vec<String> {
    let shards = router.get("/api/health").json()["shards"].as_array().unwrap().clone();
    let nodes = shards.iter().flat_map(|shard| shard["nodes"].as_array().unwrap());
    let names = nodes.map(|node| node["node"].as_str().unwrap().to_owned());
    names.filter(|name| name.contains("-replica")).collect()
}

/// Sets the state of every replica of every shard.
pub(crate) fn set_replicas(router: &Router, state: &str) {
    let names = replicas(router);
    assert!(!names.is_empty(), "there are replicas");
    names.iter().for_each(|name| set(router, name, state));
}

/// Returns keys whose slots this shard owns.
pub(crate) fn keys_on(router: &Router, shard: &str, count: usize) -> Vec<String> {
    let known = router.get(&format!("/api/shards/{shard}")).status;
    assert_eq!(known, 200, "there is no {shard}, so that no key lives there");
    let lives_there = |key: &String| {
        router.get(&format!("/api/route?key={key}")).json()["shard"].as_str() == Some(shard)
    };
    (0..).map(|n| format!("key{n}")).filter(lives_there).take(count).collect()
}

/// Returns a key of each of three shards.
pub(crate) fn three_keys(router: &Router) -> [String; 3] {
    ["shard1", "shard2", "shard3"].map(|shard| keys_on(router, shard, 1).remove(0))
}

/// Waits until every replica shows all changes that were acknowledged before. It writes at level
/// `all` to each shard: such a write is acknowledged when all replicas have it, and refused while
/// one of them is not connected.
pub(crate) fn settle(router: &Router) {
    let shards = router.get("/api/shards").json()["shards"].as_array().unwrap().clone();
    for shard in shards {
        let key = keys_on(router, shard["shard"].as_str().unwrap(), 1).remove(0);
        let body = json!({"table": "kv", "data": {"key": key, "value": "settled"}});
        let level = [("x-consistency", "all"), ("x-deadline-ms", "20000")];
        let began = Instant::now();
        loop {
            let reply = tokenless(router).write_with(&key, &level, &body);
            if reply.status < 300 {
                break;
            }
            let is_waiting = reply.code() == "TSR201" && began.elapsed() < PATIENCE;
            assert!(is_waiting, "a replica does not come: {}", reply.text());
            std::thread::yield_now();
        }
    }
}

/// Waits until every replica of a key's shard shows the writes of a client at level `all`: on a
/// server, changes may be on the replica's disk before reads of it return them.
fn await_shown(router: &Router, client: &mut Client<'_>, key: &str) {
    if !is_servers() {
        return;
    }
    let route = router.get(&format!("/api/route?key={key}")).json();
    let replicas = route["replicas"].as_array().unwrap().len();
    let read = |client: &mut Client<'_>| {
        let reply = client.read_with(Some(key), &[], "table=kv");
        reply.json()["served_by"].as_str().unwrap_or_default().to_owned()
    };
    let shard = format!("/api/shards/{}", route["shard"].as_str().unwrap());
    let began = Instant::now();
    // Such a node has had all changes at a moment after this function began.
    let had_all = |node: &Value, since: Duration| {
        node["lag"].as_f64().is_some_and(|lag| lag < since.as_secs_f64() * 1e3)
    };
    let all_had = || {
        let since = began.elapsed();
        let reported = router.get(&shard).json();
        reported["nodes"].as_array().unwrap().iter().all(|node| had_all(node, since))
    };
    // With several replicas, reads alone may miss one, so their lag is checked too.
    while replicas > 0 && read(client) != "replica" || replicas > 1 && !all_had() {
        assert!(began.elapsed() < PATIENCE, "a replica does not show what it has");
        std::thread::yield_now();
    }
}

/// Runs a test of unconfirmed writes. If a deadline passes before the primary has stored a write,
/// as on a busy machine, the test returns `None` and runs again with a longer deadline.
///
/// A test may send four such writes while a replica stands still. Together they take less than the
/// 60 s of `wal_sender_timeout`, after which too few replicas are connected.
#[track_caller]
pub(crate) fn with_time_to_store(test: impl Fn(&str) -> Option<()>) {
    let is_done = ["1500", "6000", "12000"].into_iter().any(|deadline| test(deadline).is_some());
    assert!(is_done, "the primary stores no write before its deadline");
}

/// Returns the response to a write, unless its deadline has passed before the primary has stored
/// it.
pub(crate) fn stored_in_time(reply: Reply) -> Option<Reply> {
    (reply.code() != "TSR004").then_some(reply)
}

/// Returns a problem's status and code, and the outcome of the write.
pub(crate) fn refusal(reply: &Reply) -> (u16, String, String) {
    let outcome = reply.json()["outcome"].as_str().unwrap_or("-").to_owned();
    (reply.status, reply.code(), outcome)
}

/// Returns the expected status and code of a refusal.
pub(crate) fn refused(status: u16, code: &str) -> (u16, String, String) {
    (status, code.to_owned(), "rejected".to_owned())
}
