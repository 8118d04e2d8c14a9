//! Growth: lets new shards join and take their share of the slots, and drains them (moves their
//! slots back to the other shards). It uses the routers' HTTP interface while other faults go on.
//! If a router does not respond to a request, the request is sent to the next router.
//!
//! **Invariant:** there is at most one new shard at a time, and a run adds at most [`JOINS_MAX`]. A
//! new shard counts as retired only when all routers report this.
//! **Not here:** the times of joins and drains (`schedule`), creating databases (`new_databases`),
//! checking the shard maps (`map_watch`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use hyper::Method;
use loadtest::recorder::Recorder;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::LIVENESS;
use super::map_watch::SeenMaps;
use super::new_databases::NewDatabases;
use super::operator_requests::{Routers, ShardMap, get, refusal};
use super::schedule::{Fault, GrowAction, GrowthPlan, Schedule};
use crate::growth_summary::GrowthSummary;

/// Maximum number of new shards in a run.
const JOINS_MAX: usize = 32;
/// Weight of the shards that existed before the run. It is so high that a new shard gets only a
/// hundred to three hundred slots.
const OLD_WEIGHT: u32 = 48;
/// Longest wait until a shard has joined or a rebalance has begun. It is long, because the router
/// may be down and replicas must catch up.
const BEGIN_MAX: Duration = Duration::from_secs(30);
/// Longest wait for the end of a rebalance.
const END_MAX: Duration = Duration::from_secs(120);
/// Pause between two polls.
const POLL: Duration = Duration::from_millis(50);

#[derive(Deserialize)]
struct Shards {
    shards: Vec<Shard>,
}

#[derive(Deserialize)]
struct Shard {
    shard: String,
    state: String,
}

#[derive(Deserialize)]
struct Listed {
    rebalances: Vec<Rebalance>,
}

/// Rebalance as the router returns it.
#[derive(Clone, Deserialize)]
struct Rebalance {
    id: String,
    by: String,
    state: String,
    slots_moved: u64,
    reason: Option<String>,
    ended_at: Option<String>,
}

impl Rebalance {
    fn describe(&self) -> String {
        let Self { id, by, state, .. } = self;
        let reason = self.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        format!("the rebalance {id} by {by}, {state}{reason}")
    }
}

/// New shards of a run.
pub(super) struct Growth {
    routers: Routers,
    /// Databases of the new shards; `None` for shards of files.
    databases: Option<NewDatabases>,
    /// True if drains are among the faults of the run.
    drains: bool,
    /// Name of the new shard; `None` if there is none or it has retired.
    newcomer: Option<String>,
    summary: GrowthSummary,
}

impl Growth {
    pub(super) fn new(routers: Routers, databases: Option<NewDatabases>, drains: bool) -> Self {
        Self { routers, databases, drains, newcomer: None, summary: GrowthSummary::default() }
    }

    /// Lets shards join and drains them until the task is stopped.
    pub(super) async fn run(
        mut self,
        mut schedule: Schedule,
        recorder: Arc<Recorder>,
        mut stopped: watch::Receiver<bool>,
    ) -> Self {
        while let Some(fault) = schedule.due(&mut stopped).await {
            // This schedule contains only joins and drains.
            let Fault::Grow { action } = fault else { continue };
            let is_possible = match action {
                GrowAction::Join(_) => self.newcomer.is_none() && self.summary.joined < JOINS_MAX,
                GrowAction::Drain(_) => self.newcomer.is_some(),
            };
            if !is_possible {
                continue;
            }
            let described = fault.describe(&[], &[]);
            recorder.fault(&described);
            let done = match action {
                GrowAction::Join(plan) => self.join(plan, &mut stopped).await,
                GrowAction::Drain(plan) => self.drain(plan.cancelled, &mut stopped).await,
            };
            let outcome = done.unwrap_or_else(|error| format!("not done: {error:#}"));
            recorder.fault(&format!("over: {described} ({outcome})"));
        }
        self
    }

    /// Lets a shard join and take its share of the slots. Returns the outcome in words.
    async fn join(
        &mut self,
        plan: GrowthPlan,
        stopped: &mut watch::Receiver<bool>,
    ) -> anyhow::Result<String> {
        self.routers.ready(LIVENESS).await?;
        self.weigh_old_shards().await?;
        let number = self.summary.joined;
        let name = format!("new{number}");
        let mut shard = json!({"name": name, "weight": plan.weight});
        if let Some(databases) = &mut self.databases {
            shard["url"] = json!(databases.make(number).await?);
        }
        // An interrupted request may have been carried out in part. The same request is sent again,
        // which completes it.
        let began = Instant::now();
        loop {
            let last = match self.routers.change((Method::POST, "/api/shards"), &shard).await {
                Ok(answer) if [200, 201].contains(&answer.status) => break,
                Ok(answer) => refusal(&answer),
                Err(error) => format!("{error:#}"),
            };
            if began.elapsed() > BEGIN_MAX {
                self.summary.open.push(format!("{name} has not joined: {last}"));
                anyhow::bail!("{name} has not joined: {last}");
            }
            tokio::time::sleep(POLL).await;
        }
        self.summary.joined += 1;
        self.newcomer = Some(name.clone());
        let body = json!({"by": "slots", "keep": 0});
        let followed = self.rebalance("/api/rebalance", &body, plan.cancelled, stopped).await?;
        Ok(format!("{name} of weight {}, {followed}", plan.weight))
    }

    /// Moves all slots away from the new shard, which then retires. Returns the outcome in words.
    async fn drain(
        &mut self,
        cancelled: Option<Duration>,
        stopped: &mut watch::Receiver<bool>,
    ) -> anyhow::Result<String> {
        self.routers.ready(LIVENESS).await?;
        let name = self.newcomer.clone().context("no shard has joined")?;
        // An earlier drain may have ended while a router was down, so that its end was not seen.
        self.note_retired(&name).await?;
        if self.newcomer.is_none() {
            return Ok(format!("{name} has retired already"));
        }
        let path = format!("/api/shards/{name}/drain");
        let followed = self.rebalance(&path, &json!({"keep": 0}), cancelled, stopped).await?;
        self.note_retired(&name).await?;
        Ok(format!("{name}, {followed}"))
    }

    /// Sets the weight of the old shards to [`OLD_WEIGHT`], so that a new shard gets few slots.
    async fn weigh_old_shards(&self) -> anyhow::Result<()> {
        let listed: Shards = self.routers.get("/api/shards").await?;
        for old in listed.shards.iter().filter(|shard| shard.state == "serving") {
            let path = format!("/api/shards/{}", old.shard);
            let weight = json!({"weight": OLD_WEIGHT});
            let answer = self.routers.change((Method::PATCH, &path), &weight).await?;
            anyhow::ensure!(answer.status == 200, "{path}: {}", refusal(&answer));
        }
        Ok(())
    }

    /// Begins a rebalance and follows it to its end, or until the run is stopped.
    async fn rebalance(
        &mut self,
        path: &str,
        body: &Value,
        cancelled: Option<Duration>,
        stopped: &mut watch::Receiver<bool>,
    ) -> anyhow::Result<String> {
        let began = Instant::now();
        let id = loop {
            let last = match self.routers.change((Method::POST, path), body).await {
                Ok(answer) if answer.status == 202 => {
                    let begun: Rebalance = serde_json::from_slice(&answer.body)?;
                    break begun.id;
                }
                Ok(answer) if answer.status == 200 => return Ok("nothing moves".to_owned()),
                Ok(answer) => refusal(&answer),
                Err(error) => format!("{error:#}"),
            };
            // If only the response was lost, the rebalance has begun nevertheless and is found
            // here.
            if let Ok(Some(open)) = self.open().await {
                break open.id;
            }
            anyhow::ensure!(began.elapsed() < BEGIN_MAX, "{last}");
            anyhow::ensure!(!*stopped.borrow(), "the run has ended: {last}");
            tokio::time::sleep(POLL).await;
        };
        let mut order = cancelled.map(|after| Instant::now() + after);
        let began = Instant::now();
        while began.elapsed() < END_MAX && !*stopped.borrow() {
            if order.is_some_and(|at| at <= Instant::now()) {
                let path = format!("/api/rebalance/{id}/cancel");
                // The request is repeated only if no router responds. A refusal means that the
                // rebalance has ended.
                let ordered = self.routers.change((Method::POST, &path), &json!({})).await;
                order = order.filter(|_| ordered.is_err());
            }
            if let Some(outcome) = self.note_end(&id).await {
                return Ok(outcome);
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(format!("{id} goes on"))
    }

    /// Returns the rebalance that has not ended, if there is one.
    async fn open(&self) -> anyhow::Result<Option<Rebalance>> {
        let listed: Listed = self.routers.get("/api/rebalance").await?;
        Ok(listed.rebalances.into_iter().find(|listed| listed.ended_at.is_none()))
    }

    /// If the rebalance has ended, counts it and returns its outcome in words.
    async fn note_end(&mut self, id: &str) -> Option<String> {
        let shown: Rebalance = self.routers.get(&format!("/api/rebalance/{id}")).await.ok()?;
        shown.ended_at.as_ref()?;
        self.summary.slots += shown.slots_moved;
        match shown.state.as_str() {
            "done" => self.summary.done += 1,
            "cancelled" => self.summary.cancelled += 1,
            _ => self.summary.failed.push(shown.describe()),
        }
        Some(format!("{}, {} slots", shown.state, shown.slots_moved))
    }

    /// Counts the new shard as retired if all routers report that it has retired.
    async fn note_retired(&mut self, name: &str) -> anyhow::Result<()> {
        if self.is_there(name).await? {
            return Ok(());
        }
        self.newcomer = None;
        self.summary.retired += 1;
        for pool in self.routers.pools() {
            let Ok(map) = get::<ShardMap>(pool, "/api/shard-map").await else { continue };
            if map.owners().iter().any(|owner| *owner == name) {
                let broken = format!("{name} has retired and owns slots of {}", pool.target());
                self.summary.broken_maps.push(broken);
            }
        }
        Ok(())
    }

    /// Returns true if a shard has not retired. Waits until all routers agree, because they read a
    /// new list of shards at different times; until they agree, the shard does not count as
    /// retired.
    async fn is_there(&self, name: &str) -> anyhow::Result<bool> {
        let is_it = |shard: &Shard| shard.shard == name && shard.state != "retired";
        let began = Instant::now();
        loop {
            let (mut with, mut without, mut last) = (0, 0, None);
            for pool in self.routers.pools() {
                match get::<Shards>(pool, "/api/shards").await {
                    Ok(listed) if listed.shards.iter().any(is_it) => with += 1,
                    Ok(_) => without += 1,
                    Err(error) => last = Some(error),
                }
            }
            match last {
                None if with == 0 || without == 0 => return Ok(with > 0),
                Some(error) if began.elapsed() > LIVENESS => return Err(error),
                None if began.elapsed() > LIVENESS => return Ok(true),
                Some(_) | None => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Adds the results of reading a router's shard maps to the summary.
    pub(super) fn add_maps(&mut self, seen: SeenMaps) {
        let SeenMaps { router, count, broken, more_broken } = seen;
        if count == 0 {
            self.summary.open.push(format!("{router} has shown no shard map"));
        }
        self.summary.maps += count;
        self.summary.broken_maps.extend(broken);
        self.summary.more_broken_maps += more_broken;
    }

    /// Waits for the end of an open rebalance, and drains the new shard if the run drains shards.
    pub(super) async fn finish(&mut self) {
        let began = Instant::now();
        let mut left = Ok(());
        while began.elapsed() < END_MAX {
            left = self.try_finish().await;
            let is_over = self.newcomer.is_none() || !self.drains;
            if left.is_ok() && is_over {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        if let Err(error) = left {
            self.summary.open.push(format!("{error:#}"));
        } else if let Some(name) = self.newcomer.as_ref().filter(|_| self.drains) {
            self.summary.open.push(format!("{name} has not retired"));
        } else if let Some(databases) = self.databases.as_mut().filter(|_| self.newcomer.is_none())
            && let Err(error) = databases.drop_all().await
        {
            self.summary.open.push(format!("the databases of new shards stay: {error:#}"));
        }
    }

    /// Returns what has happened in the run.
    pub(super) fn into_summary(self) -> GrowthSummary {
        self.summary
    }

    async fn try_finish(&mut self) -> anyhow::Result<()> {
        let (_end, mut running) = watch::channel(false);
        if let Some(open) = self.open().await? {
            let began = Instant::now();
            while self.note_end(&open.id).await.is_none() {
                anyhow::ensure!(began.elapsed() < END_MAX, "{}", open.describe());
                tokio::time::sleep(POLL).await;
            }
        }
        if self.drains && self.newcomer.is_some() {
            self.drain(None, &mut running).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::operator_requests::tests::serve;
    use super::*;

    /// Creates a growth with two routers, each of which responds to every request with one of these
    /// bodies.
    async fn growth(bodies: [&'static str; 2]) -> Growth {
        let pools = serve(&bodies.map(Some)).await;
        Growth::new(Routers::new(pools), None, true)
    }

    #[tokio::test]
    async fn a_shard_has_retired_if_no_router_lists_it_in_another_state() {
        let draining = r#"{"shards": [{"shard": "new0", "state": "draining"}]}"#;
        let retired = r#"{"shards": [{"shard": "new0", "state": "retired"}]}"#;
        let absent = r#"{"shards": []}"#;
        assert!(growth([draining, draining]).await.is_there("new0").await.unwrap());
        assert!(!growth([retired, absent]).await.is_there("new0").await.unwrap());
    }
}
