//! Tests of invalid declarations: each is refused with the name of the wrong member, and no table
//! is created.

use serde_json::{Value, json};

use crate::client::{refusal, refused};
use crate::harness::{Reply, Router};
use crate::tables::{built_in, made, names, students};

/// Returns the declaration of a table with one member replaced or added, as text.
fn with(member: &str, json: &str) -> String {
    let mut members = vec![
        ("name", r#""t""#),
        ("columns", r#"[{"name":"id","type":"text"}]"#),
        ("id", r#"["id"]"#),
    ];
    members.retain(|(name, _)| *name != member);
    members.push((member, json));
    let members: Vec<String> =
        members.iter().map(|(name, json)| format!("\"{name}\":{json}")).collect();
    format!("{{{}}}", members.join(","))
}

/// A body, and the status, the code and the beginning of the detail with which it is refused.
type Case = (String, u16, &'static str, &'static str);

fn send(router: &Router, body: &str) -> Reply {
    let headers = [("content-type", "application/json")];
    router.send("POST", "/api/tables", &headers, Some(body.as_bytes()))
}

fn assert_refused(router: &Router, cases: &[Case]) {
    for (body, status, code, detail) in cases {
        let reply = send(router, body);
        let about: String = body.chars().take(200).collect();
        assert_eq!(refusal(&reply), refused(*status, code), "{about}: {}", reply.text());
        let reported = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(reported.starts_with(detail), "{about}: {reported}");
    }
    assert_eq!(names(router), built_in(), "nothing is made");
    made(router, &students("t"));
}

/// Returns the columns `id` and one more.
fn two(name: &str, kind: &str) -> String {
    format!(r#"[{{"name":"id","type":"text"}},{{"name":"{name}","type":"{kind}"}}]"#)
}

#[test]
fn a_body_that_declares_nothing_is_refused() {
    let router = Router::shared();
    assert_refused(
        &router,
        &[
            (String::new(), 400, "TSR101", "the body"),
            ("[]".into(), 400, "TSR101", "the body"),
            ("{\"name\":".into(), 400, "TSR101", "the body"),
            ("{}".into(), 400, "TSR101", "name is missing"),
            (with("ttl", "7"), 400, "TSR102", "unknown member `ttl`"),
        ],
    );
}

#[test]
fn a_name_that_cannot_be_is_refused_before_any_sql_is_made_of_it() {
    let router = Router::shared();
    let long = format!("\"{}\"", "a".repeat(41));
    assert_refused(
        &router,
        &[
            (with("name", "7"), 400, "TSR101", "name must be a string"),
            (with("name", "null"), 400, "TSR101", "name must be a string"),
            (with("name", "\"\""), 400, "TSR101", "name must be"),
            (with("name", "\"Students\""), 400, "TSR101", "name must be"),
            (with("name", &long), 400, "TSR101", "name must be"),
            (with("name", "\"x; DROP TABLE users; --\""), 400, "TSR101", "name must be"),
            (with("name", "\"x\\u0000\""), 400, "TSR101", "name must be"),
            (with("name", "\"tessera_slots\""), 400, "TSR101", "name is a name that the system"),
            (with("name", "\"sqlite_x\""), 400, "TSR101", "name is a name that the system"),
            (with("name", "\"group\""), 400, "TSR101", "name is a name that SQLite"),
            (with("name", "\"user\""), 400, "TSR101", "name is a name that PostgreSQL"),
            (with("name", "\"limit\""), 400, "TSR101", "name is a name that a query string"),
        ],
    );
}

#[test]
fn a_column_that_cannot_be_is_refused_by_its_number() {
    let router = Router::shared();
    let many: Vec<Value> =
        (0..10_000).map(|n| json!({"name": format!("c{n}"), "type": "text"})).collect();
    let few = json!(many[..201]).to_string();
    let many = json!(many).to_string();
    assert_refused(
        &router,
        &[
            (with("columns", "{}"), 400, "TSR101", "columns must be an array"),
            (with("columns", "[]"), 400, "TSR101", "columns must be 1 to 200"),
            (with("columns", "[7]"), 400, "TSR101", "columns[0] must be an object"),
            (with("columns", "[{}]"), 400, "TSR101", "columns[0].name is missing"),
            (
                with("columns", &two("a", "string")),
                400,
                "TSR101",
                "columns[1].type is none of text",
            ),
            (with("columns", &two("A", "text")), 400, "TSR101", "columns[1].name must be"),
            (with("columns", &two("id", "text")), 400, "TSR101", "columns[1].name is given twice"),
            (
                with("columns", &two("version", "bigint")),
                400,
                "TSR101",
                "columns[1].name is a name",
            ),
            (with("columns", &two("a) --", "text")), 400, "TSR101", "columns[1].name must be"),
            (
                with("columns", &two("a", "text PRIMARY KEY")),
                400,
                "TSR101",
                "columns[1].type is none",
            ),
            (
                with("columns", r#"[{"name":"id","type":7}]"#),
                400,
                "TSR101",
                "columns[0].type must be",
            ),
            (
                with("columns", r#"[{"name":"id","type":"text","null":"no"}]"#),
                400,
                "TSR101",
                "columns[0].null must",
            ),
            (
                with("columns", r#"[{"name":"id","type":"text","default":1}]"#),
                400,
                "TSR101",
                "columns[0].default does not fit",
            ),
            (
                with("columns", r#"[{"name":"id","type":"text","defualt":"x"}]"#),
                400,
                "TSR102",
                "columns[0]: unknown member `defualt`",
            ),
            (
                with("columns", r#"[{"name":"id","name":"b","type":"text"}]"#),
                400,
                "TSR101",
                "columns[0]: name is given twice",
            ),
            (with("columns", &few), 413, "TSR108", "columns must be 1 to 200, and are 201"),
            (with("columns", &many), 413, "TSR108", "the body is larger than 256 KiB"),
        ],
    );
}

#[test]
fn a_key_that_identifies_no_row_is_refused() {
    let router = Router::shared();
    assert_refused(
        &router,
        &[
            (
                with("columns", r#"[{"name":"id","type":"json"}]"#),
                400,
                "TSR101",
                "id[0] is a json column",
            ),
            (
                with("columns", r#"[{"name":"id","type":"text","null":true}]"#),
                400,
                "TSR101",
                "id[0] is a column that may be null",
            ),
            (with("id", "\"id\""), 400, "TSR101", "id must be an array"),
            (with("id", "[]"), 400, "TSR101", "id must name 1 to 8"),
            (with("id", "[7]"), 400, "TSR101", "id[0] must be a string"),
            (with("id", "[\"idd\"]"), 400, "TSR101", "id[0] is none of the columns"),
            (with("id", "[\"id\",\"id\"]"), 400, "TSR101", "id[1] is given twice"),
            (with("id", "[\"slot\"]"), 400, "TSR101", "id[0] is none of the columns"),
            (with("routing", "7"), 400, "TSR101", "routing must be a string"),
            (with("routing", "\"nope\""), 400, "TSR101", "routing is none of the columns"),
        ],
    );
}

#[test]
fn a_typo_gets_a_suggestion() {
    let router = Router::shared();
    let hint = |body: &str| send(&router, body).json()["hint"].clone();
    assert_eq!(hint(&with("columns", &two("a", "Boolen"))), "did you mean `boolean`?");
    assert_eq!(hint(&with("id", "[\"idd\"]")), "did you mean `id`?");
    assert_eq!(hint(&with("rooting", "\"id\"")), "did you mean `routing`?");
}

#[test]
fn headers_without_effect_are_refused_too() {
    let router = Router::start();
    for headers in [("x-consistency", "all"), ("if-match", "\"1\""), ("x-deadline-ms", "7")] {
        let reply = router.post("/api/tables", &[headers], &students("t"));
        assert_eq!(refusal(&reply), refused(400, "TSR113"), "{headers:?}: {}", reply.text());
    }
    let body = with("x", "1");
    let post = |headers: &[(&str, &str)]| {
        router.send("POST", "/api/tables", headers, Some(body.as_bytes()))
    };
    assert_eq!(refusal(&post(&[("content-type", "text/xml")])), refused(415, "TSR107"));
    let foreign = [("origin", "http://evil.example"), ("content-type", "application/json")];
    assert_eq!(refusal(&post(&foreign)), refused(403, "TSR403"));
    assert_eq!(names(&router), built_in());
}
