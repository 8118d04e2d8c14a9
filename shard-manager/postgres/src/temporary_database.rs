//! Temporary database: a new database on a server, dropped by the process that created it.
//!
//! **Invariant:** only a database that this process has created is dropped.
//! **Not here:** the contents of the database (`open`).

use diesel_async::SimpleAsyncConnection;
use engine::open_error::OpenError;

use super::node_address::{NodeAddress, Timeouts};
use super::session::{NodeRole, connect};

/// Database of the sessions that create and drop databases; each server has it.
const MAINTENANCE: &str = "postgres";
/// Name of its sessions in `pg_stat_activity`.
const PURPOSE: &str = "lab";

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

/// Executes a statement outside a transaction, on a thread of its own.
fn execute(server: &NodeAddress, sql: &str) -> Result<(), OpenError> {
    let at = NodeAddress { database: MAINTENANCE.to_owned(), ..server.clone() };
    let failed = |error: &dyn std::fmt::Display| OpenError::node(&at.to_string(), error);
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| failed(&error))?.block_on(async {
            let session = connect(&at, PURPOSE, NodeRole::Any, &Timeouts::default()).await;
            let mut connection = session.map_err(|error| failed(&error))?.connection;
            connection.batch_execute(sql).await.map_err(|error| failed(&error))
        })
    };
    let executed = std::thread::scope(|scope| scope.spawn(work).join());
    executed.unwrap_or_else(|_| Err(failed(&"the thread has ended")))
}
