//! Places: permits for the connections of one node, which are divided fairly among several tenants.
//!
//! **Not here:** the turns of tenants (`engine::fair_places`), the connections (`reader`).

use std::time::Instant;

use engine::Scope;
use engine::fair_places::{FairPlaces, ReadPermit};
use model::error::Error;
use model::fair_share::FairShare;
use model::query::ReadQuery;

use super::{READERS_MAX, ReaderPool};

/// Fraction of the time left until the deadline for which a read may wait for a connection. The
/// rest is for the read itself, or for returning the error that no connection was free.
pub(in super::super) const POOL_WAIT: f64 = 0.75;

/// Permits for the pools of one node, one permit for each connection.
#[derive(Clone)]
pub(super) struct PoolPlaces {
    by_key: FairPlaces,
    scans: FairPlaces,
}

impl Default for PoolPlaces {
    fn default() -> Self {
        let places = || FairPlaces::new(READERS_MAX as usize);
        Self { by_key: places(), scans: places() }
    }
}

impl PoolPlaces {
    /// Returns the number of reads that are waiting for a permit.
    pub(super) fn waiting(&self) -> usize {
        self.by_key.waiting() + self.scans.waiting()
    }
}

impl ReaderPool {
    /// Waits until the tenant may use a connection for this read, for at most `POOL_WAIT` of the
    /// time left. Requests that are not assigned to a tenant need no permit and do not wait here.
    ///
    /// # Errors
    /// [`Error::PoolExhausted`] if no connection became free for the tenant.
    pub async fn enter(
        &self,
        (query, scope): (&ReadQuery, Scope<'_>),
        share: FairShare,
        deadline: Instant,
    ) -> Result<Option<ReadPermit>, Error> {
        if share.is_common() {
            return Ok(None);
        }
        let is_point = scope.is_keyed() && query.is_point_read();
        let places = if is_point { &self.places.by_key } else { &self.places.scans };
        let now = Instant::now();
        let until = now + deadline.saturating_duration_since(now).mul_f64(POOL_WAIT);
        let exhausted = || Error::PoolExhausted { shard: self.shard.clone() };
        places.enter(share, until).await.ok_or_else(exhausted)
    }
}
