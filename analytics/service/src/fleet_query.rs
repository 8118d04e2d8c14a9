//! FleetQuery: what is asked of the fleet, or of one of its routers, and the answer.
//!
//! **Invariant:** percentiles of several routers come from their merged histograms, never from their percentiles.
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

/// Routers whose clocks tell times as far apart as this are no measure for each other.
const CLOCKS_APART_MS: u64 = 5_000;

/// What figures are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct FleetQuery {
    /// Of which requests.
    pub query: MetricsQuery,
    /// Only of this router.
    pub router: Option<String>,
}

/// The figures of a window.
#[derive(Serialize, ToSchema)]
pub(crate) struct MetricsAnswer {
    /// Always true.
    success: bool,
    /// The figures.
    metrics: FleetMetrics,
}

/// The figures, and those whose they are.
#[derive(Serialize, ToSchema)]
pub(crate) struct FleetMetrics {
    /// Of all that were asked for, together.
    #[serde(flatten)]
    figures: Metrics,
    /// Every router, also those that are away.
    routers: Vec<RouterView>,
}

/// What is known of some routers at one moment.
pub(crate) struct FleetSnapshot {
    members: Vec<Arc<Member>>,
    /// The cluster as those see it that answer.
    pub(crate) now: ClusterNow,
    /// Whether any does.
    pub(crate) is_seen: bool,
    at_ms: u64,
}

impl FleetSnapshot {
    /// All routers, or the one of this name.
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

    /// The figures of a window that ends now.
    pub(crate) fn figures(&self, query: &MetricsQuery) -> Metrics {
        let histories: Vec<&History> = self.members.iter().map(|member| &*member.history).collect();
        figures(&histories, query, &self.now, self.at_ms)
    }
}

/// Nobody tells how it is: it is not well.
fn unseen(mut now: ClusterNow) -> ClusterNow {
    now.in_flight = 0;
    for shard in &mut now.shards {
        shard.up = false;
        for node in &mut shard.nodes {
            node.up = false;
            node.reasons = vec!["no router tells how it is".to_owned()];
        }
    }
    now
}

/// End of the time for which all routers have reported, by their clocks: missing figures would bend
/// rates. A router whose clock is wrong is left out. Without any reports our own clock counts.
fn time_of(clocks: &mut [u64]) -> u64 {
    clocks.sort_unstable();
    let Some(&middle) = clocks.get(clocks.len().saturating_sub(1) / 2) else { return unix_ms() };
    let close = clocks.iter().copied().find(|clock| clock + CLOCKS_APART_MS >= middle);
    close.unwrap_or(middle)
}

/// Answers a question; for a thread that may be busy for a while.
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
    /// Errors since the service began to collect, also those no longer kept.
    total: u64,
    /// The errors; under `grouped=true` the groups.
    errors: Vec<ErrorEntry>,
}

/// An error, or several that are alike.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum ErrorEntry {
    /// One by one.
    Single(RouterError),
    /// `grouped=true`: by code, shard and route.
    Grouped(ErrorGroup),
}

/// An error, and whose it is.
#[derive(Serialize, ToSchema)]
pub(crate) struct RouterError {
    /// What went wrong.
    #[serde(flatten)]
    error: ErrorEvent,
    /// The router that told the client so.
    router: String,
}

/// The errors of all routers, or of one.
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
    // Those of one router stay in their order.
    errors.sort_by_key(|error| std::cmp::Reverse(error.error.at_ms));
    errors.truncate(filter.limit);
    errors.into_iter().map(ErrorEntry::Single).collect()
}

fn groups(members: &[&Arc<Member>], filter: &ErrorFilter<'_>) -> Vec<ErrorEntry> {
    // Each group of each router, however small: together they may be the largest.
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
