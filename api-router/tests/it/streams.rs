//! Tests of streamed bodies: NDJSON and CSV of any length, compressed or not, complete or
//! incomplete.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::harness::{Reply, Router};

pub(crate) const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
pub(crate) const CSV: (&str, &str) = ("content-type", "text/csv");
pub(crate) const GZIP: (&str, &str) = ("content-encoding", "gzip");
const STRICT: (&str, &str) = ("prefer", "handling=strict");
pub(crate) const USERS: &str = "/api/bulk-write?table=users";

/// Streams users. Unless the headers have another deadline, that of each chunk is nearly as long as
/// the client waits for a response.
pub(crate) fn stream(router: &Router, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut all = headers.to_vec();
    if headers.iter().all(|(name, _)| *name != "x-deadline-ms") {
        all.push(("x-deadline-ms", "25000"));
    }
    router.send("POST", USERS, &all, Some(body))
}

pub(crate) fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// Returns a user as a line.
pub(crate) fn line(key: &str) -> String {
    format!("{{\"user_id\":\"{key}\",\"name\":\"name of {key}\",\"email\":\"e\"}}\n")
}

pub(crate) fn lines(range: std::ops::Range<usize>) -> String {
    range.map(|n| line(&format!("u{n:06}"))).collect()
}

/// Returns the ids of the first 1000 users of all shards, in order.
fn ids(router: &Router) -> Vec<String> {
    let read = router.get("/api/read?table=users&select=user_id&order=user_id&limit=1000").json();
    let rows = read["data"].as_array().unwrap().iter();
    rows.map(|row| row["user_id"].as_str().unwrap().to_owned()).collect()
}

/// Returns the number of rows that a table has on all primaries.
pub(crate) fn count(router: &Router, table: &str) -> u64 {
    let shards = router.get("/api/shards").json()["shards"].as_array().unwrap().clone();
    let rows = shards.iter().flat_map(|shard| shard["tables"].as_array().unwrap().clone());
    rows.filter(|sizes| sizes["table"] == table).map(|sizes| sizes["rows"].as_u64().unwrap()).sum()
}

pub(crate) fn codes(answer: &Value) -> Vec<(u64, String)> {
    let failed = answer["failed"].as_array().unwrap().iter();
    let code = |row: &Value| row["error"]["code"].as_str().unwrap().to_owned();
    failed.map(|row| (row["index"].as_u64().unwrap(), code(row))).collect()
}

pub(crate) fn owned(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
    expected.iter().map(|(index, code)| (*index, (*code).to_owned())).collect()
}

#[test]
fn json_lines_and_fields_give_the_same_rows() {
    let rows = [
        json!({"product_id": "p1", "name": "plain", "price": 1, "stock": 2, "attributes": {"a": [1, "x"]}}),
        json!({"product_id": "p2", "name": "with \"quotes\", and\nlines", "price": -5, "stock": 0}),
        json!({"product_id": "p3", "name": "", "price": 9_007_199_254_740_993_i64, "stock": 1, "attributes": null}),
    ];
    let ndjson = rows.iter().map(|row| format!("{row}\n")).collect::<String>();
    let csv = "product_id,name,price,stock,attributes\r\n\
        p1,plain,1,2,\"{\"\"a\"\": [1, \"\"x\"\"]}\"\r\n\
        p2,\"with \"\"quotes\"\", and\nlines\",-5,0,\r\n\
        p3,\"\",9007199254740993,1,\r\n";
    let json = json!({"table": "products", "records": rows}).to_string();
    let wrapped = rows
        .iter()
        .map(|row| json!({"shard_key": row["product_id"], "data": row}).to_string() + "\n");
    let wrapped: String = wrapped.collect();
    let path = "/api/bulk-write?table=products";
    let bodies = [
        ("/api/bulk-write", ("content-type", "application/json"), json.clone()),
        (path, NDJSON, ndjson.clone()),
        (path, NDJSON, wrapped),
        (
            path,
            ("content-type", "application/jsonl; charset=utf-8"),
            format!("\u{feff}{}", ndjson.trim_end()),
        ),
        (path, ("content-type", "application/ndjson"), ndjson.replace('\n', "\r\n\r\n \t\n")),
        (path, CSV, csv.to_owned()),
        (path, CSV, format!("\u{feff}{}", csv.replace("\r\n", "\n").trim_end())),
    ];
    let mut first = None;
    for (path, kind, body) in bodies {
        for zipped in [false, true] {
            let router = Router::start_with(&["--shards", "2", "--replicas", "0"]);
            let bytes = if zipped { gzip(body.as_bytes()) } else { body.clone().into_bytes() };
            let headers = if zipped { vec![kind, GZIP] } else { vec![kind] };
            let reply = router.send("POST", path, &headers, Some(&bytes));
            assert_eq!(reply.status, 201, "{kind:?} {zipped}: {}", reply.text());
            let answer = reply.json();
            assert_eq!((&answer["accepted"], &answer["stored"]), (&json!(3), &json!(3)));
            assert!(reply.header("x-session-token").is_some());
            let columns = "product_id,name,price,stock,attributes";
            let read =
                router.get(&format!("/api/read?table=products&order=product_id&select={columns}"));
            let data = read.json()["data"].clone();
            assert_eq!(data.as_array().unwrap().len(), 3, "{}", read.text());
            assert_eq!(&data, first.get_or_insert(data.clone()), "{kind:?} {zipped}");
        }
    }
}

#[test]
fn an_empty_field_is_null_and_a_quoted_one_is_the_empty_text() {
    let router = Router::shared();
    let csv = b"user_id,name,email,partition_key\na,\"\",e,\nb,N,e,\"\"\nc,,e,P\n";
    let reply = stream(&router, &[CSV], csv);
    assert_eq!(reply.status, 207, "{}", reply.text());
    assert_eq!(codes(&reply.json()), owned(&[(2, "TSR312")]));
    let read = router.get("/api/read?table=users&order=user_id&select=name,partition_key").json();
    let expected = json!([{"name": "", "partition_key": null}, {"name": "N", "partition_key": ""}]);
    assert_eq!(read["data"], expected);
}

#[test]
fn json_in_a_field_has_the_nesting_limit_of_a_body() {
    let router = Router::shared();
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let csv = format!(
        "product_id,name,price,stock,attributes\np1,N,1,1,{}\np2,N,1,1,{}\n",
        nested(64),
        nested(65)
    );
    let path = "/api/bulk-write?table=products";
    let reply = router.send("POST", path, &[CSV], Some(csv.as_bytes()));
    assert_eq!(reply.status, 207, "{}", reply.text());
    assert_eq!(codes(&reply.json()), owned(&[(1, "TSR108")]), "{}", reply.text());
    let read = router.get("/api/read?table=products&select=product_id,attributes").json();
    let stored: Value = serde_json::from_str(&nested(64)).unwrap();
    assert_eq!(read["data"], json!([{"product_id": "p1", "attributes": stored}]));
}

#[test]
fn rows_are_routed_by_their_key_and_the_header_is_only_the_default() {
    let router = Router::shared();
    let orders = "/api/bulk-write?table=orders&op=insert";
    let csv = b"shard_key,order_id,user_id,amount\nown,o1,,1\n,o2,other,2\n,o3,,3\nx,o4,y,4\n";
    let reply = router.send("POST", orders, &[CSV, ("x-shard-key", "fallback")], Some(csv));
    // An empty field is null, and a null contradicts the key as any other value does.
    assert_eq!(
        codes(&reply.json()),
        owned(&[(0, "TSR312"), (2, "TSR312"), (3, "TSR103")]),
        "{}",
        reply.text()
    );
    let csv = b"shard_key,order_id,amount\nown,o1,1\n,o3,3\n";
    let reply = router.send("POST", orders, &[CSV, ("x-shard-key", "fallback")], Some(csv));
    assert_eq!(reply.status, 201, "{}", reply.text());
    for (key, id) in [("own", "o1"), ("other", "o2"), ("fallback", "o3")] {
        assert_eq!(router.read(key, "table=orders").json()["data"][0]["order_id"], id, "{key}");
    }
    let ndjson = b"{\"shard_key\":\"k\",\"data\":{\"order_id\":\"o5\",\"amount\":1}}\n{\"order_id\":\"o6\",\"amount\":1}\n";
    let reply = router.send("POST", orders, &[NDJSON], Some(ndjson));
    assert_eq!(codes(&reply.json()), owned(&[(1, "TSR104")]));
    assert_eq!(router.read("k", "table=orders").json()["data"][0]["user_id"], "k");
}

#[test]
fn lines_may_name_the_version_of_their_row() {
    let router = Router::shared();
    let made = router.write_user("a", "old").json()["version"].as_i64().unwrap();
    let line = |version: i64| json!({"data": {"user_id": "a", "name": format!("after {version}"), "email": "e"}, "if_version": version});
    let body = format!("{}\n{}\n", line(made + 99), line(made));
    let reply = stream(&router, &[NDJSON], body.as_bytes());
    assert_eq!(codes(&reply.json()), owned(&[(0, "TSR303")]), "{}", reply.text());
    let name = router.read("a", "table=users").json()["data"][0]["name"].clone();
    assert_eq!(name, format!("after {made}"));
}

#[test]
fn a_bad_line_is_a_failed_row_and_no_other_suffers() {
    let router = Router::shared();
    let body = format!(
        "{}no json\n\n[1]\n{}{{\"user_id\":\"x\",\"name\":5,\"email\":\"e\"}}\n{{\"data\":{{}},\"more\":1}}\n{{\"user_id\":\"\\u0000\"}}\n{}",
        line("a"),
        line("b"),
        line("c").trim_end()
    );
    let reply = stream(&router, &[NDJSON], body.as_bytes());
    assert_eq!(reply.status, 207, "{}", reply.text());
    let expected = [(1, "TSR101"), (2, "TSR101"), (4, "TSR312"), (5, "TSR102"), (6, "TSR312")];
    let answer = reply.json();
    // A line that is not a row and has no key gets one of two codes.
    let found = codes(&answer);
    assert_eq!(found[..4], owned(&expected)[..4], "{answer}");
    assert_eq!((&answer["accepted"], &answer["stored"]), (&json!(8), &json!(3)));
    assert_eq!(ids(&router), ["a", "b", "c"]);
    let csv = b"user_id,name,email\nd,N,e\ne,N\nf,N,e,e\ng,\"N\"x,e\nh,N,e\ni,\"N,e";
    let reply = stream(&router, &[CSV], csv);
    let expected = [(1, "TSR101"), (2, "TSR101"), (3, "TSR101"), (5, "TSR101")];
    assert_eq!(codes(&reply.json()), owned(&expected), "{}", reply.text());
    assert_eq!(ids(&router), ["a", "b", "c", "d", "h"]);
}

#[test]
fn strict_handling_ends_at_the_first_bad_line_and_the_rest_can_be_sent_again() {
    let router = Router::shared();
    let (good, bad) = (lines(0..500), "{\"user_id\":1}\n");
    let body = format!("{good}{bad}{}", lines(501..600));
    let reply = stream(&router, &[NDJSON, STRICT], body.as_bytes());
    assert_eq!((reply.status, &*reply.code()), (400, "TSR101"), "{}", reply.text());
    let problem = reply.json();
    assert_eq!((&problem["outcome"], &problem["stored"]), (&json!("partial"), &json!(500)));
    assert_eq!((&problem["next_index"], &problem["failed_total"]), (&json!(500), &json!(0)));
    assert!(problem["detail"].as_str().unwrap().starts_with("row 500: "), "{problem}");
    assert_eq!(count(&router, "users"), 500, "none from next_index on");
    // Sends the rest from there on, with a corrected line.
    let rest = body.replace(bad, &line("u000500"));
    let rest: String = rest.lines().skip(500).map(|line| format!("{line}\n")).collect();
    let reply = stream(&router, &[NDJSON, STRICT], rest.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(reply.header("preference-applied"), Some("handling=strict"));
    assert_eq!(ids(&router), (0..600).map(|n| format!("u{n:06}")).collect::<Vec<_>>());
}

/// A row that a shard refuses is not an invalid line: it is reported, and the stream continues.
#[test]
fn a_row_that_its_shard_refuses_is_reported_also_under_strict_handling() {
    let router = Router::shared();
    router.write_user("u000001", "there");
    let path = "/api/bulk-write?table=users&op=insert";
    let body = format!("{}no json\n", lines(0..3));
    let reply = router.send("POST", path, &[NDJSON, STRICT], Some(body.as_bytes()));
    let problem = reply.json();
    assert_eq!((&problem["next_index"], &problem["stored"]), (&json!(3), &json!(2)), "{problem}");
    assert_eq!(codes(&problem), owned(&[(1, "TSR301")]));
}

#[test]
fn a_truncated_gzip_reports_the_stored_rows_and_the_rest_completes_it() {
    let router = Router::shared();
    let text = lines(0..5_000);
    let zipped = gzip(text.as_bytes());
    let reply = stream(&router, &[NDJSON, GZIP], &zipped[..zipped.len() * 2 / 3]);
    assert_eq!((reply.status, &*reply.code()), (400, "TSR101"), "{}", reply.text());
    let problem = reply.json();
    let next = problem["next_index"].as_u64().unwrap() as usize;
    assert!(next > 1_000 && next < 5_000, "{problem}");
    assert_eq!((&problem["stored"], &problem["outcome"]), (&json!(next), &json!("partial")));
    assert_eq!(count(&router, "users"), next as u64);
    let rest: String = text.lines().skip(next).map(|line| format!("{line}\n")).collect();
    let reply = stream(&router, &[NDJSON, GZIP], &gzip(rest.as_bytes()));
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(count(&router, "users"), 5_000);
    let reply = stream(&router, &[NDJSON, GZIP], text.as_bytes());
    let problem = reply.json();
    assert_eq!((reply.status, &problem["next_index"]), (400, &json!(0)), "{problem}");
}

#[test]
fn a_line_without_an_end_is_refused_and_all_before_it_is_stored() {
    let router = Router::shared();
    let body = format!("{}{{\"user_id\":\"{}\"}}", lines(0..10), "x".repeat(3 << 20));
    let reply = stream(&router, &[NDJSON], body.as_bytes());
    assert_eq!((reply.status, &*reply.code()), (413, "TSR108"), "{}", reply.text());
    assert_eq!((&reply.json()["next_index"], &reply.json()["stored"]), (&json!(10), &json!(10)));
    let bomb = gzip(&vec![b' '; 40 << 20]);
    let reply = stream(&router, &[NDJSON, GZIP], &bomb);
    assert_eq!((reply.status, &*reply.code()), (413, "TSR108"), "{}", reply.text());
    let json = [("content-type", "application/json"), GZIP];
    let reply = router.send("POST", "/api/bulk-write", &json, Some(&bomb));
    assert_eq!((reply.status, &*reply.code()), (413, "TSR108"), "{}", reply.text());
    assert_eq!(count(&router, "users"), 10);
}

#[test]
fn the_columns_are_checked_before_anything_is_stored() {
    let router = Router::shared();
    for (head, code) in [
        ("user_id,nmae,email", "TSR311"),
        ("user_id,name,email,name", "TSR101"),
        ("user_id,name,email,version", "TSR102"),
        ("user_id,\"name", "TSR101"),
        ("", "TSR101"),
    ] {
        let body = if head.is_empty() { String::new() } else { format!("{head}\na,N,e,1\n") };
        let reply = stream(&router, &[CSV], body.as_bytes());
        assert_eq!((reply.status, &*reply.code()), (400, code), "{head}: {}", reply.text());
        assert_eq!(reply.json()["outcome"], "rejected");
    }
    assert_eq!(count(&router, "users"), 0);
    for (kind, body) in [(NDJSON, &b""[..]), (NDJSON, b"\n\n"), (CSV, b"user_id,name\n")] {
        let reply = stream(&router, &[kind], body);
        assert_eq!((reply.status, &reply.json()["accepted"]), (201, &json!(0)), "{}", reply.text());
    }
}

#[test]
fn what_a_stream_cannot_keep_is_refused_before_its_body() {
    let router = Router::shared();
    let body = lines(0..1);
    let body = body.as_bytes();
    type Refusal<'r> = (&'r str, &'r [(&'r str, &'r str)], u16, &'r str);
    let refusals: [Refusal<'_>; 12] = [
        (USERS, &[NDJSON, ("prefer", "tx=per-shard")], 400, "TSR113"),
        (USERS, &[NDJSON, ("prefer", "tx=all")], 400, "TSR113"),
        (USERS, &[NDJSON, ("idempotency-key", "k")], 400, "TSR113"),
        (USERS, &[CSV, ("if-match", "\"1\"")], 400, "TSR113"),
        (USERS, &[NDJSON, ("if-none-match", "*")], 400, "TSR113"),
        (USERS, &[NDJSON, ("content-encoding", "br")], 415, "TSR107"),
        (USERS, &[NDJSON, ("content-encoding", "deflate")], 415, "TSR107"),
        (USERS, &[("content-type", "text/plain")], 415, "TSR107"),
        ("/api/bulk-write", &[NDJSON], 400, "TSR100"),
        ("/api/bulk-write?table=users&op=replace", &[NDJSON], 400, "TSR100"),
        ("/api/bulk-write?table=users&limit=1", &[NDJSON], 400, "TSR100"),
        ("/api/bulk-write?table=user", &[NDJSON], 404, "TSR310"),
    ];
    for (path, headers, status, code) in refusals {
        let reply = router.send("POST", path, headers, Some(body));
        assert_eq!((reply.status, &*reply.code()), (status, code), "{headers:?}: {}", reply.text());
        assert_eq!(reply.json()["outcome"], "rejected");
    }
    assert_eq!(count(&router, "users"), 0);
}

#[test]
fn rows_of_one_key_keep_their_order_over_all_chunks() {
    let router = Router::shared();
    let body: String = (0..30_000)
        .map(|n| {
            let key = n % 3;
            format!("{{\"user_id\":\"k{key}\",\"name\":\"{n}\",\"email\":\"e\"}}\n")
        })
        .collect();
    let reply = stream(&router, &[NDJSON, ("x-deadline-ms", "60000")], body.as_bytes());
    assert_eq!((reply.status, &reply.json()["stored"]), (201, &json!(30_000)), "{}", reply.text());
    for key in 0..3 {
        let read = router.read(&format!("k{key}"), "table=users").json();
        assert_eq!(read["data"][0]["name"], format!("{}", 29_997 + key));
    }
}
