//! Databases for tests: created from a template that has the schema, and emptied after each test
//! for the next one.
//!
//! Creating a database takes many times as long as emptying one. For each server, one thread does
//! both, so that a test that ends does not wait, even if it fails.
//!
//! **Invariant:** a database that a test gets has the tables of the template without rows of other
//! tests, or is a new copy of the template; every replica shows that state. A router that starts
//! looks for a catalog on replicas too, and would find that of the test before.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use futures_util::TryStreamExt;
use shard_manager::local::LocalNode;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::harness::{PATIENCE, Router, bare_command};

/// Prefix of the databases of this process; those of a process that has ended are left-overs.
const PREFIX: &str = "story_";

/// A primary on which databases are created, and its replicas.
pub(crate) struct Server {
    pub(crate) primary: LocalNode,
    pub(crate) replicas: Vec<LocalNode>,
    work: mpsc::Sender<Work>,
}

/// Query for a hash of a database's shape: every column of its tables, indexes and sequences, and
/// other properties that a test may have changed.
pub(crate) const SHAPE: &str = "SELECT md5(string_agg(line, ' ' ORDER BY line)) FROM (
    SELECT format('%s %s %s %s %s %s %s %s', c.oid::regclass, c.relkind, a.attname, a.atttypid::regtype, a.attnotnull,
        c.relpersistence, c.relhasrules,
        (SELECT count(*) FROM pg_trigger AS t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal)) AS line
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relnamespace IN ('public'::regnamespace, 'tessera'::regnamespace)) AS lines";

/// Ends all other sessions of a database.
const ALONE: &str = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()";

/// Drops the tables of clients, and empties those of the schema.
const EMPTY: &str = include_str!("../../../shard-manager/tests/support/empty_database.sql");

enum Work {
    Make(mpsc::Sender<String>),
    GiveBack(String),
}

impl Server {
    pub(crate) fn new(primary: LocalNode, replicas: Vec<LocalNode>) -> Self {
        let (work, todo) = mpsc::channel();
        let server = Self { primary: primary.clone(), replicas: replicas.clone(), work };
        std::thread::spawn(move || {
            let mut maker = Maker::new(&primary, &replicas);
            todo.into_iter().for_each(|work| maker.run(work));
        });
        server
    }

    /// Returns a database that has the schema, has no sessions, and exists on every replica.
    pub(crate) fn make(&self) -> String {
        let (sender, made) = mpsc::channel();
        self.work.send(Work::Make(sender)).unwrap();
        // The databases of several tests may be emptied and created before this one.
        made.recv_timeout(4 * PATIENCE)
            .expect("a database is made; the server's log has the reason otherwise")
    }

    /// Releases a database; its sessions end soon.
    pub(crate) fn take_back(&self, name: String) {
        // If the thread has ended, the database is removed with the server.
        let _ = self.work.send(Work::GiveBack(name));
    }
}

/// State of the thread that creates and empties databases.
struct Maker {
    runtime: Runtime,
    node: LocalNode,
    primary: Client,
    replicas: Vec<Client>,
    template: String,
    shape: Vec<String>,
    empty: Vec<Emptied>,
}

/// A database without rows.
struct Emptied {
    name: String,
    shape: Vec<String>,
    /// Position in the log up to which a replica must replay to show the database empty.
    position: String,
}

impl Maker {
    fn new(primary: &LocalNode, replicas: &[LocalNode]) -> Self {
        let runtime = runtime();
        let connect = |node: &LocalNode| runtime.block_on(connect(&node.url("postgres")));
        let mut maker = Self {
            primary: connect(primary),
            replicas: replicas.iter().map(connect).collect(),
            runtime,
            node: primary.clone(),
            template: "template1".to_owned(),
            shape: Vec::new(),
            empty: Vec::new(),
        };
        maker.sweep();
        let template = maker.make();
        maker.shape = prepare(&primary.url(&template), &template);
        maker.template = template;
        maker
    }

    fn ask(&self, sql: &str) -> Vec<String> {
        self.runtime.block_on(ask(&self.primary, sql))
    }

    /// Drops the databases of processes that have ended.
    fn sweep(&self) {
        let ours = format!("SELECT datname FROM pg_database WHERE datname LIKE '{PREFIX}%'");
        for name in self.ask(&ours) {
            let process = name.split('_').nth(1).unwrap();
            if !Path::new("/proc").join(process).exists() {
                self.drop(&name);
            }
        }
    }

    fn drop(&self, name: &str) {
        self.ask(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
    }

    fn run(&mut self, work: Work) {
        match work {
            Work::Make(made) => {
                let name = self.take_empty().unwrap_or_else(|| self.make());
                drop(made.send(name));
            }
            Work::GiveBack(name) => {
                let url = self.node.url(&name);
                match self.runtime.block_on(empty(&url, name.clone())) {
                    Ok(emptied) if emptied.shape == self.shape => self.empty.push(emptied),
                    // A test has changed more than a client can.
                    Ok(_) | Err(_) => self.drop(&name),
                }
            }
        }
    }

    /// Returns an emptied database once every replica shows it empty. A replica that a test has
    /// paused must continue before the next test gets a database.
    fn take_empty(&mut self) -> Option<String> {
        let Emptied { name, position, .. } = self.empty.pop()?;
        let replayed = format!("SELECT 1 WHERE pg_last_wal_replay_lsn() >= '{position}'");
        self.await_replicas(&replayed, &format!("a replica does not show that {name} is empty"));
        Some(name)
    }

    /// Waits until a query returns a row on every replica.
    fn await_replicas(&self, sql: &str, failure: &str) {
        let began = Instant::now();
        for replica in &self.replicas {
            while self.runtime.block_on(ask(replica, sql)).is_empty() {
                assert!(began.elapsed() < PATIENCE, "{failure}");
            }
        }
    }

    fn make(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}_{number}", std::process::id());
        self.ask(&format!("CREATE DATABASE {name} TEMPLATE {}", self.template));
        let known = format!("SELECT 1 FROM pg_database WHERE datname = '{name}'");
        self.await_replicas(&known, &format!("a replica does not learn of {name}"));
        name
    }
}

/// Lets a router create the schema, empties the database so that the router no longer owns it, and
/// returns its shape.
fn prepare(url: &str, name: &str) -> Vec<String> {
    let folder = crate::folders::temporary();
    let mut command = bare_command(folder.path());
    command.args(["--bind", "127.0.0.1:0"]).env("SHARD_URLS", url);
    Router::start_command(command).end();
    runtime().block_on(empty(url, name.to_owned())).unwrap().shape
}

/// Empties a database.
async fn empty(url: &str, name: String) -> Result<Emptied, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let connection = tokio::spawn(connection);
    try_ask(&client, ALONE).await?;
    try_ask(&client, EMPTY).await?;
    let shape = try_ask(&client, SHAPE).await?;
    // The transaction is committed, so it is flushed.
    let position = try_ask(&client, "SELECT pg_current_wal_flush_lsn()").await?.concat();
    drop(client);
    // A template must have no sessions when it is copied.
    let _ = connection.await;
    Ok(Emptied { name, shape, position })
}

/// A session with a database that is open until the value is dropped.
pub(crate) struct OpenSession {
    _session: (Client, Runtime),
}

impl OpenSession {
    /// Opens a session of this name.
    pub(crate) fn named(url: &str, name: &str) -> Self {
        let runtime = runtime();
        let client = runtime.block_on(connect(url));
        runtime.block_on(ask(&client, &format!("SET application_name = '{name}'")));
        Self { _session: (client, runtime) }
    }
}

/// Runs SQL on a database and returns the first column of each row.
pub(crate) fn query(url: &str, sql: &str) -> Vec<String> {
    try_query(url, sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

/// Runs SQL on a database, which may refuse or end the session, and returns the first column of
/// each row.
pub(crate) fn try_query(url: &str, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    // Runs on its own thread: a test that ends may run SQL when the thread-local values of its
    // thread are already dropped.
    let answered = std::thread::scope(|scope| {
        let query = || {
            let runtime = runtime();
            runtime.block_on(async {
                let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
                tokio::spawn(connection);
                try_ask(&client, sql).await
            })
        };
        scope.spawn(query).join()
    });
    answered.unwrap()
}

/// Returns the output of a COPY.
pub(crate) fn copied(url: &str, sql: &str) -> String {
    let runtime = runtime();
    let client = runtime.block_on(connect(url));
    let reported = runtime.block_on(async {
        let rows = client.copy_out(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        rows.try_fold(Vec::new(), async |all, row| Ok([all, row.to_vec()].concat())).await
    });
    String::from_utf8(reported.unwrap()).unwrap()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn ask(client: &Client, sql: &str) -> Vec<String> {
    try_ask(client, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

async fn try_ask(client: &Client, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let reported = client.simple_query(sql).await?;
    let rows = reported.iter().filter_map(|message| {
        let SimpleQueryMessage::Row(row) = message else { return None };
        Some(row.get(0).unwrap_or_default().to_owned())
    });
    Ok(rows.collect())
}
