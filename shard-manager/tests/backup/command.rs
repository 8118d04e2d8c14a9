//! Helpers to run the program as an operator would.

use std::path::Path;
use std::process::{Command, Output};

/// The program, isolated from the environment variables of the user who runs the tests.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shard-manager"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TESSERA_") || name == "MAX_GEN_USERS" {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the program to completion.
pub(crate) fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().expect("the program starts")
}

/// Runs the program, requires success, and returns its standard output.
pub(crate) fn succeed(arguments: &[&str]) -> String {
    let output = run(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs the program, requires failure, and returns the exit code and standard error.
pub(crate) fn fail(arguments: &[&str]) -> (i32, String) {
    let output = run(arguments);
    let code = output.status.code().expect("it ends by itself");
    assert_ne!(code, 0, "{arguments:?} must fail");
    (code, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Runs the program with each of these arguments, and requires that it refuses them in one line
/// that contains the reason.
pub(crate) fn fail_in_one_line(uses: &[(&[&str], &str)]) {
    for &(arguments, reason) in uses {
        let (code, output) = fail(arguments);
        assert_eq!((code, output.lines().count()), (2, 1), "{arguments:?}: {output}");
        assert!(
            output.starts_with("error: ") && output.contains(reason),
            "{arguments:?}: {output}"
        );
    }
}

/// Converts a path to a command-line argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
