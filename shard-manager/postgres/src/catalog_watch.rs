//! Catalog watch: watches the nodes of a catalog that is on servers of its own, and detects that
//! one of them was promoted.
//!
//! The nodes of a shard are watched by the tasks of its replicas (`replica`). The nodes of a
//! separate catalog have no such tasks, so each of them that is not the primary is queried
//! periodically.
//!
//! **Invariant:** the primary is not queried here; a promoted node is found even if the old primary
//! never answers again.
//! **Not here:** following a promoted node (`primary_tracker`), the contents of the catalog
//! (`catalog`).

use std::sync::Arc;
use std::time::Duration;

use super::primary_tracker::PrimaryTracker;
use super::replica::ask;
use super::session::NodeRole;

/// Interval of the queries.
const EVERY: Duration = Duration::from_millis(250);
/// Time limit for a response.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Watches all nodes, on the current runtime and as long as that runs.
pub fn start(tracker: &Arc<PrimaryTracker>) {
    for member in 0..tracker.members().len() {
        tokio::spawn(run(Arc::clone(tracker), member));
    }
}

async fn run(tracker: Arc<PrimaryTracker>, member: usize) {
    let mut is_logged = false;
    loop {
        tracker.terms().until(|term| term.member != member).await;
        if let Err(error) = follow(&tracker, member, &mut is_logged).await {
            let (node, at) = (tracker.called(member), &tracker.members()[member].address);
            // Logged once as a warning, however often it is retried.
            if is_logged {
                tracing::debug!(node, %at, %error, "a node of the catalog cannot be watched");
            } else {
                tracing::warn!(node, %at, %error, "a node of the catalog cannot be watched");
            }
            is_logged = true;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Queries a node until it is the primary.
async fn follow(
    tracker: &PrimaryTracker,
    member: usize,
    is_logged: &mut bool,
) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let session = tracker.members()[member].connect("candidate", NodeRole::Any).await;
    let connection = session.map_err(|error| failed(&error))?.connection;
    loop {
        let asked = tokio::time::timeout(PATIENCE, ask(&connection)).await;
        let report = asked.map_err(|_elapsed| "it does not answer".to_owned())?;
        let report = report.map_err(|error| failed(&error))?;
        *is_logged = false;
        if report.timeline.is_some_and(|timeline| timeline > tracker.term().timeline) {
            tracker.found(member).await.map_err(|error| failed(&error))?;
        }
        if tracker.term().member == member {
            return Ok(());
        }
        tokio::time::sleep(EVERY).await;
    }
}
