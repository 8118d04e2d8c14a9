//! Map watch: reads the shard map of every router repeatedly, from before the first shard joins
//! until the last one has retired.
//!
//! **Invariant:** each router is read by a task of its own, so that a router that does not respond
//! does not delay the others. Each task reads a last map after the watch was ended.
//! **Not here:** the rule that a map must obey (`operator_requests`).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::operator_requests::{ShardMap, get};
use crate::http_client::Pool;

/// Pause between two reads of a router's map.
const POLL: Duration = Duration::from_millis(50);

/// Maximum number of broken maps of a router that are described. Further ones are only counted.
const DESCRIBED_MAX: usize = 20;

/// Shard maps that one router has returned.
#[derive(Debug)]
pub(super) struct SeenMaps {
    /// Address of the router.
    pub(super) router: String,
    /// Number of maps read.
    pub(super) count: u64,
    /// Descriptions of the first maps that did not contain each slot exactly once, at most
    /// [`DESCRIBED_MAX`].
    pub(super) broken: Vec<String>,
    /// Number of further broken maps, which are not described.
    pub(super) more_broken: u64,
}

impl SeenMaps {
    fn new(router: String) -> Self {
        Self { router, count: 0, broken: Vec::new(), more_broken: 0 }
    }

    /// Counts a map, and describes its fault if it has one.
    fn note(&mut self, fault: Option<String>) {
        self.count += 1;
        let Some(fault) = fault else { return };
        if self.broken.len() == DESCRIBED_MAX {
            self.more_broken += 1;
        } else {
            self.broken.push(format!("{}: {fault}", self.router));
        }
    }
}

/// Tasks that read the maps until the watch is ended.
pub(super) struct MapWatch {
    end: watch::Sender<bool>,
    tasks: Vec<JoinHandle<SeenMaps>>,
}

impl MapWatch {
    /// Starts reading the maps of all routers.
    pub(super) fn start(pools: &[Arc<Pool>]) -> Self {
        let (end, ended) = watch::channel(false);
        let start = |pool: &Arc<Pool>| tokio::spawn(look(Arc::clone(pool), ended.clone()));
        let tasks = pools.iter().map(start).collect();
        Self { end, tasks }
    }

    /// Ends the watch after a last map of each router was read, and returns the results of all
    /// routers.
    ///
    /// # Errors
    /// Fails if a task has failed.
    pub(super) async fn end(self) -> anyhow::Result<Vec<SeenMaps>> {
        // Sending fails if all tasks have failed; their results then contain the reason.
        let _ = self.end.send(true);
        let mut seen = Vec::new();
        for task in self.tasks {
            seen.push(task.await.context("a task that reads shard maps failed")?);
        }
        Ok(seen)
    }
}

/// Reads the maps of a router until the end. While the router is down, no map is read.
async fn look(pool: Arc<Pool>, mut ended: watch::Receiver<bool>) -> SeenMaps {
    let mut seen = SeenMaps::new(pool.target().to_string());
    loop {
        // If the run has failed, the sender no longer exists, and the watch ends too.
        let is_last = ended.has_changed().is_err() || *ended.borrow();
        if let Ok(map) = get::<ShardMap>(&pool, "/api/shard-map").await {
            seen.note(map.fault());
        }
        if is_last {
            return seen;
        }
        tokio::select! {
            _ = ended.changed() => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::operator_requests::tests::{COMPLETE, serve};
    use super::*;

    #[tokio::test]
    async fn a_broken_map_of_any_router_is_found_and_a_router_that_is_down_delays_no_other_one() {
        let early_end = r#"{"ranges": [[0, 9, "a"]]}"#;
        let pools = serve(&[Some(COMPLETE), None, Some(early_end)]).await;
        let seen = MapWatch::start(&pools).end().await.unwrap();
        let routers: Vec<String> = pools.iter().map(|pool| pool.target().to_string()).collect();
        assert!(seen.iter().map(|seen| &seen.router).eq(&routers), "{seen:?}");
        assert!(seen[0].count >= 1 && seen[0].broken.is_empty(), "{seen:?}");
        assert_eq!((seen[1].count, seen[1].broken.len()), (0, 0), "{seen:?}");
        let broken = format!("{}: the map ends before slot 10", routers[2]);
        assert!(seen[2].broken.contains(&broken), "{seen:?}");
    }

    #[test]
    fn the_first_broken_maps_are_described_and_the_others_are_counted() {
        let mut seen = SeenMaps::new("r".to_owned());
        for number in 0..DESCRIBED_MAX + 3 {
            seen.note(Some(format!("fault {number}")));
            seen.note(None);
        }
        assert_eq!((seen.broken.len(), seen.more_broken), (DESCRIBED_MAX, 3));
        assert_eq!(seen.broken[0], "r: fault 0");
        assert_eq!(seen.count, 2 * (DESCRIBED_MAX as u64 + 3));
    }
}
