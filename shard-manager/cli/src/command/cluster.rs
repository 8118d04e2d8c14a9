//! `cluster`: makes, starts, shows, stops and removes PostgreSQL servers on this machine;
//! single servers are also frozen and promoted (`node_verbs`).
//!
//! **Invariant:** the password is never printed; nothing is removed without `--yes`.
//! **Not here:** making and starting servers (`local_postgres`).

mod node_verbs;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use local_postgres::{LocalCluster, LocalError, LocalNode, LocalSpec, NodeState};
use model::topology::Topology;
use serde::Serialize;
use serde_json::json;

use super::CommandError;
use crate::terminal::{Terminal, say};

const UP_EXAMPLES: &str = "\
The programs of PostgreSQL 15 or later must be installed; an installed server is not touched.
Another run makes missing servers, starts stopped ones and leaves running ones alone. Root runs
the servers as the user postgres.

Examples:
  shard-manager cluster up
  shard-manager cluster up --shards 2 --replicas 2 --port 5500
  shard-manager cluster up --dir /srv/tessera --set shared_buffers=1GB";

/// Role shown for a node that was primary until another node was promoted, and that does not follow
/// the new primary yet.
const FORMER: &str = "former primary";

/// Operation on a local cluster.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Makes missing servers of a cluster and starts stopped ones
    #[command(after_help = UP_EXAMPLES)]
    Up(UpOptions),
    /// Stops all servers and keeps their rows
    Down(Dir),
    /// Shows the servers; exit code 1 if one does not run
    Status(Dir),
    /// Stops all servers and removes them with all their rows
    Destroy {
        #[command(flatten)]
        dir: Dir,
        /// Confirm that all rows are removed
        #[arg(long)]
        yes: bool,
    },
    #[command(flatten)]
    Node(node_verbs::NodeVerb),
}

/// Directory of a local cluster.
#[derive(Args, Clone, Debug)]
struct Dir {
    /// Directory of the cluster
    #[arg(long = "dir", value_name = "DIR", default_value = "./data-postgres")]
    path: PathBuf,
}

#[derive(Args, Debug)]
struct UpOptions {
    #[command(flatten)]
    dir: Dir,
    /// Number of shards of a new cluster, each with a primary; an existing one keeps its own
    /// [default: 3]
    #[arg(long, value_name = "N")]
    shards: Option<usize>,
    /// Replicas of each shard [default: existing number, else 1]
    #[arg(long, value_name = "M")]
    replicas: Option<usize>,
    /// First port of a new cluster; the others follow [default: free ports]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// User that runs the servers if root starts them [default: `postgres`, else `nobody`]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Folder of PostgreSQL's programs [default: TESSERA_PG_BIN, else the newest installed]
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    /// Setting of the servers, in force after the next start of each; an empty value removes it;
    /// may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

/// State of a cluster.
#[derive(Debug, Serialize)]
struct Shown {
    /// True if every server runs and no node is a former primary.
    ok: bool,
    dir: PathBuf,
    /// Major version of PostgreSQL.
    postgres: u32,
    /// File with the environment variables for a router, such as `SHARD_URLS`.
    environment: PathBuf,
    nodes: Vec<NodeShown>,
}

#[derive(Debug, Serialize)]
struct NodeShown {
    node: String,
    role: &'static str,
    state: &'static str,
    port: u16,
    pid: Option<u32>,
}

impl From<LocalError> for CommandError {
    fn from(error: LocalError) -> Self {
        Self::Refused(error.to_string())
    }
}

/// Runs the operation.
pub(super) fn run(options: &Options, terminal: &Terminal) -> Result<(), CommandError> {
    match &options.verb {
        Verb::Up(options) => up(options, terminal),
        Verb::Down(dir) => down(&dir.path, terminal),
        Verb::Status(dir) => status(&dir.path, terminal),
        Verb::Destroy { dir, yes } => destroy(&dir.path, *yes, terminal),
        Verb::Node(verb) => node_verbs::run(verb, terminal),
    }
}

fn up(options: &UpOptions, terminal: &Terminal) -> Result<(), CommandError> {
    let dir = &options.dir.path;
    let existing = LocalCluster::size_of(dir)?;
    let (shards, replicas) = existing.unwrap_or((3, 1));
    let note = existing.and_then(|(has, _)| other_number(dir, has, options.shards?));
    let cluster = LocalCluster::up(&LocalSpec {
        shards: options.shards.filter(|_| note.is_none()).unwrap_or(shards),
        replicas: options.replicas.unwrap_or(replicas),
        first_port: options.port,
        user: options.user.clone(),
        pg_bin: options.pg_bin.clone(),
        settings: options.settings.clone(),
        ..LocalSpec::new(dir)
    })?;
    if let Some(note) = note {
        say(format_args!("note: {note}"));
    }
    let shown = look(&cluster);
    let ended = terminal.show(&shown, |terminal| {
        let file = dir.join("tessera.env");
        let start = format!("set -a; . {}; set +a; cargo run", in_a_shell(&file));
        format!("{}\n\nTo start a router on it:\n  {start}", text(&shown, terminal))
    });
    Ok(ended?)
}

/// Returns a note if the requested number of shards differs from that of an existing cluster, which
/// keeps its shards. For a number that no cluster can have, it returns `None`, because the start of
/// the servers then fails with its own error.
fn other_number(dir: &Path, has: usize, wanted: usize) -> Option<String> {
    if has == 0 || wanted == has || !(1..=Topology::SHARDS_MAX).contains(&wanted) {
        return None;
    }
    let remedy = if wanted > has {
        "`shard-manager shard add` lets one join through a router, with a server of its own"
    } else {
        "`shard-manager shard drain` empties one and retires it"
    };
    let dir = dir.display();
    Some(format!(
        "{dir}: the cluster has {has} shards and starts with them, because --shards describes a new one; {remedy}"
    ))
}

fn down(dir: &Path, terminal: &Terminal) -> Result<(), CommandError> {
    let cluster = LocalCluster::open(dir)?;
    cluster.down()?;
    let shown = look(&cluster);
    Ok(terminal.show(&shown, |_| format!("{}: all servers are stopped", shown.dir.display()))?)
}

fn status(dir: &Path, terminal: &Terminal) -> Result<(), CommandError> {
    let shown = look(&LocalCluster::open(dir)?);
    terminal.show(&shown, |terminal| text(&shown, terminal))?;
    if shown.ok {
        return Ok(());
    }
    let still = shown.nodes.iter().filter(|node| node.state != NodeState::Running.name());
    let still: Vec<_> = still.map(|node| &*node.node).collect();
    if still.is_empty() {
        let former = shown.nodes.iter().filter(|node| node.role == FORMER);
        let former: Vec<_> = former.map(|node| &*node.node).collect();
        return Err(CommandError::Found(format!("beside the primary: {}", former.join(", "))));
    }
    Err(CommandError::Found(format!("not running: {}", still.join(", "))))
}

fn destroy(dir: &Path, yes: bool, terminal: &Terminal) -> Result<(), CommandError> {
    let cluster = LocalCluster::open(dir)?;
    let (dir, servers) = (cluster.dir().to_owned(), cluster.nodes().len());
    if !yes {
        return Err(CommandError::Refused(format!(
            "{}: this removes {servers} servers with all their rows permanently; add --yes to confirm",
            dir.display()
        )));
    }
    cluster.destroy()?;
    let shown =
        terminal.show(&json!({"dir": dir, "servers": servers, "is_left": dir.exists()}), |_| {
            let left = if dir.exists() { "; other files in it are left" } else { "" };
            format!("{}: {servers} servers are removed{left}", dir.display())
        });
    Ok(shown?)
}

impl NodeShown {
    fn of(node: &LocalNode) -> Self {
        Self {
            node: node.name.clone(),
            role: if node.is_former_primary() { FORMER } else { node.role.name() },
            state: node.state().name(),
            port: node.port,
            pid: node.pid(),
        }
    }

    fn is_well(&self) -> bool {
        self.state == NodeState::Running.name() && self.role != FORMER
    }
}

fn look(cluster: &LocalCluster) -> Shown {
    let nodes: Vec<_> = cluster.nodes().iter().map(NodeShown::of).collect();
    Shown {
        ok: nodes.iter().all(NodeShown::is_well),
        dir: cluster.dir().to_owned(),
        postgres: cluster.programs().major,
        environment: cluster.environment_file(),
        nodes,
    }
}

fn text(shown: &Shown, terminal: &Terminal) -> String {
    let row = |node: &NodeShown| {
        let pid = node.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let (role, state) = (node.role.to_owned(), node.state.to_owned());
        vec![node.node.clone(), role, state, node.port.to_string(), pid]
    };
    let rows: Vec<_> = shown.nodes.iter().map(row).collect();
    let head = format!("cluster   {}\npostgres  {}", shown.dir.display(), shown.postgres);
    let former = shown.nodes.iter().filter(|node| node.role == FORMER).map(|node| {
        let node = &node.node;
        format!("\n{node} was taken over from; let it follow: shard-manager cluster rejoin {node}")
    });
    let table = terminal.table(&["node", "role", "state", "port", "pid"], &rows);
    format!("{head}\n{}{}", table.trim_end(), former.collect::<String>())
}

/// Quotes a path for a shell. A relative path that does not begin with `.` or `..` gets the prefix
/// `./`, because the shell command `.` searches `PATH` for a bare name.
fn in_a_shell(path: &Path) -> String {
    let path = if path.is_absolute() || path.starts_with(".") || path.starts_with("..") {
        path.to_owned()
    } else {
        Path::new(".").join(path)
    };
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

pub(super) fn setting(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').ok_or("a setting is written NAME=VALUE")?;
    Ok((parts.0.trim().to_owned(), parts.1.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_so_that_a_shell_reads_it_as_a_file() {
        assert_eq!(in_a_shell(Path::new("data/tessera.env")), "./data/tessera.env");
        assert_eq!(in_a_shell(Path::new("./data/tessera.env")), "./data/tessera.env");
        assert_eq!(in_a_shell(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
