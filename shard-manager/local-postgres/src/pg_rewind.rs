//! pg_rewind: turns a former primary into a replica of the new primary, keeping the rows that both
//! have.
//!
//! **Invariant:** a node whose rewind was interrupted has the same marker file as one that is being
//! made, and is rebuilt: data that is a mixture of both is never used.
//! **Not here:** rebuilding a node that cannot be rewound (`provision`).

use crate::cluster_dir::Lock;
use crate::error::LocalError;
use crate::node::{LocalNode, Stop};
use crate::provision::{finish, follow, make_slot};
use crate::settings::is_synced;

/// Rewinds a node to the history of a running primary, and starts it as its replica.
///
/// # Errors
/// [`LocalError`] if it cannot be rewound, for example because the log since then is gone. Its data
/// is unusable then.
pub(super) fn rewind(node: &LocalNode, source: &LocalNode, lock: &Lock) -> Result<(), LocalError> {
    let env = &node.env;
    // Until its first checkpoint the new primary reports its former timeline.
    source.query("CHECKPOINT")?;
    node.stop(Stop::Immediate)?;
    let text = "this node is being rewound: `cluster up` rebuilds it\n";
    env.cluster_dir.write(&node.dir.unfinished(), text)?;
    make_slot(node, &source.peer(), lock)?;
    // pg_rewind may have to start the server for crash recovery, and that reads these settings.
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
