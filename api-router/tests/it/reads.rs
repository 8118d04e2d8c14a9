//! Tests of `GET /api/read`: one key, all shards in one order, columns and filters.

use std::cmp::Ordering;

use serde_json::{Value, json};

use crate::client::settle;
use crate::harness::Router;

/// Returns sixty orders of thirteen users, with ties, nulls, and texts whose bytes have another
/// order than their letters.
fn orders() -> Vec<Value> {
    let amounts = [3, -1, 0, 1_i64 << 53, 3];
    let states = [json!(null), json!(""), json!("a"), json!("B"), json!("é"), json!("😀")];
    (0..60)
        .map(|n: usize| {
            json!({
                "order_id": format!("o{n}"),
                "user_id": format!("user_{}", n % 13),
                "amount": amounts[n % 5],
                "status": states[(n * 7) % 6].clone(),
                "note": if n.is_multiple_of(4) { Value::Null } else { json!(format!("n{}", n % 3)) },
            })
        })
        .collect()
}

fn with_orders(flags: &[&str]) -> Router {
    let router = Router::start_with(flags);
    let body = json!({"table": "orders", "records": orders()});
    let reply = router.post("/api/bulk-write", &[], &body);
    assert_eq!(reply.status, 201, "{}", reply.text());
    // Afterwards, reads are served by replicas.
    settle(&router);
    router
}

/// Returns the rows of a read that must succeed.
fn rows(router: &Router, query: &str) -> Vec<Value> {
    let reply = router.get(&format!("/api/read?table=orders&{query}"));
    assert_eq!(reply.status, 200, "{query}: {}", reply.text());
    let answer = reply.json();
    let rows = answer["data"].as_array().unwrap().clone();
    assert_eq!(answer["count"], rows.len());
    rows
}

fn ids(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["order_id"].as_str().unwrap()).collect()
}

/// Compares two values: null is last in ascending order and first in descending order, texts are
/// compared by bytes, and numbers by size.
fn compare(a: &Value, b: &Value, descending: bool) -> Ordering {
    let ascending = match (a, b) {
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Greater,
        (_, Value::Null) => Ordering::Less,
        (Value::String(a), Value::String(b)) => a.as_bytes().cmp(b.as_bytes()),
        (a, b) => a.as_i64().unwrap().cmp(&b.as_i64().unwrap()),
    };
    if descending { ascending.reverse() } else { ascending }
}

/// Returns the orders as the API must sort them: by the requested columns, then by shard key and
/// id.
fn sorted(order: &[(&str, bool)]) -> Vec<Value> {
    let mut rows = orders();
    rows.sort_by(|a, b| {
        let asked =
            order.iter().map(|(name, descending)| compare(&a[*name], &b[*name], *descending));
        let ties = ["user_id", "order_id"].iter().map(|name| compare(&a[*name], &b[*name], false));
        asked.chain(ties).find(|ordering| ordering.is_ne()).unwrap_or(Ordering::Equal)
    });
    rows
}

#[test]
fn rows_of_all_shards_come_in_one_order_whatever_the_number_of_shards() {
    let orders: [(&str, &[(&str, bool)]); 8] = [
        ("amount", &[("amount", false)]),
        ("amount.desc", &[("amount", true)]),
        ("status.asc", &[("status", false)]),
        ("status.desc", &[("status", true)]),
        ("status.desc,amount", &[("status", true), ("amount", false)]),
        ("note,status.desc,amount.desc", &[("note", false), ("status", true), ("amount", true)]),
        ("order_id.desc", &[("order_id", true)]),
        ("shard_key.desc,note", &[("user_id", true), ("note", false)]),
    ];
    for shards in ["1", "3", "8"] {
        let router = with_orders(&["--shards", shards]);
        for (text, order) in orders {
            let expected = sorted(order);
            for limit in [0, 1, 7, 59, 60, 1000] {
                let got = rows(&router, &format!("select=order_id&order={text}&limit={limit}"));
                let cut = &expected[..limit.min(60)];
                assert_eq!(ids(&got), ids(cut), "{shards} shards, order={text}, limit={limit}");
            }
        }
        assert_eq!(rows(&router, "orderBy=amount&limit=9"), rows(&router, "order=amount&limit=9"));
    }
}

#[test]
fn without_an_order_rows_come_by_slot_and_key_whatever_the_number_of_shards() {
    let read = |shards: &str| {
        let router = with_orders(&["--shards", shards]);
        let kept = rows(&router, "select=slot,shard_key,order_id");
        let key = |row: &Value| {
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            (row["slot"].as_u64().unwrap(), text("shard_key"), text("order_id"))
        };
        let mut sorted = kept.clone();
        sorted.sort_by_key(key);
        assert_eq!(kept, sorted, "{shards} shards");
        kept
    };
    let one = read("1");
    assert_eq!(one.len(), 60);
    assert_eq!(one, read("3"));
    assert_eq!(one, read("8"));
}

#[test]
fn a_read_without_a_limit_returns_a_hundred_rows() {
    let router = Router::shared();
    let records: Vec<Value> = (0..120)
        .map(|n| json!({"user_id": format!("u{n:03}"), "name": "N", "email": "e"}))
        .collect();
    router.post("/api/bulk-write", &[], &json!({"table": "users", "records": records}));
    let count =
        |query: &str| router.get(&format!("/api/read?table=users{query}")).json()["count"].clone();
    assert_eq!(count(""), 100);
    assert_eq!(count("&limit=1000"), 120);
    assert_eq!(count("&limit=0"), 0);
    for bad in ["1001", "-1", "abc", "", "1.5", "99999999999999999999"] {
        let reply = router.get(&format!("/api/read?table=users&limit={bad}"));
        assert_eq!((reply.status, &*reply.code()), (400, "TSR106"), "{bad}");
    }
}

#[test]
fn a_read_by_key_reads_one_shard_and_names_it() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = with_orders(&[]);
    let reply = router.read("user_3", "table=orders&order=order_id&select=order_id,user_id");
    let (answer, route) = (reply.json(), router.get("/api/route?key=user_3").json());
    let mine: Vec<Value> = sorted(&[("order_id", false)])
        .into_iter()
        .filter(|row| row["user_id"] == "user_3")
        .map(|row| json!({"order_id": row["order_id"], "user_id": "user_3"}))
        .collect();
    assert_eq!(answer["data"], json!(mine));
    assert_eq!((&answer["success"], &answer["count"]), (&json!(true), &json!(mine.len())));
    assert_eq!(answer["shards"], json!([route["shard"]]));
    assert_eq!((&answer["served_by"], &answer["cached"]), (&json!("replica"), &json!(false)));
    assert_eq!(reply.header("x-shard"), route["shard"].as_str());
    assert_eq!(reply.header("x-shard-slot"), Some(&*route["slot"].to_string()));
    assert_eq!(reply.header("x-epoch"), Some("1"));
    assert_eq!(reply.header("x-served-by"), Some("replica"));
    assert!(reply.header("server-timing").unwrap().contains("db;dur="));
    assert!(reply.header("x-request-id").is_some());
    assert_eq!(router.read("nobody", "table=orders").json()["data"], json!([]));
}

#[test]
fn a_read_of_all_shards_names_them_and_no_single_one() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = with_orders(&[]);
    let reply = router.get("/api/read?table=orders&limit=1");
    assert_eq!(reply.json()["shards"], json!(["shard1", "shard2", "shard3"]));
    assert_eq!((reply.header("x-shard"), reply.header("x-shard-slot")), (None, None));
    assert_eq!(
        (reply.header("x-epoch"), reply.header("x-served-by")),
        (Some("1"), Some("replica"))
    );
    let headers = [("prefer", "fanout=deny")];
    let denied = router.send("GET", "/api/read?table=orders", &headers, None);
    assert_eq!((denied.status, &*denied.code()), (400, "TSR104"));
    let headers = [("prefer", "fanout=deny"), ("x-shard-key", "user_1")];
    assert_eq!(router.send("GET", "/api/read?table=orders", &headers, None).status, 200);
}

#[test]
fn the_default_answer_has_the_tables_columns_and_the_servers() {
    let router = with_orders(&[]);
    let first = rows(&router, "limit=1").remove(0);
    let members: Vec<&String> = first.as_object().unwrap().keys().collect();
    let expected =
        ["amount", "created_at", "note", "order_id", "status", "updated_at", "user_id", "version"];
    assert_eq!(members, expected);
    let in_order = router.get("/api/read?table=orders&limit=1").text();
    let at = |name: &str| in_order.find(&format!("\"{name}\":")).unwrap();
    assert!(at("order_id") < at("user_id") && at("note") < at("version"), "{in_order}");
}

#[test]
fn select_chooses_and_renames_columns() {
    let router = Router::shared();
    router.write_user("u", "Ada");
    let read = |select: &str| router.read("u", &format!("table=users&select={select}"));
    let data = |select: &str| read(select).json()["data"][0].clone();
    assert_eq!(data("name,user_id"), json!({"name": "Ada", "user_id": "u"}));
    assert_eq!(data("who:name,name"), json!({"name": "Ada", "who": "Ada"}));
    assert_eq!(data("name:email,email:name"), json!({"name": "u@example.com", "email": "Ada"}));
    assert_eq!(
        data("slot,shard_key"),
        json!({"slot": router.get("/api/route?key=u").json()["slot"], "shard_key": "u"})
    );
    assert_eq!(data("*"), router.read("u", "table=users").json()["data"][0]);
    assert_eq!(data("*,slot").as_object().unwrap().len(), 8);
    assert!(read("name,user_id").text().contains(r#"{"name":"Ada","user_id":"u"}"#));
    for (select, code) in [
        ("nmae", "TSR311"),
        ("name,name", "TSR100"),
        ("a:name,a:email", "TSR100"),
        ("name,name:email", "TSR100"),
        ("*,name", "TSR100"),
        (":name", "TSR100"),
        ("a%22b:name", "TSR100"),
        ("a:", "TSR311"),
        ("name::text", "TSR311"),
        ("count()", "TSR311"),
        ("amount.sum()", "TSR311"),
        ("name as x", "TSR311"),
    ] {
        let reply = read(&select.replace(' ', "%20"));
        assert_eq!((reply.status, &*reply.code()), (400, code), "{select}: {}", reply.text());
    }
}

#[test]
fn filters_find_exactly_the_rows_that_match() {
    let router = with_orders(&[]);
    let expect = |query: &str, test: &dyn Fn(&Value) -> bool| {
        let found = rows(&router, &format!("{query}&order=order_id"));
        let all = sorted(&[("order_id", false)]);
        let matching: Vec<Value> = all.into_iter().filter(|row| test(row)).collect();
        assert_eq!(ids(&found), ids(&matching), "{query}");
    };
    expect("amount=eq.3", &|row| row["amount"] == 3);
    expect("amount=eq.-1", &|row| row["amount"] == -1);
    expect("amount=in.(0,9007199254740992)", &|row| {
        row["amount"] == 0 || row["amount"] == 1_i64 << 53
    });
    expect("status=eq.", &|row| row["status"] == "");
    expect("status=eq.%C3%A9", &|row| row["status"] == "é");
    expect("status=in.(%F0%9F%98%80,a)", &|row| row["status"] == "😀" || row["status"] == "a");
    expect("status=eq.A", &|_| false);
    expect("status=eq.null", &|_| false);
    expect("status=in.()", &|_| false);
    expect("user_id=eq.user_3&amount=eq.3", &|row| {
        row["user_id"] == "user_3" && row["amount"] == 3
    });
    expect("shard_key=in.(user_1,user_2)", &|row| {
        row["user_id"] == "user_1" || row["user_id"] == "user_2"
    });
    expect("amount=eq.3&amount=eq.0", &|_| false);
    let slot = router.get("/api/route?key=user_5").json()["slot"].clone();
    expect(&format!("slot=eq.{slot}"), &|row| row["user_id"] == "user_5");
    let one = rows(&router, "order_id=eq.o7").remove(0);
    let version = one["version"].as_i64().unwrap();
    assert!(rows(&router, &format!("version=eq.{version}&user_id=eq.user_7")).contains(&one));
    let made = one["created_at"].as_str().unwrap();
    assert!(rows(&router, &format!("created_at=eq.{made}")).contains(&one));
    let keyed = router.read("user_5", "table=orders&amount=in.(3,0)&select=order_id").json();
    let mine =
        |row: &&Value| row["user_id"] == "user_5" && [json!(3), json!(0)].contains(&row["amount"]);
    assert_eq!(keyed["count"], orders().iter().filter(mine).count());
}

#[test]
fn lists_may_quote_what_would_end_them() {
    let router = Router::shared();
    let names = ["a,b", "c\"d", "e)", "(f", "g\\h", "", " i ", "j.k", "'"];
    for (index, name) in names.iter().enumerate() {
        assert_eq!(router.write_user(&format!("u{index}"), name).status, 201);
    }
    let find = |list: &str| {
        let encoded: String = list.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let reply =
            router.get(&format!("/api/read?table=users&select=name&order=name&name=in.{encoded}"));
        assert_eq!(reply.status, 200, "{list}: {}", reply.text());
        let rows = reply.json()["data"].as_array().unwrap().clone();
        rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(find(r#"("a,b")"#), ["a,b"]);
    assert_eq!(find(r#"("c\"d","e)")"#), ["c\"d", "e)"]);
    assert_eq!(find(r#"("g\\h","(f")"#), ["(f", "g\\h"]);
    assert_eq!(find(r#"("")"#), [""]);
    assert_eq!(find("((f,\"e)\")"), ["(f", "e)"]);
    assert_eq!(find("( i ,j.k,')"), [" i ", "'", "j.k"]);
    assert_eq!(find("(a,b)"), Vec::<String>::new());
    for broken in
        ["(e),(f)", "a,b", "(a", "a)", "(a,)", "(,a)", "(\"a)", "(\"a\"b)", "(\"a\\", "", "("]
    {
        let encoded: String = broken.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let reply = router.get(&format!("/api/read?table=users&name=in.{encoded}"));
        assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{broken}: {}", reply.text());
    }
}

#[test]
fn filters_that_mean_nothing_are_refused_with_a_hint() {
    let router = Router::shared();
    let cases = [
        ("user_id=a", "TSR100", "user_id=eq.value"),
        ("user_id=", "TSR100", "user_id=eq.value"),
        ("user_id=EQ.a", "TSR100", "eq"),
        ("user_id=not.a", "TSR100", "eq"),
        ("user_id=not.not.eq.a", "TSR100", "eq"),
        ("user_id=lik.a", "TSR100", "like"),
        ("user_id=is.nul", "TSR100", "not_null"),
        ("user_id=is.true", "TSR100", "boolean"),
        ("version=like.1*", "TSR100", "text"),
        ("name=like.a%5C", "TSR100", "name"),
        ("name=ilike.%00", "TSR312", "U+0000"),
        ("where=1=1", "TSR100", "column=eq.value"),
        ("or=(a.eq.1,b.eq.2)", "TSR311", "a"),
        ("or=name.eq.1", "TSR100", "or"),
        ("or=(name.eq.1", "TSR100", "or"),
        ("or=(name.eq.1))", "TSR100", "or"),
        ("or=()", "TSR100", "or"),
        ("or=(name.eq.1,)", "TSR100", "or"),
        ("or=(name)", "TSR100", "or"),
        ("or=(name.1)", "TSR100", "name"),
        ("and=(name.in.1)", "TSR100", "name"),
        ("and=(name.in.(1)", "TSR100", "and"),
        ("not.or=(name.eq.%221)", "TSR100", "or"),
        ("xor=(name.eq.1)", "TSR311", "or"),
        ("or=(or(or(or(or(or(name.eq.1))))))", "TSR100", "5"),
        ("offset=-1", "TSR106", "offset"),
        ("offset=10001", "TSR106", "next_cursor"),
        ("offset=1&cursor=abc", "TSR106", "cursor"),
        ("cursor=abc", "TSR106", "cursor"),
        ("cursor=", "TSR106", "cursor"),
        ("count=exact", "TSR100", "Prefer"),
        ("columns=a", "TSR100", "columns"),
        ("usr_id=eq.a", "TSR311", "user_id"),
        ("limt=5", "TSR311", "limit"),
        ("order=nmae", "TSR311", "name"),
        ("order=name.up", "TSR100", "column.desc"),
        ("order=name,name.desc", "TSR100", "name"),
        ("order=name&orderBy=name", "TSR100", "orderBy"),
        ("order=name&order=email", "TSR100", "order"),
        ("select=name&select=email", "TSR100", "select"),
        ("limit=1&limit=2", "TSR100", "limit"),
        ("version=eq.abc", "TSR312", "version"),
        ("version=eq.1.5", "TSR312", "version"),
        ("version=eq.NaN", "TSR312", "version"),
        ("version=eq.9223372036854775808", "TSR312", "version"),
        ("version=in.(1,x)", "TSR312", "version"),
        ("created_at=eq.yesterday", "TSR312", "created_at"),
        ("name=eq.%00", "TSR312", "U+0000"),
        ("name=in.(a,%00)", "TSR312", "U+0000"),
    ];
    for (query, code, named) in cases {
        let reply = router.get(&format!("/api/read?table=users&{query}"));
        assert_eq!((reply.status, &*reply.code()), (400, code), "{query}: {}", reply.text());
        let problem = reply.json();
        let reported = format!("{} {}", problem["detail"], problem["hint"]);
        assert!(reported.contains(named), "{query}: {reported}");
    }
    for (query, code) in [
        ("order=attributes", "TSR100"),
        ("attributes=eq.1", "TSR100"),
        ("attributes=in.(1)", "TSR100"),
        ("attributes=like.1", "TSR100"),
    ] {
        let reply = router.get(&format!("/api/read?table=products&{query}"));
        assert_eq!((reply.status, &*reply.code()), (400, code), "{query}");
    }
}

#[test]
fn a_read_has_limits_and_names_them() {
    let router = Router::shared();
    let many = |count: usize, one: &str| vec![one; count].join("&");
    let list = |count: usize| vec!["a"; count].join(",");
    let cases = [
        (many(50, "name=eq.a"), 200),
        (many(51, "name=eq.a"), 400),
        (format!("or=({})", vec!["name.eq.a"; 51].join(",")), 400),
        (format!("name=like.{}", "%25".repeat(200)), 200),
        (format!("name=like.{}", "a".repeat(201)), 400),
        (format!("name=like.{0}&email=ilike.{0}", "a".repeat(101)), 400),
        (many(150, "name=eq.a"), 400),
        (format!("name=in.({})", list(500)), 200),
        (format!("name=in.({})", list(501)), 400),
        (format!("name=eq.{}", "a".repeat(30_000)), 200),
    ];
    for (query, status) in cases {
        let reply = router.get(&format!("/api/read?table=users&{query}"));
        let start: String = query.chars().take(40).collect();
        assert_eq!(reply.status, status, "{start}: {}", reply.text());
        if status == 400 {
            assert_eq!(reply.code(), "TSR100", "{start}");
        }
    }
}

#[test]
fn a_table_must_be_given_and_exist() {
    let router = Router::shared();
    for (query, status, code, hint) in [
        ("", 400, "TSR100", "table=users"),
        ("limit=5", 400, "TSR100", "table=users"),
        ("table=user", 404, "TSR310", "users"),
        ("table=", 404, "TSR310", ""),
        ("table=USERS", 404, "TSR310", ""),
        ("table=tessera_log", 404, "TSR310", ""),
        ("table=sqlite_schema", 404, "TSR310", ""),
        ("table=users&table=users", 400, "TSR100", ""),
    ] {
        let reply = router.get(&format!("/api/read?{query}"));
        assert_eq!((reply.status, &*reply.code()), (status, code), "{query}: {}", reply.text());
        assert!(reply.json()["hint"].to_string().contains(hint), "{query}: {}", reply.text());
        assert_eq!(reply.json().get("outcome"), None);
    }
}
