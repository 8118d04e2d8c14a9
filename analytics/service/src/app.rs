//! App: the state shared by all routes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::collector::Collecting;
use crate::fleet::{Fleet, Member};
use crate::fleet_query::FleetQuery;
use crate::gate::AccessGate;
use crate::problem::Problem;
use crate::rule_readings::RuleEvaluator;
use recorder::ErrorFilter;
use recorder::store::HistoryWriter;
use web_kit::cross_origin::Exposure;
use web_kit::event_stream::Hub;

/// State shared by all routes.
pub(crate) struct App {
    /// The routers.
    pub fleet: Arc<Fleet>,
    /// The evaluated rules.
    pub rule_evaluator: Arc<RuleEvaluator>,
    /// The event streams.
    pub hub: Arc<Hub<FleetQuery>>,
    /// Writer of the stored history, if there is a store.
    pub history_writer: Option<Arc<HistoryWriter>>,
    /// Port and transport by which clients reach the service.
    pub exposure: Exposure,
    /// Access control; `None` if it is off.
    pub gate: Option<Arc<AccessGate>>,
    /// TLS configuration and key for connections to routers.
    pub(crate) collecting: Collecting,
    draining: AtomicBool,
}

impl App {
    pub(crate) fn new(
        fleet: Arc<Fleet>,
        rule_evaluator: Arc<RuleEvaluator>,
        hub: Arc<Hub<FleetQuery>>,
        collecting: Collecting,
        (exposure, gate): (Exposure, Option<Arc<AccessGate>>),
    ) -> Self {
        let draining = AtomicBool::new(false);
        let history_writer = collecting.history_writer.clone();
        Self { fleet, rule_evaluator, hub, history_writer, exposure, gate, collecting, draining }
    }

    /// Returns true if the service is about to end.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Makes `/ready` report that the service is about to end, and ends the event streams.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.hub.close();
    }

    /// Returns an error if no router has this name.
    pub(crate) fn known(&self, router: Option<&str>) -> Result<(), Problem> {
        match router.filter(|name| self.fleet.find(name).is_none()) {
            None => Ok(()),
            Some(_) => Err(Problem::parameter("router: there is no router of this name")
                .hint("/api/analytics/metrics lists them under routers")),
        }
    }

    /// Returns an error if no router reports a shard of this name, and no error has occurred on
    /// one. Every name is accepted before the first report of a router.
    pub(crate) fn knows_shard(&self, shard: Option<&str>) -> Result<(), Problem> {
        let Some(name) = shard else { return Ok(()) };
        let filter = ErrorFilter { limit: 1, shard: Some(name), ..ErrorFilter::default() };
        let has_shard = |member: &Arc<Member>| {
            member.seen().now.shards.iter().any(|shard| shard.shard == name)
                || !member.errors.query(&filter).is_empty()
        };
        let members = self.fleet.members();
        let is_reported = members.iter().any(|member| !member.seen().now.shards.is_empty());
        if !is_reported || members.iter().any(has_shard) {
            return Ok(());
        }
        Err(Problem::parameter("shard: there is no shard of this name")
            .hint("/api/shards lists them"))
    }
}
