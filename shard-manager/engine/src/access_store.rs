//! Access store: the trait through which a catalog keeps API keys, roles and denials, and the rules
//! that apply to their changes in every catalog.
//!
//! A catalog runs the statements of [`sql`] in one transaction: it reads [`AccessFacts`], lets
//! [`plan()`] check the change and list its statements, and runs those. So the engines differ only
//! in their connections and locks.
//!
//! **Invariant:** a change is stored with its line in the log, its checks and a new generation, or
//! not at all. No log line contains a secret, and no statement contains the secret of a key.
//! **Not here:** connections (the engines), the rights of the author of a change, which its caller
//! checks (`access::rights`).

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
    /// Returns the mode that the catalog remembers.
    ///
    /// # Errors
    /// The error of the catalog.
    fn mode(&self) -> EngineFuture<'_, AccessMode>;

    /// Reads the keys, roles, denials, mode and secret of sessions as of one moment.
    ///
    /// # Errors
    /// The error of the catalog.
    fn load(&self) -> EngineFuture<'_, AccessState>;

    /// Makes a change durable, and returns the generation that it began. If the feed has
    /// subscribers, they have the change before this returns.
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

    /// Adds rows and uses of keys to those of all routers in one transaction. No new generation
    /// begins.
    ///
    /// # Errors
    /// The error of the catalog. The flush may have been stored, and may be repeated.
    fn add_usage<'a>(&'a self, flush: &'a UsageFlush) -> EngineFuture<'a, ()>;

    /// Returns the number of rows of each caller on a day; if there are very many callers, only the
    /// highest numbers.
    ///
    /// # Errors
    /// The error of the catalog.
    fn usage(&self, day: u32) -> EngineFuture<'_, Vec<(String, u64)>>;

    /// Returns the feed on which the catalog publishes each state.
    fn feed(&self) -> &AccessFeed;

    /// Returns the time at which the state of the feed was known to be the current one; `None` if
    /// it never was.
    fn confirmed_at(&self, now: UnixTime) -> Option<UnixTime>;

    /// Returns the secret of audit logs; the first call creates it.
    ///
    /// # Errors
    /// The error of the catalog.
    fn audit_secret(&self) -> EngineFuture<'_, AuditSecret>;

    /// Makes the last line of an audit log durable, unless a later one is.
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

/// Makes a new key of random bytes of the system.
///
/// # Errors
/// [`Error::Internal`] if the system has none.
pub fn make_key() -> Result<NewApiKey, Error> {
    random().map(|bytes| NewApiKey::from_random(&bytes))
}

/// Makes a new secret of sessions of random bytes of the system.
///
/// # Errors
/// [`Error::Internal`] if the system has none.
pub fn make_session_secret() -> Result<SessionSeed, Error> {
    random().map(SessionSeed::from_random)
}

/// Returns random bytes of the system.
fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| {
        tracing::error!("the system provides no random bytes");
        Error::Internal
    })?;
    Ok(bytes)
}
