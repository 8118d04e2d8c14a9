//! OpenMetrics: the text of `GET /metrics`.
//!
//! The text is written by `prometheus-client`. Names are those of OpenTelemetry's semantic
//! conventions where they exist, and those of Prometheus for the process (`process_`); other names
//! begin with `tessera_`.
//!
//! **Invariant:** no label contains a key, an id or a client. Therefore the number of time series
//! is bounded by the numbers of routes, statuses, shards, nodes and error codes.
//! **Not here:** windows and percentiles. Prometheus computes rates from counts that only grow.

mod backup_families;
mod memory_families;
mod slot_families;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::bucket_counter::BucketCounter;
use crate::cluster::{ClusterNow, ComparedNow, NodeNow, ShardNow};
use crate::current_second::OTHER;
use crate::errors::{ErrorKind, ErrorLog};
use crate::example_lines::ExampleLines;
use crate::process::ProcessNow;
use crate::recorder::Recorder;
use crate::sample::Role;
use crate::shard_labels::ShardLabels;
use crate::totals::{STATUS_OTHER, Totals};

pub use self::backup_families::BackupsNow;
pub use self::memory_families::MemoryNow;

/// Value of the header `Content-Type`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Prefix of the bucket lines to which exemplars are added.
const REQUEST_BUCKETS: &str = "http_server_request_duration_seconds_bucket";
/// Label value for requests to several shards or none, and for requests without a role.
const NO_SHARD: &str = "(none)";

/// Decisions of access control since the start.
#[derive(Clone, Debug)]
pub struct AccessNow {
    /// Number of requests for each kind of credentials and each outcome.
    pub requests: Vec<(&'static str, &'static str, u64)>,
    /// Number of requests that each limit refused.
    pub limited: Vec<(&'static str, u64)>,
    /// Seconds since keys and roles were last known to be current.
    pub age_seconds: u64,
    /// Counts of the audit log, if there is one.
    pub audit: Option<AuditNow>,
    /// State of each issuer whose keys are fetched.
    pub issuers: Vec<IssuerNow>,
}

/// State of the keys of an issuer.
#[derive(Clone, Debug)]
pub struct IssuerNow {
    /// Name of the issuer in the settings.
    pub issuer: String,
    /// True if the last fetch succeeded.
    pub is_good: bool,
    /// Seconds since the last fetch that succeeded; `None` before the first.
    pub age_seconds: Option<u64>,
}

/// Counts of an audit log since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct AuditNow {
    /// Number of lines about requests.
    pub lines: u64,
    /// Number of events that were lost, because there were too many or the file could not be
    /// written.
    pub dropped: u64,
}

/// Returns the text of `GET /metrics`: counts since the start, including those of memory limits,
/// and the current state of the cluster, of access control (unless it is off), and of backups (if
/// the router makes any). This function drains the queues, so it must be called where blocking is
/// allowed.
pub fn openmetrics(
    recorder: &Recorder,
    errors: &ErrorLog,
    now: &ClusterNow,
    memory: MemoryNow,
    access: Option<AccessNow>,
    backups: Option<BackupsNow>,
) -> String {
    let totals = recorder.totals();
    let examples = totals.requests().flat_map(|(.., counter)| counter.buckets());
    let mut lines =
        ExampleLines::new(REQUEST_BUCKETS, examples.map(|(.., example)| example).collect());
    let scrape = Scrape {
        routes: recorder.labels().routes,
        shards: recorder.shards.clone(),
        history_bytes: recorder.history().bytes() as u64,
        totals,
        errors: errors.counts(),
        now: now.clone(),
        memory,
        access,
        backups,
        process: ProcessNow::read(),
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    match text::encode(&mut lines, &registry) {
        Ok(()) => lines.text(),
        Err(fmt::Error) => unreachable!("text takes every write"),
    }
}

/// Data from which one response is written.
#[derive(Debug)]
struct Scrape {
    routes: Vec<&'static str>,
    shards: Arc<ShardLabels>,
    totals: Totals,
    errors: Vec<(ErrorKind, u64)>,
    now: ClusterNow,
    memory: MemoryNow,
    access: Option<AccessNow>,
    backups: Option<BackupsNow>,
    history_bytes: u64,
    process: Option<ProcessNow>,
}

/// Writes one family of metrics after another.
struct Families<'e>(DescriptorEncoder<'e>);

/// Labels of one time series: names and values.
type Set<'v, const N: usize> = [(&'static str, &'v str); N];

impl Families<'_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        kind: MetricType,
        write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(&mut self.0.encode_descriptor(name, help, unit.as_ref(), kind)?)
    }

    fn gauges<'v, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl Iterator<Item = (Set<'v, N>, f64)>,
    ) -> fmt::Result {
        self.family(name, help, unit, MetricType::Gauge, |family| {
            for (labels, value) in values {
                family.encode_family(&labels)?.encode_gauge(&value)?;
            }
            Ok(())
        })
    }

    fn counters<'v, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (Set<'v, N>, u64)>,
    ) -> fmt::Result {
        self.family(name, help, None, MetricType::Counter, |family| {
            for (labels, value) in values {
                let mut metric = family.encode_family(&labels)?;
                metric.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
            }
            Ok(())
        })
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<Unit>, value: f64) -> fmt::Result {
        self.family(name, help, unit, MetricType::Gauge, |family| family.encode_gauge(&value))
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.requests(&mut families)?;
        self.databases(&mut families)?;
        self.counts(&mut families)?;
        self.shards(&mut families)?;
        self.compared(&mut families)?;
        self.lanes(&mut families)?;
        self.cache(&mut families)?;
        self.parked(&mut families)?;
        self.moves(&mut families)?;
        self.rebalance(&mut families)?;
        self.backups(&mut families)?;
        self.memory.write(&mut families)?;
        self.router(&mut families)?;
        self.access(&mut families)?;
        self.process(&mut families)
    }
}

impl Scrape {
    fn requests(&self, families: &mut Families<'_>) -> fmt::Result {
        let help = "Data requests by route, operation and status.";
        let seconds = Some(Unit::Seconds);
        let kind = MetricType::Histogram;
        families.family("http_server_request_duration", help, seconds, kind, |family| {
            for (route, operation, status, counter) in self.totals.requests() {
                let status = if status == STATUS_OTHER { OTHER } else { &status.to_string() };
                let labels = [
                    ("http_route", *self.routes.get(route).unwrap_or(&OTHER)),
                    ("http_response_status_code", status),
                    ("operation", operation.name()),
                ];
                histogram(&mut family.encode_family(&labels)?, counter, 1e-6)?;
            }
            Ok(())
        })?;
        let help = "Data requests being answered.";
        families.gauge("http_server_active_requests", help, None, self.now.in_flight as f64)
    }

    fn databases(&self, families: &mut Families<'_>) -> fmt::Result {
        let system = if self.now.backend == "sqlite" { "sqlite" } else { "postgresql" };
        let help = "Time inside the database by shard, operation and role.";
        let seconds = Some(Unit::Seconds);
        let kind = MetricType::Histogram;
        families.family("db_client_operation_duration", help, seconds, kind, |family| {
            for (shard, operation, role, counter) in self.totals.databases() {
                let labels = [
                    ("db_system_name", system),
                    ("db_operation_name", operation.name()),
                    ("shard", self.shard(shard)),
                    ("role", role.map_or(NO_SHARD, Role::name)),
                ];
                histogram(&mut family.encode_family(&labels)?, counter, 1e-6)?;
            }
            Ok(())
        })
    }

    fn counts(&self, families: &mut Families<'_>) -> fmt::Result {
        let reads = self.totals.read_from();
        let reads = reads.map(|(shard, role, count)| {
            ([("shard", self.shard(shard)), ("role", role.name())], count)
        });
        families.counters("tessera_read_target", "Reads by who answered.", reads)?;
        let kind = MetricType::Histogram;
        families.family(
            "tessera_fanout_shards",
            "Shards asked by a request.",
            None,
            kind,
            |family| histogram(family, &self.totals.fanout, 1.0),
        )?;
        let errors = self.errors.iter().map(|((code, shard), count)| {
            ([("code", &**code), ("shard", shard.as_deref().unwrap_or(NO_SHARD))], *count)
        });
        families.counters(
            "tessera_errors",
            "Refused and failed requests by code and shard.",
            errors,
        )
    }

    fn shards(&self, families: &mut Families<'_>) -> fmt::Result {
        let shards = || self.now.shards.iter();
        let each = |value: fn(&ShardNow) -> Option<f64>| {
            shards().filter_map(move |shard| Some(([("shard", &*shard.shard)], value(shard)?)))
        };
        let up = each(|shard| Some(f64::from(u8::from(shard.up))));
        families.gauges("tessera_shard_up", "Whether a shard can be written to.", None, up)?;
        let slots = each(|shard| Some(f64::from(shard.slots)));
        families.gauges("tessera_shard_slots", "Slots that a shard owns.", None, slots)?;
        let rows = each(|shard| Some(shard.rows? as f64));
        families.gauges("tessera_shard_rows", "Rows that a shard holds.", None, rows)?;
        let bytes = each(|shard| Some(shard.bytes? as f64));
        families.gauges(
            "tessera_shard_size",
            "Bytes that a shard holds.",
            Some(Unit::Bytes),
            bytes,
        )?;
        let nodes = || shards().flat_map(|shard| shard.nodes.iter().map(move |node| (shard, node)));
        let up = nodes().map(|(shard, node)| {
            let labels = [("shard", &*shard.shard), ("node", &*node.node), ("role", &*node.role)];
            (labels, f64::from(u8::from(node.up)))
        });
        families.gauges(
            "tessera_node_up",
            "Whether a node takes writes (a primary) or is read (a replica).",
            None,
            up,
        )?;
        let lags = nodes().filter_map(|(shard, node)| {
            let labels = [("shard", &*shard.shard), ("replica", &*node.node)];
            Some((labels, replica_lag_ms(node)? / 1e3))
        });
        let help = "How far a replica is behind its primary.";
        families.gauges("tessera_replica_lag", help, Some(Unit::Seconds), lags)?;
        let used = each(|shard| Some(shard.pool.in_use as f64));
        let used = used.map(|([shard], used)| ([shard, ("state", "used")], used));
        families.gauges("db_client_connection_count", "Connections to a shard.", None, used)?;
        let max = each(|shard| Some(shard.pool.max as f64));
        families.gauges("db_client_connection_max", "Connections allowed.", None, max)?;
        let waiting = each(|shard| Some(shard.pool.waiting as f64));
        let help = "Requests that wait for a connection.";
        families.gauges("db_client_connection_pending_requests", help, None, waiting)
    }

    fn compared(&self, families: &mut Families<'_>) -> fmt::Result {
        let each = |count: fn(&ComparedNow) -> u64| {
            let shards = self.now.shards.iter();
            shards.map(move |shard| ([("shard", &*shard.shard)], count(&shard.compared)))
        };
        let help = "Passes over all rows of a shard's primary and replicas that compared them.";
        families.counters("tessera_copies_compared", help, each(|compared| compared.passes))?;
        let help = "Rows found not to be the same on a shard's primary and replicas, in each pass.";
        families.counters("tessera_copies_differences", help, each(|compared| compared.differences))
    }

    fn lanes(&self, families: &mut Families<'_>) -> fmt::Result {
        let lanes =
            || self.now.shards.iter().map(|shard| ([("shard", &*shard.shard)], &shard.lane));
        let waiting = lanes().map(|(labels, lane)| (labels, lane.waiting as f64));
        families.gauges("tessera_lane_waiting", "Writes that wait for a shard.", None, waiting)?;
        let bytes = lanes().map(|(labels, lane)| (labels, lane.waiting_bytes as f64));
        let unit = Some(Unit::Bytes);
        families.gauges("tessera_lane_waiting", "Bytes of writes that wait.", unit, bytes)?;
        let largest = lanes().map(|(labels, lane)| (labels, lane.largest_batch as f64));
        families.gauges(
            "tessera_lane_largest_batch",
            "Largest number of writes in a batch.",
            None,
            largest,
        )?;
        let batches = lanes().map(|(labels, lane)| (labels, lane.batches));
        families.counters("tessera_lane_batches", "Batches of writes done.", batches)?;
        let operations = lanes().map(|(labels, lane)| (labels, lane.operations));
        families.counters("tessera_lane_operations", "Writes done in batches.", operations)
    }

    fn cache(&self, families: &mut Families<'_>) -> fmt::Result {
        let cache = &self.now.cache;
        let enabled = f64::from(u8::from(cache.enabled));
        families.gauge("tessera_cache_enabled", "Whether there is a cache.", None, enabled)?;
        let is_up = cache.enabled && cache.breaker == "closed";
        let up = f64::from(u8::from(is_up));
        families.gauge("tessera_cache_up", "Whether the cache answers.", None, up)?;
        let results = [
            ("hit", cache.hits),
            ("miss", cache.misses),
            ("stale", cache.stale),
            ("bypass", cache.bypass),
        ];
        let results = results.into_iter().map(|(result, count)| ([("result", result)], count));
        families.counters("tessera_cache_requests", "Reads by what the cache said.", results)?;
        let answers = [("kept", cache.fills), ("rejected", cache.rejected)];
        let answers = answers.into_iter().map(|(result, count)| ([("result", result)], count));
        families.counters("tessera_cache_fills", "Answers given to the cache.", answers)?;
        let near = std::iter::once(([], cache.near_hits));
        let help = "Hits that the router's own memory answered.";
        families.counters::<0>("tessera_cache_near_hits", help, near)?;
        let seldom = std::iter::once(([], cache.seldom));
        let help = "Misses that were asked too seldom for the cache to be visited.";
        families.counters::<0>("tessera_cache_seldom", help, seldom)?;
        let voids = std::iter::once(([], cache.voids));
        let help = "Keys whose entries were invalidated.";
        families.counters::<0>("tessera_cache_voids", help, voids)?;
        let errors = std::iter::once(([], cache.errors));
        families.counters::<0>("tessera_cache_errors", "Times the cache failed.", errors)
    }

    fn router(&self, families: &mut Families<'_>) -> fmt::Result {
        let now = &self.now;
        let build = [("version", &*now.version), ("backend", &*now.backend)];
        families.family("tessera_build", "This build.", None, MetricType::Info, |family| {
            family.encode_info(&build)
        })?;
        let epoch = now.epoch as f64;
        families.gauge("tessera_map_version", "Version of the shard map.", None, epoch)?;
        let uptime = now.uptime_s as f64;
        let seconds = Some(Unit::Seconds);
        families.gauge("tessera_uptime", "Since the router started.", seconds, uptime)?;
        let bytes = self.history_bytes as f64;
        let help = "Memory of the history of analytics.";
        families.gauge("tessera_history", help, Some(Unit::Bytes), bytes)
    }

    fn process(&self, families: &mut Families<'_>) -> fmt::Result {
        let Some(process) = &self.process else { return Ok(()) };
        let (seconds, bytes) = (|| Some(Unit::Seconds), || Some(Unit::Bytes));
        let kind = MetricType::Counter;
        families.family("process_cpu", "User and system time.", seconds(), kind, |family| {
            family.encode_counter::<NoLabelSet, _, f64>(&process.cpu_seconds, None)
        })?;
        let started = process.start_seconds;
        families.gauge("process_start_time", "Start, since 1970 UTC.", seconds(), started)?;
        let resident = process.resident_bytes as f64;
        families.gauge("process_resident_memory", "Memory in use.", bytes(), resident)?;
        let virtual_bytes = process.virtual_bytes as f64;
        families.gauge("process_virtual_memory", "Address space.", bytes(), virtual_bytes)?;
        families.gauge("process_threads", "Threads.", None, process.threads as f64)?;
        families.gauge("process_open_fds", "Open files.", None, process.open_fds as f64)?;
        match process.max_fds {
            Some(max) => families.gauge("process_max_fds", "Open files allowed.", None, max as f64),
            None => Ok(()),
        }
    }

    fn access(&self, families: &mut Families<'_>) -> fmt::Result {
        let Some(access) = &self.access else { return Ok(()) };
        let requests = access
            .requests
            .iter()
            .map(|(kind, outcome, count)| ([("kind", *kind), ("outcome", *outcome)], *count));
        let help = "Requests by kind of credentials and decision.";
        families.counters("tessera_access", help, requests)?;
        let limited = access.limited.iter().map(|(limit, count)| ([("limit", *limit)], *count));
        let help = "Requests that a limit refused.";
        families.counters("tessera_access_limited", help, limited)?;
        let help = "Time since keys and roles were known to be current.";
        families.gauge(
            "tessera_access_age",
            help,
            Some(Unit::Seconds),
            access.age_seconds as f64,
        )?;
        issuers(families, &access.issuers)?;
        let Some(audit) = &access.audit else { return Ok(()) };
        let lines = std::iter::once(([], audit.lines));
        families.counters::<0>("tessera_audit_lines", "Lines of the audit log.", lines)?;
        let dropped = std::iter::once(([], audit.dropped));
        let help = "Events that the audit log has lost.";
        families.counters::<0>("tessera_audit_dropped", help, dropped)
    }

    fn shard(&self, index: Option<u16>) -> &str {
        index.and_then(|index| self.shards.name(index)).map_or(NO_SHARD, |shard| shard)
    }
}

/// Writes the state of each issuer's keys. Without an issuer whose keys are fetched, no family is
/// written.
fn issuers(families: &mut Families<'_>, issuers: &[IssuerNow]) -> fmt::Result {
    if issuers.is_empty() {
        return Ok(());
    }
    let up =
        issuers.iter().map(|one| ([("issuer", &*one.issuer)], f64::from(u8::from(one.is_good))));
    let help = "1 if the last fetch of the keys of an issuer succeeded, else 0.";
    families.gauges("tessera_access_issuer_up", help, None, up)?;
    let ages = issuers
        .iter()
        .filter_map(|one| Some(([("issuer", &*one.issuer)], one.age_seconds? as f64)));
    let help = "Time since the keys of an issuer were fetched.";
    families.gauges("tessera_access_issuer_age", help, Some(Unit::Seconds), ages)
}

/// Returns the lag of a node in ms; `None` for a primary, or if the lag is unknown.
fn replica_lag_ms(node: &NodeNow) -> Option<f64> {
    node.lag_ms.filter(|_| node.role != Role::Primary.name())
}

/// Writes a histogram. Multiplying a counted value by `unit` gives the value in the unit of the
/// metric.
fn histogram(metric: &mut MetricEncoder<'_>, counter: &BucketCounter, unit: f64) -> fmt::Result {
    let bound = |bound: Option<u32>| match bound {
        // Division, not multiplication: 250 µs must become 0.00025 s exactly.
        Some(bound) => f64::from(bound) / (1.0 / unit).round(),
        None => f64::INFINITY,
    };
    let buckets: Vec<_> =
        counter.buckets().map(|(upper, count, _)| (bound(upper), count)).collect();
    let sum = counter.sum() as f64 / (1.0 / unit).round();
    metric.encode_histogram::<NoLabelSet>(sum, counter.total(), &buckets, None)
}
