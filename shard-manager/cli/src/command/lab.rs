//! `lab`: runs experiments, each of which reports a table, a chart and an explanation.
//!
//! **Not here:** the experiments (the package `lab`).

mod chapter_servers;
mod guarantees;
mod lab_servers;
mod linked_servers;
mod network;
mod node_servers;
mod report_folder;
mod run;
mod sizes;
mod snapshot;
mod snapshot_folder;
mod strategies;
mod tour;
mod user_count;
mod watcher;

use std::path::{Path, PathBuf};
use std::process;

use ::lab::crash;
use ::lab::killed_writer::write_until_killed;
use ::lab::lab_cluster::LabCluster;
use ::lab::lab_error::LabError;
use ::lab::report::{Cell, Report};
use clap::{Args, Subcommand};

use self::report_folder::ReportFolder;
use self::watcher::Watcher;
use super::access::catalog_place::CATALOG_VARIABLE;
use super::{CommandError, interrupt};
use crate::terminal::Terminal;

pub(super) const EXAMPLES: &str = "\
An experiment creates its own keys and its own cluster in a temporary folder, touches nothing else,
and removes them afterwards, even after Ctrl-C. The same seed generates the same keys and rows.
Only `snapshot` works on your cluster: it saves it, and asks for confirmation before it restores it.

Examples:
  shard-manager lab tour
  shard-manager lab levels
  shard-manager lab shards --counts 1,2,4,8
  shard-manager lab run --users 100000 --report ./run
  shard-manager lab snapshot save before-load
  shard-manager lab strategies
  shard-manager lab strategies --weights 1,1,2 --keys-file user_ids.txt --report ./strategies";

/// Experiment to carry out.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Debug, Subcommand)]
enum Experiment {
    /// Compares one database with shards: the same users, the same queries
    #[command(after_help = run::EXAMPLES)]
    Run(run::Options),
    /// Compares every keyspace and placement on the same keys
    #[command(after_help = strategies::EXAMPLES)]
    Strategies(strategies::Options),
    /// Shows the cost of the consistency levels, and which refuse requests while nodes are
    /// unreachable
    Levels(guarantees::Levels),
    /// Shows what reads return while replicas lag, with and without a session token
    Replicas(guarantees::Replicas),
    /// Kills a writing process, and its servers, with kill -9, and looks for its acknowledged rows
    Crash(guarantees::Crash),
    /// Shows which concurrent changes of the same row are lost, and which are refused
    Conflicts(guarantees::Conflicts),
    /// Sends the same queries to clusters with increasing numbers of shards
    Shards(sizes::Shards),
    /// Adds a shard while clients read and write, and removes it again
    Grow(sizes::Grow),
    /// Compares the same reads with and without a cache, for evenly and unevenly distributed keys
    Cache(sizes::CacheTrial),
    /// Compares a filtered query, and writes, with and without an index
    Indexes(sizes::IndexTrial),
    /// Shows the effect of latency, loss and cuts between the router and the nodes on requests
    #[command(after_help = network::EXAMPLES)]
    Network(network::Network),
    /// Walks through Tessera in ten chapters, each on a small real cluster
    #[command(after_help = tour::EXAMPLES)]
    Tour(tour::Options),
    /// Saves your cluster under a name, and restores it to that state
    #[command(after_help = snapshot::EXAMPLES)]
    Snapshot(snapshot::Options),
    /// Writes to the files or servers in a folder until it is killed; used by other experiments
    #[command(hide = true)]
    WriteUntilKilled {
        /// Data directory, or directory of local servers
        dir: PathBuf,
        /// Write to the servers of the directory
        #[arg(long)]
        servers: bool,
        /// Number of the first row
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// Seed of the ids of the rows
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

/// Use that an experiment makes of the server that `MAINDB_URL` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MainServer {
    /// The experiment creates a database on it.
    Used,
    /// The experiment does not use the server. If the variable is set, the report says so.
    Ignored,
}

/// Settings that all experiments have.
#[derive(Args, Debug)]
struct Common {
    /// Seed; the same seed generates the same keys and rows
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Also write the report as Markdown, JSON and HTML into this new folder
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

/// Carries out an experiment.
pub(super) fn run(options: Options, terminal: &Terminal) -> Result<(), CommandError> {
    if let Experiment::WriteUntilKilled { dir, servers, first, seed } = &options.experiment {
        let cluster = match servers {
            true => node_servers::connect_to(dir)?,
            false => LabCluster::embedded(dir.clone(), crash::SHARDS, 0)?,
        };
        return Ok(write_until_killed(&cluster, *first, *seed)?);
    }
    interrupt::watch();
    match options.experiment {
        Experiment::Run(options) => run::run(options, terminal),
        Experiment::Strategies(options) => strategies::run(options, terminal),
        Experiment::Levels(options) => options.run(terminal),
        Experiment::Replicas(options) => options.run(terminal),
        Experiment::Crash(options) => options.run(terminal),
        Experiment::Conflicts(options) => options.run(terminal),
        Experiment::Shards(options) => options.run(terminal),
        Experiment::Grow(options) => options.run(terminal),
        Experiment::Cache(options) => options.run(terminal),
        Experiment::Indexes(options) => options.run(terminal),
        Experiment::Network(options) => options.run(terminal),
        Experiment::Tour(options) => tour::run(&options, terminal),
        Experiment::Snapshot(options) => snapshot::run(&options, terminal),
        Experiment::WriteUntilKilled { .. } => Ok(()),
    }
}

/// Returns the command for a child process that writes rows, to the files or to the servers in a
/// folder, until it is killed.
fn writer_command(
    program: &Path,
    (dir, is_of_servers): (&Path, bool),
    seed: u64,
) -> process::Command {
    let mut command = process::Command::new(program);
    command.args(["lab", "write-until-killed"]).arg(dir);
    command.args(["--seed", &seed.to_string()]);
    if is_of_servers {
        command.arg("--servers");
    }
    command
}

impl Common {
    /// Carries out an experiment that does not use the server that `MAINDB_URL` names.
    ///
    /// # Errors
    /// The errors of [`Common::carry_out_with`].
    fn carry_out(
        &self,
        terminal: &Terminal,
        experiment: impl FnOnce(&Watcher<'_>) -> Result<Report, CommandError>,
    ) -> Result<(), CommandError> {
        self.carry_out_with(MainServer::Ignored, terminal, experiment)
    }

    /// Carries out an experiment, writes its report into the folder that `--report` names, and
    /// shows it. A folder that is not empty is refused before the experiment starts.
    ///
    /// # Errors
    /// [`CommandError`] if the experiment fails, or its report cannot be written.
    fn carry_out_with(
        &self,
        main: MainServer,
        terminal: &Terminal,
        experiment: impl FnOnce(&Watcher<'_>) -> Result<Report, CommandError>,
    ) -> Result<(), CommandError> {
        let folder = self.report.as_deref().map(ReportFolder::begin).transpose()?;
        let mut report = experiment(&Watcher::new(terminal))?;
        let is_set = std::env::var_os(CATALOG_VARIABLE).is_some_and(|urls| !urls.is_empty());
        if is_set && main == MainServer::Ignored {
            let note = format!(
                "{CATALOG_VARIABLE} is set and was not used: only `lab run` creates a database on that server"
            );
            report.notes.push(note);
        }
        if let Some(folder) = folder {
            folder.write(&report)?;
        }
        Ok(terminal.show(&report, |terminal| text(&report, terminal))?)
    }
}

impl From<LabError> for CommandError {
    fn from(error: LabError) -> Self {
        Self::Refused(error.to_string())
    }
}

/// Formats the report as text for a terminal.
fn text(report: &Report, terminal: &Terminal) -> String {
    let mut parts = vec![report.settings_line(), report.machine.sentence()];
    for table in &report.tables {
        let heads: Vec<&str> = table.columns.iter().map(String::as_str).collect();
        let rows: Vec<Vec<String>> =
            table.rows.iter().map(|row| row.iter().map(Cell::text).collect()).collect();
        parts.push(format!("\n{}\n{}", table.title, terminal.table(&heads, &rows)));
    }
    parts.extend(report.charts.iter().map(|chart| format!("\n{}", chart.text())));
    parts.extend(report.notes.iter().map(|note| format!("note: {note}")));
    parts.push(format!("\n{}", report.explanation));
    parts.join("\n")
}
