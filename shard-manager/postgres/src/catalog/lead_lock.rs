//! Lead lock: the session lock of the router that carries moves out.
//!
//! The server releases the lock when the session ends: if the router ends, if the connection is
//! lost, or if the router sends nothing for [`SILENCE_MAX`], for example because it hangs.
//!
//! **Invariant:** at most one session of a catalog has the lock.
//! **Not here:** keeping the session (`backend`), the terms that refuse a router which has not
//! noticed the loss yet (`moves`).

use std::time::Duration;

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;

use super::Catalog;
use crate::statement::{Statement, load, run};

/// Time without a statement after which the server ends the session.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Takes the lock if it is free.
const TAKE: &str = "SELECT pg_try_advisory_lock(1950, 9)";

/// The lock, on one session of a catalog.
#[derive(Clone, Copy)]
pub struct LeadLock<'c>(&'c AsyncPgConnection);

impl<'c> LeadLock<'c> {
    /// Returns the lock of a session.
    pub fn of(catalog: &'c Catalog) -> Self {
        Self(&catalog.connection)
    }
}

impl LeadLock<'_> {
    /// Makes the server end the session after it has been idle for 10 s.
    ///
    /// # Errors
    /// The error of the statement.
    pub async fn limit_silence(self) -> QueryResult<()> {
        let limit = SILENCE_MAX.as_millis();
        run(self.0, &format!("SET idle_session_timeout = {limit}")).await
    }

    /// Takes the lock; returns false if another session has it. Callers repeat the call until it
    /// returns true.
    ///
    /// # Errors
    /// The error of the statement.
    pub async fn take(self) -> QueryResult<bool> {
        let rows = load(self.0, Statement { sql: TAKE, binds: &[], cached: false }).await?;
        Ok(rows.first().and_then(|row| row.boolean(0)) == Some(true))
    }

    /// Proves that the session, and with it the lock, still exists.
    ///
    /// # Errors
    /// The error of the statement.
    pub async fn confirm(self) -> QueryResult<()> {
        run(self.0, "SELECT").await
    }
}
