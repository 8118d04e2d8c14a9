//! Commands: the subcommands of `shard-manager`, and their exit codes.
//!
//! **Invariant:** exit code 0 means success; 1 means that the command found a fault, that work such
//! as a move did not succeed, or that the reader of the output closed the pipe; 2 means that the
//! command could not be carried out, for example because of wrong arguments or an unreachable
//! cluster.
//! **Not here:** the work itself (the crates that the commands call), the output (`terminal`).

mod access;
mod atomic_file;
mod backup;
mod check;
mod cluster;
mod cluster_place;
mod completions;
mod export;
mod format;
mod generate;
mod http_agent;
mod import;
mod index;
mod input_stream;
mod interrupt;
mod keys;
mod lab;
mod migrate;
mod moves;
mod node;
mod own_cluster;
mod place_flags;
mod placement;
mod rebalance;
mod restore;
mod route;
mod router;
mod router_polls;
mod shard;
mod slots;
mod status;
mod upload;

use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind as Mistake;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use engine::open_error::OpenError;

use self::access::catalog_place::{CATALOG_VARIABLE, DIR_DEFAULT, DIR_VARIABLE, SHARDS_VARIABLE};
use self::http_agent::RouterAddress;
use self::place_flags::PlaceFlags;
use crate::terminal::{Terminal, Unwritten, say};

/// Inspects, checks, fills and backs up a Tessera cluster.
#[derive(Debug, Parser)]
#[command(name = "shard-manager", version, propagate_version = true)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    command: Command,
    /// Print the result as one JSON document
    #[arg(long, global = true)]
    json: bool,
}

/// Data directory of a command.
#[derive(Args, Clone, Debug)]
pub(crate) struct DataDirArgs {
    /// Data directory of the embedded shards [env: TESSERA_DATA_DIR] [default: ./data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl DataDirArgs {
    /// Returns the data directory that the flag names, or else the environment variable, or else
    /// the default one.
    ///
    /// # Errors
    /// Fails if there is no flag and an environment variable names servers, because a command that
    /// is meant for the servers would then act on files. The message ends with `remedy`.
    pub(crate) fn dir(&self, remedy: &str) -> Result<PathBuf, CommandError> {
        if let Some(dir) = &self.data_dir {
            return Ok(dir.clone());
        }
        let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let of_servers = [SHARDS_VARIABLE, CATALOG_VARIABLE].into_iter();
        if let Some(name) = of_servers.into_iter().find(|name| given(name).is_some()) {
            return Err(CommandError::Refused(format!("{name} names servers: {remedy}")));
        }
        Ok(given(DIR_VARIABLE).map_or_else(|| DIR_DEFAULT.into(), PathBuf::from))
    }
}

/// Cluster of a command, named by its data directory or by a router that serves it.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterSource {
    #[command(flatten)]
    place: DataDirArgs,
    /// Query a running router instead of reading the files
    #[arg(long, value_name = "URL", conflicts_with = "data_dir")]
    url: Option<String>,
    /// File with the API key for that router [env: TESSERA_KEY, the key itself]
    #[arg(long, value_name = "FILE", requires = "url")]
    key_file: Option<PathBuf>,
}

impl ClusterSource {
    /// Returns the address of the router, if `--url` is given.
    pub(crate) fn router(&self) -> Option<RouterAddress> {
        let key_file = self.key_file.clone();
        self.url.clone().map(|url| RouterAddress { url, key_file })
    }

    /// Returns the data directory, for a command without `--url`.
    ///
    /// # Errors
    /// The errors of [`DataDirArgs::dir`].
    pub(crate) fn data_dir(&self) -> Result<PathBuf, CommandError> {
        self.place.dir("name their router with --url, or files with --data-dir")
    }

    /// Returns the flags that name the cluster, for a follow-up command that a message suggests.
    pub(crate) fn flags(&self) -> PlaceFlags {
        match (self.router(), &self.place.data_dir) {
            (Some(address), _) => PlaceFlags::of_router(&address),
            (None, Some(data_dir)) => PlaceFlags::of_dir(data_dir),
            (None, None) => PlaceFlags::default(),
        }
    }
}

/// Destination of rows: a running router, or a data directory.
#[derive(Args, Clone, Debug)]
pub(crate) struct Destination {
    /// Router to send the rows to [default: http://127.0.0.1:3000]
    #[arg(long, value_name = "URL", conflicts_with = "data_dir")]
    url: Option<String>,
    /// File with the API key for that router [env: TESSERA_KEY, the key itself]
    #[arg(long, value_name = "FILE", conflicts_with = "data_dir")]
    key_file: Option<PathBuf>,
    /// Data directory to write to without a router [env, without --url: TESSERA_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Way in which a command stores rows.
#[derive(Debug)]
pub(crate) enum Store {
    /// The router at this address stores the rows.
    Router(RouterAddress),
    /// The command itself opens the files in this data directory and stores the rows.
    Files(PathBuf),
}

impl Destination {
    /// Returns the destination that the flags name, or else the environment variable, or else the
    /// default router. The variable is read here and not by the argument parser, which would treat
    /// it like `--data-dir` and report a conflict with `--url`.
    pub(crate) fn store(&self) -> Store {
        let at = |url: &str| {
            let (url, key_file) = (url.to_owned(), self.key_file.clone());
            Store::Router(RouterAddress { url, key_file })
        };
        if let Some(url) = &self.url {
            return at(url);
        }
        let set = || std::env::var_os("TESSERA_DATA_DIR").filter(|dir| !dir.is_empty());
        match self.data_dir.clone().or_else(|| set().map(PathBuf::from)) {
            Some(data_dir) => Store::Files(data_dir),
            None => at("http://127.0.0.1:3000"),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the shards, their nodes and a running router
    Status(status::StatusArgs),
    /// Lists the shards in the catalog, and changes them
    Shard(shard::Options),
    /// Shows the shards of keys
    Route(route::RouteArgs),
    /// Shows the owners of slots, or compares other placements
    Placement(placement::PlacementArgs),
    /// Checks that every row is on its shard and that replicas are equal
    Check(check::CheckArgs),
    /// Writes all rows of a table as lines
    Export(export::ExportArgs),
    /// Migrates the files of a stopped cluster to the schema of this program
    Migrate(migrate::MigrateArgs),
    /// Copies a cluster as of one moment, even while a router runs
    #[command(after_help = backup::EXAMPLES)]
    Backup(backup::Options),
    /// Creates a data directory from a copy
    #[command(after_help = restore::EXAMPLES)]
    Restore(restore::Options),
    /// Fills a cluster with demo users and orders
    #[command(after_help = generate::EXAMPLES)]
    Generate(generate::Options),
    /// Stores the rows of a file
    #[command(after_help = import::EXAMPLES)]
    Import(import::Options),
    /// Experiments on keys and on clusters of their own, which are removed afterwards
    #[command(after_help = lab::EXAMPLES)]
    Lab(lab::Options),
    /// Creates, lists, revokes, rotates, suspends and resumes API keys
    Key(access::key::Options),
    /// Defines and lists the roles of keys and tokens
    Role(access::role::Options),
    /// Changes the mode of access control, and ends the sessions of browsers
    Access(access::Options),
    /// Verifies audit logs of routers
    Audit(access::audit::Options),
    /// Moves slots to another shard while rows are read and written
    Move(moves::Options),
    /// Builds, lists and drops secondary indexes of tables
    Index(index::Options),
    /// Moves slots until each shard has its share
    #[command(after_help = rebalance::EXAMPLES)]
    Rebalance(rebalance::Options),
    /// Fences slots, so that their writes wait for a short time, or releases them
    Slots(slots::Options),
    /// Makes, starts, shows and stops PostgreSQL servers on this machine
    Cluster(cluster::Options),
    /// Makes one PostgreSQL node and becomes its server: for containers and service managers
    Node(node::Options),
    /// Prints a completion script for a shell
    #[command(
        after_help = "Example:\n  shard-manager completions bash > ~/.local/share/bash-completion/completions/shard-manager"
    )]
    Completions {
        /// Shell to complete for
        shell: Shell,
    },
}

/// Reason why a command did not succeed.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// The command found a fault, or work such as a move did not succeed. Exit code 1.
    Found(String),
    /// The command could not be carried out. Exit code 2.
    Refused(String),
    /// The reader of the output closed the pipe. Nothing is reported. Exit code 1.
    Unread,
}

impl CommandError {
    /// Adds a remedy to the message of a refusal that contains `part`.
    fn with_remedy(self, part: &str, remedy: &str) -> Self {
        match self {
            Self::Refused(line) if line.contains(part) => {
                Self::Refused(format!("{line}: {remedy}"))
            }
            Self::Found(_) | Self::Refused(_) | Self::Unread => self,
        }
    }
}

impl From<OpenError> for CommandError {
    fn from(error: OpenError) -> Self {
        Self::Refused(error.to_string())
    }
}

/// A closed pipe (`| head`) is not reported as an error, because the reader wanted no more; any
/// other failure is, because results are lost.
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
            Self::Unread => f.write_str("the reader of the results has gone"),
        }
    }
}

/// Prints the help if it was requested or a subcommand is missing, and otherwise one line about the
/// error in the arguments.
pub(crate) fn explain(error: &clap::Error) -> ExitCode {
    let text = error.to_string();
    let is_help = error.kind() == Mistake::DisplayHelpOnMissingArgumentOrSubcommand;
    if !error.use_stderr() || is_help {
        return match error.print() {
            Err(unwritten) if unwritten.kind() != ErrorKind::BrokenPipe => {
                say(format_args!("error: {unwritten}"));
                ExitCode::from(2)
            }
            // A closed pipe does not change the exit code.
            Ok(()) | Err(_) => ExitCode::from(if is_help { 2 } else { 0 }),
        };
    }
    let said = text.split("\n\nUsage:").next().unwrap_or(&text);
    let said = said.split("\n\nFor more information").next().unwrap_or(said);
    let said = said.replace("\n\n  tip: ", "; ");
    // The standard library reports a malformed number in these words.
    let said = said.replace("invalid digit found in string", "it is not a number");
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let arguments = std::env::args_os().skip(1).filter_map(|argument| argument.into_string().ok());
    let command = command_of(arguments);
    say(format_args!("{said}; `{command} --help` explains the command line"));
    ExitCode::from(2)
}

/// Returns the program and subcommands that these arguments name, without flags, such as
/// `shard-manager placement show`.
fn command_of(arguments: impl Iterator<Item = String>) -> String {
    let mut command = CommandLine::command();
    let mut names = vec![command.get_name().to_owned()];
    for argument in arguments.filter(|argument| !argument.starts_with('-')) {
        let Some(found) = command.find_subcommand(&argument).cloned() else { break };
        names.push(argument);
        command = found;
    }
    names.join(" ")
}

/// Runs a command and returns its exit code.
pub(crate) fn run(line: CommandLine) -> ExitCode {
    let terminal = Terminal::new(line.json);
    let ended = match line.command {
        Command::Status(args) => status::run(&args, &terminal),
        Command::Shard(options) => shard::run(&options, &terminal),
        Command::Route(args) => route::run(&args, &terminal),
        Command::Placement(args) => placement::run(&args, &terminal),
        Command::Check(args) => check::run(&args, &terminal),
        Command::Export(args) => export::run(&args, &terminal),
        Command::Migrate(args) => migrate::run(&args, &terminal),
        Command::Backup(options) => backup::run(&options, &terminal),
        Command::Generate(options) => generate::run(&options, &terminal),
        Command::Import(options) => import::run(options, &terminal),
        Command::Lab(options) => lab::run(options, &terminal),
        Command::Restore(options) => restore::run(&options, &terminal),
        Command::Key(options) => access::key::run(&options, &terminal),
        Command::Role(options) => access::role::run(&options, &terminal),
        Command::Access(options) => access::run(&options, &terminal),
        Command::Audit(options) => access::audit::run(&options, &terminal),
        Command::Move(options) => moves::run(&options, &terminal),
        Command::Index(options) => index::run(&options, &terminal),
        Command::Rebalance(options) => rebalance::run(&options, &terminal),
        Command::Slots(options) => slots::run(&options, &terminal),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_named_by_its_arguments() {
        let named = |line: &str| command_of(line.split_whitespace().map(str::to_owned));
        assert_eq!(named("--json generate --users x"), "shard-manager generate");
        assert_eq!(named("placement simulate --shards up"), "shard-manager placement simulate");
        assert_eq!(named("status up"), "shard-manager status");
        assert_eq!(named("doctor status"), "shard-manager");
    }

    #[test]
    fn no_command_takes_both_a_router_and_a_data_directory() {
        let (mut commands, mut checked) = (vec![CommandLine::command()], 0);
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands().cloned());
            let named = |id: &str| command.get_arguments().find(|arg| arg.get_id().as_str() == id);
            let (Some(url), Some(data_dir)) = (named("url"), named("data_dir")) else { continue };
            let conflicts = |arg: &clap::Arg, other: &str| {
                let mut others = command.get_arg_conflicts_with(arg).into_iter();
                others.any(|arg| arg.get_id().as_str() == other)
            };
            let is_refused = conflicts(url, "data_dir") || conflicts(data_dir, "url");
            assert!(is_refused, "{}", command.get_name());
            checked += 1;
        }
        assert!(checked > 20, "{checked} commands");
    }

    /// A terminal of 100 columns would wrap longer lines.
    #[test]
    fn the_help_of_every_command_is_written_for_a_hundred_columns() {
        let mut commands = vec![CommandLine::command()];
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands().cloned());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines().filter(|line| !line.starts_with(' ')) {
                assert!(line.chars().count() <= 100, "{}: {line}", command.get_name());
            }
        }
    }
}
