//! Rewrites the figures of RESULTS.md: `cargo bench -p api-router --bench http -- figures`.
//!
//! Every console block of `benches/RESULTS.md` whose command is this benchmark is run again, with
//! the arguments given there, and its output replaces the old one. Figures that are copied by hand
//! age one by one; these are all measured in one go, on one machine. A block with lines about
//! PostgreSQL needs servers: `shard-manager cluster up` starts them and writes `SHARD_URLS` and
//! `REPLICA_URLS` to `tessera.env`.

use std::io::{Error, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Command line in front of the arguments of a block.
const PROMPT: &str = "$ cargo bench -p api-router --bench http -- ";
const FENCE: &str = "```";
/// Beginning of lines that are measured on servers.
const OF_SERVERS: &str = "PostgreSQL hits";

/// Measures each block of the file and writes it when all of them have succeeded.
pub(crate) fn rewrite() -> std::io::Result<()> {
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/RESULTS.md");
    let old = std::fs::read_to_string(&results)?;
    let names_servers = old.lines().any(|line| line.starts_with(OF_SERVERS));
    if names_servers && std::env::var_os("SHARD_URLS").is_none() {
        let remedy = "set SHARD_URLS and REPLICA_URLS, as `shard-manager cluster up` writes them";
        return Err(Error::other(format!("RESULTS.md has figures of PostgreSQL: {remedy}")));
    }
    let new = with_new_output(&old, &measure)?;
    std::fs::write(&results, new)
}

/// Runs this benchmark with the arguments of a block, and returns its output.
fn measure(arguments: &str) -> std::io::Result<String> {
    println!("{PROMPT}{arguments}");
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments.split_whitespace()).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output()?;
    std::io::stdout().write_all(&output.stdout)?;
    if !output.status.success() {
        return Err(Error::other(format!("`{arguments}` ended with {}", output.status)));
    }
    String::from_utf8(output.stdout).map_err(Error::other)
}

/// Returns the text with the output below each command of this benchmark replaced by that of
/// `measure`.
///
/// # Errors
/// Fails if no block is found or one has no end: RESULTS.md then no longer has the expected format.
fn with_new_output(
    text: &str,
    measure: &dyn Fn(&str) -> std::io::Result<String>,
) -> std::io::Result<String> {
    let mut new = String::with_capacity(text.len());
    let mut lines = text.lines();
    let mut blocks = 0;
    while let Some(line) = lines.next() {
        new.push_str(line);
        new.push('\n');
        let Some(arguments) = line.strip_prefix(PROMPT) else { continue };
        blocks += 1;
        new.push_str(measure(arguments)?.trim_end());
        new.push('\n');
        let end = lines.find(|line| line.starts_with(FENCE));
        new.push_str(end.ok_or_else(|| Error::other(format!("`{line}` has no end")))?);
        new.push('\n');
    }
    match blocks {
        0 => Err(Error::other("RESULTS.md has no block that this benchmark wrote")),
        _ => Ok(new),
    }
}
