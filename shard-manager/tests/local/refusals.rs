//! Tests of refused operations and of exit codes.

use std::fs::{self, File, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use shard_manager::local::{LocalCluster, LocalSpec, Stop};

use crate::free_port::free_port;
use crate::servers::{ClusterFolder, program, run};

#[test]
fn a_port_that_is_taken_is_named() {
    let place = ClusterFolder::new();
    // The system gives its own ports to others as soon as they are free.
    let port = free_port();
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let wanted = LocalSpec { first_port: Some(port), ..place.wanted(1, 0) };
    let said = place.refused(&wanted);
    assert!(said.contains(&format!("shard1-primary: port {port} cannot be had")), "{said}");
    assert!(!place.dir().exists(), "nothing is left of it");
    drop(taken);

    let cluster = LocalCluster::up(&wanted).unwrap();
    assert_eq!(cluster.nodes()[0].port, port);
    cluster.down().unwrap();
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let said = place.refused(&wanted);
    assert!(said.contains(&port.to_string()), "{said}");
    drop(taken);
    LocalCluster::up(&wanted).unwrap();
    let other = LocalSpec { first_port: Some(port - 1), ..wanted };
    assert!(place.refused(&other).contains("keeps the ports that it has"));
}

#[test]
fn shards_with_rows_are_not_removed() {
    let place = ClusterFolder::new();
    place.up(2, 1);
    for other in [1, 3] {
        // Rows are neither moved to new shards nor saved from removed ones.
        let said = place.refused(&place.wanted(other, 1));
        assert!(said.contains("the cluster has 2 shards"), "{said}");
        assert!(said.contains(&format!("{other} yet; leave --shards out")), "{said}");
    }
    // The command starts what there is, and says what to do.
    for (other, remedy) in
        [("3", "`shard-manager shard add`"), ("1", "`shard-manager shard drain`")]
    {
        let (code, _, said) = run(&["cluster", "up", "--shards", other], &place.dir());
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("has 2 shards and starts with them"), "{said}");
        assert!(said.contains(remedy), "{said}");
    }
    assert_eq!(LocalCluster::open(&place.dir()).unwrap().size(), (2, 1));
    let said = place.refused(&place.wanted(2, 0));
    assert!(said.contains("there are 1 replicas and 0 are wanted"), "{said}");
    assert!(place.refused(&place.wanted(2, 6)).contains("there can be 0 to 5"));
    assert!(place.refused(&place.wanted(0, 1)).contains("there can be 1 to 256"));
}

#[test]
fn a_directory_with_other_things_in_it_is_left_alone() {
    let place = ClusterFolder::new();
    fs::create_dir(place.dir()).unwrap();
    fs::write(place.dir().join("letter.txt"), "dear").unwrap();
    assert!(place.refused(&place.wanted(1, 0)).contains("is not empty and holds no local cluster"));
    for verb in [&["cluster", "down"][..], &["cluster", "status"], &["cluster", "destroy", "--yes"]]
    {
        let (code, out, err) = run(verb, &place.dir());
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        assert!(err.contains("there is no local cluster here"), "{err}");
    }
    assert_eq!(fs::read_dir(place.dir()).unwrap().count(), 1);
}

#[test]
fn a_directory_that_the_servers_cannot_access_is_refused_with_a_remedy() {
    let place = ClusterFolder::new();
    fs::set_permissions(place.parent.path(), Permissions::from_mode(0o700)).unwrap();
    if fs::read("/etc/shadow").is_err() {
        // A user other than root also runs the servers, which then can access that user's files.
        place.up(1, 0);
        return;
    }
    let said = place.refused(&place.wanted(1, 0));
    let closed = fs::canonicalize(place.parent.path()).unwrap();
    assert!(said.contains(&format!("chmod o+x {}", closed.display())), "{said}");
    assert!(!place.dir().exists(), "nothing is left of it");
    let wanted = LocalSpec { user: Some("root".to_owned()), ..place.wanted(1, 0) };
    assert!(place.refused(&wanted).contains("PostgreSQL does not run as root"));
    let wanted = LocalSpec { user: Some("no-such-user".to_owned()), ..place.wanted(1, 0) };
    assert!(place.refused(&wanted).contains("the system does not know this user"));
}

#[test]
fn two_commands_do_not_work_on_one_cluster() {
    let place = ClusterFolder::new();
    let cluster = place.up(1, 0);
    let lock = File::open(place.dir().join("cluster.lock")).unwrap();
    lock.lock().unwrap();
    assert!(place.refused(&place.wanted(1, 0)).contains("another command works on this cluster"));
    assert!(cluster.down().unwrap_err().to_string().contains("another command"));
    // Read-only commands do not wait.
    assert_eq!(run(&["cluster", "status"], &place.dir()).0, 0);
    // A process that another test starts at this moment has a copy of the file, so closing it would
    // not release the lock at once.
    lock.unlock().unwrap();
    cluster.down().unwrap();
}

#[test]
fn reserved_and_unknown_settings_are_refused() {
    let place = ClusterFolder::new();
    let with = |name: &str, value: &str| place.with_settings(0, &[(name, value)]);
    assert!(place.refused(&with("port", "5432")).contains("the cluster decides it"));
    let said = place.refused(&with("no_such_setting", "1"));
    assert!(said.contains("the setting no_such_setting: PostgreSQL refuses it"), "{said}");
    assert!(!place.dir().exists(), "nothing is left of it");
    LocalCluster::up(&with("no_such_setting", "")).unwrap();
    let (code, _, err) = run(&["cluster", "up", "--set", "jit"], &place.dir());
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("NAME=VALUE"), "{err}");
}

#[test]
fn the_exit_code_of_status_shows_whether_all_nodes_run() {
    let place = ClusterFolder::new();
    assert_eq!(run(&["cluster", "status"], &place.dir()).0, 2);
    let (code, out, err) =
        run(&["cluster", "up", "--shards", "1", "--json", "--set", "fsync=off"], &place.dir());
    assert_eq!(code, 0, "{err}");
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(shown["ok"], true);
    assert_eq!(shown["nodes"][1]["node"], "shard1-replica1");
    assert_eq!(shown["nodes"][1]["role"], "replica");
    assert_eq!(run(&["cluster", "status"], &place.dir()).0, 0);

    let cluster = LocalCluster::open(&place.dir()).unwrap();
    cluster.node("shard1-replica1").unwrap().stop(Stop::Fast).unwrap();
    let (code, out, err) = run(&["cluster", "status"], &place.dir());
    assert_eq!((code, err.as_str()), (1, "not running: shard1-replica1\n"));
    assert!(out.contains("shard1-replica1\treplica\tstopped"), "{out}");
    let (code, out, _) = run(&["cluster", "status", "--json"], &place.dir());
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &shown["nodes"][1]["pid"]), (1, &Value::Null));
    assert_eq!(run(&["cluster", "down"], &place.dir()).0, 0);
    assert_eq!(run(&["cluster", "down"], &place.dir()).0, 0);
    assert_eq!(run(&["cluster", "status"], &place.dir()).0, 1);
}

#[test]
fn up_prints_where_the_urls_are_and_no_password() {
    let place = ClusterFolder::new();
    let (code, out, err) =
        run(&["cluster", "up", "--shards", "1", "--set", "fsync=off"], &place.dir());
    assert_eq!(code, 0, "{err}");
    let file = place.dir().join("tessera.env");
    assert!(out.contains(&format!("set -a; . {}; set +a; cargo run", file.display())), "{out}");
    let password = fs::read_to_string(place.dir().join("password")).unwrap();
    assert!(!out.contains(password.trim()) && !err.contains(password.trim()));
    let cluster = LocalCluster::open(&place.dir()).unwrap();
    let [primary, replica] = [0, 1].map(|at| cluster.nodes()[at].url("shard1"));
    let urls = format!("SHARD_URLS={primary}\nREPLICA_URLS={replica}\n");
    assert_eq!(fs::read_to_string(file).unwrap(), urls);
}

#[test]
fn destroy_requires_a_confirmation_and_removes_only_its_own_files() {
    let place = ClusterFolder::new();
    let cluster = place.up(1, 1);
    let (code, _, err) = run(&["cluster", "destroy"], &place.dir());
    assert_eq!(code, 2);
    assert!(
        err.contains("removes 2 servers with all their rows") && err.contains("--yes"),
        "{err}"
    );
    assert!(cluster.nodes().iter().all(shard_manager::local::LocalNode::is_running));
    fs::write(place.dir().join("letter.txt"), "dear").unwrap();
    for name in ["tessera.env", "cluster.json", "password", "pgpass"] {
        // A command that was killed while writing the file leaves this behind.
        fs::write(place.dir().join(format!("{name}.part")), "half of it").unwrap();
    }
    let pids: Vec<_> = cluster.nodes().iter().map(|node| node.pid().unwrap()).collect();
    let (code, out, err) = run(&["cluster", "destroy", "--yes"], &place.dir());
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("2 servers are removed; other files in it are left"), "{out}");
    let left: Vec<_> =
        fs::read_dir(place.dir()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(left, ["letter.txt"]);
    for pid in pids {
        assert!(fs::read_link(format!("/proc/{pid}/cwd")).is_err(), "process {pid} still works");
    }
}

#[test]
fn missing_programs_are_reported_with_the_package_to_install() {
    let place = ClusterFolder::new();
    let up = program(&["cluster", "up"], &place.dir())
        .env("TESSERA_PG_BIN", "/nonexistent")
        .output()
        .unwrap();
    let err = String::from_utf8(up.stderr).unwrap();
    assert_eq!(up.status.code(), Some(2));
    assert!(err.contains("/nonexistent has no program postgres; install PostgreSQL 15"), "{err}");
    assert_eq!(err.lines().count(), 1);
    assert!(!place.dir().exists(), "nothing is left of it");
}
