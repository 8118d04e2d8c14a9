//! Scrape: the body of `GET /metrics`. It contains the state of the collector for each router, the
//! firing alerts, and the metrics of all routers over the last minute.
//!
//! Routers publish their own counts under other names, so that Prometheus can scrape both the
//! routers and the service without counting anything twice.
//!
//! **Invariant:** no label contains a key, an id or a client, so the number of time series depends
//! only on the numbers of routers, rules and webhooks.
//! **Not here:** HTTP.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::alerts::{Alerts, Phase};
use crate::app::App;
use crate::fleet_query::FleetSnapshot;
use recorder::Metrics;
use recorder::MetricsQuery;
use recorder::Window;
use recorder::store::HistoryWriterState;

/// Returns the body of `GET /metrics` for all routers or for one.
pub(crate) fn scrape(app: &App, router: Option<&str>) -> String {
    let query =
        MetricsQuery { window: Window::parse("1m").unwrap_or_default(), ..MetricsQuery::default() };
    let members = app.fleet.members();
    let members = members.iter().filter(|member| router.is_none_or(|name| member.name == name));
    let routers = members.map(|member| {
        let seen = member.seen();
        RouterNow {
            name: member.name.clone(),
            is_up: seen.is_up,
            seen_s: seen.at_ms.map(|ms| ms as f64 / 1e3),
            pulls: seen.pulls,
            errors: member.errors.total(),
            bytes: member.history.bytes(),
        }
    });
    let webhooks = app.rule_evaluator.webhook_queues.views();
    let now = Now {
        routers: routers.collect(),
        figures: FleetSnapshot::of(&app.fleet, router).figures(&query),
        rules: rules(&app.rule_evaluator.alerts()),
        webhooks: webhooks.iter().map(|webhook| (webhook.name.clone(), webhook.counts())).collect(),
        store: app.history_writer.as_ref().map(|history_writer| history_writer.state()),
        viewers: app.hub.viewers(),
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(now));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = text::encode(&mut text, &registry);
    text
}

/// Returns the numbers of pending and firing alerts of each rule.
fn rules(alerts: &Alerts) -> Vec<(String, u64, u64)> {
    let mut rules: Vec<_> = alerts.rules().iter().map(|rule| (rule.name.clone(), 0, 0)).collect();
    for (rule, _, alert_state) in alerts.active() {
        let Some((_, pending, firing)) = rules.get_mut(rule) else { continue };
        match alert_state.phase {
            Phase::Quiet => {}
            Phase::Pending { .. } => *pending += 1,
            Phase::Firing { .. } => *firing += 1,
        }
    }
    rules
}

/// Data from which one response is written.
#[derive(Debug)]
struct Now {
    routers: Vec<RouterNow>,
    figures: Metrics,
    rules: Vec<(String, u64, u64)>,
    /// Numbers of delivered, dropped and waiting messages, by name of the webhook.
    webhooks: Vec<(String, [u64; 3])>,
    store: Option<HistoryWriterState>,
    viewers: usize,
}

#[derive(Debug)]
struct RouterNow {
    name: String,
    is_up: bool,
    seen_s: Option<f64>,
    pulls: u64,
    errors: u64,
    bytes: usize,
}

/// A label and its value.
type Label<'v> = [(&'static str, &'v str); 1];

struct Families<'e>(DescriptorEncoder<'e>);

impl Families<'_> {
    fn gauges<'v>(
        &mut self,
        (name, help, unit): (&str, &str, Option<Unit>),
        values: impl Iterator<Item = (Label<'v>, f64)>,
    ) -> fmt::Result {
        let kind = MetricType::Gauge;
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (label, value) in values {
            family.encode_family(&label)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counters<'v>(
        &mut self,
        (name, help): (&str, &str),
        values: impl Iterator<Item = (Label<'v>, u64)>,
    ) -> fmt::Result {
        let kind = MetricType::Counter;
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (label, value) in values {
            let mut metric = family.encode_family(&label)?;
            metric.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<Unit>, value: f64) -> fmt::Result {
        let kind = MetricType::Gauge;
        self.0.encode_descriptor(name, help, unit.as_ref(), kind)?.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let kind = MetricType::Counter;
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        family.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }
}

impl Collector for Now {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.collecting(&mut families)?;
        self.fleet(&mut families)?;
        self.ringing(&mut families)?;
        self.keeping(&mut families)
    }
}

impl Now {
    fn collecting(&self, families: &mut Families<'_>) -> fmt::Result {
        fn label(router: &RouterNow) -> Label<'_> {
            [("router", &*router.name)]
        }
        let routers = || self.routers.iter();
        let up = routers().map(|router| (label(router), f64::from(u8::from(router.is_up))));
        families.gauges(("tessera_fleet_router_up", "Whether a router answers.", None), up)?;
        let seen = routers().filter_map(|router| Some((label(router), router.seen_s?)));
        let help = "When a router answered last, since 1970.";
        families.gauges(("tessera_fleet_router_seen", help, Some(Unit::Seconds)), seen)?;
        let pulls = routers().map(|router| (label(router), router.pulls));
        families
            .counters(("tessera_fleet_pulls", "Answers of a router that were taken in."), pulls)?;
        let errors = routers().map(|router| (label(router), router.errors));
        let help =
            "Data requests that a router answered with a problem, as far as it was collected.";
        families.counters(("tessera_fleet_errors", help), errors)?;
        let bytes = routers().map(|router| (label(router), router.bytes as f64));
        let help = "Memory that the history of a router takes.";
        families.gauges(("tessera_fleet_history", help, Some(Unit::Bytes)), bytes)
    }

    fn fleet(&self, families: &mut Families<'_>) -> fmt::Result {
        let Metrics { throughput, error_rate, latency_ms, in_flight, skew, .. } = &self.figures;
        let help = "Data requests per second over the last minute.";
        families.gauge("tessera_fleet_requests_per_second", help, None, *throughput)?;
        let help = "Share of data requests answered with a problem, over the last minute.";
        families.gauge("tessera_fleet_errors_ratio", help, None, *error_rate)?;
        let quantiles =
            [("0.5", latency_ms.p50), ("0.99", latency_ms.p99), ("0.999", latency_ms.p999)];
        let help = "Latency of data requests over the last minute, from merged histograms.";
        let latencies = quantiles.iter().map(|(name, ms)| ([("quantile", *name)], ms / 1e3));
        families.gauges(("tessera_fleet_latency", help, Some(Unit::Seconds)), latencies)?;
        let help = "Data requests being answered.";
        families.gauge("tessera_fleet_active_requests", help, None, *in_flight as f64)?;
        let help = "The busiest shard over the mean, by requests of the last minute.";
        families.gauge("tessera_fleet_skew_ratio", help, None, skew.requests)
    }

    fn ringing(&self, families: &mut Families<'_>) -> fmt::Result {
        fn label(name: &str) -> Label<'_> {
            [("rule", name)]
        }
        let rules = || self.rules.iter();
        let firing = rules().map(|(name, _, firing)| (label(name), *firing as f64));
        families.gauges(("tessera_alerts_firing", "Alerts of a rule that fire.", None), firing)?;
        let pending = rules().map(|(name, pending, _)| (label(name), *pending as f64));
        let help = "Alerts of a rule that are about to fire.";
        families.gauges(("tessera_alerts_pending", help, None), pending)?;
        fn hook(name: &str) -> Label<'_> {
            [("webhook", name)]
        }
        let webhooks = || self.webhooks.iter();
        let delivered = webhooks().map(|(name, [delivered, ..])| (hook(name), *delivered));
        let help = "Messages that a webhook has taken.";
        families.counters(("tessera_webhook_delivered", help), delivered)?;
        let dropped = webhooks().map(|(name, [_, dropped, _])| (hook(name), *dropped));
        let help = "Messages that a webhook never got.";
        families.counters(("tessera_webhook_dropped", help), dropped)?;
        let waiting = webhooks().map(|(name, [.., waiting])| (hook(name), *waiting as f64));
        let help = "Messages that wait for a webhook.";
        families.gauges(("tessera_webhook_waiting", help, None), waiting)
    }

    fn keeping(&self, families: &mut Families<'_>) -> fmt::Result {
        let help = "Streams that are watched.";
        families.gauge("tessera_fleet_viewers", help, None, self.viewers as f64)?;
        let Some(store) = self.store else { return Ok(()) };
        let up = f64::from(u8::from(!store.is_unavailable));
        families.gauge("tessera_store_up", "Whether history is kept.", None, up)?;
        let help = "Attempts to keep history that failed.";
        families.counter("tessera_store_errors", help, store.store_errors)?;
        families.counter("tessera_store_frames", "Frames that were stored.", store.written)
    }
}
