//! Tests of clients that third-party generators make from the OpenAPI document: they compile, their
//! types fit the responses, and their calls work.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::Router;
use crate::prerequisites::{Prerequisite, skip};
use crate::python::{GENERATORS, program_of, text};

/// Folder of the calls, and of the files needed to check and run them.
const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// Returns a folder with the document of a router and the files of a client.
fn folder_with(router: &Router, files: &[&str]) -> tempfile::TempDir {
    let folder = crate::folders::temporary();
    let document = router.get("/api-docs/openapi.json");
    assert_eq!(document.status, 200);
    std::fs::write(folder.path().join("openapi.json"), document.text()).unwrap();
    for file in files {
        std::fs::copy(Path::new(CLIENTS).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

/// Runs a program that must succeed, and returns its output.
#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.env("NO_PROXY", "*").output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = text(&output);
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

#[test]
fn a_python_client_is_generated_typed_and_works() {
    let tool = |name: &str| program_of(&GENERATORS, name);
    let (generator, mypy, python) =
        match (tool("openapi-python-client"), tool("mypy"), tool("python")) {
            (Ok(generator), Ok(mypy), Ok(python)) => (generator, mypy, python),
            (Err(why), _, _) | (_, Err(why), _) | (_, _, Err(why)) => {
                let reason = format!("the generator of Python clients is missing: {why}");
                return skip(Prerequisite::Python, &reason);
            }
        };
    let router = Router::start();
    let folder = folder_with(&router, &["calls.py", "python-client.yaml"]);
    let run = |program: &Path| {
        let mut command = Command::new(program);
        command.current_dir(folder.path());
        command
    };
    let mut generate = run(&generator);
    generate.args(["generate", "--path", "openapi.json", "--meta", "none"]);
    generate.args(["--output-path", "tessera_client", "--config", "python-client.yaml"]);
    let said = succeed(&mut generate);
    assert!(!said.contains("Error"), "{said}");
    succeed(run(&mypy).args(["--strict", "calls.py"]));
    succeed(run(&python).arg("calls.py").arg(router.url("")));
}

/// Returns the folder that `./setup.sh tools` creates beside cargo's output.
fn node_modules() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    target.join("openapi-clients/node_modules")
}

#[test]
fn a_typescript_client_is_generated_typed_and_works() {
    let modules = node_modules();
    if !modules.join(".bin/openapi-typescript").exists() {
        let folder = modules.display();
        let reason = format!("no openapi-typescript in {folder}: ./setup.sh tools fetches it");
        return skip(Prerequisite::Node, &reason);
    }
    let router = Router::start();
    let folder = folder_with(&router, &["calls.ts", "tsconfig.json", "package.json"]);
    std::os::unix::fs::symlink(&modules, folder.path().join("node_modules")).unwrap();
    let run = |program: &Path| {
        let mut command = Command::new(program);
        command.current_dir(folder.path());
        command
    };
    let bin = |name: &str| modules.join(".bin").join(name);
    succeed(run(&bin("openapi-typescript")).args(["openapi.json", "--output", "api.ts"]));
    let types = std::fs::read_to_string(folder.path().join("api.ts")).unwrap();
    assert!(!types.contains("data: Record<string, never>"), "rows have columns");
    succeed(run(&bin("tsc")).args(["--project", ".", "--noEmit"]));
    succeed(run(&bin("tsc")).args(["--project", "."]));
    succeed(run(Path::new("node")).arg("js/calls.js").arg(router.url("")));
}
