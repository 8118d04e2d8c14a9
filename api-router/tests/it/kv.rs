//! Tests of `/api/kv/{key}`: valid keys, valid values, and the same rows through other routes.

use std::process::Stdio;
use std::sync::Barrier;

use serde_json::{Value, json};

use crate::backend;
use crate::client::{self, Client, lab, refusal, refused, set, set_replicas, settle, tokenless};
use crate::harness::{Reply, Router};

const JSON: (&str, &str) = ("content-type", "application/json");

/// Returns the path of a key, with every byte that is neither a letter nor a digit as an escape.
fn path(key: &str) -> String {
    let spelled = key.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    format!("/api/kv/{}", spelled.collect::<String>())
}

fn put(router: &Router, key: &str, headers: &[(&str, &str)], value: &[u8]) -> Reply {
    let mut all = vec![JSON];
    all.extend_from_slice(headers);
    router.send("PUT", &path(key), &all, Some(value))
}

fn get(router: &Router, key: &str) -> Reply {
    router.get(&path(key))
}

fn get_with(router: &Router, key: &str, headers: &[(&str, &str)]) -> Reply {
    router.send("GET", &path(key), headers, None)
}

fn delete(router: &Router, key: &str, headers: &[(&str, &str)]) -> Reply {
    router.send("DELETE", &path(key), headers, None)
}

#[test]
fn a_value_comes_back_byte_for_byte_without_white_space() {
    let router = Router::shared();
    let nested = "[".repeat(64) + &"]".repeat(64);
    for (put_as, stored_as) in [
        ("null", "null"),
        ("true", "true"),
        ("0", "0"),
        ("-0", "-0"),
        ("1.10", "1.10"),
        ("1E2", "1E2"),
        ("9223372036854775808", "9223372036854775808"),
        ("123456789012345678901234567890.0987654321", "123456789012345678901234567890.0987654321"),
        (r#""""#, r#""""#),
        (r#""\u00e9 é \" \\ \/""#, r#""\u00e9 é \" \\ \/""#),
        (r#"{"b":1,"a":2,"b":3}"#, r#"{"b":1,"a":2,"b":3}"#),
        (" { \"a b\" : [ 1 ,\t2 ] }\r\n", r#"{"a b":[1,2]}"#),
        ("[]", "[]"),
        (&nested, &nested),
    ] {
        let stored = put(&router, "k", &[], put_as.as_bytes());
        assert!(stored.status < 300, "{put_as}: {}", stored.text());
        let read = get(&router, "k");
        assert_eq!((read.status, &*read.text()), (200, stored_as), "{put_as}");
        assert_eq!(read.header("content-type"), Some("application/json"));
    }
}

#[test]
fn a_value_may_have_a_mebibyte_and_not_a_byte_more() {
    let router = Router::shared();
    let value = |length: usize| format!("\"{}\"", "v".repeat(length - 2));
    let largest = value(1 << 20);
    assert_eq!(put(&router, "k", &[], largest.as_bytes()).status, 201);
    assert_eq!(get(&router, "k").text(), largest);
    let reply = put(&router, "k", &[], value((1 << 20) + 1).as_bytes());
    assert_eq!(refusal(&reply), refused(413, "TSR108"), "{}", reply.text());
    assert_eq!(get(&router, "k").text().len(), 1 << 20);
}

#[test]
fn invalid_values_are_refused_with_the_reason() {
    let router = Router::shared();
    let deep = "[".repeat(65) + &"]".repeat(65);
    let cases: [(&[u8], u16, &str); 13] = [
        (b"", 400, "TSR101"),
        (b" ", 400, "TSR101"),
        (b"{", 400, "TSR101"),
        (b"1 2", 400, "TSR101"),
        (b"undefined", 400, "TSR101"),
        (b"NaN", 400, "TSR101"),
        (b"'a'", 400, "TSR101"),
        (b"01", 400, "TSR101"),
        (b"\"\xff\"", 400, "TSR101"),
        (deep.as_bytes(), 413, "TSR108"),
        (br#"{"a":["\u0000"]}"#, 400, "TSR312"),
        (br#""\ud800""#, 400, "TSR312"),
        // Larger than any number of binary64: clients would read it as infinity, or not at all.
        (b"1e400", 400, "TSR312"),
    ];
    for (value, status, code) in cases {
        let reply = put(&router, "k", &[], value);
        let shown = String::from_utf8_lossy(value);
        assert_eq!(refusal(&reply), refused(status, code), "{shown}: {}", reply.text());
    }
    assert_eq!(get(&router, "k").status, 404);
}

#[test]
fn a_body_is_json_or_has_no_content_type() {
    let router = Router::shared();
    let send = |headers: &[(&str, &str)]| router.send("PUT", "/api/kv/k", headers, Some(b"1"));
    assert_eq!(send(&[]).status, 201);
    assert_eq!(send(&[("content-type", "application/json; charset=utf-8")]).status, 200);
    for headers in [[("content-type", "text/plain")], [("content-encoding", "gzip")]] {
        assert_eq!(refusal(&send(&headers)), refused(415, "TSR107"), "{headers:?}");
    }
    let refused = get_with(&router, "k", &[("accept", "text/html")]);
    assert_eq!((refused.status, &*refused.code()), (406, "TSR107"));
}

/// Keys as the table has them, and the last parts of their paths.
const SPELLED: [(&str, &str); 18] = [
    ("a/b/c", "a/b/c"),
    ("a/b/c", "a%2Fb%2fc"),
    ("a b", "a%20b"),
    ("a+b", "a+b"),
    ("a+b", "a%2Bb"),
    ("a%2Fb", "a%252Fb"),
    ("100%", "100%25"),
    ("%25", "%2525"),
    ("é日本", "%C3%A9%E6%97%A5%E6%9C%AC"),
    ("..", ".."),
    (".", "%2e"),
    ("../../etc", "../../etc"),
    ("/a//b/", "/a//b/"),
    ("a/", "a/"),
    ("a?b=c&d#e", "a%3Fb=c&d%23e"),
    ("{key}", "%7Bkey%7D"),
    ("\"'\\", "%22'%5C"),
    ("~:@!$,;=*()", "~:@!$,;=*()"),
];

#[test]
fn a_key_is_the_rest_of_the_path_decoded_once() {
    let router = Router::shared();
    for (key, spelled) in SPELLED {
        let value = json!(spelled).to_string();
        // Sent raw, because a client might normalize the path.
        let request = format!(
            "PUT /api/kv/{spelled} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{value}",
            value.len()
        );
        let answer = String::from_utf8(router.raw(request.as_bytes())).unwrap();
        assert!(answer.starts_with("HTTP/1.1 20"), "{spelled}: {answer}");
        let level = [("x-consistency", "all")];
        assert_eq!(get_with(&router, key, &level).text(), value, "{spelled}");
        let query = format!("/api/read?table=kv&shardKey={}", &path(key)["/api/kv/".len()..]);
        let rows = router.send("GET", &query, &level, None).json();
        assert_eq!((&rows["count"], &rows["data"][0]["key"]), (&json!(1), &json!(key)), "{rows}");
    }
    // The first words of the path may be spelled with escapes as well.
    assert_eq!(router.get("/api/%6Bv/a%20b").json(), "a%20b");
}

#[test]
fn a_key_has_at_most_256_bytes() {
    let router = Router::shared();
    for key in ["k".repeat(256), "é".repeat(128)] {
        assert_eq!(put(&router, &key, &[], b"1").status, 201);
        assert_eq!(get(&router, &key).text(), "1");
        assert_eq!(delete(&router, &key, &[]).status, 200);
    }
    let reply = put(&router, &"k".repeat(257), &[], b"1");
    assert_eq!(refusal(&reply), refused(400, "TSR100"));
    assert!(reply.text().contains("256 bytes, this one has 257"), "{}", reply.text());
}

#[test]
fn a_path_that_spells_no_key_is_refused_whatever_the_method() {
    let router = Router::shared();
    for (spelled, code) in [
        ("", "TSR104"),
        ("%00", "TSR100"),
        ("a%0Ab", "TSR100"),
        ("%7F", "TSR100"),
        ("%C2%85", "TSR100"),
        ("%FF", "TSR100"),
        ("%C3", "TSR100"),
        ("%", "TSR100"),
        ("100%", "TSR100"),
        ("%4", "TSR100"),
        ("%zz", "TSR100"),
    ] {
        for method in ["GET", "DELETE", "PUT"] {
            let request = format!(
                "{method} /api/kv/{spelled} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                 content-length: 1\r\n\r\n1"
            );
            let answer = String::from_utf8(router.raw(request.as_bytes())).unwrap();
            assert!(answer.starts_with("HTTP/1.1 400 "), "{method} {spelled}: {answer}");
            assert!(answer.contains(&format!("\"{code}\"")), "{method} {spelled}: {answer}");
            let is_write = method != "GET";
            assert_eq!(answer.contains("\"outcome\":\"rejected\""), is_write, "{answer}");
        }
    }
}

#[test]
fn another_shard_key_and_unknown_parameters_are_refused() {
    let router = Router::shared();
    assert_eq!(put(&router, "k", &[("x-shard-key", "k")], b"1").status, 201);
    let other = [("x-shard-key", "other")];
    assert_eq!(refusal(&put(&router, "k", &other, b"2")), refused(400, "TSR103"));
    assert_eq!(refusal(&delete(&router, "k", &other)), refused(400, "TSR103"));
    assert_eq!(get_with(&router, "k", &other).code(), "TSR103");
    for method in ["GET", "PUT", "DELETE"] {
        let body = (method == "PUT").then_some(&b"2"[..]);
        let reply = router.send(method, "/api/kv/k?ttl=5", &[], body);
        assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{method}");
        assert!(reply.text().contains("ttl"), "{}", reply.text());
    }
    assert_eq!(get(&router, "k").text(), "1");
}

#[test]
fn putting_makes_and_changes_and_deleting_removes() {
    let router = Router::shared();
    let made = put(&router, "k", &[], b"1");
    assert_eq!((made.status, made.header("x-served-by")), (201, Some("primary")));
    let changed = put(&router, "k", &[], b"2");
    assert_eq!(changed.status, 200);
    let removed = delete(&router, "k", &[]);
    assert_eq!(removed.status, 200);
    let again = put(&router, "k", &[], b"3");
    assert_eq!(again.status, 201);
    let mut versions = Vec::new();
    for reply in [&made, &changed, &removed, &again] {
        let body = reply.json();
        let members: Vec<&String> = body.as_object().unwrap().keys().collect();
        assert_eq!(members, ["epoch", "shard", "slot", "success", "version"]);
        assert_eq!(reply.header("x-shard"), body["shard"].as_str());
        assert_eq!(reply.header("x-shard-slot").unwrap(), body["slot"].to_string());
        assert_eq!(reply.header("x-epoch").unwrap(), body["epoch"].to_string());
        assert_eq!(reply.header("etag").unwrap(), format!("\"{}\"", body["version"]));
        assert!(reply.header("server-timing").unwrap().contains("db;dur="));
        versions.push(body["version"].as_i64().unwrap());
    }
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    let route = router.get("/api/route?key=k").json();
    assert_eq!(made.json()["shard"], route["shard"]);
}

#[test]
fn a_missing_value_is_404_with_a_session_token() {
    let router = Router::shared();
    let read = get(&router, "k");
    assert_eq!((read.status, &*read.code()), (404, "TSR302"), "{}", read.text());
    assert!(read.json().get("outcome").is_none() && read.header("x-session-token").is_some());
    assert_eq!(refusal(&delete(&router, "k", &[])), refused(404, "TSR302"));
    put(&router, "k", &[], b"null");
    assert_eq!(get(&router, "k").text(), "null");
    delete(&router, "k", &[]);
    assert_eq!(get(&router, "k").status, 404);
}

#[test]
fn the_tag_of_a_put_makes_a_get_not_modified() {
    let router = Router::shared();
    let put_reply = put(&router, "k", &[], b"1");
    let tag = put_reply.header("etag").unwrap();
    let same = get_with(&router, "k", &[("if-none-match", tag)]);
    assert_eq!((same.status, same.body.len(), same.header("etag")), (304, 0, Some(tag)));
    for name in ["x-shard", "x-shard-slot", "x-served-by", "x-epoch", "x-session-token"] {
        assert!(same.header(name).is_some(), "{name}");
    }
    put(&router, "k", &[], b"2");
    let changed = get_with(&router, "k", &[("if-none-match", tag)]);
    assert_eq!((changed.status, &*changed.text()), (200, "2"));
    let now = changed.header("etag").unwrap();
    assert_eq!(get_with(&router, "k", &[("if-match", now)]).status, 200);
    let stale = get_with(&router, "k", &[("if-match", tag)]);
    assert_eq!((stale.status, &*stale.code()), (412, "TSR303"));
    assert_eq!(get_with(&router, "k", &[("if-match", "7")]).code(), "TSR113");
}

#[test]
fn conditions_guard_puts_and_deletes() {
    let router = Router::shared();
    let absent = [("if-none-match", "*")];
    assert_eq!(refusal(&put(&router, "k", &[("if-match", "*")], b"0")), refused(412, "TSR303"));
    let first = put(&router, "k", &absent, b"1");
    assert_eq!(first.status, 201);
    assert_eq!(refusal(&put(&router, "k", &absent, b"2")), refused(409, "TSR301"));
    let first = [("if-match", first.header("etag").unwrap())];
    let second = put(&router, "k", &first, b"2");
    assert_eq!(second.status, 200);
    assert_eq!(refusal(&put(&router, "k", &first, b"3")), refused(412, "TSR303"));
    assert_eq!(refusal(&delete(&router, "k", &first)), refused(412, "TSR303"));
    assert_eq!(refusal(&delete(&router, "k", &absent)), refused(400, "TSR113"));
    assert_eq!(get(&router, "k").text(), "2");
    let second = [("if-match", second.header("etag").unwrap())];
    assert_eq!(delete(&router, "k", &second).status, 200);
}

#[test]
fn of_clients_that_change_the_same_version_exactly_one_wins() {
    const CLIENTS: usize = 6;
    let router = Router::shared();
    let mut tag = put(&router, "k", &[], b"0").header("etag").unwrap().to_owned();
    for round in 0..20 {
        let start = Barrier::new(CLIENTS);
        let replies: Vec<Reply> = std::thread::scope(|scope| {
            let (router, start, tag) = (&router, &start, &*tag);
            let clients = (0..CLIENTS).map(|client| {
                scope.spawn(move || {
                    let value = format!("\"{round}/{client}\"");
                    start.wait();
                    put(router, "k", &[("if-match", tag)], value.as_bytes())
                })
            });
            let clients: Vec<_> = clients.collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        let winners: Vec<usize> = (0..CLIENTS).filter(|n| replies[*n].status == 200).collect();
        assert_eq!(winners.len(), 1, "{replies:?}");
        assert_eq!(replies.iter().filter(|reply| reply.status == 412).count(), CLIENTS - 1);
        assert_eq!(get(&router, "k").json(), format!("{round}/{}", winners[0]));
        replies[winners[0]].header("etag").unwrap().clone_into(&mut tag);
    }
}

#[test]
fn a_client_with_a_token_reads_what_it_put_though_replicas_stand_still() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = lab(&[]);
    let mut writer = tokenless(&router);
    writer.send("PUT", "/api/kv/k", &[], Some(&json!("old")));
    settle(&router);
    set_replicas(&router, "behind");
    writer.send("PUT", "/api/kv/k", &[], Some(&json!("new")));
    let mut reported = Client::with(&router, writer.token());
    let read = reported.send("GET", "/api/kv/k", &[], None);
    assert_eq!((read.json(), read.header("x-served-by")), (json!("new"), Some("primary")));
    let stale = tokenless(&router).send("GET", "/api/kv/k", &[], None);
    assert_eq!((stale.json(), stale.header("x-served-by")), (json!("old"), Some("replica")));
    let current = tokenless(&router).send("GET", "/api/kv/k", &[("x-consistency", "all")], None);
    assert_eq!(current.json(), "new");
    // The deletion is seen as well.
    writer.send("DELETE", "/api/kv/k", &[], None);
    let gone = Client::with(&router, writer.token()).send("GET", "/api/kv/k", &[], None);
    assert_eq!((gone.status, &*gone.code()), (404, "TSR302"));
    set_replicas(&router, "running");
}

#[test]
fn a_put_waits_for_the_nodes_of_its_level() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    client::with_time_to_store(|deadline| {
        let router = lab(&[]);
        assert_eq!(put(&router, "k", &[("x-consistency", "all")], b"1").status, 201);
        set_replicas(&router, "paused");
        let hasty = [("x-consistency", "all"), ("x-deadline-ms", deadline)];
        let reply = client::stored_in_time(put(&router, "k", &hasty, b"2"))?;
        assert_eq!(refusal(&reply), (504, "TSR205".to_owned(), "committed".to_owned()));
        assert_eq!(get(&router, "k").text(), "2");
        set_replicas(&router, "running");
        assert_eq!(put(&router, "k", &[("x-consistency", "most")], b"3").code(), "TSR113");
        Some(())
    });
}

#[test]
fn a_put_with_an_idempotency_key_is_carried_out_once() {
    let router = Router::start();
    let once = [("idempotency-key", "once")];
    let first = put(&router, "k", &once, b"1");
    put(&router, "k", &[], b"2");
    let again = put(&router, "k", &once, b"1");
    assert_eq!((again.status, again.json()), (201, first.json()));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(get(&router, "k").text(), "2");
    assert_eq!(refusal(&put(&router, "k", &once, b"3")), refused(422, "TSR109"));
    let removal = [("idempotency-key", "removal")];
    let removed = delete(&router, "k", &removal);
    put(&router, "k", &[], b"4");
    assert_eq!(delete(&router, "k", &removal).json(), removed.json());
    assert_eq!(get(&router, "k").text(), "4");
}

#[test]
fn the_row_is_returned_to_clients_that_prefer_it() {
    let router = Router::shared();
    let wish = [("prefer", "return=representation")];
    let made = put(&router, "k", &wish, b"[1]");
    assert_eq!(made.header("preference-applied"), Some("return=representation"));
    let body = made.json();
    assert_eq!((&body["data"]["key"], &body["data"]["value"]), (&json!("k"), &json!([1])));
    assert_eq!(body["data"]["version"], body["version"]);
    let removed = delete(&router, "k", &wish);
    assert_eq!(removed.json()["data"]["value"], json!([1]));
    let minimal = put(&router, "k", &[("prefer", "return=minimal")], b"1");
    assert_eq!(minimal.header("preference-applied"), Some("return=minimal"));
    assert!(minimal.json().get("data").is_none());
    assert_eq!(put(&router, "k", &[], b"1").header("preference-applied"), None);
    let careful = put(&router, "k", &[("prefer", "handling=strict, return=minimal")], b"1");
    assert_eq!(careful.header("preference-applied"), Some("handling=strict, return=minimal"));
    let read = get_with(&router, "k", &[("prefer", "fanout=deny, return=minimal")]);
    assert_eq!(read.header("preference-applied"), Some("fanout=deny"));
    let strict = put(&router, "k", &[("prefer", "handling=strict, fly=high")], b"1");
    assert_eq!(refusal(&strict), refused(400, "TSR105"));
}

#[test]
fn values_are_rows_of_a_table_and_rows_of_the_table_are_values() {
    let router = Router::shared();
    let made = put(&router, "one", &[], br#"{"n":1}"#);
    let row = router.read("one", "table=kv").json()["data"][0].clone();
    assert_eq!((&row["key"], &row["value"]), (&json!("one"), &json!({"n": 1})));
    assert_eq!(row["version"], made.json()["version"]);
    let body = json!({"table": "kv", "data": {"key": "two", "value": [true, null]}});
    let written = router.write("two", &body);
    assert_eq!(written.status, 201, "{}", written.text());
    let read = get(&router, "two");
    assert_eq!((read.text(), read.header("etag")), ("[true,null]".into(), written.header("etag")));
    let all = router.get("/api/read?table=kv&order=key&select=key").json();
    assert_eq!(all["data"], json!([{"key": "one"}, {"key": "two"}]));
}

#[test]
fn the_examples_of_the_document_work() {
    let router = Router::shared();
    let api = router.get("/api-docs/openapi.json").json();
    let put = &api["paths"]["/api/kv/{key}"]["put"];
    let value = &put["requestBody"]["content"]["application/json"]["example"];
    let key = put["parameters"][0]["example"].as_str().unwrap();
    let at = format!("/api/kv/{key}");
    assert_eq!(router.send("PUT", &at, &[JSON], Some(value.to_string().as_bytes())).status, 201);
    assert_eq!(router.get(&at).json(), *value);
    let pair = &api["components"]["schemas"]["PairRequest"]["example"];
    assert_eq!(router.post("/write", &[], pair).status, 200);
    assert_eq!(router.get(&at).json(), pair["value"]);
    for method in ["get", "put", "delete", "head"] {
        let operation = &api["paths"]["/api/kv/{key}"][method];
        assert_eq!(operation["tags"], json!(["keys and values"]), "{method}");
        assert_eq!(operation["parameters"][0]["schema"]["type"], "string", "{method}");
    }
}

#[test]
fn head_is_get_without_a_body_and_other_methods_get_the_list_of_methods() {
    let router = Router::shared();
    put(&router, "a/b", &[], b"\"value\"");
    let got = router.get("/api/kv/a/b");
    let head = router.send("HEAD", "/api/kv/a/b", &[], None);
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in ["etag", "content-type", "content-length", "x-shard", "x-epoch"] {
        assert!(head.header(name).is_some() && head.header(name) == got.header(name), "{name}");
    }
    assert_eq!(router.send("HEAD", "/api/kv/none", &[], None).status, 404);
    let methods = Some("GET, HEAD, PUT, DELETE");
    for path in ["/api/kv/a", "/api/kv/a/b/", "/api/kv/", "/api/%6Bv/a"] {
        for method in ["POST", "PATCH", "OPTIONS"] {
            let reply = router.send(method, path, &[], Some(b"1"));
            assert_eq!((reply.status, &*reply.code()), (405, "TSR112"), "{method} {path}");
            assert_eq!(reply.header("allow"), methods, "{method} {path}");
        }
    }
}

#[test]
fn values_are_recorded_as_reads_and_writes_without_their_keys() {
    let folder = crate::folders::temporary();
    let log = folder.path().join("log");
    let command = backend::command(&folder.path().join("data"), &["--lab", "--log", "trace"]);
    let file = std::fs::File::create(&log).unwrap();
    let mut router = Router::start_logging(command, Stdio::from(file));
    put(&router, "canary", &[], b"1");
    put(&router, "canary", &[], b"{");
    delete(&router, "canary", &[]);
    get(&router, "canary");
    router.send("HEAD", &path("canary"), &[], None);
    let route = router.get("/api/route?key=canary").json();
    let primary = route["primary"].as_str().unwrap().to_owned();
    set(&router, &primary, "paused");
    let late = put(&router, "canary", &[("x-deadline-ms", "100")], b"2");
    assert_eq!(late.status, 504, "{}", late.text());
    set(&router, &primary, "running");
    let metrics = router.get("/api/analytics/metrics").json()["metrics"].clone();
    assert_eq!((&metrics["writes"], &metrics["reads"]), (&json!(4), &json!(2)), "{metrics}");
    let errors = router.get("/api/analytics/errors").json()["errors"].clone();
    let routes: Vec<&Value> = errors.as_array().unwrap().iter().map(|e| &e["route"]).collect();
    assert_eq!(routes, vec!["/api/kv/{key}"; 4]);
    assert!(!errors.to_string().contains("canary"), "{errors}");
    router.end();
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("/api/kv/{key}") && !log.contains("canary"), "{log}");
}
