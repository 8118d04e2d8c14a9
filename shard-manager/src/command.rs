//! Commands: what an operator can ask for, and how each ends.
//!
//! **Invariant:** exit code 0 means that what was asked for is true or done, 1 that it was looked at and is not, 2
//! that it could not be done at all: wrong use, or a cluster that cannot be reached.
//! **Not here:** the work itself (the library), how results are shown (`terminal`).

mod backup;
mod check;
mod cluster;
mod completions;
mod export;
mod format;
mod generate;
mod http_agent;
mod import;
mod input_stream;
mod interrupt;
mod keys;
mod migrate;
mod node;
mod output_file;
mod placement;
mod restore;
mod route;
mod router;
mod status;
mod upload;

use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind as Mistake;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use shard_manager::store::sqlite::OpenError;

use crate::terminal::{Terminal, Unwritten, say};

/// Looks at a Tessera cluster, checks it, fills it, and saves it.
#[derive(Debug, Parser)]
#[command(name = "shard-manager", version, propagate_version = true)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    command: Command,
    /// Results as one JSON document
    #[arg(long, global = true)]
    json: bool,
}

/// Which data directory a command is about.
#[derive(Args, Clone, Debug)]
pub(crate) struct DataDirArgs {
    /// The data directory of the embedded shards
    #[arg(long, value_name = "DIR", default_value = "./data", env = "TESSERA_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
}

/// Which cluster a command is about: by its data directory, or by a router that serves it.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterSource {
    #[command(flatten)]
    pub(crate) place: DataDirArgs,
    /// Ask a running router instead of looking at the files
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
}

/// Where rows are stored: by a router that runs, or straight in a data directory.
#[derive(Args, Clone, Debug)]
pub(crate) struct Destination {
    /// The router to send them to [default: http://127.0.0.1:3000]
    #[arg(long, value_name = "URL", conflicts_with = "data_dir")]
    url: Option<String>,
    /// Stores them without a router [env, where there is no --url: TESSERA_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Who stores rows.
#[derive(Debug)]
pub(crate) enum Store {
    /// The router at this address.
    Router(String),
    /// This command, in this data directory.
    Files(PathBuf),
}

impl Destination {
    /// What the flags say, else the environment. The parser cannot tell these apart: it would find them in conflict.
    pub(crate) fn store(&self) -> Store {
        if let Some(url) = &self.url {
            return Store::Router(url.clone());
        }
        let set = || std::env::var_os("TESSERA_DATA_DIR").filter(|dir| !dir.is_empty());
        match self.data_dir.clone().or_else(|| set().map(PathBuf::from)) {
            Some(data_dir) => Store::Files(data_dir),
            None => Store::Router("http://127.0.0.1:3000".to_owned()),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the shards, their nodes, and whether a router runs
    Status(status::StatusArgs),
    /// Tells where keys live
    Route(route::RouteArgs),
    /// Shows who owns which slots, or what other placements would do
    Placement(placement::PlacementArgs),
    /// Looks at every row: does it lie where it belongs, and are the replicas equal?
    Check(check::CheckArgs),
    /// Writes all rows of a table as lines
    Export(export::ExportArgs),
    /// Brings the files of a stopped cluster to the schema of this program
    Migrate(migrate::MigrateArgs),
    /// Copies a cluster as it is at one moment, also while a router runs
    #[command(after_help = backup::EXAMPLES)]
    Backup(backup::Options),
    /// Makes a data directory of a copy
    #[command(after_help = restore::EXAMPLES)]
    Restore(restore::Options),
    /// Fills a cluster with fake users and orders
    #[command(after_help = generate::EXAMPLES)]
    Generate(generate::Options),
    /// Stores the rows of a file
    #[command(after_help = import::EXAMPLES)]
    Import(import::Options),
    /// Makes, starts, shows and stops PostgreSQL servers on this machine
    Cluster(cluster::Options),
    /// Makes one PostgreSQL node and becomes its server: for containers and service managers
    Node(node::Options),
    /// Prints what a shell needs to complete these commands
    #[command(
        after_help = "Example:\n  shard-manager completions bash > ~/.local/share/bash-completion/completions/shard-manager"
    )]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// How a command ended that did not find what was asked for.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// It was looked at, and is not as it should be; what is wrong has been shown.
    Found(String),
    /// It could not be done.
    Refused(String),
    /// Whoever read the results has gone: no reason to say anything.
    Unread,
}

impl From<OpenError> for CommandError {
    fn from(error: OpenError) -> Self {
        Self::Refused(error.to_string())
    }
}

/// A reader that has seen enough (`| head`) has what it wanted; else results are lost.
impl From<Unwritten> for CommandError {
    fn from(Unwritten(error): Unwritten) -> Self {
        if error.kind() == ErrorKind::BrokenPipe {
            return Self::Unread;
        }
        Self::Refused(format!("the results cannot be written: {error}"))
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(line) | Self::Refused(line) => f.write_str(line),
            Self::Unread => f.write_str("nobody reads the results"),
        }
    }
}

/// Shows the help that was asked for, or says in one line what is wrong with a command line.
pub(crate) fn explain(error: &clap::Error) -> ExitCode {
    let text = error.to_string();
    let is_help = error.kind() == Mistake::DisplayHelpOnMissingArgumentOrSubcommand;
    if !error.use_stderr() || is_help {
        return match error.print() {
            Err(unwritten) if unwritten.kind() != ErrorKind::BrokenPipe => {
                say(format_args!("error: {unwritten}"));
                ExitCode::from(2)
            }
            // A reader that has seen enough is no reason to fail.
            Ok(()) | Err(_) => ExitCode::from(if is_help { 2 } else { 0 }),
        };
    }
    let said = text.split("\n\nUsage:").next().unwrap_or(&text);
    let said = said.split("\n\nFor more information").next().unwrap_or(said);
    say(said.split_whitespace().collect::<Vec<_>>().join(" "));
    ExitCode::from(2)
}

/// Carries a command out, and tells how it ended.
pub(crate) fn run(line: CommandLine) -> ExitCode {
    let terminal = Terminal::new(line.json);
    let ended = match line.command {
        Command::Status(args) => status::run(&args, &terminal),
        Command::Route(args) => route::run(&args, &terminal),
        Command::Placement(args) => placement::run(&args, &terminal),
        Command::Check(args) => check::run(&args, &terminal),
        Command::Export(args) => export::run(&args, &terminal),
        Command::Migrate(args) => migrate::run(&args, &terminal),
        Command::Backup(options) => backup::run(&options, &terminal),
        Command::Generate(options) => generate::run(&options, &terminal),
        Command::Import(options) => import::run(options, &terminal),
        Command::Restore(options) => restore::run(&options, &terminal),
        Command::Cluster(options) => cluster::run(&options, &terminal),
        Command::Node(options) => node::run(options, &terminal),
        Command::Completions { shell } => completions::complete(shell),
    };
    let Err(trouble) = ended else { return ExitCode::SUCCESS };
    match trouble {
        CommandError::Found(line) => {
            say(line);
            ExitCode::from(1)
        }
        CommandError::Refused(line) => {
            say(format_args!("error: {line}"));
            ExitCode::from(2)
        }
        CommandError::Unread => ExitCode::from(1),
    }
}
