//! App: the state that all requests share, built once at the start.
//!
//! **Not here:** the routes; state of a single request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use actix_web::HttpRequest;
use actix_web::http::header::HeaderValue;
use actix_web::web::{Bytes, Payload};
use analytics::cross_origin::{Exposure, Transport};
use analytics::event_stream::Hub;
use analytics::{ErrorLog, MetricsQuery};
use shard_manager::access::scope::AccessScope;
use shard_manager::manager::{Backups, Manager, Rebalances};
use shard_manager::topology::{ShardNumber, Topology};
use tokio::runtime::Handle;

use crate::access::audit::AuditLog;
use crate::access::caller_recheck::BodyArrival;
use crate::access::gate::AccessGate;
use crate::access::meter::CallerMeter;
use crate::access::sources::AccessSources;
use crate::body_budget::{BodyBudget, BudgetShare};
use crate::body_reader::{self, BodyLimits};
use crate::caller_rights::CallerRights;
use crate::data_route::DataRoute;
use crate::lab_runs::LabRuns;
use crate::metrics_view::{self, MetricsView};
use crate::moving_slots::MovingSlots;
use crate::observed_load::RecordedLoad;
use crate::problem::{Code, Problem, no_backup_dir};
use crate::response_budget::ResponseBudget;
use crate::trace::Trace;

/// The state of a router.
pub struct App {
    /// The cluster.
    pub manager: Arc<Manager>,
    /// Recorded requests and errors; `None` if analytics is off.
    pub analytics: Option<Analytics>,
    /// Access control; `None` if it is off.
    pub gate: Option<Arc<AccessGate>>,
    /// Files and catalog from which access control reads its keys; `None` if access control is off.
    pub access_sources: Option<Arc<AccessSources>>,
    /// The audit log; `None` if there is none.
    pub audit: Option<Arc<AuditLog>>,
    /// Backups of the router; `None` if the router has no folder for backups.
    pub backups: Option<Arc<Backups>>,
    /// Exporter of traces; `None` if traces are not sent.
    #[cfg(feature = "otlp")]
    pub tracer: Option<crate::otlp::Tracer>,
    /// Start of the router.
    pub started: Instant,
    /// The port that the router serves on.
    pub port: u16,
    /// Ways in which clients can reach the router.
    pub exposure: Exposure,
    /// True if nodes can be paused, delayed and cut off through the API, and experiments can
    /// run.
    pub lab: bool,
    /// The lab experiment that is running, if there is one.
    pub lab_runs: Arc<LabRuns>,
    /// True if shards and slots can be changed through the API without access control.
    pub operate: bool,
    /// `sqlite`, `postgres` or `citus`.
    pub backend: &'static str,
    /// Slots of the moves in progress.
    pub moving_slots: MovingSlots,
    /// Budget for the memory that the responses to all clients take.
    pub response_budget: Arc<ResponseBudget>,
    /// Values of the header `x-shard` by shard number, each built for the first response about its
    /// shard.
    shard_headers: Box<[OnceLock<HeaderValue>]>,
    draining: AtomicBool,
    /// Budget for the memory that the bodies of all requests take.
    pub body_budget: Arc<BodyBudget>,
}

/// Recorded requests of a router, and the viewers of its live stream.
pub struct Analytics {
    /// Recorder, and the responses that are made from its records.
    pub metrics: Arc<MetricsView>,
    /// The last errors.
    pub errors: Arc<ErrorLog>,
    /// Viewers of the live stream.
    pub hub: Arc<Hub<MetricsQuery>>,
}

/// Properties of a router that its configuration determines.
#[derive(Clone, Copy, Debug)]
pub struct AppSettings {
    /// Address that the router serves on.
    pub address: SocketAddr,
    /// Transport that clients use.
    pub transport: Transport,
    /// True if nodes can be paused, delayed and cut off through the API.
    pub lab: bool,
    /// True if shards and slots can be changed through the API without access control.
    pub operate: bool,
    /// True if requests are recorded.
    pub analytics: bool,
    /// `sqlite`, `postgres` or `citus`.
    pub backend: &'static str,
}

impl App {
    /// Creates the state of a router over an open cluster. Background work runs on `runtime`, which
    /// must not be one that serves requests.
    pub fn new(manager: Manager, settings: AppSettings, runtime: &Handle) -> Self {
        let manager = Arc::new(manager);
        let shard_headers = (0..Topology::SHARDS_MAX).map(|_| OnceLock::new()).collect();
        let analytics = settings.analytics.then(|| {
            let metrics = Arc::new(MetricsView::new(&manager, runtime, settings.backend));
            let hub = metrics_view::hub(&metrics, runtime);
            Rebalances::of(&manager).set_load_source(RecordedLoad::of(&metrics));
            Analytics { metrics, errors: Arc::default(), hub }
        });
        Self {
            manager,
            analytics,
            gate: None,
            access_sources: None,
            audit: None,
            backups: None,
            #[cfg(feature = "otlp")]
            tracer: None,
            started: Instant::now(),
            port: settings.address.port(),
            exposure: Exposure {
                loopback_only: settings.address.ip().to_canonical().is_loopback(),
                port: settings.address.port(),
                by: settings.transport,
            },
            lab: settings.lab,
            lab_runs: Arc::default(),
            operate: settings.operate,
            backend: settings.backend,
            moving_slots: MovingSlots::default(),
            response_budget: Arc::default(),
            shard_headers,
            draining: AtomicBool::new(false),
            body_budget: Arc::default(),
        }
    }

    /// Returns the value of `x-shard`, built once for each shard.
    #[inline]
    pub fn shard_header(&self, shard: ShardNumber) -> HeaderValue {
        let name = || {
            let name = self.manager.shard_name(shard);
            HeaderValue::from_str(name).expect("shard names are visible ASCII")
        };
        self.shard_headers[shard.index()].get_or_init(name).clone()
    }

    /// Returns the rights with which a request reads and writes rows. While access control is on, a
    /// request to which no caller is attached has the rights of a request without credentials.
    #[inline]
    pub fn rights(&self, request: &HttpRequest) -> CallerRights {
        match self.gate.as_ref().filter(|gate| gate.is_enforced()) {
            None => CallerRights::all(),
            Some(gate) => CallerRights::of(gate.caller(request)),
        }
    }

    /// Returns the meter that counts the rows and shards of a request towards the limits of its
    /// caller.
    #[inline]
    pub fn meter(&self, request: &HttpRequest) -> CallerMeter {
        self.gate.as_ref().map_or_else(CallerMeter::none, |_| CallerMeter::of(request))
    }

    /// Opens a share of the body budget for the body of a request; the share holds no bytes yet.
    pub fn open_share(&self, request: &HttpRequest) -> BudgetShare {
        self.body_budget.open_share(request.peer_addr().map(|address| address.ip()))
    }

    /// Reads the whole body of a request, of at most `bytes_max`, before the deadline. A body of
    /// more than 64 KiB is charged to the body budget until the returned share is dropped. If keys,
    /// roles or issuers have changed while the body arrived, or it took a second to arrive, the
    /// caller is checked again, unless the route needs no right.
    ///
    /// # Errors
    /// Fails like [`body_reader::read`], with TSR401 or TSR403 if the caller has lost rights, and
    /// with TSR006 if keys and roles are too old, or the keys of an issuer are not available.
    pub async fn read_body(
        &self,
        request: &HttpRequest,
        payload: Payload,
        bytes_max: usize,
        deadline: Instant,
    ) -> Result<(Bytes, Option<BudgetShare>), Problem> {
        let limits = BodyLimits::from_headers(request.headers(), bytes_max, deadline);
        let arrival = BodyArrival::begin(self.gate.as_ref());
        let read = body_reader::read(payload, limits, || self.open_share(request)).await?;
        arrival.end(request)?;
        Ok(read)
    }

    /// Makes `/ready` report that the router is stopping, ends the live streams of metrics, which
    /// would not end by themselves, and cancels the running backup and lab experiment.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.lab_runs.close();
        if let Some(backups) = &self.backups {
            backups.stop();
        }
        if let Some(analytics) = &self.analytics {
            analytics.hub.close();
        }
    }

    /// Returns the recorded requests and errors.
    ///
    /// # Errors
    /// TSR111 if analytics is off.
    pub fn analytics(&self) -> Result<&Analytics, Problem> {
        self.analytics.as_ref().ok_or_else(|| {
            Problem::new(Code::TSR111, "analytics is off: this router counts nothing")
                .hint("start it with --analytics on")
        })
    }

    /// Returns the backups of the router.
    ///
    /// # Errors
    /// TSR339 if the router has no folder for backups.
    pub fn backups(&self) -> Result<&Arc<Backups>, Problem> {
        self.backups.as_ref().ok_or_else(no_backup_dir)
    }

    /// Returns true if the caller of a request has this scope.
    pub fn allows(&self, request: &HttpRequest, scope: AccessScope) -> bool {
        let Some(gate) = self.gate.as_ref().filter(|gate| gate.is_enforced()) else { return true };
        gate.caller(request).rights.allow_scope(scope).is_ok()
    }

    /// Returns true if requests need a record, which metrics and traces read after the response.
    pub fn keeps_records(&self) -> bool {
        self.analytics.is_some() || self.is_traced()
    }

    /// Begins a trace for a request that came without one. Only requests about rows are traced, and
    /// only if traces are sent.
    pub fn begin_trace(&self, route: Option<DataRoute>) -> Option<Trace> {
        (route.is_some() && self.is_traced()).then(Trace::begin)
    }

    #[cfg(feature = "otlp")]
    fn is_traced(&self) -> bool {
        self.tracer.is_some()
    }

    #[cfg(not(feature = "otlp"))]
    fn is_traced(&self) -> bool {
        false
    }

    /// Returns true if the router is shutting down.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
