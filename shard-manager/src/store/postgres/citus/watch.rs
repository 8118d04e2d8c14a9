//! Watch: learns again and again where Citus' shards lie, because a rebalance moves them.
//!
//! **Not here:** what that is for (`citus`, `lanes`).

use std::sync::Arc;
use std::time::Duration;

use crate::store::postgres::leader::Leader;

/// How often the coordinator is asked. What is out of date meanwhile costs a little time, and nothing else.
const EVERY: Duration = Duration::from_secs(2);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Watches until the runtime ends that it is spawned on.
pub async fn watch(leader: Arc<Leader>) {
    loop {
        if let Err(error) = follow(&leader).await {
            tracing::debug!(error, "where the shards of Citus lie cannot be asked");
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Asks on one connection until that fails.
async fn follow(leader: &Leader) -> Result<(), String> {
    let Some(citus) = leader.citus() else { return Ok(()) };
    let led = leader.connect("placements").await.map_err(|error| error.to_string())?;
    while leader.term() == led.term {
        let asked = tokio::time::timeout(PATIENCE, citus.refresh(&led.session.connection)).await;
        let changed = asked.map_err(|elapsed| elapsed.to_string())?;
        if changed.map_err(|error| error.to_string())? {
            tracing::info!("Citus has moved shards: their lanes are others now");
        }
        tokio::time::sleep(EVERY).await;
    }
    Ok(())
}
