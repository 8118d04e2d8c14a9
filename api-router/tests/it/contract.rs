//! Test of the API's contract: schemathesis sends requests that the OpenAPI document allows, and
//! many requests that it does not allow.

use std::process::Command;

use crate::backend::is_servers;
use crate::harness::Router;
use crate::prerequisites::{Prerequisite, skip};
use crate::python::{SCHEMATHESIS, program, text};

/// The one path with an endless response, which has its own tests (`metrics_live`).
const ENDLESS: &str = "/api/analytics/stream";

/// Serializer for bodies of lines, which schemathesis does not have, and the check that no response
/// has a status of 500 or more, other than 504: on a busy machine, a request with the shortest
/// deadline may be late.
const LINES: &str = r#"
import json
import schemathesis

@schemathesis.check
def no_server_error_except_504(context, response, case):
    assert response.status_code < 500 or response.status_code == 504, "a server error"

@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode(errors="replace")
    rows = value if isinstance(value, list) else [value]
    return "\n".join(json.dumps(row) for row in rows).encode()
"#;

#[test]
fn every_answer_is_one_that_the_document_declares() {
    let program = match program("schemathesis") {
        Ok(program) => program,
        Err(why) => {
            let reason = format!("schemathesis {SCHEMATHESIS} is missing: {why}");
            return skip(Prerequisite::Python, &reason);
        }
    };
    let router = Router::start();
    // schemathesis writes files into its working directory.
    let folder = crate::folders::temporary();
    std::fs::write(folder.path().join("lines.py"), LINES).unwrap();
    let mut checks = vec![
        "no_server_error_except_504",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    ];
    if is_servers() {
        // Creating a table on all servers takes longer than the shortest deadline: 504, as
        // documented.
        checks.remove(0);
    }
    let output = Command::new(program)
        .args(["run", &router.url("/api-docs/openapi.json")])
        .args(["--checks", &checks.join(",")])
        .args(["--exclude-path", ENDLESS])
        .args(["--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", "25", "--seed", "20261121", "--no-color"])
        .current_dir(folder.path())
        .env("NO_PROXY", "*")
        .env("SCHEMATHESIS_HOOKS", "lines")
        .env("PYTHONPATH", folder.path())
        .output()
        .unwrap();
    let report = text(&output);
    assert!(output.status.success(), "{report}");
    // All operations were tested, and none was left out because of a filter or an error of
    // schemathesis.
    let api = router.get("/api-docs/openapi.json").json();
    let paths = api["paths"].as_object().unwrap().values();
    let all: usize = paths.map(|item| item.as_object().unwrap().len()).sum();
    let tested = all - 1;
    let selected = format!("Selected: {tested}/{all}");
    assert!(report.contains(&selected), "{report}");
    assert!(report.contains(&format!("Tested: {tested}")), "{report}");
}
