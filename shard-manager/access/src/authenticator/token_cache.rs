//! Token cache: tokens that were accepted recently, so that their signatures need not be verified
//! again.
//!
//! The cache key of a token is its 128-bit SipHash-2-4 under a secret that is random in each
//! process. A hash without a secret, such as xxh3, would let a client construct a token whose hash
//! equals that of another client's token. A generation is the number of one state of the snapshot
//! (API keys, roles and denials) and the issuers.
//!
//! **Invariant:** only verified tokens are stored, so invalid tokens cannot evict valid ones. An
//! entry that has expired or belongs to another generation is ignored.
//! **Not here:** verification (`jwt`).

use std::fmt;
use std::hash::Hasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache;
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use crate::caller::Caller;
use crate::unix_time::UnixTime;

/// Maximum number of cached tokens.
const TOKENS_MAX: usize = 16_384;

/// Cache entry of an accepted token.
#[derive(Clone, Debug)]
pub(super) struct CachedToken {
    pub(super) caller: Arc<Caller>,
    pub(super) usable_until: UnixTime,
    pub(super) generation: u64,
}

/// Cache of accepted tokens.
pub(super) struct TokenCache {
    secret: [u8; 16],
    tokens: Cache<u128, CachedToken>,
    generations: AtomicU64,
}

impl TokenCache {
    pub(super) fn new(secret: [u8; 16]) -> Self {
        Self { secret, tokens: Cache::new(TOKENS_MAX), generations: AtomicU64::new(0) }
    }

    /// Returns a generation that was never used.
    pub(super) fn next_generation(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns the hash under which a token is stored.
    pub(super) fn name(&self, text: &str) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(text.as_bytes());
        hasher.finish128().as_u128()
    }

    pub(super) fn get(&self, name: u128, generation: u64, now: UnixTime) -> Option<Arc<Caller>> {
        let token = self.tokens.get(&name)?;
        let is_good = token.generation == generation && now < token.usable_until;
        is_good.then_some(token.caller)
    }

    pub(super) fn insert(&self, name: u128, token: CachedToken) {
        self.tokens.insert(name, token);
    }
}

impl fmt::Debug for TokenCache {
    /// Leaves out the secret and the tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.tokens.len())
    }
}
