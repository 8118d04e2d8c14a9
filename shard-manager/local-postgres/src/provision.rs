//! Provision: creates the files of a node and starts it.
//!
//! **Invariant:** an incomplete node has a marker file in its folder. The marker is on disk before
//! any other file, and is removed before the node is reported as complete. Only a node with a
//! marker is ever cleared.
//! **Not here:** the list of the nodes (`manifest`).

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crate::cluster_dir::{Lock, PASSWORD, remove_folder, sync_folder};
use crate::error::LocalError;
use crate::node::{LocalNode, Stop};
use crate::settings::is_synced;
use crate::shared_env::{DATABASE_USER, Peer};

/// Number of attempts to drop a replication slot, which a process that is exiting may still hold.
const DROPS_MAX: u32 = 50;

/// Creates a node with an empty database, and starts it.
pub(super) fn make_primary(node: &LocalNode, lock: &Lock) -> Result<(), LocalError> {
    begin(node)?;
    let env = &node.env;
    let mut command = env.command("initdb");
    command.args(["--data-checksums", "--encoding=UTF8", "--locale=C", "--no-instructions"]);
    command.args(["--auth-host=scram-sha-256", "--auth-local=scram-sha-256", "-U", DATABASE_USER]);
    command.arg("--pwfile").arg(env.cluster_dir.path.join(PASSWORD)).arg("-D").arg(node.dir.data());
    if !is_synced(&env.settings) {
        command.arg("--no-sync");
    }
    env.run(&node.name, command.stdin(lock.shared()))?;
    let path = node.dir.data().join("postgresql.conf");
    let line =
        b"\n# Port and settings of this node, written at each start.\ninclude '../tessera.conf'\n";
    let opened = OpenOptions::new().append(true).open(&path);
    let added = opened.and_then(|mut file| file.write_all(line).and_then(|()| file.sync_all()));
    added.map_err(LocalError::file(&path))?;
    node.start()?;
    let mut command = env.client("createdb", &node.peer());
    env.run(&node.name, command.arg(node.database()).stdin(lock.shared()))?;
    finish(node)
}

/// Creates a replica of a running node, and starts it.
pub(super) fn make_replica(node: &LocalNode, source: &Peer, lock: &Lock) -> Result<(), LocalError> {
    begin(node)?;
    make_slot(node, source, lock)?;
    let env = &node.env;
    let mut command = env.command("pg_basebackup");
    command.args(["-X", "stream", "-S", &node.slot(), "--checkpoint=fast", "--no-password"]);
    command.arg("-d").arg(node.conninfo(source)).arg("-D").arg(node.dir.data());
    if !is_synced(&env.settings) {
        command.arg("--no-sync");
    }
    env.run(&node.name, command.stdin(lock.shared()))?;
    follow(node)?;
    finish(node)
}

/// Starts a node as a replica, whatever its role was.
pub(super) fn follow(node: &LocalNode) -> Result<(), LocalError> {
    remove_source_settings(node)?;
    node.env.cluster_dir.write(&node.dir.data().join("standby.signal"), "")?;
    node.start()
}

/// Removes everything that an interrupted attempt has left, including a running server.
fn begin(node: &LocalNode) -> Result<(), LocalError> {
    let cluster_dir = &node.env.cluster_dir;
    cluster_dir.folder(&node.dir.path)?;
    cluster_dir
        .write(&node.dir.unfinished(), "this node is being made: `cluster up` makes it again\n")?;
    node.stop(Stop::Immediate)?;
    remove_folder(&node.dir.data())
}

/// Removes the marker file, so that the node is never cleared from now on.
pub(super) fn finish(node: &LocalNode) -> Result<(), LocalError> {
    let path = node.dir.unfinished();
    fs::remove_file(&path).map_err(LocalError::file(&path))?;
    sync_folder(&node.dir.path)
}

/// Creates the replication slot that retains WAL for this node, and replaces one that an earlier
/// attempt has left. The slot is created before the base backup. `pg_basebackup` itself would
/// create it only after its first checkpoint, and another checkpoint could remove WAL in between.
pub(super) fn make_slot(node: &LocalNode, source: &Peer, lock: &Lock) -> Result<(), LocalError> {
    let slot = node.slot();
    let drop = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}'"
    );
    let make = format!("SELECT pg_create_physical_replication_slot('{slot}', true)");
    let mut drops = 1;
    loop {
        match run_statements(node, source, &[&drop, &make], lock) {
            Err(LocalError::Program { output, .. })
                if output.contains("is active") && drops < DROPS_MAX =>
            {
                drops += 1;
                sleep(Duration::from_millis(100));
            }
            ended => return ended,
        }
    }
}

/// Creates the replication slot that retains WAL for this node, unless it exists.
pub(super) fn ensure_slot(node: &LocalNode, source: &Peer, lock: &Lock) -> Result<(), LocalError> {
    let slot = node.slot();
    let make = format!(
        "SELECT pg_create_physical_replication_slot('{slot}', true) \
         WHERE NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = '{slot}')"
    );
    run_statements(node, source, &[&make], lock)
}

/// Executes statements on the source of a node, one after another.
fn run_statements(
    node: &LocalNode,
    source: &Peer,
    statements: &[&str],
    lock: &Lock,
) -> Result<(), LocalError> {
    let mut command = node.env.client("psql", source);
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
    for statement in statements {
        command.args(["-c", statement]);
    }
    node.env.run(&node.name, command.stdin(lock.shared()))
}

/// Removes `primary_conninfo` and `primary_slot_name` from `postgresql.auto.conf`. These settings
/// may come from a source that was once a replica itself, and would override those of the node.
pub(super) fn remove_source_settings(node: &LocalNode) -> Result<(), LocalError> {
    let path = node.dir.data().join("postgresql.auto.conf");
    let text = fs::read_to_string(&path).map_err(LocalError::file(&path))?;
    let is_source = |line: &&str| {
        let line = line.trim_start();
        line.starts_with("primary_conninfo") || line.starts_with("primary_slot_name")
    };
    if !text.lines().any(|line| is_source(&line)) {
        return Ok(());
    }
    let kept = text.lines().filter(|line| !is_source(line)).map(|line| format!("{line}\n"));
    node.env.cluster_dir.write(Path::new(&path), &kept.collect::<String>())
}
