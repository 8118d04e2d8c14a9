//! Fleet query: a query for the metrics of all routers or of one router, and its response.
//!
//! **Invariant:** percentiles of several routers are computed from the merged histograms of the
//! routers, never from percentiles of single routers.
//! **Not here:** HTTP.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use crate::fleet::{Fleet, Member, RouterView, unix_ms};
use crate::merged::merged;
use recorder::ClusterNow;
use recorder::ErrorsQuery;
use recorder::History;
use recorder::Metrics;
use recorder::MetricsQuery;
use recorder::figures;
use recorder::{ErrorEvent, ErrorFilter, ErrorGroup};

/// Maximum time, in ms, by which a router's clock may be behind the median for its time to be used.
const CLOCKS_APART_MS: u64 = 5_000;

/// A query for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct FleetQuery {
    /// Filter and window of the requests.
    pub query: MetricsQuery,
    /// Router to which the query is restricted, if any.
    pub router: Option<String>,
}

/// Metrics of a window.
#[derive(Serialize, ToSchema)]
pub(crate) struct MetricsAnswer {
    /// Always true.
    success: bool,
    /// The metrics.
    metrics: FleetMetrics,
}

/// Metrics of routers, and the state of each router.
#[derive(Serialize, ToSchema)]
pub(crate) struct FleetMetrics {
    /// Metrics of all requested routers together.
    #[serde(flatten)]
    figures: Metrics,
    /// Every router, including unreachable ones.
    routers: Vec<RouterView>,
}

/// State of one router or all routers at one moment.
pub(crate) struct FleetSnapshot {
    members: Vec<Arc<Member>>,
    /// The cluster as the reachable routers report it.
    pub(crate) now: ClusterNow,
    /// True if any router is reachable.
    pub(crate) is_seen: bool,
    at_ms: u64,
}

impl FleetSnapshot {
    /// Returns the state of all routers, or of the one with this name.
    pub(crate) fn of(fleet: &Fleet, router: Option<&str>) -> Self {
        let members = fleet.members();
        let wanted = members.iter().filter(|member| router.is_none_or(|name| member.name == name));
        let members: Vec<Arc<Member>> = wanted.cloned().collect();
        let (mut views, mut last, mut clocks) = (Vec::new(), Vec::new(), Vec::new());
        for member in &members {
            let seen = member.seen();
            if seen.is_up {
                views.push(seen.now.clone());
                clocks.push(seen.clock_ms);
            } else if seen.at_ms.is_some() {
                last.push(seen.now.clone());
            }
        }
        let is_seen = !views.is_empty();
        let now = if is_seen { merged(&views) } else { unseen(merged(&last)) };
        Self { members, now, is_seen, at_ms: time_of(&mut clocks) }
    }

    /// Returns the metrics of a window that ends now.
    pub(crate) fn figures(&self, query: &MetricsQuery) -> Metrics {
        let histories: Vec<&History> = self.members.iter().map(|member| &*member.history).collect();
        figures(&histories, query, &self.now, self.at_ms)
    }
}

/// Marks all shards and nodes as down, because their state is unknown while no router is reachable.
fn unseen(mut now: ClusterNow) -> ClusterNow {
    now.in_flight = 0;
    for shard in &mut now.shards {
        shard.up = false;
        for node in &mut shard.nodes {
            node.up = false;
            node.reasons = vec!["no router reports its state".to_owned()];
        }
    }
    now
}

/// Returns the time up to which all routers have reported, which is where a window ends: a later
/// end would include time without reports and make rates too low. `clocks` holds the time of each
/// router's last report. A router whose clock is far behind the median is ignored. If no router has
/// reported, this machine's clock is used.
fn time_of(clocks: &mut [u64]) -> u64 {
    clocks.sort_unstable();
    let Some(&middle) = clocks.get(clocks.len().saturating_sub(1) / 2) else { return unix_ms() };
    let close = clocks.iter().copied().find(|clock| clock + CLOCKS_APART_MS >= middle);
    close.unwrap_or(middle)
}

/// Returns the response to a query. This may take long, so it must be called where blocking is
/// allowed.
pub(crate) fn answer(fleet: &Fleet, query: &FleetQuery) -> MetricsAnswer {
    let figures = FleetSnapshot::of(fleet, query.router.as_deref()).figures(&query.query);
    let routers = fleet.members().iter().map(|member| member.view()).collect();
    MetricsAnswer { success: true, metrics: FleetMetrics { figures, routers } }
}

/// The last errors, newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorsAnswer {
    /// Always true.
    success: bool,
    /// Errors since the service started to collect, including those no longer kept.
    total: u64,
    /// The errors; with `grouped=true`, the groups.
    errors: Vec<ErrorEntry>,
}

/// An error, or several of one kind.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum ErrorEntry {
    /// One error.
    Single(RouterError),
    /// Errors of one code, shard and route, with `grouped=true`.
    Grouped(ErrorGroup),
}

/// An error, and its router.
#[derive(Serialize, ToSchema)]
pub(crate) struct RouterError {
    /// The error.
    #[serde(flatten)]
    error: ErrorEvent,
    /// Router that sent the error to the client.
    router: String,
}

/// Returns the errors of all routers, or of one.
pub(crate) fn errors(
    fleet: &Fleet,
    router: Option<&str>,
    ErrorsQuery { filter, grouped }: &ErrorsQuery<'_>,
) -> ErrorsAnswer {
    let members = fleet.members();
    let members = members.iter().filter(|member| router.is_none_or(|name| member.name == name));
    let members: Vec<_> = members.collect();
    let total = members.iter().map(|member| member.errors.total()).sum();
    let errors = if *grouped { groups(&members, filter) } else { singles(&members, filter) };
    ErrorsAnswer { success: true, total, errors }
}

fn singles(members: &[&Arc<Member>], filter: &ErrorFilter<'_>) -> Vec<ErrorEntry> {
    let of = |member: &&Arc<Member>| {
        let router = member.name.clone();
        let errors = member.errors.query(filter).into_iter();
        errors.map(move |error| RouterError { error, router: router.clone() }).collect::<Vec<_>>()
    };
    let mut errors: Vec<RouterError> = members.iter().flat_map(of).collect();
    // The sort is stable, so that errors of one router stay in their order.
    errors.sort_by_key(|error| std::cmp::Reverse(error.error.at_ms));
    errors.truncate(filter.limit);
    errors.into_iter().map(ErrorEntry::Single).collect()
}

fn groups(members: &[&Arc<Member>], filter: &ErrorFilter<'_>) -> Vec<ErrorEntry> {
    // The limit is applied only to the sums: a group that is beyond the limit on one router must
    // still count in the sum of all routers.
    let all = ErrorFilter { limit: usize::MAX, ..*filter };
    let mut places = HashMap::new();
    let mut groups: Vec<ErrorGroup> = Vec::new();
    for group in members.iter().flat_map(|member| member.errors.grouped(&all)) {
        let key = (group.code.clone(), group.shard.clone(), group.route.clone());
        let place = *places.entry(key).or_insert(groups.len());
        match groups.get_mut(place) {
            None => groups.push(group),
            Some(known) => {
                let newer = group.last_ms > known.last_ms;
                let (count, first_ms) =
                    (known.count + group.count, known.first_ms.min(group.first_ms));
                if newer {
                    *known = group;
                }
                (known.count, known.first_ms) = (count, first_ms);
            }
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.last_ms));
    groups.truncate(filter.limit);
    groups.into_iter().map(ErrorEntry::Grouped).collect()
}
