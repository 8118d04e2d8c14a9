//! Check: the command `loadtest check FILE`, which checks a recorded history.
//!
//! **Invariant:** the report is written to stdout and errors to stderr; the exit code is 0 if the
//! history violates no guarantee, 1 if it violates one, 2 if the file is not a history, and 3 if
//! only writes at level `one` were lost after a promotion.
//! **Not here:** the checks (`checker`), the format of the file (`history::lines`).

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use checker::Report;
use checker::history::{OperationHistory, lines};

/// Exit code: no guarantee was violated.
const EXIT_PASSED: u8 = 0;
/// Exit code: a guarantee was violated.
const EXIT_FAILED: u8 = 1;
/// Exit code: no guarantee was violated, but a promotion lost writes that were acknowledged at
/// level `one`.
pub const EXIT_LOST: u8 = 3;
/// Exit code: the file could not be checked. Clap uses the same number for wrong usage.
const EXIT_UNUSABLE: u8 = 2;

/// Number of bytes read at once; a line has about 250 bytes.
const BUFFER_BYTES: usize = 1 << 18;

/// Judges a history written before: JSON lines, as loadtest/docs/history.md describes them.
///
/// Exit code: 0 no guarantee was violated, 1 some were, 2 the file cannot be read, 3 none was, but
/// writes at level one were lost after a promotion.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckOptions {
    /// The history
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

impl CheckOptions {
    /// Reads and checks the history, and prints the report.
    pub fn run(&self) -> ExitCode {
        match self.judge() {
            Ok((history, report)) => {
                let text = if self.json {
                    format!("{:#}\n", report.json(&history))
                } else {
                    report.text(&history)
                };
                // An error is ignored: if the reader of stdout has ended (as with `| head`), the
                // exit code stays the same.
                let _ = std::io::stdout().write_all(text.as_bytes());
                ExitCode::from(match (report.passed(), report.lost) {
                    (true, 0) => EXIT_PASSED,
                    (true, _) => EXIT_LOST,
                    (false, _) => EXIT_FAILED,
                })
            }
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "loadtest: {error:#}");
                ExitCode::from(EXIT_UNUSABLE)
            }
        }
    }

    fn judge(&self) -> anyhow::Result<(OperationHistory, Report)> {
        let name = || self.file.display().to_string();
        let file = File::open(&self.file).with_context(name)?;
        let mut input = BufReader::with_capacity(BUFFER_BYTES, file);
        let history = lines::read(&mut input).with_context(name)?;
        let report = checker::check(&history);
        Ok((history, report))
    }
}
