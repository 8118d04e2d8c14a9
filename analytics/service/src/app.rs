//! App: what all routes share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::ClientConfig;

use crate::fleet::Fleet;
use crate::fleet_query::FleetQuery;
use crate::problem::Problem;
use crate::rule_evaluator::RuleEvaluator;
use recorder::store::HistoryWriter;
use web_kit::cross_origin::Reached;
use web_kit::event_stream::Hub;

/// What all routes share.
pub(crate) struct App {
    /// The routers.
    pub fleet: Arc<Fleet>,
    /// The rules.
    pub rule_evaluator: Arc<RuleEvaluator>,
    /// The streams.
    pub hub: Arc<Hub<FleetQuery>>,
    /// Who keeps history, if anybody does.
    pub history_writer: Option<Arc<HistoryWriter>>,
    /// Ways in which clients reach the service.
    pub reached: Reached,
    /// How routers prove who they are.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    draining: AtomicBool,
}

impl App {
    pub(crate) fn new(
        fleet: Arc<Fleet>,
        rule_evaluator: Arc<RuleEvaluator>,
        hub: Arc<Hub<FleetQuery>>,
        history_writer: Option<Arc<HistoryWriter>>,
        (reached, tls): (Reached, Option<Arc<ClientConfig>>),
    ) -> Self {
        let draining = AtomicBool::new(false);
        Self { fleet, rule_evaluator, hub, history_writer, reached, tls, draining }
    }

    /// Whether the service is about to end.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Tells whoever asks that the service is about to end, and ends what would never end by itself.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.hub.close();
    }

    /// Refuses the name of a router that nobody knows.
    pub(crate) fn known(&self, router: Option<&str>) -> Result<(), Problem> {
        match router.filter(|name| self.fleet.find(name).is_none()) {
            None => Ok(()),
            Some(_) => Err(Problem::parameter("router: there is no router of this name")
                .hint("/api/analytics/metrics lists them under routers")),
        }
    }
}
