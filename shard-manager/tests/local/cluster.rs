//! Tests of clusters that are created, stopped, killed, and started again.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use shard_manager::local::{LocalCluster, LocalError, LocalNode, LocalSpec, NodeState, Stop};
use shard_manager::topology::Role;

use crate::servers::{ClusterFolder, ask, program, until};

fn pids(cluster: &LocalCluster) -> BTreeMap<String, Option<u32>> {
    cluster.nodes().iter().map(|node| (node.name.clone(), node.pid())).collect()
}

fn ports(cluster: &LocalCluster) -> BTreeMap<String, u16> {
    cluster.nodes().iter().map(|node| (node.name.clone(), node.port)).collect()
}

fn node<'c>(cluster: &'c LocalCluster, name: &str) -> &'c LocalNode {
    cluster.node(name).unwrap_or_else(|| panic!("no node {name}"))
}

fn fill(primary: &LocalNode) {
    ask(primary, "CREATE TABLE t (n int); INSERT INTO t VALUES (42)");
}

const ROWS: &str = "SELECT string_agg(n::text, ',' ORDER BY n) FROM t";

#[test]
fn up_creates_a_cluster_that_replicates() {
    let place = ClusterFolder::new();
    let cluster = place.up(2, 1);
    for shard in 0..2 {
        let primary = cluster.primaries().nth(shard).unwrap();
        let replica = cluster.replicas_of(shard).next().unwrap();
        fill(primary);
        until(replica, ROWS, "42");
        assert_eq!(ask(replica, "SELECT pg_is_in_recovery()"), "t");
        let follows = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'";
        assert_eq!(ask(primary, follows), format!("shard{}_replica1", shard + 1));
        let slot = "SELECT slot_name FROM pg_replication_slots WHERE active";
        assert_eq!(ask(primary, slot), replica.slot());
    }
}

#[test]
fn pages_have_checksums_and_access_requires_the_password() {
    let place = ClusterFolder::new();
    let cluster = place.up(1, 0);
    let primary = node(&cluster, "shard1-primary");
    for (setting, value) in [
        ("data_checksums", "on"),
        ("wal_level", "logical"),
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("fsync", "off"),
        ("server_encoding", "UTF8"),
        ("lc_collate", "C"),
    ] {
        assert_eq!(ask(primary, &format!("SHOW {setting}")), value, "{setting}");
    }
    let ways = "SELECT DISTINCT auth_method FROM pg_hba_file_rules";
    assert_eq!(ask(primary, ways), "scram-sha-256");
    for file in ["password", "pgpass", "tessera.env", "cluster.json"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(place.dir().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn up_again_changes_nothing() {
    let place = ClusterFolder::new();
    let files =
        || ["cluster.json", "tessera.env"].map(|file| fs::read(place.dir().join(file)).unwrap());
    let cluster = place.up(1, 1);
    let before = (pids(&cluster), ports(&cluster), files());
    let cluster = place.up(1, 1);
    assert_eq!((pids(&cluster), ports(&cluster), files()), before);
}

#[test]
fn replicas_are_added_and_what_runs_goes_on() {
    let place = ClusterFolder::new();
    let cluster = place.up(1, 0);
    fill(node(&cluster, "shard1-primary"));
    let before = (pids(&cluster), ports(&cluster));
    let cluster = place.up(1, 2);
    for (name, pid) in before.0 {
        assert_eq!(node(&cluster, &name).pid(), pid);
        assert_eq!(node(&cluster, &name).port, before.1[&name]);
    }
    assert_eq!(cluster.nodes().len(), 3);
    until(node(&cluster, "shard1-replica2"), ROWS, "42");
    assert_eq!(cluster.size(), (1, 2));
}

#[test]
fn rows_outlive_a_stop_and_ports_stay() {
    let place = ClusterFolder::new();
    let cluster = place.up(1, 1);
    fill(node(&cluster, "shard1-primary"));
    let before = ports(&cluster);
    cluster.down().unwrap();
    cluster.down().unwrap();
    assert!(cluster.nodes().iter().all(|node| node.state() == NodeState::Stopped));
    let cluster = place.up(1, 1);
    assert_eq!(ports(&cluster), before);
    assert_eq!(ask(node(&cluster, "shard1-primary"), ROWS), "42");
    until(node(&cluster, "shard1-replica1"), ROWS, "42");
}

#[test]
fn a_server_that_was_killed_recovers() {
    let place = ClusterFolder::new();
    let cluster = place.up(1, 1);
    fill(node(&cluster, "shard1-primary"));
    for node in cluster.nodes() {
        let pid = node.pid().unwrap().to_string();
        let ended = std::process::Command::new("kill").args(["-9", &pid]).status().unwrap();
        assert!(ended.success());
    }
    // At once: a process that was killed is listed for a moment.
    let cluster = place.up(1, 1);
    assert_eq!(ask(node(&cluster, "shard1-primary"), ROWS), "42");
    until(node(&cluster, "shard1-replica1"), ROWS, "42");
    node(&cluster, "shard1-primary").stop(Stop::Immediate).unwrap();
    node(&cluster, "shard1-primary").start().unwrap();
    assert_eq!(ask(node(&cluster, "shard1-primary"), ROWS), "42");
}

#[test]
fn a_server_whose_processes_are_killed_recovers_at_its_next_start() {
    let place = ClusterFolder::new();
    let cluster = place.up(1, 0);
    let primary = node(&cluster, "shard1-primary");
    fill(primary);
    primary.stop(Stop::Kill).unwrap();
    assert_eq!(primary.state(), NodeState::Stopped);
    primary.start().unwrap();
    assert_eq!(ask(primary, ROWS), "42");
    let log = fs::read_to_string(primary.dir.log()).unwrap();
    assert!(log.contains("was not properly shut down"), "{log}");
    assert!(!log.contains("received immediate shutdown request"), "{log}");
}

#[test]
fn a_process_id_of_another_program_is_ignored_and_not_signalled() {
    let place = ClusterFolder::new();
    let cluster = place.up(1, 0);
    let primary = node(&cluster, "shard1-primary");
    fill(primary);
    primary.stop(Stop::Fast).unwrap();
    let file = primary.dir.data().join("postmaster.pid");
    // The test's own process id: the test would notice a signal.
    fs::write(&file, format!("{}\n", std::process::id())).unwrap();
    assert_eq!(primary.pid(), None);
    primary.stop(Stop::Immediate).unwrap();
    // Such a number remains when a bootstrap backend of `initdb` is cut off.
    fs::write(&file, "-4711\n").unwrap();
    assert_eq!(primary.pid(), None);
    primary.start().unwrap();
    assert_eq!(ask(primary, ROWS), "42");
}

#[test]
fn a_missing_or_incomplete_replica_is_rebuilt() {
    let place = ClusterFolder::new();
    let cluster = place.up(1, 2);
    fill(node(&cluster, "shard1-primary"));
    let (gone, half) = (node(&cluster, "shard1-replica1"), node(&cluster, "shard1-replica2"));
    gone.stop(Stop::Immediate).unwrap();
    fs::remove_dir_all(&gone.dir.path).unwrap();
    // Runs, like a server that was started but not yet recorded.
    fs::write(half.dir.path.join("unfinished"), "").unwrap();
    assert_eq!((gone.state(), half.state()), (NodeState::NotMade, NodeState::NotMade));
    let cluster = place.up(1, 2);
    for replica in cluster.replicas_of(0) {
        until(replica, ROWS, "42");
    }
}

#[test]
fn a_missing_primary_is_reported_and_never_recreated_empty() {
    let place = ClusterFolder::new();
    let cluster = place.up(1, 0);
    fill(node(&cluster, "shard1-primary"));
    cluster.down().unwrap();
    let (dir, away) =
        (node(&cluster, "shard1-primary").dir.path.clone(), place.parent.path().join("away"));
    fs::rename(&dir, &away).unwrap();
    let error = LocalCluster::up(&place.wanted(1, 0)).unwrap_err();
    assert!(matches!(error, LocalError::Lost { .. }), "{error}");
    fs::rename(&away, &dir).unwrap();
    assert_eq!(ask(node(&place.up(1, 0), "shard1-primary"), ROWS), "42");
}

#[test]
fn a_primary_comes_back_as_a_replica_of_the_one_that_took_over() {
    let place = ClusterFolder::new();
    let mut cluster = place.up(1, 1);
    fill(node(&cluster, "shard1-primary"));
    until(node(&cluster, "shard1-replica1"), ROWS, "42");
    node(&cluster, "shard1-primary").stop(Stop::Immediate).unwrap();
    assert_eq!(ask(node(&cluster, "shard1-replica1"), "SELECT pg_promote()"), "t");
    ask(node(&cluster, "shard1-replica1"), "INSERT INTO t VALUES (43)");
    cluster.commands().rebuild("shard1-primary", "shard1-replica1").unwrap();
    until(node(&cluster, "shard1-primary"), ROWS, "42,43");
    cluster.down().unwrap();
    let cluster = place.up(1, 1);
    assert_eq!(node(&cluster, "shard1-primary").role, Role::Replica);
    assert_eq!(cluster.primaries().next().unwrap().name, "shard1-replica1");
    ask(node(&cluster, "shard1-replica1"), "INSERT INTO t VALUES (44)");
    until(node(&cluster, "shard1-primary"), ROWS, "42,43,44");
    let urls = fs::read_to_string(cluster.environment_file()).unwrap();
    let leads = node(&cluster, "shard1-replica1").url("shard1");
    assert!(urls.starts_with(&format!("SHARD_URLS={leads}\n")));
    // The promoted node is the source of all replicas created from now on.
    let cluster = place.up(1, 2);
    until(node(&cluster, "shard1-replica2"), ROWS, "42,43,44");
}

#[test]
fn an_interrupted_up_is_resumed() {
    let place = ClusterFolder::new();
    for step in 0..12 {
        let mut up =
            program(&["cluster", "up", "--shards", "1", "--set", "fsync=off"], &place.dir());
        up.stdout(Stdio::null()).stderr(Stdio::null());
        let mut up = up.spawn().unwrap();
        sleep(Duration::from_millis(step * 150));
        let _ = up.kill();
        up.wait().unwrap();
    }
    let cluster = carry_on(&place.wanted(1, 1));
    fill(node(&cluster, "shard1-primary"));
    until(node(&cluster, "shard1-replica1"), ROWS, "42");
}

#[test]
fn a_temporary_cluster_whose_start_is_cancelled_leaves_no_server_and_no_folder() {
    let place = ClusterFolder::new();
    let dir = place.dir();
    let started = Mutex::new(None);
    // True once the primary runs, before its replica is created.
    let is_cancelled = || {
        let Ok(cluster) = LocalCluster::open(&dir) else { return false };
        let primary = node(&cluster, "shard1-primary");
        if primary.is_running() {
            *started.lock().unwrap() = Some(primary.port);
        }
        primary.is_running()
    };
    let error = LocalCluster::up_temporary(&place.wanted(1, 1), &is_cancelled).unwrap_err();
    assert!(matches!(error, LocalError::Cancelled), "{error}");
    let port = started.lock().unwrap().expect("the primary was started");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "its server is stopped");
    assert!(!dir.exists(), "its folder is removed");
}

/// Runs `up` again; processes that the killed command had started may still have to end.
fn carry_on(wanted: &LocalSpec) -> LocalCluster {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match LocalCluster::up(wanted) {
            Ok(cluster) => return cluster,
            Err(LocalError::Busy(_)) if Instant::now() < deadline => {
                sleep(Duration::from_millis(20))
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn servers_are_never_run_by_root() {
    let place = ClusterFolder::new();
    let cluster = place.up(1, 1);
    for node in cluster.nodes() {
        let path = format!("/proc/{}/status", node.pid().unwrap());
        let Ok(status) = fs::read_to_string(Path::new(&path)) else { return };
        let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap();
        let uids: Vec<&str> = line("Uid:").split_whitespace().skip(1).collect();
        assert!(!uids.contains(&"0"), "{uids:?}");
        let groups: Vec<&str> = line("Groups:").split_whitespace().skip(1).collect();
        let is_root = is_root();
        assert!(!is_root || !groups.contains(&"0"), "{groups:?}");
    }
}

/// Only root may read the list of passwords.
fn is_root() -> bool {
    fs::read("/etc/shadow").is_ok()
}
