//! Fleet: the routers that are collected from, and what is known of each.
//!
//! **Invariant:** whoever asks gets what is there at once: no question here waits for a router.
//! **Not here:** asking routers (`collector`), adding their figures up (`fleet_query`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use serde::Serialize;
use utoipa::ToSchema;

use recorder::ClusterNow;
use recorder::ErrorLog;
use recorder::{BUDGETS, History};
use web_kit::http_client::Target;

/// Most routers at once: those that are gone make room.
pub(crate) const ROUTERS_MAX: usize = 64;

/// So many routers have as much memory for their history as each has itself; more have that much together.
const UNDIVIDED: usize = 4;

/// Every router that is, or was lately.
#[derive(Default)]
pub(crate) struct Fleet {
    members: ArcSwap<Vec<Arc<Member>>>,
}

/// One router.
pub(crate) struct Member {
    /// What it is called.
    pub name: String,
    /// Where it is.
    pub target: Target,
    /// What it has counted.
    pub history: Arc<History>,
    /// What went wrong there.
    pub errors: ErrorLog,
    /// Whether it is to be there: not if its name leads elsewhere now.
    is_listed: AtomicBool,
    seen: Mutex<RouterStatus>,
}

/// What is known of a router.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouterStatus {
    /// Whether it answered when it was asked last.
    pub is_up: bool,
    /// When it answered last, in ms since 1970 by the clock of this machine.
    pub at_ms: Option<u64>,
    /// The router's own clock then, without the difference in whole minutes.
    pub clock_ms: u64,
    /// Complaint about its clock.
    pub clock: Option<String>,
    /// When it started, as it says.
    pub started: String,
    /// The cluster as it sees it.
    pub now: ClusterNow,
    /// Why it is away.
    pub trouble: Option<String>,
    /// Answers that were taken in.
    pub pulls: u64,
}

/// A router, as answers tell of it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct RouterView {
    /// What it is called.
    router: String,
    /// Whether it answers.
    up: bool,
    /// When it answered last: RFC 3339; null: not since the service started.
    #[schema(required)]
    last_seen: Option<String>,
    /// Its version, as far as it was told.
    version: String,
    /// When it started: RFC 3339, as far as it was told.
    started: String,
    /// How long it had been running then, in s.
    uptime_s: u64,
    /// Data requests that it was answering then.
    in_flight: u64,
    /// Why it is away, or what is wrong with its clock; null: neither.
    #[schema(required)]
    error: Option<String>,
}

impl Fleet {
    /// All of them, in the order in which they were found.
    pub(crate) fn members(&self) -> Arc<Vec<Arc<Member>>> {
        self.members.load_full()
    }

    /// The one of this name.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Member>> {
        self.members.load().iter().find(|member| member.name == name).cloned()
    }

    /// Adds a router, if there is room: one that is gone makes some. Only one thread may add.
    pub(crate) fn add(&self, member: Arc<Member>) -> bool {
        let mut members = Vec::clone(&self.members.load());
        if members.len() >= ROUTERS_MAX {
            let gone =
                members.iter().position(|member| !member.is_listed() && !member.seen().is_up);
            let Some(gone) = gone else { return false };
            members.remove(gone);
        }
        members.push(member);
        self.members.store(Arc::new(members));
        true
    }
}

impl Member {
    /// A router of which nothing is known yet, one of `share` among which the memory for history is divided.
    pub(crate) fn new(name: String, target: Target, share: usize) -> Self {
        let budgets = BUDGETS.map(|bytes| bytes * UNDIVIDED / share.max(UNDIVIDED));
        Self {
            name,
            target,
            history: Arc::new(History::with_budgets(budgets)),
            errors: ErrorLog::new(),
            is_listed: AtomicBool::new(true),
            seen: Mutex::default(),
        }
    }

    /// Whether it is to be there.
    pub(crate) fn is_listed(&self) -> bool {
        self.is_listed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_listed(&self, is_listed: bool) {
        self.is_listed.store(is_listed, Ordering::Relaxed);
    }

    /// What is known of it.
    pub(crate) fn seen(&self) -> MutexGuard<'_, RouterStatus> {
        // Each change is one of plain values: they are whole whoever panics.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As answers tell of it.
    pub(crate) fn view(&self) -> RouterView {
        let seen = self.seen();
        RouterView {
            router: self.name.clone(),
            up: seen.is_up,
            last_seen: seen.at_ms.map(rfc3339),
            version: seen.now.version.clone(),
            started: seen.started.clone(),
            uptime_s: seen.now.uptime_s,
            in_flight: seen.now.in_flight,
            error: seen.trouble.clone().or_else(|| seen.clock.clone()),
        }
    }
}

/// The clock of this machine, in ms since 1970.
pub(crate) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}

/// RFC 3339 in UTC, with milliseconds.
pub(crate) fn rfc3339(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(chrono::DateTime::from_timestamp_millis);
    time.unwrap_or_default().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
