//! Making: how a node of a local cluster comes to be.
//!
//! **Invariant:** a node that is not complete says so by a file in its folder, on the disk before anything else of it and
//! gone from the disk before anybody is told of the node; only what says so is cleared away.
//! **Not here:** which nodes there are to be (`manifest`).

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use super::cluster_dir::{Lock, PASSWORD, remove_folder, sync_folder};
use super::error::LocalError;
use super::node::{LocalNode, Stop, UNFINISHED};
use super::settings::is_synced;
use super::shared_env::{DATABASE_USER, Peer};

/// How often a slot is asked to go that a process which is just ending still has.
const DROPS_MAX: u32 = 50;

/// Makes a node with an empty database, and starts it.
pub(super) fn make_primary(node: &LocalNode, lock: &Lock) -> Result<(), LocalError> {
    begin(node)?;
    let ground = &node.ground;
    let mut command = ground.command("initdb");
    command.args(["--data-checksums", "--encoding=UTF8", "--locale=C", "--no-instructions"]);
    command.args(["--auth-host=scram-sha-256", "--auth-local=scram-sha-256", "-U", DATABASE_USER]);
    command.arg("--pwfile").arg(ground.place.dir.join(PASSWORD)).arg("-D").arg(node.data_dir());
    if !is_synced(&ground.settings) {
        command.arg("--no-sync");
    }
    ground.run(&node.name, command.stdin(lock.shared()))?;
    let path = node.data_dir().join("postgresql.conf");
    let line =
        b"\n# Port and settings of this node, written at each start.\ninclude '../tessera.conf'\n";
    let opened = OpenOptions::new().append(true).open(&path);
    let added = opened.and_then(|mut file| file.write_all(line).and_then(|()| file.sync_all()));
    added.map_err(LocalError::file(&path))?;
    node.start()?;
    let mut command = ground.client("createdb", &node.peer());
    ground.run(&node.name, command.arg(node.database()).stdin(lock.shared()))?;
    finish(node)
}

/// Makes a node that follows another one, which runs, and starts it.
pub(super) fn make_replica(node: &LocalNode, source: &Peer, lock: &Lock) -> Result<(), LocalError> {
    begin(node)?;
    make_slot(node, source, lock)?;
    let ground = &node.ground;
    let mut command = ground.command("pg_basebackup");
    command.args(["-X", "stream", "-S", &node.slot(), "--checkpoint=fast", "--no-password"]);
    command.arg("-d").arg(node.conninfo(source)).arg("-D").arg(node.data_dir());
    if !is_synced(&ground.settings) {
        command.arg("--no-sync");
    }
    ground.run(&node.name, command.stdin(lock.shared()))?;
    follow(node)?;
    finish(node)
}

/// Starts a node as a replica, whatever it was.
pub(super) fn follow(node: &LocalNode) -> Result<(), LocalError> {
    forget_source(node)?;
    node.ground.place.write(&node.data_dir().join("standby.signal"), "")?;
    node.start()
}

/// Clears away what an attempt that was cut off has left, its server included.
fn begin(node: &LocalNode) -> Result<(), LocalError> {
    let place = &node.ground.place;
    place.folder(&node.dir)?;
    place.write(
        &node.dir.join(UNFINISHED),
        "this node is being made: `cluster up` begins again\n",
    )?;
    node.stop(Stop::Immediate)?;
    remove_folder(&node.data_dir())
}

/// From here on the node is never cleared away.
pub(super) fn finish(node: &LocalNode) -> Result<(), LocalError> {
    let path = node.dir.join(UNFINISHED);
    fs::remove_file(&path).map_err(LocalError::file(&path))?;
    sync_folder(&node.dir)
}

/// Makes the slot that keeps the log for this node, in place of the one that an earlier attempt or life has left. Before
/// the backup begins: made by that, it would come after its first checkpoint, and another one may be faster.
pub(super) fn make_slot(node: &LocalNode, source: &Peer, lock: &Lock) -> Result<(), LocalError> {
    let slot = node.slot();
    let drop = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}'"
    );
    let make = format!("SELECT pg_create_physical_replication_slot('{slot}', true)");
    let mut drops = 1;
    loop {
        match tell(node, source, &[&drop, &make], lock) {
            Err(LocalError::Program { said, .. })
                if said.contains("is active") && drops < DROPS_MAX =>
            {
                drops += 1;
                sleep(Duration::from_millis(100));
            }
            ended => return ended,
        }
    }
}

/// Makes the slot that keeps the log for this node, unless there is one.
pub(super) fn ensure_slot(node: &LocalNode, source: &Peer, lock: &Lock) -> Result<(), LocalError> {
    let slot = node.slot();
    let make = format!(
        "SELECT pg_create_physical_replication_slot('{slot}', true) \
         WHERE NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = '{slot}')"
    );
    tell(node, source, &[&make], lock)
}

/// Has a node's source carry out statements, one after the other.
fn tell(
    node: &LocalNode,
    source: &Peer,
    statements: &[&str],
    lock: &Lock,
) -> Result<(), LocalError> {
    let mut command = node.ground.client("psql", source);
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
    for statement in statements {
        command.args(["-c", statement]);
    }
    node.ground.run(&node.name, command.stdin(lock.shared()))
}

/// What the other node was told to follow, when it was a replica itself, is not for its copy.
pub(super) fn forget_source(node: &LocalNode) -> Result<(), LocalError> {
    let path = node.data_dir().join("postgresql.auto.conf");
    let text = fs::read_to_string(&path).map_err(LocalError::file(&path))?;
    let is_source = |line: &&str| {
        let line = line.trim_start();
        line.starts_with("primary_conninfo") || line.starts_with("primary_slot_name")
    };
    if !text.lines().any(|line| is_source(&line)) {
        return Ok(());
    }
    let kept = text.lines().filter(|line| !is_source(line)).map(|line| format!("{line}\n"));
    node.ground.place.write(Path::new(&path), &kept.collect::<String>())
}
