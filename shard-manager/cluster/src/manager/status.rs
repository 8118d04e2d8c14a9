//! Status: the interface of a manager for health, sizes and the cluster's composition.
//!
//! **Not here:** the rules of a shard's health (`shard`), metrics (the calling code).

use std::time::Instant;

use cache::{CacheStats, CachedEntries};
use engine::{ReplicaIsolation, TableRows, TableSize};
use futures_util::future::{join, join_all};
use model::stats::{ParkedStats, ShardStats, SizeEstimate};
use model::topology::ShardNumber;

use super::{Manager, ShardReport};

/// Interface of a [`Manager`] for health, sizes and the cluster's composition.
#[derive(Clone, Copy)]
pub struct Status<'m>(pub(super) &'m Manager);

impl Status<'_> {
    /// Returns the number of replicas of each shard.
    pub fn replicas(self) -> usize {
        let shards = self.0.shards.load();
        let first = shards.iter().next();
        first.map_or(0, |(_, shard)| shard.replication.timeline().replica_count())
    }

    /// Returns the names of a shard's primary and of its replicas; empty if the shard is not open.
    pub fn nodes(self, shard: ShardNumber) -> (String, Vec<String>) {
        let shards = self.0.shards.load();
        let nodes = shards.get(shard).map(|shard| shard.nodes());
        nodes
            .map(|(primary, replicas)| (primary.to_owned(), replicas.to_owned()))
            .unwrap_or_default()
    }

    /// Probes every node.
    pub async fn health(self, deadline: Instant) -> Vec<ShardReport> {
        self.0.cache.iter().for_each(|cache| cache.begin_due_trial());
        let shards = self.0.shards.load_full();
        let reports = shards.iter().map(async |(number, shard)| {
            let nodes = shard.probe(deadline).await;
            ShardReport { shard: number, nodes, tables: None, workers: Vec::new() }
        });
        join_all(reports).await
    }

    /// Returns health and exact sizes of those of the given shards that are open. Reads every page
    /// of their files, so it must not be called frequently.
    pub async fn report(self, shards: &[ShardNumber], deadline: Instant) -> Vec<ShardReport> {
        let list = self.0.shards.load_full();
        let open = shards.iter().filter_map(|number| Some((*number, list.get(*number)?)));
        let reports = open.map(async |(number, shard)| {
            // Both run concurrently, so that a stalled lane does not delay the measurement.
            let (nodes, tables) =
                join(shard.probe(deadline), shard.primary().sizes(deadline)).await;
            let mut tables = tables.ok();
            // A table that is not on every shard yet is not reported.
            let registry = self.0.registry.load();
            let is_known = |size: &TableSize| registry.find(&size.table).is_some();
            tables.iter_mut().for_each(|tables| tables.retain(is_known));
            let workers = shard.primary().worker_nodes(deadline).await.unwrap_or_default();
            ShardReport { shard: number, nodes, tables, workers }
        });
        join_all(reports).await
    }

    /// Returns the number of rows of all tables on each shard; `None` if the shard did not respond.
    pub async fn count_rows(self, deadline: Instant) -> Vec<(ShardNumber, Option<i64>)> {
        let shards = self.0.shards.load_full();
        let sum = |tables: Vec<TableRows>| tables.iter().map(|table| table.rows).sum();
        let counts = shards.iter().map(async |(number, shard)| {
            (number, shard.primary().row_counts(deadline).await.ok().map(sum))
        });
        join_all(counts).await
    }

    /// Returns the load of every shard and the last known state of its nodes. Sends no request to
    /// any node, so it may be called every second.
    pub fn stats(self) -> Vec<ShardStats> {
        let shards = self.0.shards.load();
        shards.iter().map(|(number, shard)| shard.stats(number)).collect()
    }

    /// Returns a sentence for each table that accepts no writes because a crash of its server would
    /// empty it. Each sentence names the shard and the statement that repairs the table. Sends no
    /// query.
    pub fn unlogged(self) -> Vec<String> {
        self.0.backend.unlogged_tables()
    }

    /// Returns an estimate of the size of every open shard, in order; `None` if the shard did not
    /// respond. It takes one short query to each primary, regardless of the size of the shard, so
    /// it may be called every few seconds.
    pub async fn size_estimates(
        self,
        deadline: Instant,
    ) -> Vec<(ShardNumber, Option<SizeEstimate>)> {
        let shards = self.0.shards.load_full();
        let estimates = shards.iter().map(async |(number, shard)| {
            (number, shard.primary().size_estimate(deadline).await.ok())
        });
        join_all(estimates).await
    }

    /// Returns the counters of the writes that wait until a shard accepts their slots.
    pub fn parked_writes(self) -> ParkedStats {
        self.0.parked.stats()
    }

    /// Returns the number of reads of several shards that were refused since the start, because the
    /// rows of other reads left too little memory for theirs.
    pub fn refused_reads(self) -> u64 {
        self.0.scatter_budget.refused()
    }

    /// Returns the counters of the cache; `None` if there is none.
    pub fn cache_stats(self) -> Option<CacheStats> {
        self.0.cache.as_ref().map(|cache| cache.stats())
    }

    /// Returns the entries of the cluster in Redis; `None` if there is no cache.
    pub fn cached_entries(self) -> Option<CachedEntries> {
        self.0.cache.as_ref().map(|cache| cache.entries())
    }

    /// Returns true if the engine itself distributes rows over nodes, and not the shard map.
    pub fn is_partitioned(self) -> bool {
        self.0.shards.load().iter().any(|(_, shard)| shard.is_partitioned())
    }

    /// Returns how the replicas of a shard are isolated from its primary: by servers of their own,
    /// or not at all because they are on the same machine.
    pub fn isolation(self) -> ReplicaIsolation {
        self.0.backend.isolation()
    }

    /// Returns true if an earlier process ended uncleanly, until every file has been found intact.
    pub fn is_unclean(self) -> bool {
        self.0.backend.is_unclean()
    }
}
