//! Merged state: combines the states of the cluster that several routers report into one.
//!
//! Values that each router has for itself (connections, writes that wait in lanes, requests in
//! progress) are added up. For shards and nodes, the worst report counts: a shard that one router
//! cannot reach is down.
//!
//! **Not here:** counts over time, which are merged exactly from histograms.

use std::collections::HashMap;

use recorder::{
    CacheNow, ClusterNow, LaneNow, MoveTotalsNow, NodeNow, ParkedNow, PoolNow, RebalanceNow,
    ShardNow,
};

/// Merges several reports; the one with the newest shard map decides which shards exist.
pub(crate) fn merged(views: &[ClusterNow]) -> ClusterNow {
    let Some(newest) = views.iter().max_by_key(|view| (view.epoch, view.shards.len())) else {
        return ClusterNow::default();
    };
    let mut whole = newest.clone();
    whole.in_flight = views.iter().map(|view| view.in_flight).sum();
    whole.uptime_s = views.iter().map(|view| view.uptime_s).max().unwrap_or_default();
    let started = views.iter().map(|view| &view.started).filter(|started| !started.is_empty());
    whole.started = started.min().cloned().unwrap_or_default();
    whole.cache = CacheNow::default();
    views.iter().for_each(|view| add_cache(&mut whole.cache, &view.cache));
    whole.parked = ParkedNow::default();
    views.iter().for_each(|view| add_parked(&mut whole.parked, &view.parked));
    // Only one router carries out moves of slots; the others report none.
    let moves = views.iter().map(|view| &view.moves).max_by_key(|moves| moves.len());
    whole.moves = moves.cloned().unwrap_or_default();
    whole.moved = MoveTotalsNow::default();
    views.iter().for_each(|view| add_moved(&mut whole.moved, &view.moved));
    // The latest rebalance is used. The router that now carries out rebalances reports it; a router
    // that carried them out before may still report an older one.
    let rebalances = views.iter().filter_map(|view| view.rebalance.as_ref());
    whole.rebalance = rebalances.min_by(|a, b| age(a).total_cmp(&age(b))).cloned();
    for shard in &mut whole.shards {
        let same = |view: &ClusterNow| view.shards.iter().find(|s| s.shard == shard.shard).cloned();
        let seen: Vec<ShardNow> = views.iter().filter_map(same).collect();
        shard.up = seen.iter().all(|seen| seen.up);
        shard.rows = seen.iter().filter_map(|seen| seen.rows).max();
        shard.bytes = seen.iter().filter_map(|seen| seen.bytes).max();
        shard.pool = PoolNow::default();
        shard.lane = LaneNow::default();
        for seen in &seen {
            add_pool(&mut shard.pool, &seen.pool);
            add_lane(&mut shard.lane, &seen.lane);
        }
        shard.nodes = nodes(&seen);
    }
    whole
}

/// Returns the time since a rebalance was ordered, in s.
fn age(rebalance: &RebalanceNow) -> f64 {
    rebalance.seconds + rebalance.ended_s.unwrap_or_default() as f64
}

fn add_pool(sum: &mut PoolNow, pool: &PoolNow) {
    sum.in_use += pool.in_use;
    sum.max += pool.max;
    sum.waiting += pool.waiting;
}

fn add_lane(sum: &mut LaneNow, lane: &LaneNow) {
    sum.waiting += lane.waiting;
    sum.waiting_bytes += lane.waiting_bytes;
    sum.batches += lane.batches;
    sum.operations += lane.operations;
    sum.largest_batch = sum.largest_batch.max(lane.largest_batch);
}

fn add_parked(sum: &mut ParkedNow, parked: &ParkedNow) {
    sum.rows += parked.rows;
    sum.bytes += parked.bytes;
    sum.total += parked.total;
    sum.refused += parked.refused;
    sum.longest_s = sum.longest_s.max(parked.longest_s);
    sum.waited_s += parked.waited_s;
    for count in &parked.waits {
        match sum.waits.iter_mut().find(|sum| sum.up_to_ms == count.up_to_ms) {
            Some(sum) => sum.rows += count.rows,
            None => sum.waits.push(*count),
        }
    }
    // The buckets are sorted, because routers of another version may have buckets with other
    // bounds.
    sum.waits.sort_by_key(|count| count.up_to_ms.unwrap_or(u32::MAX));
}

fn add_moved(sum: &mut MoveTotalsNow, moved: &MoveTotalsNow) {
    sum.rows += moved.rows;
    sum.bytes += moved.bytes;
    sum.done += moved.done;
    sum.cancelled += moved.cancelled;
    sum.rolled_back += moved.rolled_back;
    sum.failed += moved.failed;
    sum.longest_hold_s = sum.longest_hold_s.max(moved.longest_hold_s);
}

fn add_cache(sum: &mut CacheNow, cache: &CacheNow) {
    sum.enabled |= cache.enabled;
    sum.hits += cache.hits;
    sum.misses += cache.misses;
    sum.stale += cache.stale;
    sum.bypass += cache.bypass;
    sum.fills += cache.fills;
    sum.rejected += cache.rejected;
    sum.errors += cache.errors;
    sum.voids += cache.voids;
    sum.near_hits += cache.near_hits;
    sum.seldom += cache.seldom;
    // The state of the cache's circuit breaker that lets the fewest requests through is reported.
    let weight =
        |breaker: &str| ["", "closed", "half_open", "open"].iter().position(|b| *b == breaker);
    if weight(&cache.breaker) > weight(&sum.breaker) {
        sum.breaker = cache.breaker.clone();
    }
}

/// Returns each node of a shard once, in the order of the reports.
fn nodes(seen: &[ShardNow]) -> Vec<NodeNow> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut nodes: Vec<NodeNow> = Vec::new();
    for node in seen.iter().flat_map(|shard| &shard.nodes) {
        let place = *places.entry(&node.node).or_insert(nodes.len());
        match nodes.get_mut(place) {
            None => nodes.push(node.clone()),
            Some(known) => {
                known.up &= node.up;
                let new = node.reasons.iter().filter(|reason| !known.reasons.contains(reason));
                let new: Vec<String> = new.cloned().collect();
                known.reasons.extend(new);
                known.lag_ms = worse(known.lag_ms, node.lag_ms);
                known.latency_ms = worse(known.latency_ms, node.latency_ms);
            }
        }
    }
    nodes
}

fn worse(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    [one, other].into_iter().flatten().reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use recorder::WaitBucket;

    use super::*;

    fn parked(waits: &[(Option<u32>, u64)]) -> ParkedNow {
        let bucket = |&(up_to_ms, rows)| WaitBucket { up_to_ms, rows };
        ParkedNow { waits: waits.iter().map(bucket).collect(), ..ParkedNow::default() }
    }

    #[test]
    fn buckets_of_one_bound_are_added_and_those_of_one_router_only_are_kept_in_order() {
        let mut sum = ParkedNow::default();
        add_parked(&mut sum, &parked(&[(Some(1), 2), (None, 1)]));
        add_parked(&mut sum, &parked(&[(Some(1), 3), (Some(5), 1), (None, 1)]));
        assert_eq!(sum, parked(&[(Some(1), 5), (Some(5), 1), (None, 2)]));
    }
}
