//! `completions`: what a shell needs to complete the others.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::{CommandLine, Trouble};

/// Prints the script of a shell.
pub(super) fn print(shell: Shell) -> Result<(), Trouble> {
    generate(shell, &mut CommandLine::command(), "shard-manager", &mut std::io::stdout());
    Ok(())
}
