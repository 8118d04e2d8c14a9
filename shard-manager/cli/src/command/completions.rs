//! `completions`: completion scripts for shells.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::{CommandError, CommandLine};
use crate::terminal::print;

/// Prints the completion script of a shell.
pub(super) fn complete(shell: Shell) -> Result<(), CommandError> {
    // The generator panics on a write error, and the reader may be gone.
    let mut script = Vec::new();
    generate(shell, &mut CommandLine::command(), "shard-manager", &mut script);
    Ok(print(&script)?)
}
