//! Tests of request bodies that arrive slowly: a caller that loses its rights before the body is
//! complete changes nothing.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::catalog_keys::{KEYS, begin, create, send, served};
use super::guarded::Guarded;

const CONTINUE: &[u8; 25] = b"HTTP/1.1 100 Continue\r\n\r\n";
const PATIENT: &str = "x-deadline-ms: 60000\r\n";
const WRITER: &str = "/api/access/roles/writer";

/// Returns a role that writes rows and creates tables.
fn writer(may: &[&str]) -> Value {
    json!({"role": "writer", "scopes": ["tables"], "grants": [
        {"tables": ["*"], "may": may, "keys": "*"}]})
}

fn user(id: &str) -> Value {
    json!({"table": "users", "data": {"user_id": id, "name": "N", "email": "e"}})
}

/// A request whose head and first half of the body have been sent.
struct HalfSent {
    stream: TcpStream,
    rest: String,
}

impl HalfSent {
    /// Begins a request, such as `POST /write`, waits until the router reads its body, and sends
    /// half of it.
    fn begin(guarded: &Guarded, key: &str, (route, headers): (&str, &str), body: &Value) -> Self {
        let mut stream = begin(guarded, key, &format!("{route} HTTP/1.1"));
        let body = body.to_string();
        let head = format!(
            "content-type: application/json\r\nexpect: 100-continue\r\n{headers}\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut line = [0; CONTINUE.len()];
        stream.read_exact(&mut line).unwrap();
        assert_eq!(&line, CONTINUE, "{}", String::from_utf8_lossy(&line));
        let (half, rest) = body.split_at(body.len() / 2);
        stream.write_all(half.as_bytes()).unwrap();
        Self { stream, rest: rest.to_owned() }
    }

    /// Sends the rest of the body, and returns the response.
    fn end(mut self) -> String {
        self.stream.write_all(self.rest.as_bytes()).unwrap();
        let mut answer = String::new();
        self.stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

#[track_caller]
fn check_refused(answer: &str, status: &str, parts: &[&str]) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    parts.iter().for_each(|part| assert!(answer.contains(*part), "{part} is not in {answer}"));
}

#[test]
fn a_key_that_is_revoked_while_its_request_arrives_creates_no_key_role_or_denial() {
    for mode in ["on", "observe"] {
        let guarded = Guarded::start(mode, &[]);
        let role = |name: &str| json!({"role": name, "grants": [], "scopes": ["keys"]});
        let keeper = "/api/access/roles/keeper";
        served(send(&guarded, "PUT", keeper, Some(&role("keeper"))), 200);
        for (route, body) in [
            ("POST /api/access/keys", json!({"role": "keeper", "name": "late"})),
            ("PUT /api/access/roles/late", role("late")),
            ("POST /api/access/denials", json!({"tenant": "late"})),
        ] {
            let (id, key) = create(&guarded, &json!({"role": "keeper"}));
            let request = HalfSent::begin(&guarded, &key, (route, PATIENT), &body);
            served(send(&guarded, "DELETE", &format!("{KEYS}/{id}"), None), 200);
            check_refused(&request.end(), "401", &["\"TSR401\"", "\"outcome\":\"rejected\""]);
        }
        for path in [KEYS, "/api/access/roles", "/api/access/denials"] {
            let listed = served(send(&guarded, "GET", path, None), 200).to_string();
            assert!(!listed.contains("\"late\""), "{mode}: {listed}");
        }
    }
}

#[test]
fn a_key_that_is_revoked_while_its_request_arrives_writes_no_row_and_creates_no_table() {
    let guarded = Guarded::start("on", &[]);
    served(send(&guarded, "PUT", WRITER, Some(&writer(&["read", "insert", "update"]))), 200);
    let table = json!({"name": "late", "columns": [{"name": "title", "type": "text"}],
        "id": ["title"], "routing": "title"});
    for (route, body) in [
        ("POST /api/write", user("late")),
        ("PUT /api/kv/late", json!("value")),
        ("POST /write", json!({"key": "late", "value": 1})),
        ("POST /api/tables", table),
    ] {
        let (id, key) = create(&guarded, &json!({"role": "writer"}));
        let request = HalfSent::begin(&guarded, &key, (route, PATIENT), &body);
        served(send(&guarded, "DELETE", &format!("{KEYS}/{id}"), None), 200);
        check_refused(&request.end(), "401", &["\"TSR401\"", "\"outcome\":\"rejected\""]);
    }
    let users = served(send(&guarded, "GET", "/api/read?table=users&shardKey=late", None), 200);
    assert_eq!(users["count"], 0, "{users}");
    for path in ["/api/kv/late", "/api/tables/late"] {
        assert_eq!(send(&guarded, "GET", path, None).status, 404, "{path}");
    }
}

#[test]
fn a_row_is_refused_if_the_rights_of_its_caller_are_reduced_while_it_arrives() {
    let guarded = Guarded::start("on", &[]);
    served(send(&guarded, "PUT", WRITER, Some(&writer(&["read", "insert", "update"]))), 200);
    let (_, key) = create(&guarded, &json!({"role": "writer"}));
    let body = user("late");
    let request = HalfSent::begin(&guarded, &key, ("POST /api/write", PATIENT), &body);
    served(send(&guarded, "PUT", WRITER, Some(&writer(&["read"]))), 200);
    check_refused(&request.end(), "403", &["\"TSR403\"", "\"outcome\":\"rejected\""]);
    let users = served(send(&guarded, "GET", "/api/read?table=users&shardKey=late", None), 200);
    assert_eq!(users["count"], 0, "{users}");
}

#[test]
fn a_body_sent_with_a_valid_key_is_accepted_although_other_keys_change_meanwhile() {
    let guarded = Guarded::start("on", &[]);
    let (_, key) = create(&guarded, &json!({"role": "service"}));
    let body = user("slow");
    let request = HalfSent::begin(&guarded, &key, ("POST /api/write", PATIENT), &body);
    create(&guarded, &json!({"role": "reader"}));
    let answer = request.end();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
}
