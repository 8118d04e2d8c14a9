//! Exit status: the messages and exit codes with which a program reports its result to the shell.
//!
//! **Not here:** the results.

use std::fmt::Display;
use std::process::ExitCode;

/// Exit code of a program that did not start because the operator must change something.
const USAGE: u8 = 2;

/// Prints an error that the operator must correct, and returns the exit code for it.
pub fn usage_error(error: impl Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(USAGE)
}

/// Prints the reason if a check has failed, and returns the exit code for its result.
pub fn check_result(result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
