//! Tests of standalone nodes, as containers run them: created, awaited, killed, restarted, and
//! protected from each other.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::free_port::free_port;
use crate::servers::{ClusterFolder, program};

const PASSWORD: &str = "it's a:\\secret 100%";
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder of standalone nodes, and the file with their password.
struct Nodes {
    place: ClusterFolder,
}

/// A node whose process this test has started.
struct Node {
    name: &'static str,
    dir: PathBuf,
    port: u16,
    args: Vec<String>,
    process: Option<Child>,
}

impl Nodes {
    fn new() -> Self {
        use std::io::Write;
        let place = ClusterFolder::new();
        let path = place.parent.path().join("given");
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .expect("the folder is ours");
        writeln!(file, "{PASSWORD}").expect("it is written");
        Self { place }
    }

    fn node(&self, name: &'static str, role: &[&str]) -> Node {
        let parent = self.place.parent.path();
        let port = free_port();
        let mut args: Vec<String> = role.iter().map(|word| (*word).to_owned()).collect();
        args.extend(["--name", name, "--set", "fsync=off", "--port"].map(str::to_owned));
        args.extend([port.to_string(), "--password-file".to_owned()]);
        args.push(parent.join("given").display().to_string());
        Node { name, dir: parent.join(name), port, args, process: None }
    }

    fn primary(&self) -> Node {
        self.node("shard1-primary", &["primary", "--database", "shard1"])
    }

    fn replica_of(&self, source: &Node) -> Node {
        let of = format!("127.0.0.1:{}", source.port);
        self.node("shard1-replica1", &["replica", "--of", &of])
    }
}

impl Node {
    fn command(&self) -> Command {
        let mut words = vec!["node"];
        words.extend(self.args.iter().map(String::as_str));
        let mut command = program(&words, &self.dir);
        command.env_remove("PGPASSWORD").stdout(Stdio::null());
        command
    }

    fn log(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    fn start(&mut self) {
        let log = File::options().append(true).create(true).open(self.log()).expect("a log");
        self.process = Some(self.command().stderr(log).spawn().expect("the program starts"));
    }

    /// Runs the health check of the node.
    fn ready(&self) -> Output {
        program(&["node", "ready", "--json"], &self.dir).output().expect("the program runs")
    }

    #[track_caller]
    fn until_ready(&mut self) {
        let log = self.log();
        wait("is ready", || {
            let process = self.process.as_mut().expect("it was started");
            let ended = process.try_wait().expect("it is ours");
            assert!(ended.is_none(), "{ended:?}: {}", fs::read_to_string(&log).unwrap_or_default());
            program(&["node", "ready"], &self.dir)
                .output()
                .expect("the program runs")
                .status
                .success()
        });
    }

    fn psql(&self, password: &str, sql: &str) -> Output {
        let mut command = Command::new("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"]);
        command.args(["-U", "tessera", "-w", "-d", "shard1", "-c", sql, "-p"]);
        command.arg(self.port.to_string()).env("PGPASSWORD", password).stdin(Stdio::null());
        command.output().expect("the program runs")
    }

    #[track_caller]
    fn ask(&self, sql: &str) -> String {
        let ended = self.psql(PASSWORD, sql);
        assert!(ended.status.success(), "{}: {ended:?}", self.name);
        String::from_utf8(ended.stdout).expect("UTF-8").trim().to_owned()
    }

    #[track_caller]
    fn until(&self, sql: &str, answer: &str) {
        wait(answer, || {
            let said = self.psql(PASSWORD, sql);
            String::from_utf8_lossy(&said.stdout).trim() == answer
        });
    }

    /// Sends a signal and waits for the end; returns the exit code, `None` if the signal ended the
    /// process.
    fn end(&mut self, signal: &str) -> Option<i32> {
        let mut process = self.process.take().expect("it was started");
        let pid = process.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().expect("kill runs");
        assert!(sent.success());
        process.wait().expect("it is ours").code()
    }

    /// Error of a start that must fail.
    #[track_caller]
    fn refused(&self) -> String {
        let ended = self.command().output().expect("the program runs");
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        String::from_utf8(ended.stderr).expect("UTF-8")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[track_caller]
fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const ROWS: &str = "SELECT string_agg(n::text, ',' ORDER BY n) FROM t";
const STREAMS: &str = "SELECT slot_name, active, state FROM pg_replication_slots JOIN pg_stat_replication ON pid = active_pid";

#[test]
fn a_replica_waits_for_its_primary_and_both_outlive_being_killed() {
    let nodes = Nodes::new();
    let mut primary = nodes.primary();
    let mut replica = nodes.replica_of(&primary);
    replica.start();
    wait("waiting", || fs::read_to_string(replica.log()).unwrap().contains("waiting for"));
    assert_eq!(replica.ready().status.code(), Some(1), "there is nothing yet that could answer");
    primary.start();
    primary.until_ready();
    replica.until_ready();
    primary.ask("CREATE TABLE t (n int); INSERT INTO t VALUES (42)");
    replica.until(ROWS, "42");
    assert_eq!(primary.ask(STREAMS), "shard1_replica1|t|streaming");
    let said = String::from_utf8(replica.ready().stdout).unwrap();
    assert_eq!(said.split_whitespace().collect::<String>(), r#"{"role":"replica","streams":true}"#);

    assert_eq!(primary.end("-KILL"), None);
    assert_eq!(replica.end("-KILL"), None);
    assert_eq!(replica.ready().status.code(), Some(1));
    replica.start();
    primary.start();
    primary.until_ready();
    replica.until_ready();
    primary.ask("INSERT INTO t VALUES (43)");
    replica.until(ROWS, "42,43");
    assert_eq!(primary.end("-INT"), Some(0));
    assert_eq!(replica.end("-INT"), Some(0));
    for node in [&primary, &replica] {
        let said = fs::read_to_string(node.log()).unwrap();
        assert!(!said.contains("secret"), "{said}");
    }
}

#[test]
fn a_node_is_as_those_of_a_cluster_are() {
    let nodes = Nodes::new();
    let mut primary = nodes.primary();
    primary.args.extend(["--listen", "127.0.0.2", "--allow", "10.9.8.0/24"].map(str::to_owned));
    primary.start();
    primary.until_ready();
    let settings = nodes.place.up(1, 0);
    let cluster = settings.primaries().next().unwrap();
    let differing = ["port", "listen_addresses", "hba_file", "cluster_name", "data_directory"];
    let differing = differing.map(|name| format!("'{name}'")).join(",");
    let all = format!(
        "SELECT name, setting FROM pg_settings WHERE source = 'configuration file' AND name NOT IN ({differing}) \
         ORDER BY name"
    );
    assert_eq!(primary.ask(&all), crate::servers::ask(cluster, &all));
    let made = "SELECT current_setting('data_checksums'), current_setting('server_encoding'), datcollate, \
                pg_get_userbyid(datdba), rolsuper, rolreplication FROM pg_database, pg_roles \
                WHERE datname = current_database() AND rolname = current_user";
    assert_eq!(primary.ask(made), "on|UTF8|C|tessera|t|t");
    assert_eq!(primary.ask(made), crate::servers::ask(cluster, made));

    assert_eq!(primary.ask("SHOW listen_addresses"), "127.0.0.2,127.0.0.1");
    let rules = "SELECT array_to_string(database, ''), address, auth_method FROM pg_hba_file_rules \
                 WHERE address LIKE '10.%' ORDER BY 1";
    assert_eq!(
        primary.ask(rules),
        "all|10.9.8.0|scram-sha-256\nreplication|10.9.8.0|scram-sha-256"
    );
    assert_eq!(primary.ask("SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL"), "0");
    assert!(!primary.psql("another", "SELECT 1").status.success());
}

#[test]
fn an_incompletely_created_node_is_created_again() {
    let nodes = Nodes::new();
    let mut primary = nodes.primary();
    let mut replica = nodes.replica_of(&primary);
    for node in [&mut primary, &mut replica] {
        let unfinished = node.dir.join("server/unfinished");
        for _ in 0..2 {
            node.start();
            wait("begun", || unfinished.exists());
            node.end("-KILL");
        }
        assert!(unfinished.exists(), "{}", node.name);
        assert_eq!(node.ready().status.code(), Some(1), "what is half-made does not answer");
        // Processes that the killed one had started may still have to end.
        wait("begun", || {
            node.start();
            wait("ready or ended", || {
                node.process.as_mut().unwrap().try_wait().unwrap().is_some()
                    || node.ready().status.success()
            });
            node.ready().status.success()
        });
    }
    primary.ask("CREATE TABLE t (n int); INSERT INTO t VALUES (42)");
    replica.until(ROWS, "42");
}

#[test]
fn a_directory_has_one_server_and_one_node() {
    let nodes = Nodes::new();
    let mut primary = nodes.primary();
    primary.start();
    primary.until_ready();
    let said = primary.refused();
    assert!(said.contains("a server or another command uses"), "{said}");
    assert_eq!(primary.end("-INT"), Some(0));

    let mut other = nodes.node("shard2-primary", &["primary", "--database", "shard2"]);
    other.dir.clone_from(&primary.dir);
    let said = other.refused();
    assert!(said.contains("holds shard1-primary; name its own directory"), "{said}");
    other.dir = nodes.place.parent.path().join("full");
    fs::create_dir(&other.dir).unwrap();
    fs::write(other.dir.join("letter"), "dear").unwrap();
    let said = other.refused();
    assert!(said.contains("is not empty and holds no node"), "{said}");

    // Its rows are gone: an empty node in its place would look as if there had never been any.
    fs::remove_dir_all(primary.dir.join("server")).unwrap();
    let said = primary.refused();
    assert!(said.contains("it is not made again, for it would be empty"), "{said}");
}

#[test]
fn a_promoted_replica_leads_also_after_a_restart() {
    let nodes = Nodes::new();
    let mut primary = nodes.primary();
    let mut replica = nodes.replica_of(&primary);
    primary.start();
    primary.until_ready();
    replica.start();
    replica.until_ready();
    primary.ask("CREATE TABLE t (n int); INSERT INTO t VALUES (42)");
    replica.until(ROWS, "42");
    primary.end("-KILL");
    assert_eq!(replica.ask("SELECT pg_promote()"), "t");
    replica.ask("INSERT INTO t VALUES (43)");
    replica.end("-INT");
    replica.start();
    replica.until_ready();
    replica.ask("INSERT INTO t VALUES (44)");
    assert_eq!(replica.ask(ROWS), "42,43,44");
    // Replicas created from now on follow it, through a slot that is created for them.
    let of = format!("127.0.0.1:{}", replica.port);
    let mut second = nodes.node("shard1-replica2", &["replica", "--of", &of]);
    second.start();
    second.until_ready();
    second.until(ROWS, "42,43,44");
}

#[test]
fn a_replica_is_not_run_as_a_primary_which_would_cut_it_off() {
    let nodes = Nodes::new();
    let mut primary = nodes.primary();
    let mut replica = nodes.replica_of(&primary);
    primary.start();
    primary.until_ready();
    replica.start();
    replica.until_ready();
    assert_eq!(replica.end("-INT"), Some(0));
    let wrong = nodes.node("shard1-replica1", &["primary", "--database", "shard1"]);
    let said = wrong.refused();
    assert!(said.contains("it is a replica: promote it, or run it as `node replica`"), "{said}");
    // Nothing has changed: it still follows.
    replica.start();
    replica.until_ready();
    primary.ask("CREATE TABLE t (n int); INSERT INTO t VALUES (42)");
    replica.until(ROWS, "42");
    assert_eq!(primary.ask(STREAMS), "shard1_replica1|t|streaming");

    // No empty primary is created where its rows were.
    assert_eq!(replica.end("-INT"), Some(0));
    fs::remove_dir_all(replica.dir.join("server")).unwrap();
    let said = wrong.refused();
    assert!(said.contains("it is not made again, for it would be empty"), "{said}");
    replica.start();
    replica.until_ready();
    replica.until(ROWS, "42");
}

#[test]
fn invalid_arguments_are_refused_before_anything_is_created() {
    let nodes = Nodes::new();
    let refused = |change: &dyn Fn(&mut Node)| {
        let mut node = nodes.primary();
        change(&mut node);
        let said = node.refused();
        assert!(!node.dir.exists(), "{said}");
        said
    };
    let set = |node: &mut Node, name: &str, value: &str| {
        let at = node.args.iter().position(|arg| arg == name);
        match at {
            Some(at) => node.args[at + 1] = value.to_owned(),
            None => node.args.extend([name.to_owned(), value.to_owned()]),
        }
    };
    for (name, value, reported) in [
        ("--allow", "everybody", "\"everybody\" is not a network, such as 10.0.0.0/8 or samenet"),
        ("--listen", "a b", "\"a b\" is not an address to listen on, such as 0.0.0.0"),
        ("--name", "Shard 1", "a name is up to 63 of a-z, 0-9, - and _, a letter first"),
        ("--database", "", "a name of a database is up to 63"),
        ("--set", "hba_file=/tmp/open", "the setting hba_file: the cluster decides it"),
        (
            "--password-file",
            "/nowhere/password",
            "the password file /nowhere/password cannot be read",
        ),
    ] {
        let said = refused(&|node| set(node, name, value));
        assert!(said.contains(reported), "{name}: {said}");
    }
    let without = refused(&|node| {
        let at = node.args.iter().position(|arg| arg == "--password-file").unwrap();
        node.args.drain(at..at + 2);
    });
    assert!(without.contains("name its file with --password-file, or set PGPASSWORD"), "{without}");
}

#[test]
fn a_replica_that_its_source_rejects_permanently_ends_with_an_error() {
    let nodes = Nodes::new();
    let mut primary = nodes.primary();
    primary.start();
    primary.until_ready();
    let mut replica = nodes.replica_of(&primary);
    let at = replica.args.iter().position(|arg| arg == "--password-file").unwrap();
    replica.args.drain(at..at + 2);
    let mut command = replica.command();
    let ended = command.env("PGPASSWORD", "another word").output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.contains("password authentication failed for user"), "{said}");
    assert!(!said.contains("another word"), "{said}");
}
