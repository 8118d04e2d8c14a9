//! Key fetcher: fetches the keys of issuers in the background.
//!
//! Each issuer with a URL has a thread of its own, so that a slow issuer does not delay another.
//! Keys are fetched every [`FETCH_EVERY`]. A token that names an unknown key is refused at once,
//! and the issuer's keys are fetched again as soon as [`RETRY_AFTER`] has passed since the last
//! fetch. The early fetch is necessary because issuers replace keys without notice; the pause keeps
//! clients that invent names of keys from making the program flood the issuer.
//!
//! **Invariant:** no request waits for an issuer. Two requests to one issuer are at least
//! [`RETRY_AFTER`] apart. Each change between success and failure is logged once.
//! **Not here:** the HTTP request (`jwks_client`), the state for metrics (`remote_keys`), applying
//! keys (`key_sets`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use access::jwt::key_set::KeySet;
use access::unix_time::UnixTime;

use crate::config::shown_url;
use crate::jwks_client;
use crate::key_sets::{IssuerKeySets, SERVED_FOR};
use crate::remote_keys::{RemoteKeySet, RemoteKeys};

/// Time from a fetch that succeeded to the next one.
pub const FETCH_EVERY: Duration = Duration::from_secs(300);
/// Time from a fetch to the next one if the fetch failed or a token has named an unknown key.
pub const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Schedule of fetching the keys of one issuer. It reads no clock; times are parameters.
#[derive(Debug, Default)]
pub struct FetchSchedule {
    ended_at: Option<Duration>,
    has_failed: bool,
}

impl FetchSchedule {
    /// Returns the time until the next fetch; zero if the fetch is due.
    pub fn wait(&self, now: Duration, is_fetch_requested: bool) -> Duration {
        let Some(ended_at) = self.ended_at else { return Duration::ZERO };
        let interval =
            if self.has_failed || is_fetch_requested { RETRY_AFTER } else { FETCH_EVERY };
        (ended_at + interval).saturating_sub(now)
    }

    /// Records the end of a fetch. The time until the next fetch is counted from the end, so that
    /// there is a pause even if the issuer responds slowly.
    pub fn record(&mut self, now: Duration, is_good: bool) {
        (self.ended_at, self.has_failed) = (Some(now), !is_good);
    }
}

/// Starts a thread for each issuer whose keys are fetched from a URL.
///
/// # Errors
/// Fails if the system cannot create a thread.
pub fn start(keys: &Arc<IssuerKeySets>, states: &RemoteKeys) -> std::io::Result<()> {
    for (place, _, url) in keys.remote() {
        let Some(state) = states.find(place) else { continue };
        let (keys, state, url) = (Arc::clone(keys), Arc::clone(state), url.to_owned());
        let fetcher = Fetcher { keys, state, place, url, document: Vec::new(), fault: Fault::None };
        std::thread::Builder::new().name("issuer-keys".to_owned()).spawn(|| fetcher.run())?;
    }
    Ok(())
}

/// Fault that was logged last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// There is no fault.
    None,
    /// The last fetch failed.
    Failing,
    /// The last fetch failed, and the keys were fetched too long ago.
    Expired,
}

/// State of the thread that fetches the keys of one issuer until the process ends.
struct Fetcher {
    keys: Arc<IssuerKeySets>,
    state: Arc<RemoteKeySet>,
    place: usize,
    url: String,
    /// JWKS document from which the keys in force come.
    document: Vec<u8>,
    fault: Fault,
}

impl Fetcher {
    fn run(mut self) {
        let _ = self.state.fetcher.set(std::thread::current());
        let began = Instant::now();
        let mut schedule = FetchSchedule::default();
        loop {
            self.state.is_fetch_requested.store(false, Ordering::Release);
            let fetched = self.fetch(unix_now());
            schedule.record(began.elapsed(), fetched.is_ok());
            self.report(fetched, unix_now());
            loop {
                let is_fetch_requested = self.state.is_fetch_requested.load(Ordering::Acquire);
                let wait = schedule.wait(began.elapsed(), is_fetch_requested);
                if wait.is_zero() {
                    break;
                }
                std::thread::park_timeout(wait);
            }
        }
    }

    /// Fetches the keys once and applies them.
    fn fetch(&mut self, now: UnixTime) -> Result<(), String> {
        let document = jwks_client::fetch(&self.url)?.bytes;
        let is_new = document != self.document;
        let set = is_new.then(|| KeySet::from_jwks(&document)).transpose();
        let set = set.map_err(|error| error.to_string())?.map(Arc::new);
        let applied = self.keys.apply_fetched(self.place, set.clone(), now);
        applied.map_err(|error| error.to_string())?;
        if let Some(set) = set {
            let (issuer, count, skipped) = (&self.state.issuer, set.len(), set.skipped().len());
            tracing::info!(issuer, keys = count, skipped, "the keys of an issuer are in force");
            self.document = document;
        }
        Ok(())
    }

    /// Stores the outcome of a fetch for metrics, and logs changes between success and failure. A
    /// repeated failure is logged only at level debug.
    fn report(&mut self, fetched: Result<(), String>, now: UnixTime) {
        let url = shown_url(&self.url);
        let issuer = &self.state.issuer;
        self.state.is_good.store(fetched.is_ok(), Ordering::Relaxed);
        let Err(cause) = fetched else {
            self.state.fetched_at.store(now.seconds(), Ordering::Relaxed);
            if self.fault != Fault::None {
                tracing::info!(issuer, url, "the keys of an issuer are fetched again");
            }
            self.fault = Fault::None;
            return;
        };
        let fetched_at = UnixTime::from_seconds(self.state.fetched_at.load(Ordering::Relaxed));
        let is_over = !self.document.is_empty() && now.since(fetched_at) >= SERVED_FOR;
        let fault = if is_over { Fault::Expired } else { Fault::Failing };
        if fault == self.fault {
            tracing::debug!(issuer, url, "the keys of an issuer cannot be fetched: {cause}");
        } else if is_over {
            tracing::error!(
                issuer,
                url,
                "the keys of an issuer are too old, and its tokens are refused: {cause}"
            );
        } else {
            tracing::warn!(issuer, url, "the keys of an issuer cannot be fetched: {cause}");
        }
        self.fault = fault;
    }
}

fn unix_now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixTime::from_seconds(since.unwrap_or_default().as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn unknown_keys_and_failures_lead_to_one_fetch_in_ten_seconds() {
        let mut schedule = FetchSchedule::default();
        assert_eq!(schedule.wait(7 * SECOND, false), Duration::ZERO, "the first is due at once");
        schedule.record(7 * SECOND, true);
        assert_eq!(schedule.wait(7 * SECOND, false), FETCH_EVERY);
        assert_eq!(schedule.wait(8 * SECOND, true), 9 * SECOND);
        assert_eq!(schedule.wait(17 * SECOND, true), Duration::ZERO);
        schedule.record(20 * SECOND, false);
        for is_fetch_requested in [false, true] {
            assert_eq!(schedule.wait(20 * SECOND, is_fetch_requested), RETRY_AFTER);
            assert_eq!(schedule.wait(30 * SECOND, is_fetch_requested), Duration::ZERO);
        }
        // A simulated clock runs for an hour, in which about a million requests name unknown keys.
        let (mut fetches, mut schedule) = (0, FetchSchedule::default());
        for millisecond in (0..3_600_000).step_by(4) {
            let now = Duration::from_millis(millisecond);
            if schedule.wait(now, true).is_zero() {
                fetches += 1;
                schedule.record(now, true);
            }
        }
        assert_eq!(fetches, 360);
    }
}
