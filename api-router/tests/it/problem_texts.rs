//! Texts of problems: the title, the detail and the hint of each.

use crate::backend::{is_citus, not_on_citus};
use crate::harness::{Reply, Router, eventually};
use crate::problems::{post, problems};

/// Returns a text whose UUIDs are replaced.
fn without_ids(text: &str) -> String {
    let is_id = |word: &str| word.len() == 36 && word.matches('-').count() == 4;
    let parts = text.split_inclusive(|c: char| !c.is_ascii_hexdigit() && c != '-').map(|part| {
        let word = part.trim_end_matches(|c: char| !c.is_ascii_hexdigit() && c != '-');
        if is_id(word) { part.replace(word, "[id]") } else { part.to_owned() }
    });
    parts.collect()
}

/// Sends a request that begins moves, until the replicas follow; returns its response.
fn begin(router: &Router, path: &str, body: &str) -> Reply {
    eventually("the replicas follow", || {
        let reply = post(router, path, &[], body);
        (!reply.text().contains("must follow its primary")).then_some(reply)
    })
}

/// Moves the last slot to the first shard, and returns the id of the move, which keeps its source.
fn move_last_slot(router: &Router) -> String {
    let begun = begin(router, "/api/moves", r#"{"slots":"16383","to":"shard1"}"#);
    assert_eq!(begun.status, 202, "{}", begun.text());
    let path = begun.header("location").unwrap().to_owned();
    eventually("the slot has moved", || {
        (router.get(&path).json()["phase"] == "keeping").then_some(())
    });
    begun.json()["id"].as_str().unwrap().to_owned()
}

/// Begins a rebalance, pauses it, and returns its path.
fn pause_rebalance(router: &Router) -> String {
    let weigh = router.send(
        "PATCH",
        "/api/shards/shard3",
        &[("content-type", "application/json")],
        Some(br#"{"weight":2}"#),
    );
    assert_eq!(weigh.status, 200, "{}", weigh.text());
    let begun = begin(router, "/api/rebalance", "{}");
    assert_eq!(begun.status, 202, "{}", begun.text());
    let path = begun.header("location").unwrap().to_owned();
    assert_eq!(post(router, &format!("{path}/pause"), &[], "").status, 200);
    path
}

/// Sends one request for each code that needs moved slots, and returns the responses. On Citus,
/// which places rows itself, there are none.
pub(crate) fn problems_of_moves(router: &Router) -> Vec<(&'static str, u16, Reply)> {
    if is_citus() {
        return Vec::new();
    }
    let moved = move_last_slot(router);
    let paused = pause_rebalance(router);
    let order = |order: &str| post(router, &format!("{paused}/{order}"), &[], "");
    let second = post(router, "/api/rebalance", &[], "{}");
    assert_eq!(order("cancel").status, 200);
    eventually("it has ended", || {
        (router.get(&paused).json()["state"] == "cancelled").then_some(())
    });
    vec![
        ("TSR337", 409, order("resume")),
        ("TSR338", 409, second),
        ("TSR332", 409, post(router, &format!("/api/moves/{moved}/cancel"), &[], "")),
        ("TSR333", 409, post(router, "/api/moves", &[], r#"{"slots":"16383","to":"shard2"}"#)),
    ]
}

/// Returns one line for each problem, with the parts that differ from one code to the next. The
/// whole body is checked in `problems`.
fn lines(problems: &[(&str, u16, Reply)]) -> String {
    let line = |(code, status, reply): &(&str, u16, Reply)| {
        let body = reply.json();
        let hint = body["hint"].as_str().unwrap_or("-");
        format!(
            "{code} {status} {}: {} ({hint})",
            body["title"].as_str().unwrap(),
            without_ids(body["detail"].as_str().unwrap())
        )
    };
    problems.iter().map(line).collect::<Vec<String>>().join("\n")
}

#[test]
fn each_problem_of_a_move_has_a_detail_and_a_remedy() {
    not_on_citus!("Citus places rows itself");
    let router = Router::start_with(&["--operate"]);
    insta::assert_snapshot!(lines(&problems_of_moves(&router)), @r#"
    TSR337 409 Rebalance state conflict: the rebalance has ended (cancelled): begin another one (the member actions of the rebalance, in /api/rebalance, lists the commands that it accepts now)
    TSR338 409 A rebalance goes on: the rebalance [id] goes on: wait for its end, or cancel it (/api/rebalance shows it; POST /api/rebalance/{id}/cancel ends it)
    TSR332 409 Move state conflict: the target owns the slots already: roll the move back instead (the member actions of the move, in /api/moves, lists the commands that it accepts now)
    TSR333 409 Slots move already: the slots 16383 move already ([id]): wait for that move, or leave them out (wait for the end of the other move, or leave its slots out)
    "#);
}

#[test]
fn each_problem_has_a_detail_and_a_remedy() {
    let router = Router::start_with(&["--operate"]);
    insta::assert_snapshot!(lines(&problems(&router)), @r#"
    TSR004 504 Deadline passed: the body did not arrive in time (-)
    TSR100 400 Bad query string: user_id: a filter needs an operator: eq, neq, gt, gte, lt, lte, like, ilike, in, is, not (user_id=eq.value)
    TSR101 400 Bad body: the body is not JSON: EOF while parsing an object at line 1 column 1 (-)
    TSR102 400 Unknown member: unknown member `dta` (did you mean `data`?)
    TSR103 400 Shard keys differ: user_id contradicts the shard key (send `there` as the shard key, as user_id is stored, or leave the shard key out)
    TSR104 400 Shard key needed: a write needs a shard key (give the row user_id, which is its shard key, or send the header x-shard-key)
    TSR105 400 Unknown preference: `fly=high` is not a known preference (known: return=minimal, return=representation, fanout=deny, partial=allow, count=exact, tx=per-shard, handling=strict, handling=lenient)
    TSR106 400 Bad page: limit must be a number from 0 to 1000 (-)
    TSR107 406 Media type not supported: Accept rules out application/json, and there is nothing else (send Accept: application/json, or none)
    TSR107 415 Media type not supported: Content-Type must be application/json (with curl: -H 'Content-Type: application/json')
    TSR108 413 Too large: the body is larger than 2 MiB (send it in smaller parts)
    TSR108 413 Too large: the body is nested deeper than 64 levels (-)
    TSR109 422 Idempotency key reused: the idempotency key was used for another request under this shard key (a new request needs a new Idempotency-Key)
    TSR111 404 No such path: there is nothing at this path (/ lists what there is, /swagger-ui/ explains it)
    TSR112 405 Method not allowed: this path has POST (send one of these methods: the header Allow lists them)
    TSR113 400 Bad header: x-deadline-ms must be a number of milliseconds, 100 to 60000 (-)
    TSR301 409 Exists already: the row exists already (use op upsert or update to change it)
    TSR302 404 No such row: there is no such row (check the id and the shard key; op upsert or insert makes a row)
    TSR303 412 Version differs: the row is not of the version that the request names (read the row again, and send its version: the ETag in If-Match, or version in if_version)
    TSR310 404 No such table: there is no table `user` (did you mean `users`?)
    TSR311 400 No such column: users has no column `nmae` (did you mean `name`?)
    TSR312 400 Value does not fit: name: expected text, got a number (-)
    TSR320 404 No such shard: the cluster has no shard `nowhere` (/api/shards lists the shards)
    TSR321 400 Bad shard: weight must be a whole number from 0 to 1000000 (correct the member that the detail names, and send the request again)
    TSR326 409 Shard state conflict: shard2 owns 5461 slots: a shard is retired when it owns none (/api/shards shows the state and the slots of each shard)
    TSR327 412 Shard map differs: the shard map is at epoch 1, not at 9: it has changed meanwhile; look at it again (look at /api/shards again, and send its epoch as If-Match)
    TSR328 400 Bad fence: seconds must be a number from 0.001 to 60 (/api/shard-map shows the owner of each slot)
    TSR330 400 Bad move: a move has 1 to 64 slots, not 65: begin one move after the other (correct the member that the detail names, and send the request again)
    TSR331 404 No such move: there is no such move (/api/moves lists the moves)
    TSR335 400 Bad rebalance: by must be slots, size, load or placement, not `rows` (correct the member that the detail names, and send the request again)
    TSR336 404 No such rebalance: there is no such rebalance (/api/rebalance lists the rebalances)
    TSR334 409 Slots of another shard: shard2 does not own the slots 0 (/api/shard-map shows the owner of each slot)
    TSR339 409 Backups not available: this router has no folder for backups: its setting backup_dir is not set (start the router with --backup-dir DIR (TESSERA_BACKUP_DIR, or backup_dir in tessera.toml))
    TSR350 400 No such group: there is no table group `mian` (did you mean `main`?)
    TSR403 403 Forbidden: the request comes from a web page of another origin (requests from other programs, and from pages served here, are welcome)
    "#);
}
