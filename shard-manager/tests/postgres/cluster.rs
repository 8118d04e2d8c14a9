//! Test harness: one local cluster for all tests of this process, databases for each test, and
//! direct sessions to them.
//!
//! A shard is a database, so that three shards are three databases of one server; this costs a test
//! only a moment and no server. The servers end with this process, however it ends: a watcher
//! process waits for its end.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use diesel::QueryableByName;
use diesel::sql_types::{Nullable, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use shard_manager::assembly::{self, ConnectedCluster};
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::engine::open_error::OpenError;
use shard_manager::local::{LocalCluster, LocalNode, LocalSpec};
use shard_manager::manager::Manager;
use shard_manager::node_address::{ClusterAddress, NodeAddress, ServerEngine, ShardAddress};
use shard_manager::store::postgres::ConnectError;
use shard_manager::store::postgres::session::{self, NodeRole as Role};

use crate::scratch;
use crate::server::patient;

/// Servers, and the watcher process that ends them after this one.
struct Watched {
    cluster: LocalCluster,
    /// Standard input of the watcher: a pipe that is never written to and closes with this process.
    _watcher: Child,
}

/// Destroys a cluster when the pipe closes. Another command may still be working there for a
/// moment.
const WATCH: &str = r#"cat >/dev/null; n=0
while [ -e "$1/cluster/cluster.json" ] && [ $n -lt 60 ]; do
    "$0" cluster destroy --yes --dir "$1/cluster" || sleep 1
    n=$((n + 1))
done
rm -rf "$1""#;

impl Watched {
    fn start(shards: usize, replicas: usize, settings: &[(&str, &str)]) -> Self {
        let parent = scratch::folder().keep();
        // Another user runs the servers and needs access to the path.
        std::fs::set_permissions(&parent, std::fs::Permissions::from_mode(0o755)).unwrap();
        let watcher = watch(&parent);
        let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let wanted = LocalSpec {
            shards,
            replicas,
            settings: settings.collect(),
            ..LocalSpec::new(parent.join("cluster"))
        };
        let cluster = LocalCluster::up(&wanted).unwrap_or_else(|error| panic!("{error}"));
        Self { cluster, _watcher: watcher }
    }
}

fn watch(parent: &Path) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", WATCH, env!("CARGO_BIN_EXE_shard-manager")]).arg(parent);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // A signal that interrupts the tests must not interrupt the watcher.
    command.process_group(0).spawn().unwrap()
}

/// The cluster of most tests: a primary and its replica, which do not wait for the disk.
pub(crate) fn shared() -> &'static LocalCluster {
    static SHARED: OnceLock<Watched> = OnceLock::new();
    let settings = [("fsync", "off"), ("max_connections", "400"), ("max_wal_size", "256MB")];
    &SHARED.get_or_init(|| Watched::start(1, 1, &settings)).cluster
}

/// Three primaries that may be stopped and killed, by one test at a time.
pub(crate) fn mortal() -> MutexGuard<'static, LocalCluster> {
    static MORTAL: OnceLock<(Mutex<LocalCluster>, Child)> = OnceLock::new();
    let make = || {
        let Watched { cluster, _watcher } = Watched::start(3, 0, &[("max_wal_size", "256MB")]);
        (Mutex::new(cluster), _watcher)
    };
    MORTAL.get_or_init(make).0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A shard with two replicas by default, for a single test that may break it.
pub(crate) struct Trio {
    pub(crate) cluster: LocalCluster,
    _watcher: Child,
}

impl Trio {
    pub(crate) fn start() -> Self {
        Self::of(2, &[])
    }

    /// A shard with this many replicas and these settings.
    pub(crate) fn of(replicas: usize, settings: &[(&str, &str)]) -> Self {
        let common = [("fsync", "off"), ("max_wal_size", "128MB"), ("shared_buffers", "16MB")];
        let settings = [&common, settings].concat();
        let Watched { cluster, _watcher } = Watched::start(1, replicas, &settings);
        Self { cluster, _watcher }
    }

    /// The address with the initial roles: the primary, and the other nodes.
    pub(crate) fn address(&self) -> ClusterAddress {
        let nodes: Vec<_> =
            self.cluster.nodes().iter().map(|node| address(node, "shard1")).collect();
        let listed = cluster_of([nodes[0].clone()]);
        ClusterAddress { replicas: nodes[1..].to_vec(), ..listed }
    }

    pub(crate) fn node(&self, name: &str) -> &LocalNode {
        self.cluster.node(name).unwrap()
    }

    /// Starts a server with its current data, whatever was promoted since, like a machine that
    /// comes back.
    pub(crate) fn start_alone(&self, node: &LocalNode) {
        let owner = std::fs::metadata(node.dir.data()).unwrap();
        let mut command = Command::new(self.cluster.programs().bin.join("pg_ctl"));
        command.args(["start", "-w", "-D"]).arg(node.dir.data()).arg("-l").arg(node.dir.log());
        command.current_dir(&node.dir.path).stdout(Stdio::null());
        if owner.uid() != std::fs::metadata("/proc/self").unwrap().uid() {
            command.uid(owner.uid()).gid(owner.gid());
        }
        assert!(command.status().unwrap().success());
    }

    /// Starts a server with its current data as a standby, without a rewind.
    pub(crate) fn start_as_standby(&self, node: &LocalNode) {
        let (data, signal) = (node.dir.data(), node.dir.data().join("standby.signal"));
        std::fs::write(&signal, "").unwrap();
        let owner = std::fs::metadata(data).unwrap();
        std::os::unix::fs::chown(&signal, Some(owner.uid()), Some(owner.gid())).unwrap();
        self.start_alone(node);
    }
}

/// Drops the tables of clients, and empties those of the schema.
const EMPTY: &str = include_str!("../support/empty_database.sql");

/// Returns the database of the shared primary that new ones are copied from: it has the schema, and
/// no rows. Creating the schema takes longer than a copy.
async fn template() -> &'static str {
    static TEMPLATE: tokio::sync::OnceCell<&str> = tokio::sync::OnceCell::const_new();
    let make = || async {
        let (name, primary) = ("story_template", shared().primaries().next().unwrap());
        let mut direct = SideSession::open(primary, "postgres").await;
        direct.run(&format!("CREATE DATABASE {name} TEMPLATE template0")).await;
        connect(&cluster_of([address(primary, name)])).close();
        SideSession::open(primary, name).await.run(EMPTY).await;
        name
    };
    TEMPLATE.get_or_init(make).await
}

/// Empty databases of one test, each with its node.
pub(crate) struct Databases {
    pub(crate) nodes: Vec<LocalNode>,
    pub(crate) names: Vec<String>,
}

impl Databases {
    /// Creates this many databases on the shared primary, which have the schema.
    pub(crate) async fn new(count: usize) -> Self {
        let primary = shared().primaries().next().unwrap();
        Self::copied(&vec![primary; count], template().await).await
    }

    /// Creates this many databases on the shared primary, without a schema.
    pub(crate) async fn blank(count: usize) -> Self {
        let primary = shared().primaries().next().unwrap();
        Self::on(&vec![primary; count]).await
    }

    /// Creates one database on each of these nodes, without a schema.
    pub(crate) async fn on(nodes: &[&LocalNode]) -> Self {
        Self::copied(nodes, "template0").await
    }

    async fn copied(nodes: &[&LocalNode], template: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let mut databases = Self { nodes: Vec::new(), names: Vec::new() };
        for node in nodes {
            let name = format!("story{}", NEXT.fetch_add(1, Ordering::Relaxed));
            let mut direct = SideSession::open(node, "postgres").await;
            direct.run(&format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
            databases.nodes.push((*node).clone());
            databases.names.push(name);
        }
        databases
    }

    /// Address of a cluster of all of them, in their order.
    pub(crate) fn address(&self) -> ClusterAddress {
        let places = self.nodes.iter().zip(&self.names);
        cluster_of(places.map(|(node, name)| address(node, name)))
    }

    /// Address of a cluster of all of them with replicas, once these have the databases.
    pub(crate) async fn with_replicas(&self) -> ClusterAddress {
        let replica = shared().replicas_of(0).next().unwrap();
        let mut direct = SideSession::open(replica, "postgres").await;
        for name in &self.names {
            let there =
                format!("SELECT count(*)::text AS value FROM pg_database WHERE datname='{name}'");
            direct.until(&there, "1").await;
        }
        let replicas = self.names.iter().map(|name| address(replica, name)).collect();
        ClusterAddress { replicas, ..self.address() }
    }

    /// Opens a session with one of them that bypasses Tessera.
    pub(crate) async fn direct_session(&self, shard: usize) -> SideSession {
        SideSession::open(&self.nodes[shard], &self.names[shard]).await
    }
}

/// Address of a cluster of these shards, without replicas.
pub(crate) fn cluster_of(shards: impl IntoIterator<Item = NodeAddress>) -> ClusterAddress {
    let shard = |primary| ShardAddress { name: None, weight: None, primary, replicas: Vec::new() };
    ClusterAddress {
        engine: ServerEngine::Postgres,
        shards: shards.into_iter().map(shard).collect(),
        replicas: Vec::new(),
        catalog: None,
        timeouts: patient(),
        disk_bytes: None,
    }
}

/// Address of a database on a node.
pub(crate) fn address(node: &LocalNode, database: &str) -> NodeAddress {
    node.url(database).parse().unwrap()
}

/// Opens a cluster as a router does.
pub(crate) fn connect(address: &ClusterAddress) -> Manager {
    try_connect(address).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn try_connect(address: &ClusterAddress) -> Result<Manager, OpenError> {
    let (address, wanted) = (address.clone(), ClusterSpec::default());
    assembly::connect(&ConnectedCluster { address, wanted })
}

/// The sentence with which a start is refused.
#[track_caller]
pub(crate) fn refused(address: &ClusterAddress) -> String {
    match try_connect(address) {
        Ok(_) => panic!("the start was not refused"),
        Err(error) => error.to_string(),
    }
}

/// A session beside those of the engine.
pub(crate) struct SideSession {
    pub(crate) connection: AsyncPgConnection,
}

#[derive(QueryableByName)]
struct ValueRow {
    #[diesel(sql_type = Nullable<Text>)]
    value: Option<String>,
}

impl SideSession {
    pub(crate) async fn open(node: &LocalNode, database: &str) -> Self {
        let at = address(node, database);
        let session = session::connect(&at, "story", Role::Any, &patient()).await;
        let connection = session.unwrap_or_else(|error| panic!("{error}")).connection;
        Self { connection }
    }

    /// Opens a session if the node has a free connection.
    pub(crate) async fn try_open(node: &LocalNode, database: &str) -> Option<Self> {
        let at = address(node, database);
        match session::connect(&at, "story", Role::Any, &patient()).await {
            Ok(session) => Some(Self { connection: session.connection }),
            Err(ConnectError::Busy { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Runs statements.
    pub(crate) async fn run(&mut self, sql: &str) {
        self.try_run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Runs statements; returns the reason if they fail.
    pub(crate) async fn try_run(&mut self, sql: &str) -> Result<(), String> {
        self.connection.batch_execute(sql).await.map_err(|error| error.to_string())
    }

    /// The column `value` of a query; null becomes an empty text.
    pub(crate) async fn texts(&mut self, sql: &str) -> Vec<String> {
        let rows = diesel::sql_query(sql).load::<ValueRow>(&mut self.connection).await;
        let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
        rows.into_iter().map(|row| row.value.unwrap_or_default()).collect()
    }

    /// The column `value` of the only row.
    pub(crate) async fn text(&mut self, sql: &str) -> String {
        self.texts(sql).await.pop().unwrap_or_default()
    }

    /// Repeats a query until it yields this answer.
    pub(crate) async fn until(&mut self, sql: &str, answer: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let said = self.text(sql).await;
            if said == answer {
                return;
            }
            assert!(Instant::now() < deadline, "{sql} is {said}, and never {answer}");
            tokio::task::yield_now().await;
        }
    }
}
