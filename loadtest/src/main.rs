#![doc = include_str!("../README.md")]
//!
//! ## Inside
//! | Module | Content |
//! |---|---|
//! | `options`, `scenario`, `fault_kind` | the command line |
//! | `mix`, `keys`, `keyspace`, `random` | the next operation, and its key |
//! | `tables`, `requests`, `http_client`, `response_check` | a request, and its response |
//! | `own_rows` | the tables and rows of a run, and their removal |
//! | `clients`, `tenants`, `probe` | users of several tenants, and requests for rows of others |
//! | `load`, `counters`, `progress`, `cpu`, `measured_run` | users, and measurements |
//! | `verify`, `chaos`, `verified_run` | the verifying workload, and faults meanwhile |
//! | `moving_slots`, `move_summary`, `growth_summary` | moving slots, results of moves and joins |
//! | `report` | the result |
//!
//! The library has the recorder of a run (`recorder`) and the command `loadtest check` (`check`);
//! the package `checker` has the format of a recorded run and the checks.
//!
//! **Invariant:** `report_page`, `checker` and `credential` are the only packages of this workspace
//! that are imported, because all tests use the router over HTTP.
//! **Not here:** code that the load tester shares with the router.

#![forbid(unsafe_code)]

mod chaos;
mod clients;
mod counters;
mod cpu;
mod fault_kind;
mod growth_summary;
mod http_client;
mod keys;
mod keyspace;
mod load;
mod measured_run;
mod mix;
mod move_summary;
mod moving_slots;
mod options;
mod own_rows;
mod probe;
mod progress;
mod random;
mod report;
mod requests;
mod response_check;
mod scenario;
mod tables;
mod tenants;
mod verified_run;
mod verify;

use std::io::Write;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;

use loadtest::check::EXIT_LOST;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::clients::Clients;
use crate::counters::Counters;
use crate::load::Plan;
use crate::options::{Command, Options};
use crate::own_rows::OwnRows;
use crate::report::{Files, Report};
use crate::tenants::Tenants;

/// Exit code: every request was answered as promised.
const EXIT_PASSED: u8 = 0;
/// Exit code: a request was not answered as promised, a threshold failed, or no request was made.
const EXIT_FAILED: u8 = 1;
/// Exit code: nothing was tested (wrong usage, or no router), or a report could not be written.
/// Clap uses the same number for wrong usage.
const EXIT_UNUSABLE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::read(std::env::args_os()) {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_UNUSABLE } else { EXIT_PASSED });
        }
    };
    if let Some(Command::Check(check)) = &options.command {
        return check.run();
    }
    if options.goose.version {
        let _ = writeln!(std::io::stdout(), "loadtest {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::from(EXIT_PASSED);
    }
    match until_terminated(&options).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "loadtest: {error:#}");
            ExitCode::from(EXIT_UNUSABLE)
        }
    }
}

/// Runs the command until it ends, or a signal ends it.
async fn until_terminated(options: &Options) -> anyhow::Result<u8> {
    let mut signals = Signals::watch()?;
    let mut work = pin!(async {
        if options.load.clean { clean(options).await } else { report(options).await }
    });
    let signal = tokio::select! {
        ended = &mut work => return ended,
        signal = signals.next() => signal,
    };
    // A run with its own router is aborted, which ends that router too. Any other run ends in the
    // same way as after Ctrl-C, and removes its rows.
    if options.load.chaos {
        anyhow::bail!(
            "ended by {signal}{}",
            match options.load.cluster {
                Some(_) => "; rows of the run may be left in the cluster, which `--clean` removes",
                None => "",
            }
        );
    }
    goose::trigger_killswitch(signal);
    tokio::select! {
        ended = work => ended.and_then(|_| Err(anyhow::anyhow!("ended by {signal}"))),
        signal = signals.next() => {
            Err(anyhow::anyhow!("ended by {signal}; rows and keys of the run may be left, which `--clean` removes"))
        }
    }
}

/// Signals that ask the process to end. While users run, goose handles Ctrl-C: it ends the run
/// early, with its report.
struct Signals {
    term: Signal,
    hangup: Signal,
    interrupt: Signal,
}

impl Signals {
    fn watch() -> anyhow::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Removes the rows that earlier runs have left.
async fn clean(options: &Options) -> anyhow::Result<u8> {
    let pools = options.pools()?;
    http_client::check_ready(&pools[0]).await?;
    own_rows::clean(&pools[0]).await?;
    if pools[0].has_credential() {
        tenants::clean(&pools[0]).await?;
    }
    Ok(EXIT_PASSED)
}

/// Performs the run, writes the report to stdout and to files, and returns the exit code.
async fn report(options: &Options) -> anyhow::Result<u8> {
    let files = Files::open(&options.load)?;
    let mut report = run(options).await?;
    report.comparison = files.compare(&report);
    let text = if options.load.json { report.json() } else { report.text() };
    // An error is ignored: if the reader of stdout has ended (as with `| head`), the exit code
    // stays the same.
    let _ = std::io::stdout().write_all(text.as_bytes());
    files.write(&report)?;
    Ok(match report.passed {
        true => EXIT_PASSED,
        false if report.has_only_lost() => EXIT_LOST,
        false => EXIT_FAILED,
    })
}

/// Checks that the routers are ready, puts them under load, and returns the report.
async fn run(options: &Options) -> anyhow::Result<Report> {
    if options.load.chaos {
        return verified_run::under_chaos(options).await;
    }
    let pools = options.pools()?;
    for pool in &pools {
        http_client::check_ready(pool).await?;
    }
    let own = OwnRows::prepare(options, &pools).await?;
    let first = Arc::clone(&pools[0]);
    let ran = match options.load.tenants {
        None => run_with(options, &Clients::of_run(pools, Arc::clone(own.names()))).await,
        Some(count) => match Tenants::create(options, count, &pools, &own).await {
            Ok(tenants) => {
                let ran = run_with(options, &tenants.clients(pools, &own)).await;
                tenants.remove().await;
                ran
            }
            Err(error) => Err(error),
        },
    };
    own.remove(options, &first).await;
    ran
}

/// Runs the users, who send requests as these clients.
async fn run_with(options: &Options, clients: &Clients) -> anyhow::Result<Report> {
    let mut report = match options.load.verify {
        true => verified_run::run(options, clients).await?,
        false => run_mix(options, clients).await?,
    };
    report.add_tenants(clients);
    Ok(report)
}

/// Writes all keys, and runs the users with the chosen mix of operations.
async fn run_mix(options: &Options, clients: &Clients) -> anyhow::Result<Report> {
    let counters = Arc::new(Counters::default());
    let plan = Arc::new(Plan::new(options, clients, Arc::clone(&counters))?);
    load::fill(&plan).await?;
    let ran = measured_run::run(options, load::scenario(options, plan)?, &counters).await?;
    Ok(Report::new(options, &counters.counts(), ran))
}
