//! Operator requests: sends an operator's HTTP requests to the router, for moves, shards,
//! rebalances, and the shard map.
//!
//! **Invariant:** a request is sent at most once to each router, and the wait for each response is
//! at most [`PATIENCE`].
//! **Not here:** the requests of the workload (`requests`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request};
use serde::Deserialize;

use crate::http_client::{Answer, Pool, check_ready};
use crate::requests;

/// Longest wait for a response.
const PATIENCE: Duration = Duration::from_secs(6);
/// Pause before the next attempt if a router was not ready.
const POLL: Duration = Duration::from_millis(10);

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

/// Returns the value of one of a router's metrics. `line` is the beginning of the metric's line up
/// to the value. Returns `None` if the router does not respond or has no such metric.
pub(super) async fn metric(pool: &Pool, line: &str) -> Option<f64> {
    let asked = Request::get("/metrics").body(Full::<Bytes>::default()).ok()?;
    let answer = pool.send(asked, PATIENCE).await.ok()?;
    let text = String::from_utf8_lossy(&answer.body);
    text.lines().find_map(|text| text.strip_prefix(line)?.trim().parse().ok())
}

/// Routers of one cluster. A request is sent to the router that responded last; if it does not
/// respond, to the next one.
///
/// A change may therefore be carried out twice. Only changes for which this makes no difference are
/// sent.
pub(super) struct Routers {
    /// One pool for each router.
    pools: Vec<Arc<Pool>>,
    /// Number of times that a router has not responded. It determines the router to which the next
    /// request is sent.
    turns: AtomicUsize,
}

impl Routers {
    /// Creates the routers for these pools, of which there must be at least one.
    pub(super) fn new(pools: Vec<Arc<Pool>>) -> Self {
        Self { pools, turns: AtomicUsize::new(0) }
    }

    /// Returns a pool for each router.
    pub(super) fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    fn current(&self) -> &Pool {
        &self.pools[self.turns.load(Ordering::Relaxed) % self.pools.len()]
    }

    fn turn(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until one of the routers accepts requests; the next request is sent to that router.
    ///
    /// # Errors
    /// Fails if no router accepts requests within `patience`.
    pub(super) async fn ready(&self, patience: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            match check_ready(self.current()).await {
                Ok(()) => return Ok(()),
                Err(error) if began.elapsed() > patience => {
                    return Err(error).context(format!("no router is ready after {patience:?}"));
                }
                Err(_) => {
                    self.turn();
                    tokio::time::sleep(POLL).await;
                }
            }
        }
    }

    /// Sends a read, and returns the parsed response of the first router that responds.
    ///
    /// # Errors
    /// Fails if no router responds, with the error of the last router.
    pub(super) async fn get<A: for<'a> Deserialize<'a>>(&self, path: &str) -> anyhow::Result<A> {
        for _ in 1..self.pools.len() {
            if let Ok(answer) = get(self.current(), path).await {
                return Ok(answer);
            }
            self.turn();
        }
        let answer = get(self.current(), path).await;
        if answer.is_err() {
            self.turn();
        }
        answer
    }

    /// Sends a change, and returns the first response, even if its status is an error.
    ///
    /// # Errors
    /// Fails if no router responds, with the error of the last router.
    pub(super) async fn change(
        &self,
        (method, path): (Method, &str),
        body: &serde_json::Value,
    ) -> anyhow::Result<Answer> {
        for _ in 1..self.pools.len() {
            if let Ok(answer) = change(self.current(), (method.clone(), path), body).await {
                return Ok(answer);
            }
            self.turn();
        }
        let answer = change(self.current(), (method, path), body).await;
        if answer.is_err() {
            self.turn();
        }
        answer
    }
}

/// Sends a read, and returns the parsed response.
pub(super) async fn get<A: for<'a> Deserialize<'a>>(pool: &Pool, path: &str) -> anyhow::Result<A> {
    let asked = requests::get(path).map_err(|failure| anyhow::anyhow!(failure.detail))?;
    let answer = pool.send(asked, PATIENCE).await;
    let answer = answer.map_err(|failure| anyhow::anyhow!(failure.detail))?;
    anyhow::ensure!(answer.status == 200, "{path} was answered {}", refusal(&answer));
    serde_json::from_slice(&answer.body).with_context(|| format!("{path} is not understood"))
}

/// Sends a change, and returns the response, even if its status is an error.
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

/// Describes a refusal by its status, its code and its reason.
pub(super) fn refusal(answer: &Answer) -> String {
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |member: &str| problem[member].as_str().unwrap_or_default().to_owned();
    format!("{} {} {}", answer.status, text("code"), text("detail"))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::http_client::Target;

    /// Complete shard map of a cluster with one shard.
    pub(in crate::chaos) const COMPLETE: &str = r#"{"ranges": [[0, 16383, "a"]]}"#;

    /// Starts a server for each of these bodies, with which it answers every request, and returns a
    /// pool for each. A server without a body closes every connection instead.
    pub(in crate::chaos) async fn serve(bodies: &[Option<&'static str>]) -> Vec<Arc<Pool>> {
        let mut targets = Vec::new();
        for &body in bodies {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            targets.push(url.parse::<Target>().unwrap());
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let Some(body) = body else { continue };
                    let mut request = [0; 4_096];
                    let length = body.len();
                    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length";
                    let answer = format!("{head}: {length}\r\n\r\n{body}");
                    if stream.read(&mut request).await.is_ok() {
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                }
            });
        }
        Pool::of(&targets, None).unwrap()
    }

    #[tokio::test]
    async fn a_request_that_a_router_does_not_answer_is_sent_to_the_next_one() {
        let pools = serve(&[None, Some(COMPLETE)]).await;
        let routers = Routers::new(pools.clone());
        let map: ShardMap = routers.get("/api/shard-map").await.unwrap();
        assert_eq!(map.fault(), None);
        let routers = Routers::new(pools.clone());
        let changed = routers.change((Method::POST, "/api/shards"), &json!({})).await.unwrap();
        assert_eq!(changed.status, 200);
        routers.ready(PATIENCE).await.unwrap();
        let silent = Routers::new(pools[..1].to_vec());
        assert!(silent.get::<ShardMap>("/api/shard-map").await.is_err());
        assert!(silent.change((Method::POST, "/api/shards"), &json!({})).await.is_err());
    }

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
