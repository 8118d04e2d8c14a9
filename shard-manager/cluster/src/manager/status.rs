//! Status: the face of a manager for health, sizes and the cluster's composition.
//!
//! **Not here:** the rules of a shard's health (`shard`), metrics (the caller).

use std::time::Instant;

use cache::CacheStats;
use engine::{ReplicaIsolation, TableRows, TableSize};
use futures_util::future::{join, join_all};
use model::stats::{ShardStats, SizeEstimate};
use model::topology::ShardNumber;

use super::{Manager, ShardReport};
use crate::shard::Shard;

/// Face of a [`Manager`] for health, sizes and the cluster's composition.
#[derive(Clone, Copy)]
pub struct Status<'m>(pub(super) &'m Manager);

impl<'m> Status<'m> {
    /// Returns the number of replicas of each shard.
    pub fn replicas(self) -> usize {
        self.0.shards.first().map_or(0, |shard| shard.replication.timeline().replica_count())
    }

    /// Returns the names of a shard's primary and of its replicas.
    pub fn nodes(self, shard: ShardNumber) -> (&'m str, &'m [String]) {
        self.0.shards[shard.index()].nodes()
    }

    /// Probes every node.
    pub async fn health(self, deadline: Instant) -> Vec<ShardReport> {
        self.0.cache.iter().for_each(|cache| cache.look_after());
        let probes = self.0.shards.iter().map(|shard| shard.probe(deadline));
        let numbered = (0..).map(ShardNumber).zip(join_all(probes).await);
        let report =
            |(shard, nodes)| ShardReport { shard, nodes, tables: None, workers: Vec::new() };
        numbered.map(report).collect()
    }

    /// Returns health and exact sizes of the given shards. Reads every page of their files, so it
    /// is not for frequent use.
    pub async fn report(self, shards: &[ShardNumber], deadline: Instant) -> Vec<ShardReport> {
        let reports = shards.iter().map(async |&index| {
            let shard = &self.0.shards[index.index()];
            // Concurrently: a stalled lane delays no read.
            let (nodes, tables) =
                join(shard.probe(deadline), shard.primary().sizes(deadline)).await;
            let mut tables = tables.ok();
            // A table that is not on every shard yet is not reported.
            let registry = self.0.registry.load();
            let is_known = |size: &TableSize| registry.find(&size.table).is_some();
            tables.iter_mut().for_each(|tables| tables.retain(is_known));
            let workers = shard.primary().worker_nodes(deadline).await.unwrap_or_default();
            ShardReport { shard: index, nodes, tables, workers }
        });
        join_all(reports).await
    }

    /// Returns the number of rows of all tables on each shard; `None` if the shard did not answer.
    pub async fn count_rows(self, deadline: Instant) -> Vec<(ShardNumber, Option<i64>)> {
        let counts = self.0.shards.iter().map(|shard| shard.primary().row_counts(deadline));
        let counts = join_all(counts).await;
        let sum = |tables: Vec<TableRows>| tables.iter().map(|table| table.rows).sum();
        (0..)
            .map(ShardNumber)
            .zip(counts)
            .map(|(shard, tables)| (shard, tables.ok().map(sum)))
            .collect()
    }

    /// Returns the load of every shard and the believed state of its nodes. Sends no request to any
    /// node, so it may be called every second.
    pub fn stats(self) -> Vec<ShardStats> {
        let shards = (0..).map(ShardNumber).zip(&self.0.shards);
        shards.map(|(index, shard)| shard.stats(index)).collect()
    }

    /// Returns a sentence for each table that accepts no writes because a crash of its server would
    /// empty it. It names the shard and the statement that repairs the table. Sends no query.
    pub fn unlogged(self) -> Vec<String> {
        self.0.backend.unlogged_tables()
    }

    /// Returns an estimate of the size of every shard, in order; `None` if the shard did not
    /// answer. It takes one short query to each primary, whatever its size, so it may be called
    /// every few seconds.
    pub async fn size_estimates(self, deadline: Instant) -> Vec<Option<SizeEstimate>> {
        let estimates = self.0.shards.iter().map(|shard| shard.primary().size_estimate(deadline));
        join_all(estimates).await.into_iter().map(Result::ok).collect()
    }

    /// Returns the counters of the cache; `None` if there is none.
    pub fn cache_stats(self) -> Option<CacheStats> {
        self.0.cache.as_ref().map(|cache| cache.stats())
    }

    /// Returns true if the engine itself distributes rows over nodes, and not the shard map.
    pub fn is_partitioned(self) -> bool {
        self.0.shards.iter().any(Shard::is_partitioned)
    }

    /// Returns the separation of the replicas of a shard from its primary.
    pub fn isolation(self) -> ReplicaIsolation {
        self.0.backend.isolation()
    }

    /// Returns true if an earlier process ended uncleanly, until every file has been found intact.
    pub fn is_unclean(self) -> bool {
        self.0.backend.is_unclean()
    }
}
