//! App: what every request shares, built once.
//!
//! **Not here:** the routes; anything of a single request.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use actix_web::http::header::HeaderValue;
use analytics::{ErrorLog, Recorder};
use shard_manager::manager::Manager;
use shard_manager::topology::ShardIndex;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::body::BULK_BYTES_MAX;
use crate::problem::{Code, Problem};

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
    /// Whether nodes can be paused, delayed and cut through the API.
    pub lab: bool,
    shard_headers: Vec<HeaderValue>,
    draining: AtomicBool,
    /// In KiB.
    bulk_room: Semaphore,
}

/// What a streamed body may hold at most, however long it is, of rows on their way to the shards.
const STREAM_BYTES_MAX: usize = 12 << 20;
/// The same while many bodies are held.
const STREAM_BYTES_MIN: usize = 8 << 20;
/// Bytes of bulk bodies that may be held at once, by all clients. Taken apart they are a few times as large.
const BULK_ROOM_MAX: usize = 128 << 20;

impl App {
    /// The state of a router over an open cluster.
    pub fn new(manager: Manager, loopback_only: bool, lab: bool) -> Self {
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
            lab,
            shard_headers,
            draining: AtomicBool::new(false),
            bulk_room: Semaphore::new(BULK_ROOM_MAX >> 10),
        }
    }

    /// The value of `x-shard`, made once.
    pub fn shard_header(&self, shard: ShardIndex) -> HeaderValue {
        self.shard_headers[shard.index()].clone()
    }

    /// Sets room aside for a bulk body of so many bytes, until the permit is dropped.
    ///
    /// # Errors
    /// TSR005 if too many bodies are held already.
    pub fn make_room(&self, bytes: usize) -> Result<SemaphorePermit<'_>, Problem> {
        let kib = (bytes.min(BULK_BYTES_MAX) >> 10) as u32 + 1;
        self.bulk_room.try_acquire_many(kib).map_err(|_| {
            Problem::new(Code::TSR005, "too many bulk bodies are being written")
                .hint("send again after Retry-After")
        })
    }

    /// Sets room aside for the rows of a streamed body, and tells how many bytes of them it may hold: the more, the
    /// faster they are stored.
    ///
    /// # Errors
    /// TSR005 if too many bodies are held already.
    pub fn make_window(&self) -> Result<(SemaphorePermit<'_>, usize), Problem> {
        let large = (STREAM_BYTES_MAX >> 10) as u32;
        match self.bulk_room.try_acquire_many(large) {
            Ok(room) => Ok((room, STREAM_BYTES_MAX)),
            Err(_) => Ok((self.make_room(STREAM_BYTES_MIN)?, STREAM_BYTES_MIN)),
        }
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
