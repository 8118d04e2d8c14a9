//! New databases: empty databases on the servers of a cluster, for shards that join during a run.
//!
//! A router has the user and password of the servers that its settings name, so a database on one
//! of these servers can join without further settings.
//!
//! **Invariant:** only databases that this run created are dropped, and only after all new shards
//! have retired.
//! **Not here:** the number of databases (`growth`).

use anyhow::Context;
use tokio_postgres::NoTls;

/// Prefix of the names of the databases.
const PREFIX: &str = "loadtest_shard";

/// Servers of one shard, with the addresses at which its nodes are reached.
#[derive(Clone, Debug)]
pub(super) struct ShardServers {
    /// User and password, as in a URL.
    pub(super) credentials: String,
    /// Hosts and ports of the proxies in front of the nodes.
    pub(super) hosts: Vec<String>,
    /// Hosts and ports of the nodes themselves.
    pub(super) direct: Vec<String>,
}

/// Databases that a run has created.
#[derive(Debug)]
pub(super) struct NewDatabases {
    servers: Vec<ShardServers>,
    made: Vec<(usize, String)>,
}

impl NewDatabases {
    pub(super) fn new(servers: Vec<ShardServers>) -> Self {
        Self { servers, made: Vec::new() }
    }

    /// Creates an empty database on the servers of a shard, and returns its URL without user and
    /// password.
    ///
    /// # Errors
    /// Fails if no primary responds.
    pub(super) async fn make(&mut self, number: usize) -> anyhow::Result<String> {
        let at = number % self.servers.len();
        let name = format!("{PREFIX}_{}_{number}", std::process::id());
        if !self.made.iter().any(|(_, made)| *made == name) {
            self.made.push((at, name.clone()));
        }
        let servers = &self.servers[at];
        let known = format!("SELECT 1 FROM pg_database WHERE datname = '{name}'");
        if ask(servers, &known).await? == 0 {
            ask(servers, &format!("CREATE DATABASE {name}")).await?;
        }
        Ok(format!("postgres://{}/{name}", servers.hosts.join(",")))
    }

    /// Drops all databases of the run, whose shards must have retired.
    ///
    /// # Errors
    /// Fails if no primary responds.
    pub(super) async fn drop_all(&mut self) -> anyhow::Result<()> {
        for (at, name) in std::mem::take(&mut self.made) {
            let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            ask(&self.servers[at], &sql).await?;
        }
        Ok(())
    }
}

/// Runs an SQL statement on the primary, and returns the number of rows of its result.
async fn ask(servers: &ShardServers, sql: &str) -> anyhow::Result<usize> {
    let url = format!(
        "postgres://{}@{}/postgres?target_session_attrs=read-write&connect_timeout=5",
        servers.credentials,
        servers.direct.join(",")
    );
    let (client, connection) =
        tokio_postgres::connect(&url, NoTls).await.context("no primary answers")?;
    let connection = tokio::spawn(connection);
    let answered = client.simple_query(sql).await;
    drop(client);
    // An error on closing the session is ignored, because the session has ended anyway.
    let _ = connection.await;
    let rows = answered.with_context(|| sql.to_owned())?;
    let is_row = |message: &&tokio_postgres::SimpleQueryMessage| {
        matches!(message, tokio_postgres::SimpleQueryMessage::Row(_))
    };
    Ok(rows.iter().filter(is_row).count())
}
