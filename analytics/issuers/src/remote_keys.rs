//! Remote keys: the state of the keys of each issuer whose keys are fetched from a URL.
//!
//! **Not here:** the threads that fetch the keys (`key_fetcher`), applying keys (`key_sets`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use access::unix_time::UnixTime;
use recorder::IssuerNow;

use crate::config::{IssuerConfig, IssuerKeys};

/// State of the keys of each issuer whose keys are fetched from a URL.
#[derive(Default)]
pub struct RemoteKeys(Vec<(usize, Arc<RemoteKeySet>)>);

/// State of the keys of one issuer.
pub struct RemoteKeySet {
    pub(crate) issuer: String,
    /// True if a token has named a key that is not known.
    pub(crate) is_fetch_requested: AtomicBool,
    /// Thread that fetches the keys, once it runs.
    pub(crate) fetcher: OnceLock<Thread>,
    /// Time of the last successful fetch, in s since 1970; 0 before the first one.
    pub(crate) fetched_at: AtomicU64,
    pub(crate) is_good: AtomicBool,
}

impl RemoteKeys {
    /// Creates the state before the first fetch.
    pub fn new(issuers: &[IssuerConfig]) -> Self {
        let remote = |(_, issuer): &(usize, &IssuerConfig)| match issuer.keys {
            IssuerKeys::Url(_) => true,
            IssuerKeys::Jwks(_) | IssuerKeys::Secret(_) => false,
        };
        let state = |(place, issuer): (usize, &IssuerConfig)| {
            (place, Arc::new(RemoteKeySet::new(&issuer.settings.issuer)))
        };
        Self(issuers.iter().enumerate().filter(remote).map(state).collect())
    }

    /// Requests a fetch of newer keys of an issuer. Returns at once.
    pub fn request_fetch(&self, place: usize) {
        if let Some(state) = self.find(place) {
            state.request_fetch();
        }
    }

    /// Returns the state of the keys of each issuer, for metrics.
    pub fn now(&self, now: UnixTime) -> Vec<IssuerNow> {
        self.0.iter().map(|(_, state)| state.now(now)).collect()
    }

    pub(crate) fn find(&self, place: usize) -> Option<&Arc<RemoteKeySet>> {
        self.0.iter().find(|(known, _)| *known == place).map(|(_, state)| state)
    }
}

impl RemoteKeySet {
    fn new(issuer: &str) -> Self {
        Self {
            issuer: issuer.to_owned(),
            is_fetch_requested: AtomicBool::new(false),
            fetcher: OnceLock::new(),
            fetched_at: AtomicU64::new(0),
            is_good: AtomicBool::new(false),
        }
    }

    fn request_fetch(&self) {
        if !self.is_fetch_requested.swap(true, Ordering::AcqRel)
            && let Some(fetcher) = self.fetcher.get()
        {
            fetcher.unpark();
        }
    }

    fn now(&self, now: UnixTime) -> IssuerNow {
        let fetched_at = self.fetched_at.load(Ordering::Relaxed);
        let age = (fetched_at > 0).then(|| now.since(UnixTime::from_seconds(fetched_at)));
        IssuerNow {
            issuer: self.issuer.clone(),
            is_good: self.is_good.load(Ordering::Relaxed),
            age_seconds: age,
        }
    }
}
