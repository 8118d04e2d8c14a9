//! The real programs that the load tester uses, started as a user would.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use crate::other_program::program;

/// Path of the router's program, which belongs to another package.
pub(crate) static PROGRAM: LazyLock<PathBuf> =
    LazyLock::new(|| program(env!("CARGO_BIN_EXE_loadtest"), "api-router"));

/// Path of the program that creates local clusters.
pub(crate) static MANAGER: LazyLock<PathBuf> =
    LazyLock::new(|| program(env!("CARGO_BIN_EXE_loadtest"), "shard-manager"));

/// Returns a command that inherits no settings from the environment except the folder of
/// PostgreSQL's programs.
pub(crate) fn bare_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_setting = text.starts_with("TESSERA_") && !text.starts_with("TESSERA_PG_");
        let plain = ["SHARD_URLS", "REPLICA_URLS", "MAINDB_URL", "PGPASSWORD", "REDIS_URL"];
        if is_setting || plain.contains(&&*text) {
            command.env_remove(&name);
        }
    }
    command
}

/// Returns the command of the load tester.
pub(crate) fn tester() -> Command {
    bare_command(env!("CARGO_BIN_EXE_loadtest"))
}
