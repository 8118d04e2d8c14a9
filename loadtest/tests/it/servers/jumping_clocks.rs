//! Test of moves while the clocks of both primaries and of the router jump back and forth by an
//! hour, each clock at its own times.
//!
//! `libfaketime` makes a process see another wall clock. The monotonic clock, which measures waits,
//! is not changed, as on a real machine whose wall clock is set.
//!
//! **Not here:** a fence after one jump (`crashed_moves`), the simulated clocks (crate `moves`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use super::cluster_folder;
use crate::cluster::Cluster;
use crate::database_session::DatabaseSession;
use crate::moves::{moves, number};
use crate::router::{MANAGER, PROGRAM, bare_command, tester};
use crate::{report, text};

/// Paths of the library in Debian and Ubuntu.
const LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
];
/// Successive differences of a clock from the true time.
const JUMPS: [&str; 4] = ["+3600s", "+0s", "-3600s", "+0s"];
/// Time between two jumps. It is so short that a jump happens during most moves.
const JUMP_EVERY: Duration = Duration::from_millis(700);
/// Length of the run, in seconds.
const RUN_TIME: &str = "60";

/// Wall clocks of processes. Each clock is a file with its difference from the true time.
struct JumpingClocks {
    folder: TempDir,
    library: &'static str,
}

impl JumpingClocks {
    fn new(library: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Self { folder, library }
    }

    fn file(&self, clock: &str) -> PathBuf {
        self.folder.path().join(clock)
    }

    fn set(&self, clock: &str, difference: &str) {
        // The file is replaced by a rename, so that a process never reads a part of it.
        let (file, new) = (self.file(clock), self.file("new"));
        fs::write(&new, difference).unwrap();
        fs::rename(new, file).unwrap();
    }

    /// Returns the environment variables with which a process sees this clock.
    fn variables(&self, clock: &str) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", self.library.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", self.file(clock).display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    /// Writes a script that starts the router with this clock.
    fn router(&self, clock: &str) -> PathBuf {
        let path = self.file("router");
        let variables = self.variables(clock).map(|(name, value)| format!("{name}='{value}'"));
        let program = PROGRAM.display();
        let script = format!("#!/bin/sh\nexec env {} '{program}' \"$@\"\n", variables.join(" "));
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    fn jump_until(&self, clocks: &[&str], is_over: &AtomicBool) {
        for turn in 0.. {
            if is_over.load(Ordering::Acquire) {
                return;
            }
            let clock = clocks[turn % clocks.len()];
            self.set(clock, JUMPS[turn / clocks.len() % JUMPS.len()]);
            std::thread::sleep(JUMP_EVERY);
        }
    }
}

/// Restarts a node so that it has a clock of its own.
fn restart(cluster: &Cluster, node: &str, clocks: &JumpingClocks) {
    let command = |verb: &str| {
        let mut command = bare_command(&*MANAGER);
        command.args(["cluster", verb, node, "--dir"]).arg(cluster.dir());
        command
    };
    let run = |mut command: Command| {
        let done = command.output().unwrap();
        assert!(done.status.success(), "{node}: {}", text(&done.stderr));
    };
    run(command("stop"));
    let mut start = command("start");
    start.envs(clocks.variables(node));
    run(start);
}

/// Opens a session with the primary of a shard.
fn open_session(cluster: &Cluster, node: &str) -> DatabaseSession {
    let variables = fs::read_to_string(cluster.dir().join("tessera.env")).unwrap();
    let (shard, _) = node.split_once('-').unwrap();
    let mut urls = variables.split(['=', ',', '\n', '\'', '"']);
    DatabaseSession::open(urls.find(|url| url.ends_with(&format!("/{shard}"))).unwrap())
}

/// Checks that a jump of its clock is visible in a node.
fn check_clock(cluster: &Cluster, node: &str, clocks: &JumpingClocks) {
    let direct = open_session(cluster, node);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    clocks.set(node, JUMPS[0]);
    let differs = format!("SELECT extract(epoch FROM clock_timestamp()) - {now} > 1800");
    direct.until("the clock jumps", &differs, "t");
    clocks.set(node, "+0s");
    direct.until("the clock jumps back", &differs, "f");
}

/// Waits until a router can write to a shard. This must happen before the clocks jump, because a
/// router refuses to start if clocks differ.
fn wait_for_router(cluster: &Cluster, node: &str) {
    let lanes = "SELECT count(*) > 0 FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE '%lane'";
    open_session(cluster, node).until("the router is ready", lanes, "t");
}

#[test]
#[ignore = "needs libfaketime: cargo test -p loadtest --test it jumping_clocks -- --ignored"]
fn no_promise_is_broken_while_slots_move_and_clocks_jump_by_an_hour() {
    let Some(_) = cluster_folder() else { return };
    let library = LIBRARIES.into_iter().find(|library| Path::new(library).exists());
    let clocks = JumpingClocks::new(library.expect("apt-get install libfaketime"));
    let Some(cluster) = Cluster::up("2", "1") else { return };
    let nodes = ["shard1-primary", "shard2-primary"];
    for clock in nodes.into_iter().chain(["router-clock"]) {
        clocks.set(clock, "+0s");
    }
    for node in nodes {
        restart(&cluster, node, &clocks);
        check_clock(&cluster, node, &clocks);
    }
    let is_over = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        let all = [nodes[0], "router-clock", nodes[1]];
        let (clocks, cluster, is_over) = (&clocks, &cluster, &is_over);
        scope.spawn(move || {
            nodes.iter().for_each(|node| wait_for_router(cluster, node));
            clocks.jump_until(&all, is_over);
        });
        let mut command = tester();
        command.args(["--verify", "--chaos", "--users", "8", "--json", "--level", "quorum"]);
        command.args(["--faults", "move,rollback", "--run-time", RUN_TIME, "--cluster"]);
        command.arg(cluster.dir()).arg("--router").arg(clocks.router("router-clock"));
        let output = command.arg("--shard-manager").arg(&*MANAGER).output().unwrap();
        is_over.store(true, Ordering::Release);
        output
    });
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let moves = moves(&report);
    eprintln!("{} operations, {moves}", report["verified"]["operations"]);
    assert!(number(&moves, " done") + number(&moves, " rolled back") >= 1, "{report:#}");
    assert_eq!(number(&moves, " without an end"), 0, "{report:#}");
}
