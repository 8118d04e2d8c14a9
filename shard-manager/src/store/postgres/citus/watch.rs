//! Watch: learns again and again where Citus' shards lie, because a rebalance moves them.
//!
//! **Not here:** what that is for (`citus`, `lanes`).

use std::sync::Arc;
use std::time::Duration;

use crate::store::postgres::primary_tracker::PrimaryTracker;

/// How often the coordinator is asked. What is out of date meanwhile costs a little time, and nothing else.
const EVERY: Duration = Duration::from_secs(2);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Watches until the runtime ends that it is spawned on.
pub async fn watch(tracker: Arc<PrimaryTracker>) {
    loop {
        if let Err(error) = follow(&tracker).await {
            tracing::debug!(error, "where the shards of Citus lie cannot be asked");
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Asks on one connection until that fails.
async fn follow(tracker: &PrimaryTracker) -> Result<(), String> {
    let Some(citus) = tracker.citus() else { return Ok(()) };
    let led = tracker.connect("placements").await.map_err(|error| error.to_string())?;
    while tracker.term() == led.term {
        let asked = tokio::time::timeout(PATIENCE, citus.refresh(&led.session.connection)).await;
        let changed = asked.map_err(|elapsed| elapsed.to_string())?;
        if changed.map_err(|error| error.to_string())? {
            tracing::info!("Citus has moved shards: their lanes are others now");
        }
        tokio::time::sleep(EVERY).await;
    }
    Ok(())
}
