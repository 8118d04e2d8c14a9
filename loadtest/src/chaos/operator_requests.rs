//! Operator requests: sends an operator's HTTP requests to the router, for moves, shards,
//! rebalances, and the shard map.
//!
//! **Invariant:** a request is sent once, and the wait for its response is at most [`PATIENCE`].
//! **Not here:** the requests of the workload (`requests`).

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use hyper::Method;
use serde::Deserialize;

use crate::http_client::{Answer, Pool};
use crate::requests;

/// Longest wait for a response.
const PATIENCE: Duration = Duration::from_secs(6);

/// Owners of all slots: first and last slot of each range, and the name of its shard.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ShardMap {
    pub(super) ranges: Vec<(u16, u16, String)>,
}

impl ShardMap {
    /// Returns the reason why the map does not contain each slot exactly once; `None` if it does.
    pub(super) fn fault(&self) -> Option<String> {
        let mut next = 0_u32;
        for (first, last, shard) in &self.ranges {
            if u32::from(*first) != next || last < first {
                return Some(format!("slots {first}-{last} of {shard} do not follow slot {next}"));
            }
            next = u32::from(*last) + 1;
        }
        (next != SLOTS).then(|| format!("the map ends before slot {next}"))
    }

    /// Returns the names of the shards that own slots.
    pub(super) fn owners(&self) -> BTreeSet<&String> {
        self.ranges.iter().map(|(_, _, shard)| shard).collect()
    }
}

/// Number of slots of every cluster.
const SLOTS: u32 = 16_384;

/// Sends a read, and returns the parsed response.
pub(super) async fn get<A: for<'a> Deserialize<'a>>(pool: &Pool, path: &str) -> anyhow::Result<A> {
    let asked = requests::get(path).map_err(|failure| anyhow::anyhow!(failure.detail))?;
    let answer = pool.send(asked, PATIENCE).await;
    let answer = answer.map_err(|failure| anyhow::anyhow!(failure.detail))?;
    anyhow::ensure!(answer.status == 200, "{path} was answered {}", refusal(&answer));
    serde_json::from_slice(&answer.body).with_context(|| format!("{path} is not understood"))
}

/// Sends a change, and returns the response, whatever its status.
pub(super) async fn change(
    pool: &Pool,
    (method, path): (Method, &str),
    body: &serde_json::Value,
) -> anyhow::Result<Answer> {
    let asked = requests::json(method, path, body);
    let asked = asked.map_err(|failure| anyhow::anyhow!(failure.detail))?;
    let answer = pool.send(asked, PATIENCE).await;
    answer.map_err(|failure| anyhow::anyhow!(failure.detail))
}

/// Returns status, code and reason of a refusal.
pub(super) fn refusal(answer: &Answer) -> String {
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |member: &str| problem[member].as_str().unwrap_or_default().to_owned();
    format!("{} {} {}", answer.status, text("code"), text("detail"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_with_a_gap_an_overlap_or_an_early_end_is_not_complete() {
        let map = |ranges: &[(u16, u16)]| {
            let ranges = ranges.iter().map(|(first, last)| (*first, *last, "a".to_owned()));
            ShardMap { ranges: ranges.collect() }
        };
        assert_eq!(map(&[(0, 9), (10, 16_383)]).fault(), None);
        for broken in [
            &[(0, 9), (11, 16_383)][..],
            &[(0, 9), (9, 16_383)],
            &[(1, 16_383)],
            &[(0, 16_382)],
            &[(0, 9), (10, 8), (9, 16_383)],
            &[],
        ] {
            assert!(map(broken).fault().is_some(), "{broken:?}");
        }
    }
}
