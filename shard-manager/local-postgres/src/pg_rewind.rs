//! pg_rewind: turns a former primary into a replica of the new primary, keeping the rows that both
//! have.
//!
//! **Invariant:** a node whose rewind was interrupted has the same marker file as a node that is
//! being created, and is rebuilt, so that a mixture of old and new data is never used.
//! **Not here:** rebuilding a node that cannot be rewound (`provision`).

use crate::cluster_dir::Lock;
use crate::error::LocalError;
use crate::node::{LocalNode, Stop};
use crate::provision::{finish, follow, make_slot};
use crate::settings::is_synced;

/// Rewinds a node to the history of a running primary, and starts it as a replica of that primary.
///
/// # Errors
/// [`LocalError`] if the node cannot be rewound, for example because the WAL since the histories
/// diverged is gone. The data of the node is then unusable.
pub(super) fn rewind(node: &LocalNode, source: &LocalNode, lock: &Lock) -> Result<(), LocalError> {
    let env = &node.env;
    // Until its first checkpoint, a newly promoted primary still reports its former timeline.
    source.query("CHECKPOINT")?;
    node.stop(Stop::Immediate)?;
    let text = "this node is being rewound: `cluster up` rebuilds it\n";
    env.cluster_dir.write(&node.dir.unfinished(), text)?;
    make_slot(node, &source.peer(), lock)?;
    // pg_rewind may have to start the server for crash recovery, which needs these settings.
    node.write_settings(&[])?;
    let mut command = env.command("pg_rewind");
    command
        .arg("--source-server")
        .arg(format!("{} dbname=postgres", node.conninfo(&source.peer())));
    command.arg("--target-pgdata").arg(node.dir.data());
    if !is_synced(&env.settings) {
        command.arg("--no-sync");
    }
    env.run(&node.name, command.stdin(lock.shared()))?;
    follow(node)?;
    finish(node)
}
