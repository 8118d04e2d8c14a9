//! Rewinding: how a former primary becomes a replica of the one that took over, and keeps what both have.
//!
//! **Invariant:** a node whose rewinding was cut off says so by the same file as one that is being made, and is made
//! again: nobody uses what is half of both.
//! **Not here:** making it again when it cannot be rewound (`provision`).

use super::cluster_dir::Lock;
use super::error::LocalError;
use super::node::{LocalNode, Stop, UNFINISHED};
use super::provision::{finish, follow, make_slot};
use super::settings::is_synced;

/// Takes back what a node has that another one, which runs and leads, has not, and starts it to follow that.
///
/// # Errors
/// [`LocalError`] if it cannot be rewound: too much has happened since, or nothing tells how. Its data is of no use then.
pub(super) fn rewind(node: &LocalNode, source: &LocalNode, lock: &Lock) -> Result<(), LocalError> {
    let ground = &node.ground;
    // Until its first checkpoint the other one tells the timeline that it had before.
    source.ask("CHECKPOINT")?;
    node.stop(Stop::Immediate)?;
    let text = "this node is being rewound: `cluster up` makes it again\n";
    ground.place.write(&node.dir.join(UNFINISHED), text)?;
    make_slot(node, &source.peer(), lock)?;
    // Its log may have to be recovered first, by a server that reads these.
    node.write_settings()?;
    let mut command = ground.command("pg_rewind");
    command
        .arg("--source-server")
        .arg(format!("{} dbname=postgres", node.conninfo(&source.peer())));
    command.arg("--target-pgdata").arg(node.data_dir());
    if !is_synced(&ground.settings) {
        command.arg("--no-sync");
    }
    ground.run(&node.name, command.stdin(lock.shared()))?;
    follow(node)?;
    finish(node)
}
