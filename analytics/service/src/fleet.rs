//! Fleet: the routers from which the service collects, and the state of each router.
//!
//! **Invariant:** reading the fleet never waits for a router.
//! **Not here:** requests to routers (`collector`), merging their metrics (`fleet_query`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::Serialize;
use utoipa::ToSchema;

use recorder::ClusterNow;
use recorder::ErrorLog;
use recorder::{BUDGETS, History, Step};
use web_kit::http_client::Target;

/// Maximum number of routers. When there are this many, a new router can only replace one that no
/// longer exists.
pub(crate) const ROUTERS_MAX: usize = 64;

/// Number of routers up to which each history gets the full amount of memory. More routers share
/// the total of this many histories.
const UNDIVIDED: usize = 4;

/// Time for which a router that no longer exists stays in the fleet. It is the longest time for
/// which history is kept.
const GONE_MAX: Duration =
    Duration::from_secs(Step::Minute.seconds() * Step::Minute.intervals_kept());

/// Routers that exist or existed recently.
#[derive(Default)]
pub(crate) struct Fleet {
    members: ArcSwap<Vec<Arc<Member>>>,
}

/// One router.
pub(crate) struct Member {
    /// Name of the router.
    pub name: String,
    /// Address of the router.
    pub target: Target,
    /// History of the router.
    pub history: Arc<History>,
    /// Errors of the router.
    pub errors: ErrorLog,
    /// True if the router is expected to exist: its name still resolves to its address.
    is_listed: AtomicBool,
    /// Time since which the router is no longer expected to exist; `None` while it is.
    unlisted_since: Mutex<Option<Instant>>,
    seen: Mutex<RouterStatus>,
}

/// State of a router.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouterStatus {
    /// True if the router answered the last request.
    pub is_up: bool,
    /// True if the router responds, but refuses the key of the service or needs one.
    pub is_unauthorized: bool,
    /// Time of the router's last response, in ms since 1970 by the clock of this machine.
    pub at_ms: Option<u64>,
    /// Time of the router's clock at that moment, in ms since 1970, after its offset in whole
    /// minutes was removed.
    pub clock_ms: u64,
    /// Warning about the router's clock, if it is wrong.
    pub clock: Option<String>,
    /// Start of the router, as the router reports it.
    pub started: String,
    /// Number of the last error that was fetched from this process of the router.
    pub errors_after: u64,
    /// The cluster as the router reports it.
    pub now: ClusterNow,
    /// Reason why the router is unreachable or refuses the service.
    pub error: Option<String>,
    /// Number of the router's responses that were added to the history.
    pub pulls: u64,
}

/// A router in responses.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct RouterView {
    /// Name of the router.
    router: String,
    /// True if the router answers.
    up: bool,
    /// `up`, `down`, or `unauthorized`: it refuses the key of the service, or needs one.
    state: &'static str,
    /// Time of its last response: RFC 3339; null if there was none since the service started.
    #[schema(required)]
    last_seen: Option<String>,
    /// Version of the router, if known.
    version: String,
    /// Start of the router: RFC 3339, if known.
    started: String,
    /// Time since the start of the router at its last response, in s.
    uptime_s: u64,
    /// Data requests that the router was answering at its last response.
    in_flight: u64,
    /// Reason why the router is unreachable or refuses the service, or a warning about its clock;
    /// null if there is none of these.
    #[schema(required)]
    error: Option<String>,
}

impl Fleet {
    /// Returns all routers, in the order in which they were found.
    pub(crate) fn members(&self) -> Arc<Vec<Arc<Member>>> {
        self.members.load_full()
    }

    /// Returns the router of this name.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Member>> {
        self.members.load().iter().find(|member| member.name == name).cloned()
    }

    /// Adds a router. If there are too many, it replaces a router that no longer exists; returns
    /// false if there is none. Only one thread may call this.
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

    /// Removes a router. Only the thread that adds may call this.
    pub(crate) fn remove(&self, member: &Arc<Member>) {
        let mut members = Vec::clone(&self.members.load());
        members.retain(|other| !Arc::ptr_eq(other, member));
        self.members.store(Arc::new(members));
    }

    /// Removes the routers that have been gone for [`GONE_MAX`] and whose history has no frames of
    /// that time. `unix_s` is the present time, in s since 1970. Only the thread that adds may call
    /// this.
    pub(crate) fn remove_gone(&self, now: Instant, unix_s: u64) {
        let members = self.members.load();
        let kept_from = unix_s.saturating_sub(GONE_MAX.as_secs());
        let is_left = |member: &&Arc<Member>| !member.is_long_gone(now, kept_from);
        let left: Vec<_> = members.iter().filter(is_left).cloned().collect();
        if left.len() < members.len() {
            self.members.store(Arc::new(left));
        }
    }
}

impl Member {
    /// Creates a router that has not responded yet. `share` is the number of routers that share the
    /// memory for history.
    pub(crate) fn new(name: String, target: Target, share: usize) -> Self {
        let budgets = BUDGETS.map(|bytes| bytes * UNDIVIDED / share.max(UNDIVIDED));
        Self {
            name,
            target,
            history: Arc::new(History::with_budgets(budgets)),
            errors: ErrorLog::new(),
            is_listed: AtomicBool::new(true),
            unlisted_since: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// Returns true if the router is expected to exist.
    pub(crate) fn is_listed(&self) -> bool {
        self.is_listed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_listed(&self, is_listed: bool) {
        let mut since = self.unlisted_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = if is_listed { None } else { since.or_else(|| Some(Instant::now())) };
        self.is_listed.store(is_listed, Ordering::Relaxed);
    }

    /// Returns true if the router has not been expected to exist for [`GONE_MAX`], does not
    /// respond, and has no frames after `kept_from` (in s since 1970).
    fn is_long_gone(&self, now: Instant, kept_from: u64) -> bool {
        let since = *self.unlisted_since.lock().unwrap_or_else(PoisonError::into_inner);
        let is_long = since.is_some_and(|since| now.saturating_duration_since(since) >= GONE_MAX);
        let is_old = |step| self.history.frames_after(step, kept_from, 1).is_empty();
        is_long && !self.seen().is_up && Step::ALL.into_iter().all(is_old)
    }

    /// Returns the state of the router.
    pub(crate) fn seen(&self) -> MutexGuard<'_, RouterStatus> {
        // A poisoned lock is ignored: each change only assigns plain values, so the state is valid
        // even after a panic.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the router as responses show it.
    pub(crate) fn view(&self) -> RouterView {
        let seen = self.seen();
        RouterView {
            router: self.name.clone(),
            up: seen.is_up,
            state: match (seen.is_up, seen.is_unauthorized) {
                (true, _) => "up",
                (false, true) => "unauthorized",
                (false, false) => "down",
            },
            last_seen: seen.at_ms.map(rfc3339),
            version: seen.now.version.clone(),
            started: seen.started.clone(),
            uptime_s: seen.now.uptime_s,
            in_flight: seen.now.in_flight,
            error: seen.error.clone().or_else(|| seen.clock.clone()),
        }
    }
}

/// Returns the clock of this machine, in ms since 1970.
pub(crate) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}

/// Formats a time as RFC 3339 in UTC, with milliseconds.
pub(crate) fn rfc3339(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(chrono::DateTime::from_timestamp_millis);
    time.unwrap_or_default().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use recorder::{Fanout, Frame};

    use super::*;

    fn names(fleet: &Fleet) -> Vec<String> {
        fleet.members().iter().map(|member| member.name.clone()).collect()
    }

    #[test]
    fn a_router_that_is_gone_leaves_memory_once_nothing_of_its_history_is_kept() {
        let fleet = Fleet::default();
        let [listed, silent, recent] = ["listed", "silent", "recent"].map(|name| {
            let target = "http://127.0.0.1:3000".parse().expect("a target");
            let member = Arc::new(Member::new(name.to_owned(), target, 1));
            assert!(fleet.add(Arc::clone(&member)));
            member
        });
        silent.set_listed(false);
        recent.set_listed(false);
        let (unix_s, day) = (unix_ms() / 1_000, 86_400);
        let frame = |start: u64| Frame {
            step: Step::Minute,
            start: start / 60 * 60,
            cells: Vec::new(),
            parts: Vec::new(),
            fanout: Fanout::default(),
            hot: Vec::new(),
        };
        [&listed, &silent].iter().for_each(|member| member.history.absorb(frame(unix_s)));
        recent.history.absorb(frame(unix_s + day));
        fleet.remove_gone(Instant::now() + GONE_MAX / 2, unix_s + 4 * day);
        assert_eq!(names(&fleet), ["listed", "silent", "recent"]);
        let (later, unix_s) = (Instant::now() + GONE_MAX, unix_s + GONE_MAX.as_secs() + 60);
        silent.seen().is_up = true;
        fleet.remove_gone(later, unix_s);
        assert_eq!(names(&fleet), ["listed", "silent", "recent"], "it still answers");
        silent.seen().is_up = false;
        fleet.remove_gone(later, unix_s);
        assert_eq!(names(&fleet), ["listed", "recent"]);
        recent.set_listed(true);
        fleet.remove_gone(later, unix_s + 2 * day);
        assert_eq!(names(&fleet), ["listed", "recent"], "its address is listed again");
    }
}
