//! Tests of transactions: bulk writes of which each shard stores all of its rows or none, and rows
//! that are changed only if they have the expected version.

use std::thread;

use serde_json::{Value, json};

use crate::client::keys_on;
use crate::harness::{PATIENCE, Reply, Router};

const WHOLE: (&str, &str) = ("prefer", "tx=per-shard");

fn whole(router: &Router, body: &Value) -> Reply {
    router.post("/api/bulk-write", &[WHOLE, ("x-deadline-ms", "60000")], body)
}

fn row(key: &str, name: &str) -> Value {
    json!({"shard_key": key, "data": {"user_id": key, "name": name, "email": "e"}})
}

fn users(rows: &[Value]) -> Value {
    json!({"table": "users", "rows": rows})
}

/// Returns the names of all users by id.
fn names(router: &Router) -> Vec<(String, String)> {
    let read = router.get("/api/read?table=users&order=user_id&limit=1000").json();
    let text = |row: &Value, column: &str| row[column].as_str().unwrap().to_owned();
    let rows = read["data"].as_array().unwrap().iter();
    rows.map(|row| (text(row, "user_id"), text(row, "name"))).collect()
}

fn version(router: &Router, key: &str) -> i64 {
    router.read(key, "table=users").json()["data"][0]["version"].as_i64().unwrap()
}

/// Returns index, code and outcome of each failed row.
fn failed(reply: &Reply) -> Vec<(u64, String, String)> {
    let answer = reply.json();
    let rows = answer["failed"].as_array().unwrap().iter().map(|row| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (row["index"].as_u64().unwrap(), text(&row["error"]["code"]), text(&row["outcome"]))
    });
    rows.collect()
}

fn rejected(rows: &[(u64, &str)]) -> Vec<(u64, String, String)> {
    let rows = rows.iter();
    rows.map(|(index, code)| (*index, (*code).to_owned(), "rejected".to_owned())).collect()
}

#[test]
fn a_row_is_changed_only_if_it_is_of_the_version_that_is_named() {
    let router = Router::shared();
    for key in ["a", "b"] {
        router.write_user(key, "old");
    }
    let at = version(&router, "a");
    let with = |key: &str, version: Value| {
        let mut row = row(key, "new");
        row["if_version"] = version;
        row
    };
    let rows = [with("a", json!(at)), with("b", json!(at + 1_000)), with("c", json!(1))];
    let reply = router.post("/api/bulk-write", &[], &users(&rows));
    assert_eq!(reply.status, 207, "{}", reply.text());
    assert_eq!(failed(&reply), rejected(&[(1, "TSR303"), (2, "TSR303")]));
    let error = reply.json()["failed"][0]["error"].clone();
    assert!(error["hint"].as_str().unwrap().contains("if_version"), "{error}");
    assert!(!error["detail"].as_str().unwrap().contains("If-Match"), "{error}");
    let now = [("a".to_owned(), "new".to_owned()), ("b".to_owned(), "old".to_owned())];
    assert_eq!(names(&router), now);
    let bad = [json!("1"), json!(1.5), json!(null), json!([1]), json!(true), json!(1e30)];
    let rows: Vec<Value> = bad.into_iter().map(|version| with("a", version)).collect();
    let reply = router.post("/api/bulk-write", &[], &users(&rows));
    let all: Vec<(u64, &str)> = (0..6).map(|index| (index, "TSR101")).collect();
    assert_eq!(failed(&reply), rejected(&all), "{}", reply.text());
    let insert = json!({"table": "users", "op": "insert", "rows": [with("d", json!(1))]});
    assert_eq!(failed(&router.post("/api/bulk-write", &[], &insert)), rejected(&[(0, "TSR101")]));
    let at = version(&router, "a");
    let delete = json!({"table": "users", "op": "delete", "rows": [
        {"shard_key": "a", "data": {"user_id": "a"}, "if_version": at}]});
    assert_eq!(router.post("/api/bulk-write", &[], &delete).status, 201);
    assert_eq!(names(&router), now[1..]);
}

#[test]
fn of_each_shard_all_is_stored_or_nothing() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::shared();
    let (first, second) = (keys_on(&router, "shard1", 3), keys_on(&router, "shard2", 3));
    router.write_user(&first[1], "there");
    let rows = [&first[0], &second[0], &first[1], &second[1], &first[2], &second[2]];
    let rows: Vec<Value> = rows.iter().map(|key| row(key, "new")).collect();
    let mut body = users(&rows);
    body["op"] = json!("insert");
    let reply = whole(&router, &body);
    assert_eq!(reply.status, 207, "{}", reply.text());
    assert_eq!(reply.header("preference-applied"), Some("tx=per-shard"));
    assert_eq!(failed(&reply), rejected(&[(0, "TSR301"), (2, "TSR301"), (4, "TSR301")]));
    let answer = reply.json();
    assert_eq!((&answer["stored"], &answer["failed_total"]), (&json!(3), &json!(3)));
    let detail = |at: usize| answer["failed"][at]["error"]["detail"].as_str().unwrap().to_owned();
    assert_eq!(detail(0), "undone with row 2 of the same transaction: the row exists already");
    assert_eq!(detail(1), "the row exists already");
    assert_eq!(answer["failed"][0]["shard"], "shard1");
    let mut expected: Vec<(String, String)> =
        second.iter().map(|key| (key.clone(), "new".to_owned())).collect();
    expected.push((first[1].clone(), "there".to_owned()));
    expected.sort();
    assert_eq!(names(&router), expected);
    // The undone writes have no effect: the same rows without the failed one can be stored.
    let rows: Vec<Value> = [&first[0], &first[2]].iter().map(|key| row(key, "new")).collect();
    let reply = whole(&router, &users(&rows));
    assert_eq!((reply.status, &reply.json()["stored"]), (201, &json!(2)), "{}", reply.text());
}

#[test]
fn a_version_that_differs_undoes_the_part_of_its_shard() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::shared();
    let keys = keys_on(&router, "shard3", 2);
    for key in &keys {
        router.write_user(key, "old");
    }
    let versions = [version(&router, &keys[0]), version(&router, &keys[1])];
    let change = |stale: i64| {
        let rows = [0, 1].map(|at| {
            let mut row = row(&keys[at], "new");
            row["if_version"] = json!(versions[at] - if at == 1 { stale } else { 0 });
            row
        });
        whole(&router, &users(&rows))
    };
    assert_eq!(failed(&change(1)), rejected(&[(0, "TSR303"), (1, "TSR303")]));
    assert!(names(&router).iter().all(|(_, name)| name == "old"));
    assert_eq!(change(0).status, 201);
    assert!(names(&router).iter().all(|(_, name)| name == "new"));
}

#[test]
fn a_row_that_cannot_be_read_undoes_its_part_and_one_that_has_no_key_undoes_all() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::shared();
    let (first, second) = (keys_on(&router, "shard1", 2), keys_on(&router, "shard2", 1));
    let bad =
        json!({"shard_key": first[1], "data": {"user_id": first[1], "nmae": "N", "email": "e"}});
    let reply = whole(&router, &users(&[row(&first[0], "N"), bad, row(&second[0], "N")]));
    assert_eq!(failed(&reply), rejected(&[(0, "TSR311"), (1, "TSR311")]), "{}", reply.text());
    assert_eq!(names(&router), [(second[0].clone(), "N".to_owned())]);
    for stray in [
        json!({"data": {"name": "N", "email": "e"}}),
        json!({"shard_key": "x", "data": {"user_id": "y", "name": "N", "email": "e"}}),
        json!("no object"),
    ] {
        let reply = whole(&router, &users(&[row(&first[0], "N"), row(&second[0], "M"), stray]));
        assert_eq!(reply.json()["failed_total"], 3, "{}", reply.text());
        assert_eq!(names(&router), [(second[0].clone(), "N".to_owned())]);
    }
}

#[test]
fn a_part_that_its_log_cannot_carry_is_refused_and_nothing_of_it_is_stored() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::start_with(&["--shards", "1"]);
    let text = "n".repeat((1 << 20) - 1_000);
    for n in 0..17 {
        router.write_user(&format!("large{n:02}"), &text);
    }
    let rows: Vec<Value> =
        (0..17).map(|n| json!({"user_id": format!("large{n:02}"), "email": "changed"})).collect();
    let body = json!({"table": "users", "records": rows});
    let reply = whole(&router, &body);
    let all: Vec<(u64, &str)> = (0..17).map(|index| (index, "TSR108")).collect();
    assert_eq!(failed(&reply), rejected(&all), "{}", reply.text());
    let changed = "/api/read?table=users&email=eq.changed&select=user_id";
    assert_eq!(router.get(changed).json()["count"], 0);
    // Without a transaction the rows are stored.
    let reply = router.post("/api/bulk-write", &[("x-deadline-ms", "60000")], &body);
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(router.get(changed).json()["count"], 17);
}

#[test]
fn ten_thousand_rows_can_be_one_transaction() {
    crate::backend::not_on_citus!(
        "rows that are read first are locked one by one there, which takes too long for so many"
    );
    let router = Router::start_with(&["--shards", "1"]);
    let rows: Vec<Value> = (0..10_000).map(|n| row(&format!("u{n}"), "N")).collect();
    let mut last = rows.clone();
    last[9_999] = json!({"shard_key": "u9999", "data": {"user_id": "u9999", "name": "no email"}});
    let headers = [WHOLE, ("x-deadline-ms", "60000")];
    let refused = router.post("/api/bulk-write", &headers, &users(&last)).json();
    assert_eq!((&refused["stored"], &refused["failed_total"]), (&json!(0), &json!(10_000)));
    assert_eq!(router.get("/api/read?table=users&limit=1").json()["count"], 0);
    let stored = router.post("/api/bulk-write", &headers, &users(&rows));
    assert_eq!((stored.status, &stored.json()["stored"]), (201, &json!(10_000)));
}

#[test]
fn a_transaction_that_is_sent_again_is_answered_as_the_first_time() {
    let router = Router::start_with(&["--shards", "1"]);
    router.write_user("b", "there");
    let insert = |rows: &[Value]| json!({"table": "users", "op": "insert", "rows": rows});
    let send = |key: &str, body: &Value| {
        router.post("/api/bulk-write", &[WHOLE, ("idempotency-key", key)], body)
    };
    let bad = insert(&[row("a", "A"), row("b", "B"), row("c", "C")]);
    let first = send("k1", &bad);
    let codes = rejected(&[(0, "TSR301"), (1, "TSR301"), (2, "TSR301")]);
    assert_eq!(failed(&first), codes, "{}", first.text());
    // The conflicting row is gone, but the repeated request must still be refused.
    let delete = json!({"table": "users", "op": "delete", "data": {"user_id": "b"}});
    assert_eq!(router.write("b", &delete).status, 200);
    let again = send("k1", &bad);
    assert_eq!(failed(&again), codes, "{}", again.text());
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let details = |reply: &Reply| {
        let rows = reply.json()["failed"].as_array().unwrap().clone();
        rows.iter().map(|row| row["error"]["detail"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(details(&again), details(&first));
    assert_eq!(names(&router), []);

    let good = insert(&[row("a", "A"), row("b", "B")]);
    assert_eq!(send("k2", &good).status, 201);
    let again = send("k2", &good);
    assert_eq!(again.status, 201, "{}", again.text());
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(names(&router).len(), 2);
    // With another row it is another request: the new row is undone with the others, whose
    // idempotency key was used.
    let other = insert(&[row("a", "A"), row("b", "other"), row("d", "D")]);
    let reply = send("k2", &other);
    assert_eq!(failed(&reply), rejected(&[(1, "TSR109"), (2, "TSR109")]), "{}", reply.text());
    assert_eq!(names(&router).len(), 2);
}

#[test]
fn a_transaction_of_all_shards_and_conditions_in_headers_are_refused() {
    let router = Router::shared();
    let body = users(&[row("a", "A")]);
    let reply = router.post("/api/bulk-write", &[("prefer", "tx=all")], &body);
    assert_eq!((reply.status, &*reply.code()), (400, "TSR113"), "{}", reply.text());
    let reply = router.post("/api/bulk-write", &[WHOLE, ("if-match", "\"1\"")], &body);
    assert_eq!((reply.status, &*reply.code()), (400, "TSR113"), "{}", reply.text());
    assert_eq!(names(&router), []);
}

/// Returns the balance of each account, by its row's id, with the row's version.
fn balances(router: &Router, bank: &str) -> Vec<(i64, i64)> {
    let query = "table=transactions&order=tx_id&select=amount,version";
    let level = [("x-shard-key", bank), ("x-consistency", "all")];
    let read = router.send("GET", &format!("/api/read?{query}"), &level, None).json();
    let rows = read["data"].as_array().unwrap().iter();
    rows.map(|row| (row["amount"].as_i64().unwrap(), row["version"].as_i64().unwrap())).collect()
}

fn balance(bank: &str, account: usize, amount: i64) -> Value {
    json!({"shard_key": bank, "data": {"tx_id": format!("a{account}"), "account": bank, "amount": amount}})
}

fn transfer(bank: &str, from: usize, to: usize, seen: &[(i64, i64)]) -> Value {
    let mut rows = [balance(bank, from, seen[from].0 - 1), balance(bank, to, seen[to].0 + 1)];
    for (row, account) in rows.iter_mut().zip([from, to]) {
        row["if_version"] = json!(seen[account].1);
    }
    json!({"table": "transactions", "op": "update", "rows": rows})
}

/// Opens a bank of four accounts with 100 each.
fn open_bank(router: &Router, bank: &str) {
    let rows: Vec<Value> = (0..4).map(|account| balance(bank, account, 100)).collect();
    let body = json!({"table": "transactions", "rows": rows});
    assert_eq!(whole(router, &body).status, 201);
}

fn sum(balances: &[(i64, i64)]) -> i64 {
    balances.iter().map(|(amount, _)| amount).sum()
}

#[test]
fn transfers_between_accounts_keep_their_sum_however_many_go_on_at_once() {
    let router = Router::shared();
    open_bank(&router, "bank");
    thread::scope(|scope| {
        for clerk in 0..4 {
            let router = &router;
            scope.spawn(move || {
                let (mut done, mut tries) = (0, 0);
                while done < 15 {
                    let seen = balances(router, "bank");
                    assert_eq!(sum(&seen), 400, "a reader saw half a transfer");
                    let body = transfer("bank", clerk, (clerk + 1 + done % 3) % 4, &seen);
                    let reply = whole(router, &body);
                    match reply.status {
                        201 => done += 1,
                        _ => assert!(
                            failed(&reply).iter().all(|(_, code, _)| code == "TSR303"),
                            "{}",
                            reply.text()
                        ),
                    }
                    tries += 1;
                    assert!(tries < 5_000, "no transfer succeeds");
                }
            });
        }
    });
    assert_eq!(sum(&balances(&router, "bank")), 400);
}

#[test]
fn a_kill_in_the_middle_leaves_no_half_of_a_transaction() {
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &["--shards", "1"]);
    open_bank(&router, "bank");
    for round in 0..3 {
        thread::scope(|scope| {
            let (reported, transfers) = std::sync::mpsc::channel();
            let clerk = &router;
            let worker = scope.spawn(move || {
                for n in 0.. {
                    let seen = balances_or_none(clerk);
                    let Some(seen) = seen else { return };
                    let body = transfer("bank", n % 4, (n + 1) % 4, &seen);
                    let headers = [("content-type", "application/json"), WHOLE];
                    let text = body.to_string();
                    let path = "/api/bulk-write";
                    let sent = clerk.try_send("POST", path, &headers, Some(text.as_bytes()));
                    if sent.is_err() || reported.send(()).is_err() {
                        return;
                    }
                }
            });
            for _ in 0..10 + round {
                transfers.recv_timeout(PATIENCE).unwrap();
            }
            router.signal("KILL");
            drop(transfers);
            worker.join().unwrap();
        });
        router.wait();
        router = Router::start_in(&data, &["--shards", "1"]);
        let seen = balances(&router, "bank");
        assert_eq!((seen.len(), sum(&seen)), (4, 400), "round {round}");
    }
}

/// Reads the balances while the router may be killed.
fn balances_or_none(router: &Router) -> Option<Vec<(i64, i64)>> {
    let path = "/api/read?table=transactions&order=tx_id&select=amount,version";
    let level = [("x-shard-key", "bank"), ("x-consistency", "all")];
    let reply = router.try_send("GET", path, &level, None).ok()?;
    let read: Value = serde_json::from_slice(&reply.body).ok()?;
    let rows = read["data"].as_array()?.iter();
    rows.map(|row| Some((row["amount"].as_i64()?, row["version"].as_i64()?))).collect()
}
