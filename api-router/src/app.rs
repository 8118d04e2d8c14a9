//! App: what every request shares, built once.
//!
//! **Not here:** the routes; anything of a single request.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use actix_web::http::header::HeaderValue;
use analytics::{ErrorLog, Recorder};
use shard_manager::manager::Manager;
use shard_manager::topology::ShardIndex;

/// The state of a router.
pub struct App {
    /// The cluster.
    pub manager: Manager,
    /// What happened and how fast.
    pub recorder: Recorder,
    /// The last errors.
    pub errors: ErrorLog,
    /// When the router started.
    pub started: Instant,
    /// Whether the router is reached through a loopback address only.
    pub loopback_only: bool,
    shard_headers: Vec<HeaderValue>,
    draining: AtomicBool,
}

impl App {
    /// The state of a router over an open cluster.
    pub fn new(manager: Manager, loopback_only: bool) -> Self {
        let map = manager.map();
        let names: Vec<String> =
            map.topology().shards().iter().map(|shard| shard.name.clone()).collect();
        let shard_headers = names
            .iter()
            .map(|name| HeaderValue::from_str(name).expect("shard names are visible ASCII"))
            .collect();
        Self {
            manager,
            recorder: Recorder::new(names),
            errors: ErrorLog::new(),
            started: Instant::now(),
            loopback_only,
            shard_headers,
            draining: AtomicBool::new(false),
        }
    }

    /// The value of `x-shard`, made once.
    pub fn shard_header(&self, shard: ShardIndex) -> HeaderValue {
        self.shard_headers[shard.index()].clone()
    }

    /// Tells load balancers to send no more.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the router is about to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
