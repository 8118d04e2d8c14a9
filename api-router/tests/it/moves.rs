//! Tests of moves of slots over HTTP and by commands: descriptions that are refused, and rows that
//! are written and read while their slots move.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::backend::{files_only, is_servers, not_on_citus, servers_only};
use crate::client::{lab, refusal, set, user_op};
use crate::commands::run;
use crate::folders;
use crate::harness::{Reply, Router, eventually};

pub(crate) const OPERATE: &[&str] = &["--operate"];
/// Deadline of requests that may wait for a fence on a busy machine: nearly as long as the client
/// waits for a response.
pub(crate) const PATIENT: (&str, &str) = ("x-deadline-ms", "25000");
const JSON: (&str, &str) = ("content-type", "application/json");
const NOWHERE: &str = "5f0c1c1e-6c1e-4f7a-9b53-0a8f5b1f2d4e";
const WHY: &str = "Citus places rows itself";

fn post(router: &Router, path: &str, body: Option<&Value>) -> Reply {
    let body = body.map(Value::to_string);
    router.send("POST", path, &[JSON], body.as_ref().map(String::as_bytes))
}

/// Begins a move, once the replicas of both shards follow.
#[track_caller]
pub(crate) fn begin(router: &Router, body: &Value) -> Value {
    let reply = eventually("the move begins", || {
        let reply = post(router, "/api/moves", Some(body));
        (!reply.text().contains("must follow its primary")).then_some(reply)
    });
    assert_eq!(reply.status, 202, "{}", reply.text());
    let begun = reply.json();
    let path = format!("/api/moves/{}", begun["id"].as_str().unwrap());
    assert_eq!(reply.header("location"), Some(&*path));
    begun
}

pub(crate) fn show(router: &Router, begun: &Value) -> Value {
    let reply = router.get(&format!("/api/moves/{}", begun["id"].as_str().unwrap()));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// Returns the number of moves that a list has.
fn listed(router: &Router, query: &str) -> usize {
    let moves = router.get(&format!("/api/moves{query}")).json()["moves"].clone();
    moves.as_array().unwrap().len()
}

pub(crate) fn order(router: &Router, begun: &Value, order: &str) -> Reply {
    post(router, &format!("/api/moves/{}/{order}", begun["id"].as_str().unwrap()), None)
}

/// Waits until a move is in a phase, and returns it.
#[track_caller]
pub(crate) fn until(router: &Router, begun: &Value, phase: &str) -> Value {
    eventually(&format!("the phase {phase}"), || {
        let shown = show(router, begun);
        let has_ended = !shown["ended_at"].is_null();
        assert!(shown["phase"] == phase || !has_ended, "{shown}");
        (shown["phase"] == phase).then_some(shown)
    })
}

/// Returns slot and owner of a key.
pub(crate) fn place(router: &Router, key: &str) -> (u64, String) {
    let answer = router.get(&format!("/api/route?key={key}")).json();
    (answer["slot"].as_u64().unwrap(), answer["shard"].as_str().unwrap().to_owned())
}

/// Returns another shard than this one.
pub(crate) fn other(shard: &str) -> &'static str {
    if shard == "shard1" { "shard2" } else { "shard1" }
}

/// Returns the shard of three that is neither of these.
fn third(from: &str, to: &str) -> &'static str {
    let shards = ["shard1", "shard2", "shard3"].into_iter();
    let mut others = shards.filter(|name| *name != from && *name != to);
    others.next_back().unwrap()
}

/// Ends the writers of a test, even if the test fails.
pub(crate) struct End<'a>(pub(crate) &'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Starts a router and writes a row under a key; returns the router, and the names of the shard
/// that owns the key and of another one.
fn router_with_a_row(key: &str) -> (Router, String, &'static str) {
    let router = Router::start_with(OPERATE);
    assert_eq!(router.write_user(key, "Ada").status, 201);
    let (_, from) = place(&router, key);
    let to = other(&from);
    (router, from, to)
}

#[test]
fn reads_of_all_shards_show_each_row_once_while_a_replica_lags_behind_a_move() {
    servers_only!(
        "a replica on files that is paused confirms nothing, so that the move would wait"
    );
    not_on_citus!(WHY);
    for lagging in ["source", "target"] {
        let router = lab(&["--shards", "2", "--replicas", "1", "--operate"]);
        for number in 0..20 {
            assert_eq!(router.write_user(&format!("user_{number}"), "Ada").status, 201);
        }
        let (slot, from) = place(&router, "user_7");
        let to = other(&from);
        let behind = if lagging == "source" { &*from } else { to };
        set(&router, &format!("{behind}-replica1"), "behind");
        let begun = begin(&router, &json!({"slots": slot.to_string(), "to": to}));
        until(&router, &begun, "keeping");
        let read = router.get("/api/read?table=users&limit=100");
        assert_eq!((read.status, read.json()["count"].as_u64()), (200, Some(20)), "{lagging}");
        set(&router, &format!("{behind}-replica1"), "running");
    }
}

/// Returns the names in the rows of a key.
#[track_caller]
pub(crate) fn names(router: &Router, key: &str) -> Vec<String> {
    let reply = router.send(
        "GET",
        &format!("/api/read?table=users&shardKey={key}&select=name"),
        &[("x-consistency", "all"), PATIENT],
        None,
    );
    assert_eq!(reply.status, 200, "{}", reply.text());
    let rows = reply.json()["data"].as_array().unwrap().clone();
    rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_description_that_cannot_be_used_names_its_member_and_begins_nothing() {
    not_on_citus!(WHY);
    let router = Router::start_with(OPERATE);
    let (slot, from) = place(&router, "ada");
    let (_, foreign) = (slot, other(&from));
    let map = router.get("/api/shard-map").json();
    let first_of = |shard: &str| {
        let ranges = map["ranges"].as_array().unwrap();
        ranges.iter().find(|range| range[2] == shard).unwrap()[0].as_u64().unwrap()
    };
    let both = format!("{},{}", first_of("shard1"), first_of("shard2"));
    let to = "shard2";
    for (body, status, code, member) in [
        (json!({"to": to}), 400, "TSR101", "slots or key"),
        (json!({"slots": "0"}), 400, "TSR101", "to is missing"),
        (json!({"slots": "0", "to": 7}), 400, "TSR101", "to"),
        (json!({"slots": "0", "to": to, "from": 7}), 400, "TSR101", "from"),
        (json!({"key": 7, "to": to}), 400, "TSR101", "key"),
        (json!({"slots": "0", "to": to, "ratio": 1}), 400, "TSR102", "ratio"),
        (json!({"slots": "0", "key": "ada", "to": to}), 400, "TSR330", "not both"),
        (json!({"slots": "", "to": to}), 400, "TSR330", "slots"),
        (json!({"slots": "a", "to": to}), 400, "TSR330", "`a`"),
        (json!({"slots": "5-4", "to": to}), 400, "TSR330", "5-4"),
        (json!({"slots": "16384", "to": to}), 400, "TSR330", "16384"),
        (json!({"slots": "0-5,3", "to": to}), 400, "TSR330", "the slot 3 is given twice"),
        (json!({"slots": [], "to": to}), 400, "TSR330", "not 0"),
        (json!({"slots": [0, 5], "to": to}), 400, "TSR330", "slots must be"),
        (json!({"slots": [[0]], "to": to}), 400, "TSR330", "slots must be"),
        (json!({"slots": [[-1, 5]], "to": to}), 400, "TSR330", "slots must be"),
        (json!({"slots": [[0, 5], [5, 6]], "to": to}), 400, "TSR330", "the slot 5 is given twice"),
        (json!({"slots": [[0, 99999]], "to": to}), 400, "TSR330", "99999"),
        (json!({"slots": 5, "to": to}), 400, "TSR330", "slots must be"),
        (json!({"slots": "0-64", "to": to}), 400, "TSR330", "not 65"),
        (json!({"slots": both, "to": to}), 400, "TSR330", "shard1, shard2"),
        (json!({"key": "", "to": to}), 400, "TSR330", "key"),
        (json!({"key": "ada", "to": from}), 400, "TSR330", "to"),
        (json!({"key": "ada", "to": foreign, "rate": 0}), 400, "TSR330", "rate"),
        (json!({"key": "ada", "to": foreign, "rate": 10_001}), 400, "TSR330", "rate"),
        (json!({"key": "ada", "to": foreign, "rate": 1.5}), 400, "TSR330", "rate"),
        (json!({"key": "ada", "to": foreign, "rate": "2"}), 400, "TSR330", "rate"),
        (json!({"key": "ada", "to": foreign, "keep": -1}), 400, "TSR330", "keep"),
        (json!({"key": "ada", "to": foreign, "keep": 86_401}), 400, "TSR330", "keep"),
        (json!({"key": "ada", "to": "shard9"}), 404, "TSR320", "shard9"),
        (json!({"key": "ada", "to": to, "from": "shard9"}), 404, "TSR320", "shard9"),
        (json!({"slots": "0-16383", "to": "shard9"}), 404, "TSR320", "shard9"),
        (json!({"slots": format!("{slot}"), "from": foreign, "to": from}), 409, "TSR334", foreign),
    ] {
        let reply = post(&router, "/api/moves", Some(&body));
        let (found, named, _) = refusal(&reply);
        assert_eq!((found, &*named), (status, code), "{body}: {}", reply.text());
        let problem = reply.json();
        assert!(problem["detail"].as_str().unwrap().contains(member), "{body}: {problem}");
        assert_eq!(problem["outcome"], "rejected", "{body}");
    }
    assert_eq!(router.get("/api/moves").json()["moves"], json!([]));
}

#[test]
fn a_request_for_a_move_that_cannot_be_read_begins_nothing() {
    not_on_citus!(WHY);
    let router = Router::start_with(OPERATE);
    let foreign = other(&place(&router, "ada").1);
    for body in ["", "{", "[]", "7"] {
        let reply = router.send("POST", "/api/moves", &[JSON], Some(body.as_bytes()));
        assert_eq!(reply.code(), "TSR101", "{body}");
    }
    let body = json!({"key": "ada", "to": foreign}).to_string();
    for (header, status, code) in [
        (("if-match", "\"99\""), 412, "TSR327"),
        (("if-match", "1"), 400, "TSR113"),
        (("content-type", "text/plain"), 415, "TSR107"),
        (("x-deadline-ms", "1"), 400, "TSR113"),
        (("x-consistency", "all"), 400, "TSR113"),
    ] {
        let headers = if header.0 == JSON.0 { vec![header] } else { vec![JSON, header] };
        let reply = router.send("POST", "/api/moves", &headers, Some(body.as_bytes()));
        assert_eq!((reply.status, &*reply.code()), (status, code), "{header:?}: {}", reply.text());
    }
    assert_eq!(post(&router, "/api/moves?x=1", Some(&json!({}))).code(), "TSR100");
    assert_eq!(router.get("/api/moves").json()["moves"], json!([]));
}

#[test]
fn a_shard_that_leaves_gets_no_slots() {
    files_only!("a shard of servers joins by its URL");
    let router = Router::start_with(OPERATE);
    let joined = post(&router, "/api/shards", Some(&json!({"name": "east"})));
    assert_eq!(joined.status, 201, "{}", joined.text());
    assert_eq!(router.send("DELETE", "/api/shards/east", &[], None).status, 200);
    let reply = post(&router, "/api/moves", Some(&json!({"slots": "0", "to": "east"})));
    assert_eq!((reply.status, &*reply.code()), (404, "TSR320"), "{}", reply.text());
}

#[test]
fn orders_for_moves_that_do_not_exist_are_refused() {
    not_on_citus!(WHY);
    let router = Router::start_with(OPERATE);
    for id in [NOWHERE, "7", "%20", "shard1"] {
        let reply = router.get(&format!("/api/moves/{id}"));
        assert_eq!((reply.status, &*reply.code()), (404, "TSR331"), "{}", reply.text());
        assert_eq!(reply.json()["outcome"], Value::Null);
        for order in ["pause", "resume", "cancel", "rollback", "settle", "retry"] {
            let reply = post(&router, &format!("/api/moves/{id}/{order}"), None);
            assert_eq!((reply.status, &*reply.code()), (404, "TSR331"), "{}", reply.text());
            assert_eq!(reply.json()["outcome"], "rejected");
        }
    }
    let reply = post(&router, &format!("/api/moves/{NOWHERE}/stop"), None);
    assert_eq!((reply.status, &*reply.code()), (404, "TSR111"), "{}", reply.text());
    assert!(reply.text().contains("rollback"), "{}", reply.text());
    let reply = router.get("/api/moves?state=some");
    assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{}", reply.text());
}

#[test]
fn without_the_flag_no_move_begins_and_moves_are_listed() {
    not_on_citus!(WHY);
    let router = Router::start();
    let url = format!("http://{}", router.address());
    let none = json!({"success": true, "url": url, "moves": []});
    assert_eq!(router.get("/api/moves").json(), none);
    for path in ["/api/moves".to_owned(), format!("/api/moves/{NOWHERE}/cancel")] {
        let reply = post(&router, &path, Some(&json!({"key": "ada", "to": "shard1"})));
        assert!([404, 405].contains(&reply.status), "{}", reply.text());
        assert!(reply.text().contains("--operate"), "{}", reply.text());
    }
}

#[test]
fn slots_move_while_rows_are_written_and_every_write_is_there_afterwards() {
    not_on_citus!(WHY);
    let (router, from, to) = router_with_a_row("ada");
    let (slot, _) = place(&router, "ada");
    let ended = AtomicBool::new(false);
    let (begun, written) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0;
            while !ended.load(Ordering::Acquire) {
                written += 1;
                let body = json!({"table": "users", "op": "upsert", "data":
                    {"user_id": "ada", "name": format!("n{written}"), "email": "e"}});
                let reply = router.post("/api/write", &[("x-shard-key", "ada"), PATIENT], &body);
                assert!(reply.status < 300, "{}", reply.text());
            }
            written
        });
        let end = End(&ended);
        let epoch = router.get("/api/shard-map").json()["epoch"].as_u64().unwrap();
        let body = json!({"key": "ada", "from": from, "to": to, "keep": 600, "rate": 100});
        let headers = [JSON, ("if-match", &*format!("\"{epoch}\""))];
        let begun = router.send("POST", "/api/moves", &headers, Some(body.to_string().as_bytes()));
        assert_eq!(begun.status, 202, "{}", begun.text());
        let begun = begun.json();
        until(&router, &begun, "keeping");
        drop(end);
        (begun, writer.join().unwrap())
    });
    assert_eq!(place(&router, "ada"), (slot, to.to_owned()));
    assert_eq!(names(&router, "ada"), [format!("n{written}")]);
    let shown = show(&router, &begun);
    for (member, value) in [
        ("slots", json!(slot.to_string())),
        ("slot_count", json!(1)),
        ("from", json!(from)),
        ("to", json!(to)),
        ("goal", json!("forward")),
        ("paused", json!(false)),
        ("stalled", json!(false)),
        ("rate", json!(100)),
        ("keep", json!(600)),
        ("seconds_left", Value::Null),
        ("ended_at", Value::Null),
        ("actions", json!(["pause", "rollback", "settle"])),
    ] {
        assert_eq!(shown[member], value, "{member}: {shown}");
    }
    let route = eventually("the route names the move", || {
        let route = router.get("/api/route?key=ada").json();
        (route["moving"] == true).then_some(route)
    });
    assert_eq!(route["move"], begun["id"]);
    assert!(shown["rows"].as_u64() >= Some(1) && shown["bytes"].as_u64() >= Some(1), "{shown}");
    assert!(shown["owned_at"].is_string(), "{shown}");
    // Until the move ends, no other move may use its slots. It is too late to cancel it.
    let body = json!({"key": "ada", "to": third(&from, to)});
    let again = post(&router, "/api/moves", Some(&body));
    assert_eq!((again.status, &*again.code()), (409, "TSR333"), "{}", again.text());
    for refused in ["cancel", "retry"] {
        let reply = order(&router, &begun, refused);
        assert_eq!((reply.status, &*reply.code()), (409, "TSR332"), "{}", reply.text());
    }
    assert_eq!(order(&router, &begun, "settle").status, 200);
    let done = until(&router, &begun, "done");
    assert_eq!((&done["goal"], &done["actions"]), (&json!("settle"), &json!([])));
    assert_eq!(names(&router, "ada"), [format!("n{written}")]);
    eventually("the route names no move", || {
        let route = router.get("/api/route?key=ada").json();
        (route["moving"] == false && route["move"].is_null()).then_some(())
    });
    let listed = ["", "?state=ended", "?state=open"].map(|state| listed(&router, state));
    assert_eq!(listed, [1, 1, 0]);
}

#[test]
fn a_move_that_is_rolled_back_brings_later_writes_back() {
    not_on_citus!(WHY);
    let (router, from, to) = router_with_a_row("ada");
    let begun = begin(&router, &json!({"key": "ada", "to": to}));
    until(&router, &begun, "keeping");
    let reply =
        router.post("/api/write", &[("x-shard-key", "ada")], &user_op("update", "ada", "late"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let ordered = order(&router, &begun, "rollback");
    assert_eq!((ordered.status, &ordered.json()["goal"]), (200, &json!("back")));
    eventually("the source owns the slot", || (place(&router, "ada").1 == from).then_some(()));
    assert_eq!(names(&router, "ada"), ["late"]);
    let back = until(&router, &begun, "rolled_back");
    assert_eq!(back["actions"], json!(["retry"]));
}

/// Writes 12 large rows, and begins a move that copies them at this rate, in MiB/s.
pub(crate) fn begin_slow(router: &Router, key: &str, to: &str, rate: u64) -> Value {
    let value = "v".repeat(1 << 20);
    for row in 0..12 {
        let body = json!({"table": "orders", "op": "upsert", "data":
            {"order_id": format!("{key}{row}"), "user_id": key, "amount": 1, "note": value}});
        let reply = router.post("/api/write", &[("x-shard-key", key)], &body);
        assert!(reply.status < 300, "{}", reply.text());
    }
    begin(router, &json!({"key": key, "to": to, "rate": rate}))
}

#[test]
fn a_move_rests_goes_on_is_cancelled_and_is_begun_again() {
    not_on_citus!(WHY);
    let (router, from, to) = router_with_a_row("ada");
    let begun = begin_slow(&router, "ada", to, 1);
    let paused = order(&router, &begun, "pause");
    assert_eq!((paused.status, &paused.json()["paused"]), (200, &json!(true)));
    let shown = paused.json();
    // A server may have no statistics yet.
    assert!(shown["rows_expected"].is_u64() || is_servers(), "{shown}");
    assert_eq!(shown.get("seconds_left"), Some(&Value::Null), "{shown}");
    let reply = order(&router, &begun, "rollback");
    assert_eq!((reply.status, &*reply.code()), (409, "TSR332"), "{}", reply.text());
    assert_eq!(order(&router, &begun, "resume").json()["paused"], false);
    let cancelled = order(&router, &begun, "cancel");
    assert_eq!(cancelled.status, 200, "{}", cancelled.text());
    let ended = until(&router, &begun, "cancelled");
    assert_eq!((&ended["actions"], &ended["owned_at"]), (&json!(["retry"]), &Value::Null));
    assert_eq!(place(&router, "ada").1, from);
    assert_eq!(names(&router, "ada"), ["Ada"]);
    for late in ["pause", "cancel", "settle"] {
        let reply = order(&router, &begun, late);
        assert_eq!((reply.status, &*reply.code()), (409, "TSR332"), "{}", reply.text());
    }
    let retried = eventually("the move begins again", || {
        let reply = order(&router, &begun, "retry");
        (!reply.text().contains("must follow its primary")).then_some(reply)
    });
    assert_eq!(retried.status, 202, "{}", retried.text());
    let again = retried.json();
    assert_eq!(
        retried.header("location"),
        Some(&*format!("/api/moves/{}", again["id"].as_str().unwrap()))
    );
    assert_ne!(again["id"], begun["id"]);
    for member in ["slots", "from", "to", "rate", "keep"] {
        assert_eq!(again[member], begun[member], "{member}");
    }
    assert_eq!(order(&router, &again, "cancel").status, 200);
    until(&router, &again, "cancelled");
}

#[test]
fn commands_move_slots_through_the_socket_and_through_a_url() {
    not_on_citus!(WHY);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, OPERATE);
    let (dir, url) = (data.to_str().unwrap().to_owned(), router.url(""));
    let places = [(["--data-dir", &dir], "ada"), (["--url", &url], "bob")];
    // Only a router of files listens on a socket.
    for (place_of, key) in places.into_iter().skip(usize::from(is_servers())) {
        assert_eq!(router.write_user(key, "Ada").status, 201);
        let (slot, from) = place(&router, key);
        let to = other(&from);
        let third = third(&from, to);
        let command = |arguments: &[&str]| {
            run(&[&["move"], arguments, &["--json"], &place_of[..]].concat(), "")
        };
        let begun = command(&["start", "--key", key, "--to", to, "--rate", "50"]).json(0);
        assert_eq!((&begun["slots"], &begun["from"]), (&json!(slot.to_string()), &json!(from)));
        let id = begun["id"].as_str().unwrap();
        let arrived = command(&["wait", id]).json(0);
        assert_eq!((&arrived["id"], &arrived["phase"]), (&begun["id"], &json!("keeping")));
        assert_eq!(place(&router, key).1, to);
        assert_eq!(names(&router, key), ["Ada"]);
        let listed = command(&["list"]).json(0);
        assert_eq!(listed["moves"][0]["id"], begun["id"]);
        assert_eq!(command(&["pause", id]).json(0)["paused"], true);
        assert_eq!(command(&["resume", id]).json(0)["paused"], false);
        for (arguments, code) in [
            (&["cancel", id][..], "TSR332"),
            (&["retry", id], "TSR332"),
            (&["show", NOWHERE], "TSR331"),
            (&["settle", "../shards"], "TSR331"),
            (&["start", "--slots", "0-64", "--to", to], "TSR330"),
            (&["start", "--key", key, "--to", "shard9"], "TSR320"),
            (&["start", "--key", key, "--to", third, "--from", &from], "TSR334"),
        ] {
            let refused = command(arguments);
            assert_eq!(refused.code, Some(2), "{arguments:?}: {refused:?}");
            assert!(refused.err.contains(code), "{arguments:?}: {refused:?}");
        }
        command(&["settle", id]).json(0);
        assert_eq!(command(&["wait", id, "--ended"]).json(0)["phase"], "done");
        assert_eq!(command(&["show", id]).json(0)["phase"], "done");
    }
    if is_servers() {
        return;
    }
    router.end();
    router.wait();
    let stopped = |arguments: &[&str]| {
        run(&[&["move"], arguments, &["--json", "--data-dir", &dir]].concat(), "")
    };
    let moves = stopped(&["list"]).json(0)["moves"].clone();
    assert_eq!(moves.as_array().unwrap().len(), 2);
    let id = moves[0]["id"].as_str().unwrap();
    assert_eq!(stopped(&["show", id]).json(0), moves[0]);
    let refused = stopped(&["start", "--key", "ada", "--to", "shard9"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("TSR320"), "{refused:?}");
}
