//! `completions`: what a shell needs to complete the others.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::{CommandError, CommandLine};
use crate::terminal::print;

/// Prints the script of a shell.
pub(super) fn complete(shell: Shell) -> Result<(), CommandError> {
    // The generator panics where it cannot write, and a reader may be gone.
    let mut script = Vec::new();
    generate(shell, &mut CommandLine::command(), "shard-manager", &mut script);
    Ok(print(&script)?)
}
