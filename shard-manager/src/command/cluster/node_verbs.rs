//! Verbs for single nodes of a local cluster: `stop`, `start`, `freeze`, `thaw`, `promote`, `rejoin`.
//!
//! **Not here:** doing it (`shard_manager::local`).

use std::path::Path;

use clap::Subcommand;
use serde_json::{Value, json};
use shard_manager::local::{LocalCluster, Promoted, Rejoined, Stop};

use super::{Dir, NodeShown};
use crate::command::CommandError;
use crate::terminal::Terminal;

/// What to do with a node.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// Stops a server; the others go on
    Stop {
        #[command(flatten)]
        node: Node,
        /// At once, as if the power were gone: the next start recovers
        #[arg(long)]
        immediate: bool,
    },
    /// Starts a server; a replica follows the present primary of its shard
    Start(Node),
    /// Lets a server stand still with all its processes (SIGSTOP), as if it were cut off
    Freeze(Node),
    /// Lets a frozen server go on
    Thaw(Node),
    /// Makes a replica the primary of its shard, whose primary must not run; the other replicas follow it from then on
    Promote {
        /// The replica, as `cluster status` calls it
        #[arg(value_name = "NODE", required_unless_present = "best")]
        node: Option<String>,
        /// The replica of this shard (shard1, …) that has stored most: all that a majority of its nodes has
        #[arg(long, value_name = "SHARD", conflicts_with = "node")]
        best: Option<String>,
        #[command(flatten)]
        dir: Dir,
    },
    /// Lets a former primary follow the present one; what only the former one has is removed
    Rejoin(Node),
}

/// Which node a command is about.
#[derive(clap::Args, Debug)]
pub(crate) struct Node {
    /// The node, as `cluster status` calls it
    #[arg(value_name = "NODE")]
    name: String,
    #[command(flatten)]
    dir: Dir,
}

/// Does what was asked for.
pub(super) fn run(verb: &NodeVerb, terminal: &Terminal) -> Result<(), CommandError> {
    match verb {
        NodeVerb::Stop { node, immediate } => {
            let how = if *immediate { Stop::Immediate } else { Stop::Fast };
            change(node, terminal, |cluster, name| Ok(cluster.stop_node(name, how)?))
        }
        NodeVerb::Start(node) => {
            change(node, terminal, |cluster, name| Ok(cluster.start_node(name)?))
        }
        NodeVerb::Freeze(node) => {
            change(node, terminal, |cluster, name| Ok(cluster.freeze_node(name)?))
        }
        NodeVerb::Thaw(node) => {
            change(node, terminal, |cluster, name| Ok(cluster.thaw_node(name)?))
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
        Some(shard) => cluster.promote_best(shard)?,
        None => cluster.promote(node.unwrap_or_default())?,
    };
    let mut shown = shown(&cluster, &node);
    shown["behind"] = json!(behind);
    let ended = terminal.show(&shown, |_| {
        let others = behind.iter().map(|name| {
            format!("\n{name} does not follow it yet: look at its log, or `cluster rejoin {name}`")
        });
        format!("{node} is the primary{}", others.collect::<String>())
    });
    Ok(ended?)
}

fn rejoin(node: &Node, terminal: &Terminal) -> Result<(), CommandError> {
    let mut cluster = LocalCluster::open(&node.dir.path)?;
    let (word, text) = match cluster.rejoin(&node.name)? {
        Rejoined::Followed => ("followed", "it was a replica already"),
        Rejoined::Rewound => ("rewound", "what only it had is taken back"),
        Rejoined::Rebuilt => ("made again", "it was made again from the primary"),
    };
    let mut shown = shown(&cluster, &node.name);
    shown["rejoined"] = json!(word);
    Ok(terminal.show(&shown, |_| format!("{} follows: {text}", node.name))?)
}

fn shown(cluster: &LocalCluster, name: &str) -> Value {
    cluster.node(name).map_or(Value::Null, |node| json!(NodeShown::of(node)))
}
