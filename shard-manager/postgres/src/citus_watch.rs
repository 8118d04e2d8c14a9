//! Citus watch: reads the placement of Citus' shards periodically, because a rebalance moves them.
//!
//! **Not here:** the use of the placement (`citus`).

use std::sync::Arc;
use std::time::Duration;

use super::primary_tracker::PrimaryTracker;

/// Interval of the queries. An outdated placement costs a little time, and nothing else.
const EVERY: Duration = Duration::from_secs(2);
/// Time limit for a response.
const PATIENCE: Duration = Duration::from_secs(10);

/// Watches until the current runtime ends.
pub(super) async fn watch(tracker: Arc<PrimaryTracker>) {
    loop {
        if let Err(error) = follow(&tracker).await {
            tracing::debug!(error, "the placement of the shards of Citus cannot be read");
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Queries on one connection until that fails.
async fn follow(tracker: &PrimaryTracker) -> Result<(), String> {
    let Some(citus) = tracker.citus() else { return Ok(()) };
    let led = tracker.connect("placements").await.map_err(|error| error.to_string())?;
    while tracker.term() == led.term {
        let asked = tokio::time::timeout(PATIENCE, citus.refresh(&led.session.connection)).await;
        let changed = asked.map_err(|elapsed| elapsed.to_string())?;
        if changed.map_err(|error| error.to_string())? {
            tracing::info!("Citus has moved shards: their keys have other lanes now");
        }
        tokio::time::sleep(EVERY).await;
    }
    Ok(())
}
