//! Tests of pages of rows: filters over HTTP, iteration by cursor while other clients write,
//! totals, and partial responses when a shard does not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::client::{lab, set, settle};
use crate::harness::{Reply, Router, eventually};

/// Stores orders of a few users over all shards: `o000` … with an amount, a status that may be
/// null, and a note.
fn with_orders(router: &Router, count: usize) {
    let statuses = [json!("open"), json!("paid"), Value::Null, json!("Paid")];
    let order = |n: usize| {
        json!({"order_id": format!("o{n:03}"), "user_id": format!("user_{}", n % 7), "amount": n % 10,
            "status": statuses[n % 4], "note": format!("n% {n}")})
    };
    let records: Vec<Value> = (0..count).map(order).collect();
    let body = json!({"table": "orders", "records": records});
    let reply = router.post("/api/bulk-write", &[], &body);
    assert_eq!(reply.status, 201, "{}", reply.text());
}

fn read(router: &Router, query: &str) -> Value {
    let reply = router.get(&format!("/api/read?table=orders&{query}"));
    assert_eq!(reply.status, 200, "{query}: {}", reply.text());
    reply.json()
}

fn ids(answer: &Value) -> Vec<String> {
    let rows = answer["data"].as_array().expect("rows");
    rows.iter().map(|row| row["order_id"].as_str().expect("an id").to_owned()).collect()
}

/// Returns the ids of the orders whose numbers pass.
fn passing(passes: impl Fn(usize) -> bool) -> Vec<String> {
    (0..40).filter(|n| passes(*n)).map(|n| format!("o{n:03}")).collect()
}

#[test]
fn each_operator_finds_what_postgrest_would_find() {
    let router = Router::shared();
    with_orders(&router, 40);
    let status = |n: usize| [Some("open"), Some("paid"), None, Some("Paid")][n % 4];
    type Passes = fn(usize, Option<&str>) -> bool;
    let cases: [(&str, Passes); 24] = [
        ("amount=eq.3", |n, _| n % 10 == 3),
        ("amount=neq.3", |n, _| n % 10 != 3),
        ("amount=gt.3", |n, _| n % 10 > 3),
        ("amount=gte.3&amount=lt.5", |n, _| (3..5).contains(&(n % 10))),
        ("amount=lte.3", |n, _| n % 10 <= 3),
        ("amount=not.lte.3", |n, _| n % 10 > 3),
        ("status=neq.open", |_, s| s.is_some_and(|s| s != "open")),
        ("status=not.eq.open", |_, s| s.is_some_and(|s| s != "open")),
        ("status=is.null", |_, s| s.is_none()),
        ("status=is.not_null", |_, s| s.is_some()),
        ("status=not.is.null", |_, s| s.is_some()),
        ("status=like.p*", |_, s| s == Some("paid")),
        ("status=ilike.P%25", |_, s| s.is_some_and(|s| s != "open")),
        ("status=not.like.p*", |_, s| s.is_some_and(|s| s != "paid")),
        ("status=like._pe_", |_, s| s == Some("open")),
        ("note=like.n%5C%25*", |_, _| true),
        ("note=like.n%5C%25", |_, _| false),
        ("status=in.(open,Paid)", |_, s| matches!(s, Some("open" | "Paid"))),
        ("status=not.in.(open,Paid)", |_, s| s == Some("paid")),
        ("or=(status.is.null,amount.eq.0)", |n, s| s.is_none() || n % 10 == 0),
        ("not.or=(amount.lt.2,amount.gt.4)", |n, _| (2..=4).contains(&(n % 10))),
        ("and=(amount.gte.2,not.or(amount.eq.3,amount.eq.4))", |n, _| {
            n % 10 >= 2 && ![3, 4].contains(&(n % 10))
        }),
        ("or=(and(status.eq.open,amount.in.(0,4)),order_id.eq.%22o007%22)", |n, s| {
            n == 7 || (s == Some("open") && [0, 4].contains(&(n % 10)))
        }),
        ("or=(status.not.is.null,not.amount.eq.2)", |n, s| s.is_some() || n % 10 != 2),
    ];
    for (query, passes) in cases {
        let found = ids(&read(&router, &format!("order=order_id&limit=1000&{query}")));
        assert_eq!(found, passing(|n| passes(n, status(n))), "{query}");
        let keyed = router.read("user_3", &format!("table=orders&order=order_id&{query}")).json();
        assert_eq!(ids(&keyed), passing(|n| n % 7 == 3 && passes(n, status(n))), "{query}");
    }
}

/// Reads page after page, calls `each` with each response, and returns the ids of all rows.
fn walk(router: &Router, query: &str, mut each: impl FnMut(&Value)) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let at = cursor.as_ref().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let answer = read(router, &format!("{query}{at}"));
        each(&answer);
        found.extend(ids(&answer));
        assert!(found.len() <= 10_000, "a walk without end");
        match answer["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return found,
        }
    }
}

#[test]
fn pages_by_cursor_contain_all_rows_and_the_last_one_has_no_cursor() {
    for shards in ["1", "8"] {
        let router = Router::start_with(&["--shards", shards]);
        with_orders(&router, 40);
        for query in
            ["", "order=amount.desc", "order=status,amount.desc", "status=is.null", "order=user_id"]
        {
            let all = ids(&read(&router, &format!("limit=1000&{query}")));
            for limit in [1, 3, 39, 40, 41] {
                let walked = walk(&router, &format!("limit={limit}&{query}"), |_| {});
                assert_eq!(walked, all, "{shards} shards, limit {limit}, {query}");
            }
        }
        let keyed = router.read("user_3", "table=orders&limit=2").json();
        let next = keyed["next_cursor"].as_str().expect("user_3 has more than two");
        let rest = router.read("user_3", &format!("table=orders&limit=9&cursor={next}")).json();
        assert_eq!([ids(&keyed), ids(&rest)].concat(), passing(|n| n % 7 == 3));
        assert_eq!(rest["next_cursor"], Value::Null);
        assert_eq!(read(&router, "limit=0")["next_cursor"], Value::Null);
    }
}

#[test]
fn a_cursor_serves_its_own_query_and_no_other() {
    let router = Router::shared();
    with_orders(&router, 40);
    let page = read(&router, "order=amount&limit=5");
    let cursor = page["next_cursor"].as_str().expect("more follow");
    for (query, status) in [
        (format!("table=orders&order=amount&limit=9&select=amount&cursor={cursor}"), 200),
        (format!("table=orders&order=amount.desc&limit=5&cursor={cursor}"), 400),
        (format!("table=orders&limit=5&cursor={cursor}"), 400),
        (format!("table=orders&order=amount&amount=gt.1&limit=5&cursor={cursor}"), 400),
        (format!("table=orders&order=amount&shardKey=user_1&cursor={cursor}"), 400),
        (format!("table=transactions&order=amount&cursor={cursor}"), 400),
        (format!("table=orders&order=amount&cursor={cursor}A"), 400),
        (format!("table=orders&order=amount&cursor={}", &cursor[1..]), 400),
    ] {
        let reply = router.get(&format!("/api/read?{query}"));
        assert_eq!(reply.status, status, "{query}: {}", reply.text());
        if status == 400 {
            assert_eq!(reply.code(), "TSR106", "{query}");
            assert!(reply.json()["detail"].to_string().contains("cursor"), "{}", reply.text());
        }
    }
    let other = Router::start();
    with_orders(&other, 10);
    let reply = other.get(&format!("/api/read?table=orders&order=amount&cursor={cursor}"));
    assert_eq!((reply.status, &*reply.code()), (400, "TSR106"), "of another cluster");
}

#[test]
fn a_cursor_outlives_a_restart() {
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, &[]);
    with_orders(&router, 40);
    let page = read(&router, "limit=30");
    drop(router);
    let router = Router::start_in(&data, &[]);
    let cursor = page["next_cursor"].as_str().expect("more follow");
    let rest = read(&router, &format!("limit=30&cursor={cursor}"));
    let both: BTreeSet<String> = [ids(&page), ids(&rest)].concat().into_iter().collect();
    assert_eq!(both.len(), 40);
}

#[test]
fn a_walk_under_writes_meets_each_row_that_was_there_throughout_exactly_once() {
    let router = Router::shared();
    with_orders(&router, 200);
    let (stop, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let (router, stop, written) = (&router, &stop, &written);
            scope.spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Adds rows before, between and after those of the walk, and removes some of
                    // them again.
                    let (id, key) =
                        (format!("o{:03}-{writer}-{n}", n * 37 % 230), format!("user_{}", n % 9));
                    let data = json!({"order_id": id, "user_id": key, "amount": n % 10});
                    let made = router.write(&key, &json!({"table": "orders", "data": data}));
                    assert!(made.status < 300, "{}", made.text());
                    written.fetch_add(1, Ordering::Relaxed);
                    if n % 3 == 0 {
                        let gone = json!({"order_id": id});
                        router
                            .write(&key, &json!({"table": "orders", "op": "delete", "data": gone}));
                    }
                }
            });
        }
        for query in [
            "limit=7",
            "limit=9&order=amount",
            "limit=8&order=order_id.desc",
            "limit=11&order=status.desc,amount",
        ] {
            // At least one row is written between any two pages.
            let walked = walk(&router, query, |_| {
                let before = written.load(Ordering::Relaxed);
                while written.load(Ordering::Relaxed) == before {
                    std::thread::yield_now();
                }
            });
            let mut met: BTreeMap<&str, usize> = BTreeMap::new();
            walked.iter().for_each(|id| *met.entry(id).or_default() += 1);
            let twice = met.iter().find(|(_, times)| **times > 1);
            assert_eq!(twice, None, "{query}: met twice");
            let throughout = (0..200).map(|n| format!("o{n:03}"));
            let missed: Vec<String> = throughout.filter(|id| !met.contains_key(&**id)).collect();
            assert_eq!(missed, Vec::<String>::new(), "{query}: never met");
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn offset_passes_over_rows_of_the_whole_not_of_each_shard() {
    let router = Router::start_with(&["--shards", "8"]);
    with_orders(&router, 40);
    let all = ids(&read(&router, "order=amount"));
    for (offset, limit) in [(0, 5), (3, 5), (38, 5), (40, 5), (10_000, 1)] {
        let page = read(&router, &format!("order=amount&offset={offset}&limit={limit}"));
        let expected: Vec<String> = all.iter().skip(offset).take(limit).cloned().collect();
        assert_eq!(ids(&page), expected, "{offset}");
    }
    let keyed = router.read("user_3", "table=orders&offset=2&limit=2").json();
    assert_eq!(ids(&keyed), passing(|n| n % 7 == 3)[2..4]);
    let next = keyed["next_cursor"].as_str().expect("more follow");
    let rest = router.read("user_3", &format!("table=orders&cursor={next}")).json();
    assert_eq!(ids(&rest), passing(|n| n % 7 == 3)[4..]);
}

#[test]
fn count_exact_is_the_number_of_rows_that_meet_the_filters_whatever_the_page() {
    let router = Router::shared();
    with_orders(&router, 40);
    let prefer = [("prefer", "count=exact")];
    let total = |query: &str| -> Reply {
        let reply = router.send("GET", &format!("/api/read?table=orders&{query}"), &prefer, None);
        assert_eq!(reply.status, 200, "{query}: {}", reply.text());
        assert_eq!(reply.header("preference-applied"), Some("count=exact"), "{query}");
        reply
    };
    for (query, expected) in [
        ("limit=3", 40),
        ("limit=0", 40),
        ("limit=3&offset=39", 40),
        ("status=is.null&limit=1", 10),
        ("amount=gt.100", 0),
        ("shardKey=user_3&limit=2", passing(|n| n % 7 == 3).len()),
        ("shardKey=nobody", 0),
    ] {
        assert_eq!(total(query).json()["total"], json!(expected), "{query}");
    }
    assert_eq!(read(&router, "limit=3").get("total"), None, "not asked for");
    let cursor = read(&router, "limit=3")["next_cursor"].as_str().unwrap().to_owned();
    assert_eq!(total(&format!("limit=3&cursor={cursor}")).json()["total"], json!(40));
}

#[test]
fn a_shard_that_cannot_answer_is_an_error_unless_a_part_is_welcome() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = lab(&[]);
    with_orders(&router, 40);
    let whole = ids(&read(&router, "order=order_id"));
    for node in ["shard2-replica1", "shard2-primary"] {
        set(&router, node, "cut");
    }
    let refused = router.get("/api/read?table=orders");
    assert_eq!((refused.status, &*refused.code()), (503, "TSR201"), "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    let prefer = [("prefer", "partial=allow, count=exact")];
    let path = "/api/read?table=orders&order=order_id";
    let part = router.send("GET", path, &prefer, None);
    assert_eq!(part.status, 206, "{}", part.text());
    assert_eq!(part.header("preference-applied"), Some("partial=allow, count=exact"));
    let answer = part.json();
    assert_eq!(
        (&answer["missing"], &answer["shards"]),
        (&json!(["shard2"]), &json!(["shard1", "shard3"]))
    );
    let found = ids(&answer);
    let lives = |id: &String| {
        let n: usize = id[1..].parse().unwrap();
        let route = router.get(&format!("/api/route?key=user_{}", n % 7)).json();
        route["shard"] != "shard2"
    };
    let expected: Vec<String> = whole.iter().filter(|id| lives(id)).cloned().collect();
    assert!(!expected.is_empty() && expected.len() < 40);
    assert_eq!((&found, &answer["total"]), (&expected, &json!(expected.len())));
    for shard in ["shard1", "shard3"] {
        set(&router, &format!("{shard}-replica1"), "cut");
        set(&router, &format!("{shard}-primary"), "cut");
    }
    let nothing = router.send("GET", path, &prefer, None);
    assert_eq!((nothing.status, &*nothing.code()), (503, "TSR201"), "{}", nothing.text());
    for shard in ["shard1", "shard2", "shard3"] {
        set(&router, &format!("{shard}-primary"), "running");
    }
    assert_eq!(ids(&read(&router, "order=order_id")), whole);
}

#[test]
fn a_primary_that_is_cut_off_takes_no_writes_and_is_reported_by_health() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = lab(&["--shards", "1"]);
    router.write_user("ada", "Ada");
    settle(&router);
    set(&router, "shard1-primary", "cut");
    let refused =
        router.write("ada", &json!({"table": "users", "data": {"user_id": "ada", "name": "A"}}));
    assert_eq!((refused.status, &*refused.code()), (503, "TSR201"), "{}", refused.text());
    assert_eq!(refused.json()["outcome"], "rejected");
    assert_eq!(router.read("ada", "table=users").status, 200, "its replica goes on");
    // A replica that answers late is reported as down.
    eventually("only the primary is down", || {
        let health = router.get("/api/health").json();
        let expected = json!({"primary": false, "replica": true});
        (health["health"]["shard1"] == expected).then_some(())
    });
    set(&router, "shard1-primary", "running");
    assert_eq!(router.write_user("ada", "Ada again").status, 200);
}
