//! Backend: the shards of a test, which are files, or databases on local PostgreSQL servers if the
//! environment names them.
//!
//! `TESSERA_TEST_POSTGRES` is a folder with two local clusters (`shard-manager cluster up`). The
//! cluster `plain` has one primary with a replica, and every test has databases of its own on them.
//! The cluster `lab` has three primaries with three replicas each, for tests that pause replicas,
//! one at a time (`lab_servers`). With either backend a test has a data directory; its databases
//! are looked up by the path of this directory.
//!
//! `TESSERA_CITUS_URL` is the coordinator of a real Citus cluster. If it is set, that cluster is
//! the only shard (`citus_databases`).
//!
//! **Invariant:** the databases and servers that a test uses are released when the thread of the
//! test ends.

use std::cell::RefCell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Condvar, LazyLock, Mutex};

use shard_manager::local::LocalCluster;

use crate::citus_databases::CitusServer;
use crate::databases::{Server, copied, query};
use crate::harness::bare_command;
use crate::lab_servers::Lab;
use crate::prerequisites::{Prerequisite, check_optional};

/// The folder of the clusters.
static FOLDER: LazyLock<Option<PathBuf>> =
    LazyLock::new(|| std::env::var_os("TESSERA_TEST_POSTGRES").map(PathBuf::from));
pub(crate) static PLAIN: LazyLock<Server> = LazyLock::new(|| servers("plain").remove(0));
pub(crate) static LAB: LazyLock<Lab> = LazyLock::new(|| Lab::new(servers("lab")));

/// The cluster of Citus, if the environment names one: then all tests use it.
pub(crate) static CITUS: LazyLock<Option<CitusServer>> =
    LazyLock::new(|| std::env::var("TESSERA_CITUS_URL").ok().map(|url| CitusServer::new(&url)));

/// True while a test uses the laboratory.
static TAKEN: Mutex<bool> = Mutex::new(false);
static GIVEN_BACK: Condvar = Condvar::new();

thread_local! {
    static RESOURCES: RefCell<TestResources> =
        const { RefCell::new(TestResources { clusters: Vec::new(), has_lab: false }) };
}

/// Returns true if shards are databases of servers.
pub(crate) fn is_servers() -> bool {
    FOLDER.is_some() || is_citus()
}

/// Returns true if the only shard is a cluster of Citus.
pub(crate) fn is_citus() -> bool {
    CITUS.is_some()
}

fn servers(name: &str) -> Vec<Server> {
    let cluster = LocalCluster::open(&FOLDER.as_ref().unwrap().join(name)).unwrap();
    let primaries = cluster.primaries().map(|primary| {
        let replicas = cluster.replicas_of(primary.shard).cloned().collect();
        Server::new(primary.clone(), replicas)
    });
    primaries.collect()
}

/// Skips a test that needs several shards of Tessera's own, or replicas that it reads: Citus has
/// neither.
macro_rules! not_on_citus {
    ($why:expr) => {
        if crate::backend::is_citus() {
            crate::backend::skip($why);
            return;
        }
    };
}
pub(crate) use not_on_citus;

/// Skips a test that is possible only on files.
macro_rules! files_only {
    ($why:expr) => {
        if crate::backend::is_servers() {
            crate::backend::skip($why);
            return;
        }
    };
}
pub(crate) use files_only;

/// Ends a test that is possible only on servers if the router runs on files: the run of the tests
/// on servers contains it.
macro_rules! servers_only {
    ($why:expr) => {
        if !crate::backend::is_servers() {
            return crate::backend::leave_to_servers($why);
        }
    };
}
pub(crate) use servers_only;

/// Reports a skipped test. It does not use `eprintln!`, whose output is hidden for a test that
/// succeeds.
pub(crate) fn skip(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let engine = if is_citus() { "Citus" } else { "PostgreSQL" };
    let _ = writeln!(std::io::stderr(), "SKIPPED on {engine}: {test}: {why}");
}

/// Reports a test that only a run on servers carries out.
pub(crate) fn leave_to_servers(why: &str) {
    check_optional(Prerequisite::Servers, why);
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr(), "runs on servers: {test}: {why}");
}

/// Resources that one test uses.
struct TestResources {
    clusters: Vec<TestCluster>,
    has_lab: bool,
}

/// Databases of a data directory.
struct TestCluster {
    data_dir: PathBuf,
    databases: Vec<String>,
    replicas: usize,
    is_lab: bool,
}

impl TestCluster {
    fn server(&self, shard: usize) -> &'static Server {
        if self.is_lab { &LAB.servers[shard] } else { &PLAIN }
    }

    fn url(&self, shard: usize) -> String {
        let name = &self.databases[shard];
        CITUS.as_ref().map_or_else(|| self.server(shard).primary.url(name), |citus| citus.url(name))
    }

    fn give_back(self) {
        if let Some(citus) = &*CITUS {
            self.databases.into_iter().for_each(|name| citus.take_back(name));
            return;
        }
        for (shard, name) in self.databases.iter().enumerate() {
            self.server(shard).take_back(name.clone());
        }
    }
}

impl TestResources {
    /// Releases the resources of folders that no longer exist: those of an earlier test on this
    /// thread, or of an earlier part of the test.
    fn tidy(&mut self) {
        let gone = |cluster: &mut TestCluster| !cluster.data_dir.parent().is_some_and(Path::exists);
        self.clusters.extract_if(.., gone).for_each(TestCluster::give_back);
        if self.has_lab && !self.clusters.iter().any(|cluster| cluster.is_lab) {
            self.leave_lab();
        }
    }

    fn known(&self, data_dir: &Path) -> &TestCluster {
        self.clusters.iter().find(|cluster| cluster.data_dir == data_dir).unwrap()
    }

    fn enter_lab(&mut self) {
        // Before the laboratory is reserved: if it cannot be built, it must not be released.
        LazyLock::force(&LAB);
        if !self.has_lab {
            let taken = GIVEN_BACK.wait_while(TAKEN.lock().unwrap(), |taken| *taken);
            *taken.unwrap() = true;
            self.has_lab = true;
        }
    }

    fn leave_lab(&mut self) {
        LAB.release();
        self.has_lab = false;
        *TAKEN.lock().unwrap() = false;
        GIVEN_BACK.notify_one();
    }

    fn cluster(&mut self, data_dir: &Path, options: &StartOptions) -> &mut TestCluster {
        self.tidy();
        let known = self.clusters.iter().position(|cluster| cluster.data_dir == data_dir);
        let index = known.unwrap_or_else(|| {
            let replicas = if is_citus() { 0 } else { options.replicas.unwrap_or(1) };
            let is_lab = !is_citus() && options.is_lab && replicas > 0 || replicas > 1;
            if is_lab {
                self.enter_lab();
            }
            let (data_dir, databases) = (data_dir.to_owned(), Vec::new());
            let mut cluster = TestCluster { data_dir, databases, replicas, is_lab };
            if let Some(citus) = &*CITUS {
                cluster.databases.push(citus.make());
            } else {
                for shard in 0..options.shards.unwrap_or(3) {
                    cluster.databases.push(cluster.server(shard).make());
                }
            }
            self.clusters.push(cluster);
            self.clusters.len() - 1
        });
        let cluster = &mut self.clusters[index];
        if !is_citus() {
            cluster.replicas = options.replicas.unwrap_or(cluster.replicas);
        }
        cluster
    }
}

impl Drop for TestResources {
    fn drop(&mut self) {
        self.clusters.drain(..).for_each(TestCluster::give_back);
        if self.has_lab {
            self.leave_lab();
        }
    }
}

/// Flags of a router that determine the backend.
#[derive(Default)]
struct StartOptions {
    shards: Option<usize>,
    replicas: Option<usize>,
    is_lab: bool,
}

impl StartOptions {
    /// Reads the numbers of shards and replicas, which on servers the addresses determine, and
    /// returns the other flags separately.
    fn take<'f>(flags: &[&'f str]) -> (Self, Vec<&'f str>) {
        let (mut options, mut left) = (Self::default(), Vec::new());
        let mut flags = flags.iter().copied();
        while let Some(flag) = flags.next() {
            match flag {
                "--shards" => options.shards = Some(flags.next().unwrap().parse().unwrap()),
                "--replicas" => options.replicas = Some(flags.next().unwrap().parse().unwrap()),
                other => {
                    options.is_lab |= other == "--lab";
                    left.push(other);
                }
            }
        }
        (options, left)
    }
}

/// Returns true if a router has used this directory.
pub(crate) fn is_used(data_dir: &Path) -> bool {
    let known =
        |test: &TestResources| test.clusters.iter().any(|cluster| cluster.data_dir == data_dir);
    data_dir.join("catalog.db").exists() || RESOURCES.with_borrow(known)
}

/// Returns the command of a router over this directory, or its databases, on a free port.
pub(crate) fn command(data_dir: &Path, flags: &[&str]) -> Command {
    let mut command = bare_command(data_dir.parent().unwrap_or(data_dir));
    command.args(["--bind", "127.0.0.1:0"]);
    if !is_servers() {
        command.arg("--data-dir").arg(data_dir).args(flags);
        return command;
    }
    let (options, left) = StartOptions::take(flags);
    let (primaries, replicas) = RESOURCES.with_borrow_mut(|test| {
        let cluster = test.cluster(data_dir, &options);
        if cluster.is_lab {
            // As with files: delays of nodes end with the router that caused them.
            LAB.release();
        }
        if is_citus() {
            command.env("TESSERA_ENGINE", "citus");
        } else if let Some(shards) =
            options.shards.filter(|shards| *shards != cluster.databases.len())
        {
            command.args(["--shards", &shards.to_string()]);
        }
        urls(cluster)
    });
    command.args(left).env("SHARD_URLS", primaries);
    if !replicas.is_empty() {
        command.env("REPLICA_URLS", replicas);
    }
    command
}

fn urls(cluster: &TestCluster) -> (String, String) {
    let shards = || cluster.databases.iter().enumerate();
    let primaries = shards().map(|(shard, _)| cluster.url(shard));
    let joined = |urls: Vec<String>| urls.join(",");
    if is_citus() {
        return (joined(primaries.collect()), String::new());
    }
    let replicas = shards().flat_map(|(shard, name)| {
        let server = cluster.server(shard);
        assert!(cluster.replicas <= server.replicas.len(), "there are not so many replicas");
        let replicas = server.replicas[..cluster.replicas].iter();
        replicas.map(move |node| if cluster.is_lab { LAB.url(node, name) } else { node.url(name) })
    });
    (joined(primaries.collect()), joined(replicas.collect()))
}

/// Runs SQL on the primary of a shard (counted from 0) without the router, and returns the first
/// column.
pub(crate) fn ask_primary(data_dir: &Path, shard: usize, sql: &str) -> Vec<String> {
    query(&url_of(data_dir, shard), sql)
}

/// Returns the output of a COPY on the primary of each shard.
pub(crate) fn copy_primaries(data_dir: &Path, sql: &str) -> Vec<String> {
    let shards = RESOURCES.with_borrow(|test| test.known(data_dir).databases.len());
    (0..shards).map(|shard| copied(&url_of(data_dir, shard), sql)).collect()
}

/// Returns the address of the database that is the primary of a shard (counted from 0).
pub(crate) fn url_of(data_dir: &Path, shard: usize) -> String {
    RESOURCES.with_borrow(|test| test.known(data_dir).url(shard))
}
