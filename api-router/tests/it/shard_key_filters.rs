//! Tests of filters that name the shard key: a read with such a filter contacts only the shards of
//! its keys, and returns the same rows as a read of all shards.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cache::{Cached, LONG, cache_headers, until_hit};
use crate::client::{settle, tokenless};
use crate::harness::{Reply, Router};

/// Number of users, who all have different numbers of orders.
const USERS: usize = 12;

fn user(number: usize) -> String {
    format!("user_{number}")
}

fn with_orders() -> Router {
    let router = Router::start();
    let records: Vec<Value> = (0..USERS)
        .flat_map(|user| (0..=user).map(move |order| (user, order)))
        .map(|(number, order)| {
            let id = format!("o{number}-{order:02}");
            json!({"order_id": id, "user_id": user(number), "amount": order % 3, "status": "open"})
        })
        .collect();
    let reply =
        router.post("/api/bulk-write", &[], &json!({"table": "orders", "records": records}));
    assert_eq!(reply.status, 201, "{}", reply.text());
    settle(&router);
    router
}

fn read(router: &Router, query: &str) -> Reply {
    let reply = router.get(&format!("/api/read?table=orders&{query}"));
    assert_eq!(reply.status, 200, "{query}: {}", reply.text());
    reply
}

fn shard_of(router: &Router, key: &str) -> String {
    router.get(&format!("/api/route?key={key}")).json()["shard"].as_str().unwrap().to_owned()
}

fn shards_of(router: &Router, keys: &[&str]) -> Value {
    let shards: BTreeSet<String> = keys.iter().map(|key| shard_of(router, key)).collect();
    json!(shards)
}

/// Returns the rows of all pages; if shards are given, every page must come from these.
fn walk(router: &Router, query: &str, shards: Option<&Value>) -> Vec<Value> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let answer = read(router, &format!("{query}{cursor}")).json();
        if let Some(shards) = shards {
            assert_eq!(&answer["shards"], shards, "{query}{cursor}");
        }
        rows.extend(answer["data"].as_array().unwrap().clone());
        match answer["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return rows,
        }
    }
}

#[test]
fn a_filter_with_the_shard_key_reads_its_shard_only() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = with_orders();
    let by_key = router.read("user_7", "table=orders").json();
    for query in [
        "user_id=eq.user_7",
        "user_id=in.(user_7)",
        "and=(user_id.eq.user_7,amount.gte.0)",
        "and=(amount.gte.0,and(status.eq.open,user_id.in.(user_7)))",
        "user_id=in.(user_7,user_3)&user_id=eq.user_7",
    ] {
        let reply = read(&router, query);
        let answer = reply.json();
        assert_eq!(answer["data"], by_key["data"], "{query}");
        assert_eq!(answer["shards"], json!([shard_of(&router, "user_7")]), "{query}");
        assert_eq!(reply.header("x-shard"), answer["shards"][0].as_str(), "{query}");
        assert!(reply.header("x-shard-slot").is_some(), "{query}");
    }
    let headers = [("prefer", "fanout=deny,count=exact")];
    let counted =
        router.send("GET", "/api/read?table=orders&user_id=eq.user_7&limit=2", &headers, None);
    assert_eq!((counted.status, &counted.json()["total"]), (200, &json!(8)), "{}", counted.text());
    let none = read(&router, "user_id=eq.nobody").json();
    assert_eq!((&none["count"], none["shards"].as_array().unwrap().len()), (&json!(0), 1));
    // A single row has its version, as in a read by its key.
    let only = read(&router, "user_id=eq.user_0");
    let known = [("if-none-match", only.header("etag").unwrap())];
    let again = router.send("GET", "/api/read?table=orders&user_id=eq.user_0", &known, None);
    assert_eq!(again.status, 304);
}

#[test]
fn a_filter_with_several_shard_keys_reads_their_shards_and_returns_the_same_rows() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = with_orders();
    let keys = ["user_2", "user_5", "user_11", "nobody"];
    let shards = shards_of(&router, &keys);
    let list = keys.join(",");
    for (order, limit) in [("", 1), ("", 5), ("", 1000), ("&order=amount.desc", 4)] {
        let query = |filter: &str| format!("{filter}{order}&limit={limit}");
        // Conditions below `or` name no keys.
        let plain = walk(&router, &query(&format!("or=(user_id.in.({list}))")), None);
        assert_eq!(plain.len(), 3 + 6 + 12);
        let routed = walk(&router, &query(&format!("user_id=in.({list})")), Some(&shards));
        assert_eq!(routed, plain, "{order} {limit}");
    }
    let headers = [("prefer", "count=exact,fanout=deny")];
    let path = format!("/api/read?table=orders&user_id=in.({list})&limit=2&offset=3");
    let counted = router.send("GET", &path, &headers, None).json();
    assert_eq!((&counted["total"], &counted["count"]), (&json!(21), &json!(2)), "{counted}");
    let near = ["user_1", "user_3", "user_4", "user_6", "user_8", "user_9", "user_10"];
    let home = shard_of(&router, "user_2");
    if let Some(beside) = near.into_iter().find(|key| shard_of(&router, key) == home) {
        let reply = read(&router, &format!("user_id=in.(user_2,{beside})"));
        assert_eq!(reply.json()["shards"], json!([home]));
    }
}

#[test]
fn a_filter_that_allows_other_shard_keys_reads_all_shards() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = with_orders();
    let all = json!(["shard1", "shard2", "shard3"]);
    for query in [
        "user_id=not.eq.user_7",
        "user_id=neq.user_7",
        "user_id=gte.user_7",
        "user_id=not.in.(user_7)",
        "or=(user_id.eq.user_7,amount.eq.0)",
        "not.and=(user_id.eq.user_7,amount.eq.0)",
        "not.or=(user_id.eq.user_7)",
        "order_id=eq.o7-00",
    ] {
        assert_eq!(read(&router, query).json()["shards"], all, "{query}");
        let headers = [("prefer", "fanout=deny")];
        let path = format!("/api/read?table=orders&{query}");
        assert_eq!(router.send("GET", &path, &headers, None).code(), "TSR104", "{query}");
    }
    let many: Vec<String> = (0..101).map(user).collect();
    let answer = read(&router, &format!("user_id=in.({})&limit=1000", many.join(","))).json();
    assert_eq!((&answer["shards"], &answer["count"]), (&all, &json!(USERS * (USERS + 1) / 2)));
    for nothing in ["user_id=in.()", "user_id=eq.user_1&user_id=eq.user_2", "user_id=eq."] {
        assert_eq!(read(&router, nothing).json()["count"], 0, "{nothing}");
    }
    // A table without a routing column takes any key for any row.
    let columns = json!([{"name": "id", "type": "text"}]);
    let table = json!({"name": "anywhere", "columns": columns, "id": ["id"]});
    assert_eq!(router.post("/api/tables", &[], &table).status, 201);
    router.write("k", &json!({"table": "anywhere", "data": {"id": "a"}}));
    let answer = router.get("/api/read?table=anywhere&id=eq.a").json();
    assert_eq!((&answer["shards"], &answer["count"]), (&all, &json!(1)));
}

#[test]
fn a_filter_on_the_routing_column_takes_any_spelling_of_a_value_and_no_other_text() {
    let router = Router::start();
    let columns = json!([{"name": "id", "type": "bigint"}, {"name": "of", "type": "uuid"}]);
    let table = json!({"name": "things", "columns": columns, "id": ["of"], "routing": "id"});
    assert_eq!(router.post("/api/tables", &[], &table).status, 201);
    let uuid = "0198c3f2-7f4e-7cc3-9b6d-7e1f5a3c2b10";
    let row = json!({"table": "things", "data": {"id": 42, "of": uuid}});
    assert_eq!(router.post("/api/write", &[], &row).status, 201);
    let get = |query: &str| router.get(&format!("/api/read?table=things&{query}"));
    for query in ["id=eq.42", "id=eq.042", "id=in.(0042)", "id=in.(7,042)", "and=(id.eq.042)"] {
        let answer = get(query).json();
        assert_eq!(answer["count"], 1, "{query}: {answer}");
    }
    for query in ["id=eq.x", "id=eq.4.2", "id=eq.", "id=in.(42,x)"] {
        assert_eq!(get(query).code(), "TSR312", "{query}");
    }
}

#[test]
fn a_shard_key_that_the_filter_rules_out_is_refused() {
    let router = with_orders();
    for query in ["user_id=eq.user_2", "user_id=in.(user_2,user_3)", "and=(user_id.eq.user_2)"] {
        let reply = router.read("user_1", &format!("table=orders&{query}"));
        assert_eq!((reply.status, &*reply.code()), (400, "TSR103"), "{query}: {}", reply.text());
    }
    let reply = router.read("user_1", "table=orders&user_id=eq.user_2");
    assert!(reply.json()["hint"].as_str().unwrap().contains("`user_2`"), "{}", reply.text());
    for query in ["user_id=eq.user_1", "user_id=in.(user_1,user_2)", "user_id=neq.user_2"] {
        let answer = router.read("user_1", &format!("table=orders&{query}")).json();
        assert_eq!(answer["count"], 2, "{query}: {answer}");
    }
}

#[test]
fn pages_by_a_filter_are_those_of_the_key_in_any_order() {
    let router = with_orders();
    for order in
        ["", "&order=amount.desc", "&order=shard_key.desc,amount", "&order=slot,order_id.desc"]
    {
        let by_key = router.read("user_9", &format!("table=orders{order}")).json();
        let expected = by_key["data"].as_array().unwrap();
        for limit in [1, 3, 10] {
            let rows = walk(&router, &format!("user_id=eq.user_9{order}&limit={limit}"), None);
            assert_eq!(&rows, expected, "{order} {limit}");
        }
    }
}

#[test]
fn a_read_by_a_filter_is_answered_from_the_cache_until_its_key_is_written() {
    let cached = Cached::start(&LONG);
    let router = &cached.router;
    router.write_user("a", "Ada");
    settle(router);
    let ask = |query: &str| tokenless(router).read_with(None, &[], &format!("table=users&{query}"));
    let name = |reply: &Reply| reply.json()["data"][0]["name"].clone();
    for query in ["user_id=eq.a", "user_id=in.(a)"] {
        assert_eq!(name(&until_hit(|| ask(query))), "Ada", "{query}");
    }
    let several = ask("user_id=in.(a,b)");
    assert_eq!((cache_headers(&several).0, name(&several)), ("bypass", json!("Ada")));
    router.write_user("a", "Eve");
    for query in ["user_id=eq.a", "user_id=in.(a)", "user_id=in.(a,b)"] {
        let reply = router.get(&format!("/api/read?table=users&{query}"));
        assert_eq!(name(&reply), "Eve", "{query}: {:?}", cache_headers(&reply));
    }
}
