//! Clients: the identities with which a run sends requests. Without `--tenants` there is one
//! client; with `--tenants` each tenant is a client with its own credential and keys.
//!
//! **Invariant:** a tenant sends only its own credential, and every response to a tenant is
//! searched for rows of other tenants.
//! **Not here:** the creation of tenants (`tenants`), requests for rows of other tenants (`probe`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::counters::Operation;
use crate::http_client::{Answer, HttpRequest, Pool};
use crate::keyspace::Names;
use crate::requests::SessionToken;
use crate::response_check::Failure;

/// Columns that may contain the shard key of a row, in all tables of the tester.
const KEY_COLUMNS: [&str; 3] = ["user_id", "account", "key"];
/// Code of the failure that a response contains a row of another tenant.
const FOREIGN_ROW: &str = "foreign row";

/// All clients of a run.
pub(crate) struct Clients {
    /// Client with the credential of the run, which has all rights.
    owner: Arc<Client>,
    /// Clients that are assigned to the users: one for each tenant, or only the owner in a run
    /// without tenants.
    of_users: Vec<Arc<Client>>,
}

impl Clients {
    /// Creates the clients of a run without tenants, which has only one.
    pub(crate) fn of_run(pools: Vec<Arc<Pool>>, names: Arc<Names>) -> Self {
        let owner = Arc::new(Client::new(pools, names));
        Self { of_users: vec![Arc::clone(&owner)], owner }
    }

    /// Makes tenants the clients of the users.
    pub(crate) fn with_tenants(mut self, tenants: Vec<Arc<Client>>) -> Self {
        self.of_users = tenants;
        self
    }

    /// Returns the client with the credential of the run.
    pub(crate) fn owner(&self) -> &Arc<Client> {
        &self.owner
    }

    /// Returns the clients that are assigned to the users in turn.
    pub(crate) fn of_users(&self) -> &[Arc<Client>] {
        &self.of_users
    }
}

/// Identity with which requests are sent.
pub(crate) struct Client {
    pools: Vec<Arc<Pool>>,
    names: Arc<Names>,
    /// Session token that covers the writes before the run.
    token: Mutex<Option<SessionToken>>,
    counts: ClientCounts,
}

/// Number of requests of a client so far, by kind.
#[derive(Debug, Default)]
pub(crate) struct ClientCounts {
    pub(crate) requests: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) probes: AtomicU64,
    /// Number of responses that contained a row of another tenant.
    pub(crate) foreign_rows: AtomicU64,
}

impl Client {
    /// Creates a client with a pool for each router.
    pub(crate) fn new(pools: Vec<Arc<Pool>>, names: Arc<Names>) -> Self {
        Self { pools, names, token: Mutex::default(), counts: ClientCounts::default() }
    }

    /// Returns the pool of connections to a router. The number of the router is taken modulo the
    /// number of routers.
    pub(crate) fn pool(&self, number: usize) -> &Arc<Pool> {
        &self.pools[number % self.pools.len()]
    }

    /// Returns the number of routers.
    pub(crate) fn routers(&self) -> usize {
        self.pools.len()
    }

    /// Returns the names of the client's keys.
    pub(crate) fn names(&self) -> &Arc<Names> {
        &self.names
    }

    /// Returns true if the client is one of several tenants.
    pub(crate) fn is_tenant(&self) -> bool {
        self.names.tenant().is_some()
    }

    /// Returns the session token that covers the writes before the run.
    pub(crate) fn token(&self) -> Option<SessionToken> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the session token that covers the writes before the run.
    pub(crate) fn set_token(&self, token: Option<SessionToken>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// Returns the counts.
    pub(crate) fn counts(&self) -> &ClientCounts {
        &self.counts
    }

    /// Counts an operation if the client is a tenant.
    pub(crate) fn count(&self, operation: Operation, verdict: &Result<(), Failure>) {
        if !self.is_tenant() {
            return;
        }
        let add = |count: &AtomicU64, is: bool| count.fetch_add(is.into(), Ordering::Relaxed);
        add(&self.counts.requests, true);
        add(&self.counts.failed, verdict.is_err());
        add(&self.counts.probes, operation == Operation::Probe);
    }

    /// Returns the method and URI of a request, for [`Client::check`]. The string is empty if the
    /// client is not a tenant.
    pub(crate) fn line(&self, asked: &HttpRequest) -> String {
        if self.is_tenant() { format!("{} {}", asked.method(), asked.uri()) } else { String::new() }
    }

    /// Checks that a response to a tenant contains no row of another client.
    pub(crate) fn check(&self, line: &str, answer: &Answer) -> Result<(), Failure> {
        let Some(tenant) = self.names.tenant() else { return Ok(()) };
        if !(200..300).contains(&answer.status) {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&answer.body);
        let in_rows = || {
            let body: Value = serde_json::from_str(&text).ok()?;
            let rows = body.get("data")?.as_array()?;
            let keys = rows.iter().flat_map(|row| KEY_COLUMNS.map(|column| row[column].as_str()));
            keys.flatten().find(|key| !tenant.owns(key)).map(str::to_owned)
        };
        let found = tenant.foreign_in(&text).map(str::to_owned).or_else(in_rows);
        let Some(key) = found else { return Ok(()) };
        self.counts.foreign_rows.fetch_add(1, Ordering::Relaxed);
        let detail = format!("{key} in the answer to {line}");
        Err(Failure::new(Some(answer.status), FOREIGN_ROW, &detail))
    }
}
