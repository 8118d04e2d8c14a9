//! `completions`: prints a completion script for a shell.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::{CommandError, CommandLine};
use crate::terminal::print;

/// Prints the completion script of a shell.
pub(super) fn complete(shell: Shell) -> Result<(), CommandError> {
    // The script is not written directly to standard output, because the generator panics on a
    // write error such as a closed pipe.
    let mut script = Vec::new();
    generate(shell, &mut CommandLine::command(), "shard-manager", &mut script);
    Ok(print(&script)?)
}
