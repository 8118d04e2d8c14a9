#![doc = include_str!("../README.md")]
//!
//! ## Inside
//! `options` is what may be asked, `scenarios` what a user does, `client` how it speaks, `verdict`
//! what counts as a failure, `tally` what was counted, `report` what is said about it.
//!
//! **Invariant:** no crate of the workspace is imported; what is tested is the wire.
//! **Not here:** nothing that knows how the router works inside.

#![forbid(unsafe_code)]

mod client;
mod options;
mod progress;
mod random;
mod report;
mod scenarios;
mod tally;
mod verdict;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use crate::options::Options;
use crate::progress::Progress;
use crate::report::Report;
use crate::tally::Tally;

/// Every request was answered as promised.
const EXIT_PASSED: u8 = 0;
/// Some request was not, or none was made.
const EXIT_FAILED: u8 = 1;
/// Nothing was tested: wrong usage, or no router. Clap uses the same number.
const EXIT_UNUSABLE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options).await {
        Ok(report) => {
            let text = if options.json { report.json() } else { report.text() };
            // A reader that went away (`| head`) changes nothing about the verdict.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::from(if report.passed { EXIT_PASSED } else { EXIT_FAILED })
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "loadtest: {error:#}");
            ExitCode::from(EXIT_UNUSABLE)
        }
    }
}

/// Looks for a router, puts it under load, and sums up.
async fn run(options: &Options) -> anyhow::Result<Report> {
    options.check_reach()?;
    let client = client::build()?;
    client::check_ready(&client, &options.host).await?;

    let tally = Arc::new(Tally::default());
    let progress = Progress::start(Arc::clone(&tally));
    let ran = scenarios::run(options, client, Arc::clone(&tally)).await;
    progress.stop();
    ran?;
    Ok(Report::new(options, &tally.counts()))
}
