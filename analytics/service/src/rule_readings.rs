//! Rule readings: measures the values of all rules once a second, passes them to `alerts`, and
//! sends the notices that result.
//!
//! **Invariant:** rules with the same query share one computation of the metrics.
//! **Not here:** the decision whether an alert fires or is resolved (`alerts`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use crate::alerts::{Alerts, Kind, Reading, Rule, Subject};
use crate::fleet::{Fleet, unix_ms};
use crate::fleet_query::FleetSnapshot;
use crate::webhook::WebhookQueues;
use recorder::ClusterNow;
use recorder::Metrics;
use recorder::MetricsQuery;
use recorder::RebalanceNow;
use recorder::ShardNow;

/// Time between two evaluations.
const EVERY: Duration = Duration::from_secs(1);

/// The rules, and the webhooks that are notified.
pub(crate) struct RuleEvaluator {
    fleet: Arc<Fleet>,
    alerts: Mutex<Alerts>,
    /// Webhooks that are notified.
    pub webhook_queues: WebhookQueues,
}

impl RuleEvaluator {
    pub(crate) fn new(
        fleet: Arc<Fleet>,
        rules: Vec<Rule>,
        webhook_queues: WebhookQueues,
    ) -> Arc<Self> {
        Arc::new(Self { fleet, alerts: Mutex::new(Alerts::new(rules)), webhook_queues })
    }

    /// Returns the state of the rules.
    pub(crate) fn alerts(&self) -> MutexGuard<'_, Alerts> {
        self.alerts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Evaluates the rules periodically; returns at once if there are none.
    pub(crate) async fn run(self: Arc<Self>) {
        if self.alerts().rules().is_empty() {
            return;
        }
        // Times must never go back, even if the system's clock is set back.
        let (began, base) = (Instant::now(), unix_ms() / 1_000);
        let mut beat = interval(EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            let evaluator = self.clone();
            let at = base + began.elapsed().as_secs();
            // Adding up histograms takes milliseconds, which must not block a thread of the
            // runtime.
            let looked = tokio::task::spawn_blocking(move || evaluator.evaluate(at)).await;
            if looked.is_err() {
                tracing::error!("the rules could not be evaluated");
            }
        }
    }

    fn evaluate(&self, at: u64) {
        let rules = self.alerts().rules().to_vec();
        let readings = readings(&self.fleet, &rules);
        let notices = self.alerts().step(at, &readings);
        for notice in notices {
            let rule = &rules[notice.rule];
            let what = if notice.resolved_at.is_some() { "is over" } else { "fires" };
            let Subject { shard, router } = &notice.subject;
            let value = notice.value;
            tracing::warn!(rule = %rule.name, kind = %rule.kind, ?shard, ?router, ?value, "an alert {what}");
            self.webhook_queues.enqueue(rule, &notice);
        }
    }
}

/// Measures the values of all rules.
fn readings(fleet: &Fleet, rules: &[Rule]) -> Vec<Reading> {
    let mut snapshots: HashMap<Option<&str>, FleetSnapshot> = HashMap::new();
    let mut figures: HashMap<(Option<&str>, MetricsQuery), Metrics> = HashMap::new();
    let mut readings = Vec::new();
    for (place, rule) in rules.iter().enumerate() {
        let router = rule.router.as_deref();
        let mut add = |subject, value| readings.push(Reading { rule: place, subject, value });
        if rule.kind == Kind::RouterDown {
            let members = fleet.members();
            // Routers that are no longer listed are ignored.
            let listed = members.iter().filter(|member| member.is_listed());
            for member in listed.filter(|member| router.is_none_or(|name| member.name == name)) {
                let subject = Subject { router: Some(member.name.clone()), shard: None };
                add(subject, down(member.seen().is_up));
            }
            continue;
        }
        let snapshot = snapshots.entry(router).or_insert_with(|| FleetSnapshot::of(fleet, router));
        if rule.kind.has_window() {
            let query = MetricsQuery {
                window: rule.window,
                shard: rule.shard.clone(),
                ..MetricsQuery::default()
            };
            let key = (router, query);
            let figures =
                figures.entry(key).or_insert_with_key(|(_, query)| snapshot.figures(query));
            let subject = Subject { shard: rule.shard.clone(), router: rule.router.clone() };
            // If no router responds, counts of zero do not mean that there were no requests, so the
            // value is unknown.
            let is_seen = snapshot.is_seen;
            add(subject, if is_seen { of_figures(rule.kind, figures) } else { None });
            continue;
        }
        if let Some(is_bad) = of_cluster(rule.kind, &snapshot.now) {
            let subject = Subject { shard: None, router: rule.router.clone() };
            add(subject, snapshot.is_seen.then_some(f64::from(u8::from(is_bad))));
            continue;
        }
        for shard in
            snapshot.now.shards.iter().filter(|s| rule.shard.as_ref().is_none_or(|n| *n == s.shard))
        {
            let subject = Subject { shard: Some(shard.shard.clone()), router: rule.router.clone() };
            add(subject, if snapshot.is_seen { of_shard(rule.kind, shard) } else { None });
        }
    }
    readings
}

fn down(is_up: bool) -> Option<f64> {
    Some(if is_up { 0.0 } else { 1.0 })
}

/// Returns the value of a kind that has a window. If there were no requests in the window, the
/// value is good.
fn of_figures(kind: Kind, figures: &Metrics) -> Option<f64> {
    match kind {
        Kind::P99 => Some(figures.latency_ms.p99),
        Kind::ErrorRate if figures.total == 0 => Some(0.0),
        Kind::ErrorRate => Some(figures.errors_server as f64 / figures.total as f64),
        Kind::Skew => Some(figures.skew.requests),
        Kind::Lag
        | Kind::ShardDown
        | Kind::RouterDown
        | Kind::MoveStalled
        | Kind::RebalanceFailed => None,
    }
}

/// Returns true if the state that this kind measures for the whole cluster is bad; `None` for kinds
/// that are not about the whole cluster.
fn of_cluster(kind: Kind, now: &ClusterNow) -> Option<bool> {
    match kind {
        Kind::MoveStalled => Some(now.moves.iter().any(|open| open.stalled)),
        Kind::RebalanceFailed => Some(now.rebalance.as_ref().is_some_and(RebalanceNow::has_failed)),
        Kind::P99
        | Kind::ErrorRate
        | Kind::Lag
        | Kind::Skew
        | Kind::ShardDown
        | Kind::RouterDown => None,
    }
}

fn of_shard(kind: Kind, shard: &ShardNow) -> Option<f64> {
    match kind {
        Kind::ShardDown => down(shard.up),
        // A shard without replicas has no replication lag. If there are replicas but none reports
        // its lag, the value is unknown.
        Kind::Lag => {
            let replicas = shard.nodes.iter().filter(|node| node.role == "replica");
            let mut lags = replicas.map(|node| node.lag_ms);
            match lags.clone().flatten().reduce(f64::max) {
                Some(worst) => Some(worst),
                None if lags.next().is_none() => Some(0.0),
                None => None,
            }
        }
        Kind::P99
        | Kind::ErrorRate
        | Kind::Skew
        | Kind::RouterDown
        | Kind::MoveStalled
        | Kind::RebalanceFailed => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::Limits;
    use crate::fleet::Member;
    use recorder::Window;

    #[test]
    fn kinds_with_a_window_have_no_value_while_no_router_responds() {
        let fleet = Fleet::default();
        let target = "http://127.0.0.1:3000".parse().unwrap();
        assert!(fleet.add(Arc::new(Member::new("north".to_owned(), target, 1))));
        let rules = [Kind::P99, Kind::ErrorRate, Kind::Skew].map(|kind| Rule {
            name: kind.name().to_owned(),
            kind,
            limits: Limits { raise: 1.0, clear: 0.0, for_s: 0, clear_for_s: 0 },
            window: Window::default(),
            shard: None,
            router: None,
        });
        let readings = readings(&fleet, &rules);
        let values: Vec<_> = readings.iter().map(|reading| (reading.rule, reading.value)).collect();
        assert_eq!(values, [(0, None), (1, None), (2, None)]);
    }
}
