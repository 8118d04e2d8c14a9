//! New databases: empty databases on the primary of the cluster `plain`, which join a cluster of
//! Tessera as shards.
//!
//! **Invariant:** a database is dropped with its value, or, if it has joined a cluster, when the
//! thread of the test ends.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use shard_manager::local::LocalNode;

use crate::backend::{PLAIN, is_servers};
use crate::databases::query;
use crate::harness::eventually;

thread_local! {
    static JOINED: RefCell<Vec<NewDatabase>> = const { RefCell::new(Vec::new()) };
}

/// An empty database, which the replica has as well.
pub(crate) struct NewDatabase {
    pub(crate) name: String,
}

impl NewDatabase {
    pub(crate) fn create() -> Self {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        let name = format!("new_shard_{}_{number}", std::process::id());
        administrate(&format!("CREATE DATABASE {name}"));
        let known = format!("SELECT 1 FROM pg_database WHERE datname = '{name}'");
        for replica in &PLAIN.replicas {
            eventually("the replica has the database", || {
                (!query(&replica.url("postgres"), &known).is_empty()).then_some(())
            });
        }
        Self { name }
    }

    /// Returns the URL of the primary alone, without user and password.
    pub(crate) fn url(&self) -> String {
        format!("postgres://{}/{}", host(), self.name)
    }

    /// Returns the URL of the primary and its replica, without user and password.
    fn url_of_all(&self) -> String {
        let replicas = PLAIN.replicas.iter().map(authority);
        let hosts: Vec<String> = std::iter::once(host()).chain(replicas).collect();
        format!("postgres://{}/{}", hosts.join(","), self.name)
    }
}

impl Drop for NewDatabase {
    fn drop(&mut self) {
        administrate(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}

/// Returns host and port of the primary.
pub(crate) fn host() -> String {
    authority(&PLAIN.primary)
}

fn authority(node: &LocalNode) -> String {
    let url = node.url("postgres");
    let (_, authority) = url.split_once("://").unwrap();
    let authority = authority.split('/').next().unwrap();
    authority.rsplit('@').next().unwrap().to_owned()
}

fn administrate(sql: &str) {
    query(&PLAIN.primary.url("postgres"), sql);
}

/// Returns the description of a new shard: on servers with the URL of a new database, which exists
/// until the test ends.
pub(crate) fn new_shard(name: &str) -> Value {
    match new_url() {
        Some(url) => json!({"name": name, "url": url}),
        None => json!({"name": name}),
    }
}

/// Returns the URL of a new database and its replica, which exists until the test ends; `None` on
/// files.
pub(crate) fn new_url() -> Option<String> {
    is_servers().then(|| {
        let database = NewDatabase::create();
        let url = database.url_of_all();
        JOINED.with_borrow_mut(|joined| joined.push(database));
        url
    })
}
