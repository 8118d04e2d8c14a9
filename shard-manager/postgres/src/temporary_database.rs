//! Temporary database: a new database on a server, dropped by the process that created it.
//!
//! **Invariant:** only a database that this process has created is dropped.
//! **Not here:** the contents of the database (`open`).

use diesel::QueryResult;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use engine::open_error::OpenError;

use super::node_address::{NodeAddress, Timeouts};
use super::session::{NodeRole, connect};
use super::statement::{Statement, load};

/// Database of the sessions that create and drop databases; each server has it.
const MAINTENANCE: &str = "postgres";
/// Name of its sessions in `pg_stat_activity`.
const PURPOSE: &str = "lab";
/// Query for the version of the server, which may be followed by that of its package.
const VERSION: &str = "SELECT split_part(current_setting('server_version'), ' ', 1)";
/// Query for some databases of labs that no session uses, apart from autovacuum, which visits every
/// database. A lab that has just started may not use its database yet.
const UNUSED: &str = "SELECT d.datname::text FROM pg_database AS d
    WHERE d.datname::text ~ '^tessera_lab_[a-z0-9_]+$'
        AND NOT EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.datid = d.oid
            AND a.backend_type IS DISTINCT FROM 'autovacuum worker')
    ORDER BY 1 LIMIT 20";

/// Temporary database, which is dropped when this value is dropped.
#[derive(Debug)]
pub struct TemporaryDatabase {
    address: NodeAddress,
    is_there: bool,
}

impl TemporaryDatabase {
    /// Creates a database of this name on a server. Blocks.
    ///
    /// # Errors
    /// [`OpenError`] if the name is empty or has characters other than lowercase letters, digits
    /// and `_`, or the server does not create the database, for example because it exists.
    pub fn create(server: &NodeAddress, name: &str) -> Result<Self, OpenError> {
        let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.is_empty() || !name.chars().all(is_good) {
            return Err(OpenError::node(name, "this is not a name for a temporary database"));
        }
        execute(server, &format!("CREATE DATABASE {name} TEMPLATE template0"))?;
        Ok(Self {
            address: NodeAddress { database: name.to_owned(), ..server.clone() },
            is_there: true,
        })
    }

    /// Returns the names of databases on a server that labs have created and no session uses.
    /// Blocks.
    ///
    /// # Errors
    /// [`OpenError`] if the server does not answer.
    pub fn unused(server: &NodeAddress) -> Result<Vec<String>, OpenError> {
        in_session(server, async |connection| {
            let unused = Statement { sql: UNUSED, binds: &[], cached: false };
            let rows = load(connection, unused).await;
            rows.map(|rows| rows.iter().filter_map(|row| row.text(0)).collect())
        })
    }

    /// Drops the database, and ends the sessions in it. Blocks.
    ///
    /// # Errors
    /// [`OpenError`] if the server does not answer; the database then remains.
    pub fn remove(&mut self) -> Result<(), OpenError> {
        if self.is_there {
            let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.address.database);
            execute(&self.address, &sql)?;
            self.is_there = false;
        }
        Ok(())
    }

    /// Returns the address of the database.
    pub fn address(&self) -> &NodeAddress {
        &self.address
    }
}

impl Drop for TemporaryDatabase {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, "a temporary database could not be dropped");
        }
    }
}

/// Returns the version of a server, such as `17.5`. Blocks.
///
/// # Errors
/// [`OpenError`] if the server does not answer.
pub fn server_version(server: &NodeAddress) -> Result<String, OpenError> {
    in_session(server, async |connection| {
        let version = Statement { sql: VERSION, binds: &[], cached: false };
        let rows = load(connection, version).await;
        rows.map(|rows| rows.first().and_then(|row| row.text(0)).unwrap_or_default())
    })
}

/// Executes a statement outside a transaction.
fn execute(server: &NodeAddress, sql: &str) -> Result<(), OpenError> {
    in_session(server, async |connection| connection.batch_execute(sql).await)
}

/// Does some work in a session of the maintenance database, on a thread of its own.
pub(super) fn in_session<T: Send>(
    server: &NodeAddress,
    work: impl AsyncFnOnce(&mut AsyncPgConnection) -> QueryResult<T> + Send,
) -> Result<T, OpenError> {
    let at = NodeAddress { database: MAINTENANCE.to_owned(), ..server.clone() };
    let failed = |error: &dyn std::fmt::Display| OpenError::node(&at.to_string(), error);
    let session = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| failed(&error))?.block_on(async {
            let session = connect(&at, PURPOSE, NodeRole::Any, &Timeouts::default()).await;
            let mut connection = session.map_err(|error| failed(&error))?.connection;
            work(&mut connection).await.map_err(|error| failed(&error))
        })
    };
    let done = std::thread::scope(|scope| scope.spawn(session).join());
    done.unwrap_or_else(|_| Err(failed(&"the thread has ended")))
}
