//! Exit status: how a program reports its result to the shell.
//!
//! **Not here:** the results.

use std::fmt::Display;
use std::process::ExitCode;

/// Exit code of a start that needs the operator to change something.
const USAGE: u8 = 2;

/// Reports an error that the operator must mend, and returns its exit code.
pub fn usage_error(error: impl Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(USAGE)
}

/// Reports the failure of a check, if it failed, and returns the exit code of the check.
pub fn check_result(result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
