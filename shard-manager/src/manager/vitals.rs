//! Vitals: how busy the shards are and how much they hold, told cheaply.
//!
//! **Not here:** exact rows and bytes of each table (`Manager::report`), which visits all of them.

use std::time::Instant;

use super::Manager;
use crate::shard::Shard;
use crate::stats::{ShardStats, SizeEstimate};
use crate::topology::ShardIndex;

impl Manager {
    /// How busy every shard is, and how its nodes are believed to be. Asks nobody: cheap enough for every second.
    pub fn vitals(&self) -> Vec<ShardStats> {
        (0..).map(ShardIndex).zip(&self.shards).map(|(index, shard)| shard.vitals(index)).collect()
    }

    /// Returns a sentence for each table that takes no writes because a crash of its server would
    /// empty it, with its shard and the statement that repairs it. Sends no request to any server.
    pub fn unlogged(&self) -> Vec<String> {
        self.backing.leaders().zip(&self.shards).fold(Vec::new(), |mut all, (leader, shard)| {
            let hazards = leader.hazards();
            let unlogged = hazards.found().filter(|found| found.is_unlogged());
            all.extend(unlogged.map(|found| format!("{}: {found}", shard.name())));
            all
        })
    }

    /// Whether Citus places the rows, and not the shard map.
    pub fn is_citus(&self) -> bool {
        self.shards.iter().any(Shard::is_citus)
    }

    /// About how much every shard holds, in their order; `None` of those that could not be asked. One short question to
    /// each primary, whatever it holds: cheap enough for every few seconds.
    pub async fn size_estimates(&self, deadline: Instant) -> Vec<Option<SizeEstimate>> {
        let size_estimates = self.shards.iter().map(|shard| shard.size_estimate(deadline));
        let size_estimates = futures_util::future::join_all(size_estimates).await;
        size_estimates.into_iter().map(Result::ok).collect()
    }
}
