//! Access store: the trait through which a catalog keeps API keys, roles and denials, and the rules
//! that apply to their changes in every catalog.
//!
//! To make a change, a catalog reads [`AccessFacts`], calls [`plan()`] to check the change and to
//! get its statements, and runs these statements, all in one transaction. The statements are those
//! of [`sql`], so the engines differ only in their connections and locks. A denial blocks a tenant,
//! a subject or tokens. A generation is the number of a state of all this data; each change begins
//! a new one.
//!
//! **Invariant:** a change is checked and stored, together with its log lines and a new generation,
//! in one transaction or not at all. No log line contains a secret, and no statement contains the
//! secret of a key.
//! **Not here:** connections (the engines), the rights of the author of a change, which the calling
//! code checks (`access::rights`).

pub mod audit;
mod change;
mod change_document;
mod dead_keys;
mod feed;
mod mode;
mod plan;
mod refusal;
pub mod sql;
mod state;
pub mod usage;

use std::time::SystemTime;

use access::audit::AuditSecret;
use access::audit::chain::AuditHead;
use access::key::NewApiKey;
use access::session::SessionSeed;
use access::unix_time::UnixTime;
use futures_util::future::BoxFuture;
use model::error::Error;
use ring::rand::{SecureRandom as _, SystemRandom};

pub use self::change::{AccessChange, ChangeAuthor, NewKey};
pub use self::feed::{AccessFeed, AccessRead};
pub use self::mode::AccessMode;
pub use self::plan::{AccessFacts, ChangePlan, plan};
pub use self::refusal::{AccessError, AccessRefusal};
pub use self::state::AccessState;
pub use self::usage::UsageFlush;
use crate::EngineFuture;

/// Keys, roles and denials of a catalog.
pub trait AccessStore: Send + Sync {
    /// Returns the mode that the catalog stores.
    ///
    /// # Errors
    /// The error of the catalog.
    fn mode(&self) -> EngineFuture<'_, AccessMode>;

    /// Reads the keys, roles, denials, mode and session secret in one snapshot.
    ///
    /// # Errors
    /// The error of the catalog.
    fn load(&self) -> EngineFuture<'_, AccessState>;

    /// Makes a change durable, and returns the generation that it begins. Subscribers of the feed
    /// receive the change before this returns.
    ///
    /// # Errors
    /// [`AccessError::Refused`] if a rule forbids it: then nothing was stored. After
    /// [`AccessError::Catalog`] the change may have been stored.
    fn change<'a>(
        &'a self,
        change: &'a AccessChange,
        author: &'a ChangeAuthor,
        now: UnixTime,
    ) -> BoxFuture<'a, Result<u64, AccessError>>;

    /// Adds the numbers of rows and the uses of keys that one router has counted to the sums of all
    /// routers, in one transaction. This begins no new generation.
    ///
    /// # Errors
    /// The error of the catalog. The flush may have been stored, and may be repeated.
    fn add_usage<'a>(&'a self, flush: &'a UsageFlush) -> EngineFuture<'a, ()>;

    /// Returns the number of rows that each API client (caller) used on a day. If there are very
    /// many clients, only the highest numbers are returned.
    ///
    /// # Errors
    /// The error of the catalog.
    fn usage(&self, day: u32) -> EngineFuture<'_, Vec<(String, u64)>>;

    /// Returns the feed on which the catalog publishes each state.
    fn feed(&self) -> &AccessFeed;

    /// Returns the last time at which the state of the feed was known to be current; `None` if
    /// there is no such time.
    fn confirmed_at(&self, now: UnixTime) -> Option<UnixTime>;

    /// Returns the secret of the cluster's audit logs; the first call creates it.
    ///
    /// # Errors
    /// The error of the catalog.
    fn audit_secret(&self) -> EngineFuture<'_, AuditSecret>;

    /// Stores the position and hash of the last line of an audit log durably, unless a later line
    /// is already stored.
    ///
    /// # Errors
    /// The error of the catalog.
    fn keep_audit_head(&self, head: AuditHead, now: UnixTime) -> EngineFuture<'_, ()>;
}

/// Returns the present time.
pub fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixTime::from_seconds(since.unwrap_or_default().as_secs())
}

/// Creates a new key from random bytes of the operating system.
///
/// # Errors
/// [`Error::Internal`] if the system provides no random bytes.
pub fn make_key() -> Result<NewApiKey, Error> {
    random().map(|bytes| NewApiKey::from_random(&bytes))
}

/// Creates a new session secret from random bytes of the operating system.
///
/// # Errors
/// [`Error::Internal`] if the system provides no random bytes.
pub fn make_session_secret() -> Result<SessionSeed, Error> {
    random().map(SessionSeed::from_random)
}

/// Returns random bytes from the operating system.
fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| {
        tracing::error!("the system provides no random bytes");
        Error::Internal
    })?;
    Ok(bytes)
}
