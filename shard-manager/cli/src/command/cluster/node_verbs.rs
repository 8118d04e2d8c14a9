//! Node verbs: commands for single nodes of a local cluster.
//!
//! **Not here:** carrying out the operations (`local_postgres`).

use std::path::Path;

use clap::Subcommand;
use local_postgres::{LocalCluster, Promoted, Rejoined, Stop};
use serde_json::{Value, json};

use super::{Dir, NodeShown};
use crate::command::CommandError;
use crate::terminal::Terminal;

/// Operation on a node.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// Stops a server; the others continue
    Stop {
        #[command(flatten)]
        node: Node,
        /// Stop at once, as a loss of power would: the next start recovers
        #[arg(long)]
        immediate: bool,
    },
    /// Starts a server; a replica follows the present primary of its shard
    Start(Node),
    /// Suspends a server and all its processes (SIGSTOP), as if it were unreachable
    Freeze(Node),
    /// Resumes a frozen server
    Thaw(Node),
    /// Makes a replica the primary of its shard, whose primary must not run; the other replicas
    /// follow it from then on
    Promote {
        /// Name of the replica in `cluster status`
        #[arg(value_name = "NODE", required_unless_present = "best")]
        node: Option<String>,
        /// Promote the most advanced replica of this shard (shard1, …): it has all that a majority
        /// has stored
        #[arg(long, value_name = "SHARD", conflicts_with = "node")]
        best: Option<String>,
        #[command(flatten)]
        dir: Dir,
    },
    /// Makes a former primary follow the present one; rows that only the former one has are removed
    Rejoin(Node),
}

/// Node of a command.
#[derive(clap::Args, Debug)]
pub(crate) struct Node {
    /// Name of the node in `cluster status`
    #[arg(value_name = "NODE")]
    name: String,
    #[command(flatten)]
    dir: Dir,
}

/// Runs the operation.
pub(super) fn run(verb: &NodeVerb, terminal: &Terminal) -> Result<(), CommandError> {
    match verb {
        NodeVerb::Stop { node, immediate } => {
            let how = if *immediate { Stop::Immediate } else { Stop::Fast };
            change(node, terminal, |cluster, name| Ok(cluster.commands().stop(name, how)?))
        }
        NodeVerb::Start(node) => {
            change(node, terminal, |cluster, name| Ok(cluster.commands().start(name)?))
        }
        NodeVerb::Freeze(node) => {
            change(node, terminal, |cluster, name| Ok(cluster.commands().freeze(name)?))
        }
        NodeVerb::Thaw(node) => {
            change(node, terminal, |cluster, name| Ok(cluster.commands().thaw(name)?))
        }
        NodeVerb::Promote { node, best, dir } => {
            promote(&dir.path, node.as_deref(), best.as_deref(), terminal)
        }
        NodeVerb::Rejoin(node) => rejoin(node, terminal),
    }
}

fn change(
    node: &Node,
    terminal: &Terminal,
    act: impl FnOnce(&mut LocalCluster, &str) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let mut cluster = LocalCluster::open(&node.dir.path)?;
    act(&mut cluster, &node.name)?;
    let shown = shown(&cluster, &node.name);
    let state = shown["state"].as_str().unwrap_or_default();
    Ok(terminal.show(&shown, |_| format!("{} is {state}", node.name))?)
}

fn promote(
    dir: &Path,
    node: Option<&str>,
    best: Option<&str>,
    terminal: &Terminal,
) -> Result<(), CommandError> {
    let mut cluster = LocalCluster::open(dir)?;
    let Promoted { node, behind } = match best {
        Some(shard) => cluster.commands().promote_best(shard)?,
        None => cluster.commands().promote(node.unwrap_or_default())?,
    };
    let mut shown = shown(&cluster, &node);
    shown["behind"] = json!(behind);
    let ended = terminal.show(&shown, |_| {
        let others = behind.iter().map(|name| {
            format!("\n{name} does not follow it yet: see its log, or `cluster rejoin {name}`")
        });
        format!("{node} is the primary{}", others.collect::<String>())
    });
    Ok(ended?)
}

fn rejoin(node: &Node, terminal: &Terminal) -> Result<(), CommandError> {
    let mut cluster = LocalCluster::open(&node.dir.path)?;
    let (word, text) = match cluster.commands().rejoin(&node.name)? {
        Rejoined::Followed => ("followed", "it was a replica already"),
        Rejoined::Rewound => ("rewound", "the rows that only it had are removed"),
        Rejoined::Rebuilt => ("made again", "it was rebuilt from the primary"),
    };
    let mut shown = shown(&cluster, &node.name);
    shown["rejoined"] = json!(word);
    Ok(terminal.show(&shown, |_| format!("{} follows: {text}", node.name))?)
}

fn shown(cluster: &LocalCluster, name: &str) -> Value {
    cluster.node(name).map_or(Value::Null, |node| json!(NodeShown::of(node)))
}
