//! `node`: creates a PostgreSQL node if its directory is empty, and then replaces this process with
//! the node's server.
//!
//! **Invariant:** no password is accepted as an argument or printed in a message.
//! **Not here:** creating the node (`local_postgres`).

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use local_postgres::{LocalError, NodeSpec, Peer, Secret, StandaloneNode};
use model::topology::Role;
use postgres::node_address::Password;
use serde_json::json;

use super::{CommandError, interrupt};
use crate::terminal::{Terminal, say};

/// Environment variable of libpq with the password, which is used without `--password-file`.
const PASSWORD_VARIABLE: &str = "PGPASSWORD";

const EXAMPLES: &str = "\
The node is made like those of `cluster up`. Its server is `postgres` in the foreground, which
logs to standard error: SIGINT stops it fast, SIGTERM waits for clients first. The directory
determines the role of the node; a node whose making was interrupted is made again.

Examples:
  shard-manager node primary --dir /var/lib/tessera/node --name shard1-primary --database shard1 \\
    --password-file /run/secrets/password --listen 0.0.0.0 --allow 10.0.0.0/8
  shard-manager node replica --dir /var/lib/tessera/node --name shard1-replica1 --of shard1-primary:5432 \\
    --password-file /run/secrets/password --listen 0.0.0.0 --allow 10.0.0.0/8
  shard-manager node ready --dir /var/lib/tessera/node";

/// Operation on a node.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs a primary; a new one has an empty database
    Primary {
        /// Database of a new primary
        #[arg(long, value_name = "NAME")]
        database: String,
        #[command(flatten)]
        options: NodeOptions,
    },
    /// Runs a replica; a new one waits until its source answers, and copies it
    Replica {
        /// Server that the replica follows
        #[arg(long = "of", value_name = "HOST:PORT", value_parser = peer)]
        source: Peer,
        #[command(flatten)]
        options: NodeOptions,
    },
    /// Checks that the node of this directory answers: exit code 1 if not
    Ready {
        /// Directory of the node
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

#[derive(Args, Debug)]
struct NodeOptions {
    /// Directory of the node; created if missing
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Name of the node and of its replication slot
    #[arg(long, value_name = "NAME")]
    name: String,
    /// File whose first line is the password of the databases [default: value of PGPASSWORD]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Port of the server
    #[arg(long, value_name = "PORT", default_value_t = 5432)]
    port: u16,
    /// Address to listen on, such as 0.0.0.0 for all; may be repeated
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    listen: Vec<String>,
    /// Network that may connect with the password, such as 10.0.0.0/8, or samenet; may be repeated
    /// [default: only this machine]
    #[arg(long, value_name = "NETWORK")]
    allow: Vec<String>,
    /// Setting of the server; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = super::cluster::setting)]
    settings: Vec<(String, String)>,
    /// User that runs the server if root starts it [default: `postgres`, else `nobody`]
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Folder of PostgreSQL's programs [default: TESSERA_PG_BIN, else the newest installed]
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
}

/// Runs the operation.
pub(super) fn run(options: Options, terminal: &Terminal) -> Result<(), CommandError> {
    match options.verb {
        Verb::Primary { database, options } => serve(options, database, None),
        Verb::Replica { source, options } => serve(options, String::new(), Some(source)),
        Verb::Ready { dir } => ready(&dir, terminal),
    }
}

/// Creates the node if it does not exist, and replaces this process with its server. Returns only
/// if that fails.
fn serve(options: NodeOptions, database: String, source: Option<Peer>) -> Result<(), CommandError> {
    interrupt::obey();
    let password = password(options.password_file.as_deref())?;
    let name = options.name.clone();
    let node = StandaloneNode::make(
        &NodeSpec {
            dir: options.dir,
            name: options.name,
            database,
            source,
            listen: options.listen,
            port: options.port,
            allow: options.allow,
            password,
            user: options.user,
            pg_bin: options.pg_bin,
            settings: options.settings,
        },
        &mut |line| say(format_args!("{name}: {line}")),
    )?;
    say(format_args!("{name}: starts as {}", node.role().name()));
    Err(node.run().into())
}

fn password(file: Option<&Path>) -> Result<Secret, CommandError> {
    if let Some(file) = file {
        let read = Password::from_file(file);
        let password = read.map_err(|error| CommandError::Refused(error.to_string()))?;
        return Ok(Secret::new(password.secret().to_owned()));
    }
    let set = std::env::var(PASSWORD_VARIABLE).ok().filter(|word| !word.is_empty());
    set.map(Secret::new).ok_or_else(|| {
        CommandError::Refused(format!(
            "the databases need a password: name its file with --password-file, or set {PASSWORD_VARIABLE}"
        ))
    })
}

fn ready(dir: &Path, terminal: &Terminal) -> Result<(), CommandError> {
    let answer = StandaloneNode::status(dir).map_err(|error| {
        let is_found = matches!(error, LocalError::Unsuitable { .. } | LocalError::Program { .. });
        if is_found { CommandError::Found(error.to_string()) } else { error.into() }
    })?;
    let (role, streams) = (answer.role, answer.streams);
    let shown = json!({"role": role.name(), "streams": streams});
    let ended = terminal.show(&shown, |_| match (role, streams) {
        (Role::Primary, _) => "it answers, as primary".to_owned(),
        (Role::Replica, true) => "it answers, as replica, and follows".to_owned(),
        (Role::Replica, false) => "it answers, as replica, and does not stream now".to_owned(),
    });
    Ok(ended?)
}

/// Parses `HOST:PORT`, in which an IPv6 address must be in brackets.
fn peer(text: &str) -> Result<Peer, String> {
    let wanted = || "a source is written HOST:PORT".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
    let host = host.strip_prefix('[').map_or(Some(host), |host| host.strip_suffix(']'));
    let port = port.parse().ok().filter(|port| *port != 0);
    let (host, port) = host.zip(port).ok_or_else(wanted)?;
    Ok(Peer { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_host_and_a_port() {
        let of = |host: &str, port| Ok(Peer { host: host.to_owned(), port });
        assert_eq!(peer("shard1-primary:5432"), of("shard1-primary", 5432));
        assert_eq!(peer("[fd00::1]:5433"), of("fd00::1", 5433));
        for bad in ["shard1-primary", "db:0", "db:x", "[fd00::1:5432", "db:70000"] {
            assert!(peer(bad).is_err(), "{bad}");
        }
    }
}
