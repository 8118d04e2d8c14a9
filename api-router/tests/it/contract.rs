//! The contract as a stranger's tool sees it: schemathesis asks for all that the OpenAPI document allows, and
//! for much that it does not.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::ground::is_servers;
use crate::harness::{Router, left_out};

/// Another version generates other requests.
const SCHEMATHESIS: &str = "4.32.5";

/// How it is to write bodies of lines, which it does not know by itself.
const LINES: &str = r#"
import json
import schemathesis

@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode(errors="replace")
    rows = value if isinstance(value, list) else [value]
    return "\n".join(json.dumps(row) for row in rows).encode()
"#;

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

fn is_installed(program: &Path) -> bool {
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|output| text(&output).trim_end().ends_with(SCHEMATHESIS))
}

/// The program, in a virtual environment below `target` that is made once.
///
/// # Errors
/// What could not be had.
fn schemathesis() -> Result<PathBuf, String> {
    let name = format!("schemathesis-{SCHEMATHESIS}");
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let program = environment.join("bin/schemathesis");
    if is_installed(&program) {
        return Ok(program);
    }
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(&environment);
    let mut install = Command::new(environment.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    install.arg(format!("schemathesis=={SCHEMATHESIS}"));
    for mut step in [venv, install] {
        let output = step.output().map_err(|error| format!("{step:?}: {error}"))?;
        if !output.status.success() {
            return Err(format!("{step:?}: {}", text(&output)));
        }
    }
    if is_installed(&program) { Ok(program) } else { Err(format!("{program:?} does not run")) }
}

#[test]
fn every_answer_is_one_that_the_document_declares() {
    let program = match schemathesis() {
        Ok(program) => program,
        Err(why) => {
            return left_out(&format!("schemathesis {SCHEMATHESIS} is not to be had: {why}"));
        }
    };
    let router = Router::start();
    // It keeps notes in the folder where it runs.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("lines.py"), LINES).unwrap();
    let mut checks = vec![
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    ];
    if is_servers() {
        // To make a table on all of them takes longer than the shortest deadline: 504, as the document says.
        checks.remove(0);
    }
    let output = Command::new(program)
        .args(["run", &router.url("/api-docs/openapi.json")])
        .args(["--checks", &checks.join(",")])
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
    // All was tested, and nothing left out by a filter or an error of its own.
    let api = router.get("/api-docs/openapi.json").json();
    let paths = api["paths"].as_object().unwrap().values();
    let all: usize = paths.map(|item| item.as_object().unwrap().len()).sum();
    let selected = format!("Selected: {all}/{all}");
    assert!(report.contains(&selected) && report.contains(&format!("Tested: {all}")), "{report}");
}
