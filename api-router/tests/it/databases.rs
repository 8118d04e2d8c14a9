//! Databases for stories: made from a template that has the schema, and dropped when the story is over.
//!
//! One thread of each server does this, so that a story which ends, however it ends, need not wait for it.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use shard_manager::local::LocalNode;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::harness::{PATIENCE, Router, bare_command};

/// How the databases of this process are called; those of one that is gone are left-overs.
const PREFIX: &str = "story_";

/// A primary that databases are made on, and its replicas.
pub(crate) struct Server {
    pub(crate) primary: LocalNode,
    pub(crate) replicas: Vec<LocalNode>,
    work: mpsc::Sender<Work>,
}

enum Work {
    Make(mpsc::Sender<String>),
    Drop(String),
}

impl Server {
    pub(crate) fn new(primary: LocalNode, replicas: Vec<LocalNode>) -> Self {
        let (work, todo) = mpsc::channel();
        let server = Self { primary: primary.clone(), replicas: replicas.clone(), work };
        std::thread::spawn(move || {
            let maker = Maker::new(&primary, &replicas);
            todo.into_iter().for_each(|work| maker.run(work));
        });
        server
    }

    /// A new database that has the schema, is nobody's, and is on every replica.
    pub(crate) fn make(&self) -> String {
        let (sender, made) = mpsc::channel();
        self.work.send(Work::Make(sender)).unwrap();
        made.recv_timeout(PATIENCE).expect("a database is made; the server's log tells why not")
    }

    /// Drops a database and whoever is connected to it, soon.
    pub(crate) fn drop(&self, name: String) {
        // If nobody is there to do it, it goes with the server.
        let _ = self.work.send(Work::Drop(name));
    }
}

/// The thread's side.
struct Maker {
    runtime: Runtime,
    primary: Client,
    replicas: Vec<Client>,
    template: String,
}

impl Maker {
    fn new(primary: &LocalNode, replicas: &[LocalNode]) -> Self {
        let runtime = runtime();
        let connect = |node: &LocalNode| runtime.block_on(connect(&node.url("postgres")));
        let mut maker = Self {
            primary: connect(primary),
            replicas: replicas.iter().map(connect).collect(),
            runtime,
            template: "template1".to_owned(),
        };
        maker.sweep();
        let template = maker.make();
        prepare(&primary.url(&template));
        maker.template = template;
        maker
    }

    fn ask(&self, sql: &str) -> Vec<String> {
        self.runtime.block_on(ask(&self.primary, sql))
    }

    /// Drops what processes have left that are gone.
    fn sweep(&self) {
        let ours = format!("SELECT datname FROM pg_database WHERE datname LIKE '{PREFIX}%'");
        for name in self.ask(&ours) {
            let process = name.split('_').nth(1).unwrap();
            if !Path::new("/proc").join(process).exists() {
                self.run(Work::Drop(name));
            }
        }
    }

    fn run(&self, work: Work) {
        match work {
            Work::Make(made) => drop(made.send(self.make())),
            Work::Drop(name) => {
                self.ask(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
            }
        }
    }

    fn make(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}_{number}", std::process::id());
        self.ask(&format!("CREATE DATABASE {name} TEMPLATE {}", self.template));
        let began = Instant::now();
        let known = format!("SELECT 1 FROM pg_database WHERE datname = '{name}'");
        for replica in &self.replicas {
            while self.runtime.block_on(ask(replica, &known)).is_empty() {
                assert!(began.elapsed() < PATIENCE, "a replica does not learn of {name}");
            }
        }
        name
    }
}

/// Lets a router make the schema, and takes back that the database is its own.
fn prepare(url: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = bare_command(folder.path());
    command.args(["--bind", "127.0.0.1:0"]).env("SHARD_URLS", url);
    Router::start_command(command).end();
    query(
        url,
        "TRUNCATE tessera.tessera_cluster, tessera.tessera_shard, tessera.tessera_slots;
         SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
}

/// What a database answers: the first column of each row.
pub(crate) fn query(url: &str, sql: &str) -> Vec<String> {
    let runtime = runtime();
    let client = runtime.block_on(connect(url));
    runtime.block_on(ask(&client, sql))
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
    let told = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let rows = told.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    rows.collect()
}
