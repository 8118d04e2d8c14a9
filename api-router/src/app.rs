//! App: what every request shares, built once.
//!
//! **Not here:** the routes; anything of a single request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use actix_web::HttpRequest;
use actix_web::http::header::HeaderValue;
use analytics::cross_origin::{Reached, Transport};
use analytics::event_stream::Hub;
use analytics::{ErrorLog, MetricsQuery};
use shard_manager::manager::Manager;
use shard_manager::topology::ShardIndex;
use tokio::runtime::Handle;

use crate::data_route::DataRoute;
use crate::figures::{self, Figures};
use crate::problem::{Code, Problem};
use crate::room::{Room, Share};
use crate::trace::Trace;

/// The state of a router.
pub struct App {
    /// The cluster.
    pub manager: Arc<Manager>,
    /// What happened and how fast; `None` if nothing is to be counted.
    pub analytics: Option<Analytics>,
    /// Where traces are sent, if anywhere.
    #[cfg(feature = "otlp")]
    pub tracer: Option<crate::otlp::Tracer>,
    /// When the router started.
    pub started: Instant,
    /// The port that the router serves on.
    pub port: u16,
    /// Ways in which clients reach the router.
    pub reached: Reached,
    /// Whether nodes can be paused, delayed and cut through the API.
    pub lab: bool,
    /// `sqlite`, `postgres` or `citus`.
    pub backend: &'static str,
    shard_headers: Vec<HeaderValue>,
    draining: AtomicBool,
    room: Arc<Room>,
}

/// What a router counts, and who watches it.
pub struct Analytics {
    /// The figures.
    pub figures: Arc<Figures>,
    /// The last errors.
    pub errors: Arc<ErrorLog>,
    /// Those who watch the figures live.
    pub hub: Arc<Hub<MetricsQuery>>,
}

/// What a router is told of itself when it is made.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The address that it serves on.
    pub address: SocketAddr,
    /// Transport that clients use.
    pub transport: Transport,
    /// Whether nodes can be paused, delayed and cut through the API.
    pub lab: bool,
    /// Whether requests are counted.
    pub analytics: bool,
    /// `sqlite`, `postgres` or `citus`.
    pub backend: &'static str,
}

impl App {
    /// The state of a router over an open cluster. What goes on beside requests does so on `runtime`, which must not be
    /// one that serves them.
    pub fn new(manager: Manager, setting: Setting, runtime: &Handle) -> Self {
        let manager = Arc::new(manager);
        let map = manager.map();
        let shard_headers = map
            .topology()
            .shards()
            .iter()
            .map(|shard| HeaderValue::from_str(&shard.name).expect("shard names are visible ASCII"))
            .collect();
        let analytics = setting.analytics.then(|| {
            let figures = Arc::new(Figures::new(&manager, runtime, setting.backend));
            let hub = figures::hub(&figures, runtime);
            Analytics { figures, errors: Arc::default(), hub }
        });
        Self {
            manager,
            analytics,
            #[cfg(feature = "otlp")]
            tracer: None,
            started: Instant::now(),
            port: setting.address.port(),
            reached: Reached {
                loopback_only: setting.address.ip().to_canonical().is_loopback(),
                port: setting.address.port(),
                by: setting.transport,
            },
            lab: setting.lab,
            backend: setting.backend,
            shard_headers,
            draining: AtomicBool::new(false),
            room: Arc::default(),
        }
    }

    /// The value of `x-shard`, made once.
    pub fn shard_header(&self, shard: ShardIndex) -> HeaderValue {
        self.shard_headers[shard.index()].clone()
    }

    /// Starts the share of a request's body in the room for all bodies; it holds nothing yet.
    pub fn share(&self, request: &HttpRequest) -> Share {
        self.room.enter(request.peer_addr().map(|address| address.ip()))
    }

    /// Tells load balancers to send no more, and ends what would never end by itself.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        if let Some(analytics) = &self.analytics {
            analytics.hub.close();
        }
    }

    /// What is counted.
    ///
    /// # Errors
    /// TSR111 if nothing is.
    pub fn analytics(&self) -> Result<&Analytics, Problem> {
        self.analytics.as_ref().ok_or_else(|| {
            Problem::new(Code::TSR111, "analytics is off: this router counts nothing")
                .hint("start it with --analytics on")
        })
    }

    /// Whether somebody wants to know what became of a request.
    pub fn follows_trails(&self) -> bool {
        self.analytics.is_some() || self.is_traced()
    }

    /// A trace for a request that came without one: only requests about rows are traced, and only if traces are sent
    /// anywhere.
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

    /// Whether the router is about to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
