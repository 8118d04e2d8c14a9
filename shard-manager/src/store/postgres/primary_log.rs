//! Primary log: up to where a primary's log is on disk, asked for all who watch its replicas on one connection.
//!
//! **Not here:** what replicas have of it (`replica`).

use std::time::{Duration, Instant};

use diesel_async::AsyncPgConnection;
use tokio::sync::Mutex;

use super::node::Node;
use super::sql;
use super::statement::{Statement, load};

/// How long nobody tries again after the primary could not be reached.
const OUT: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The primary of a shard, as its watchers know it.
pub struct PrimaryLog {
    node: Node,
    state: Mutex<State>,
}

struct State {
    connection: Option<AsyncPgConnection>,
    not_before: Instant,
}

impl PrimaryLog {
    /// The log of this primary.
    pub fn new(node: Node) -> Self {
        let state = State { connection: None, not_before: Instant::now() };
        Self { node, state: Mutex::new(state) }
    }

    /// The timeline of the primary.
    pub(super) fn timeline(&self) -> u32 {
        self.node.identity.timeline
    }

    /// Where the log ends; `None` if the primary does not answer.
    pub(super) async fn written(&self) -> Option<u64> {
        // Whoever finds another connecting goes on without.
        let mut state = self.state.try_lock().ok()?;
        let connection = match state.connection.take() {
            Some(connection) => connection,
            None if Instant::now() < state.not_before => return None,
            None => {
                let session = self.node.primary("watcher").await;
                state.not_before = Instant::now() + OUT;
                session.ok()?.connection
            }
        };
        let statement = Statement { sql: sql::POSITION, binds: &[], cached: true };
        let asked = tokio::time::timeout(PATIENCE, load(&connection, statement)).await;
        let rows = asked.ok()?.ok()?;
        state.connection = Some(connection);
        rows.as_slice().first().and_then(|row| row.bigint(0)).map(i64::cast_unsigned)
    }
}
