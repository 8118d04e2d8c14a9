//! Failed credentials by address: after too many, further ones are refused without examination.
//!
//! **Invariant:** memory is fixed, however many addresses fail. The hash that places an address has
//! a secret, so an attacker cannot choose addresses that evict a particular one.
//! **Not here:** the client's address behind a proxy (the router); good credentials, which never
//! get here.

use std::fmt;
use std::hash::Hasher as _;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use siphasher::sip::SipHasher24;

use super::{Rate, nanos};

/// Failures that one address may have, per second and at once.
const RATE: Rate = Rate { per_second: 10, burst: 10 };
/// Signatures that a router verifies, per second and at once. A [`RateCell`](super::RateCell) is
/// checked before each, so that forged tokens cannot occupy all processors.
pub const SIGNATURE_CHECKS: Rate = Rate { per_second: 2_000, burst: 2_000 };
const SETS: usize = 2_048;
const WAYS: usize = 8;

/// Network of an address, and the time at which all its failures are forgiven; 0 if the entry is
/// free.
#[derive(Clone, Copy, Debug, Default)]
struct FailureEntry {
    network: u128,
    forgiven_at: u64,
}

/// Failed credentials of many addresses.
pub struct FailureLimiter {
    secret: [u8; 16],
    sets: Box<[Mutex<[FailureEntry; WAYS]>]>,
}

impl FailureLimiter {
    /// Highest number of addresses that are remembered.
    pub const ADDRESSES_MAX: usize = SETS * WAYS;

    /// Creates a limiter that knows no failures. The secret must be random.
    pub fn new(secret: [u8; 16]) -> Self {
        Self { secret, sets: (0..SETS).map(|_| Mutex::default()).collect() }
    }

    /// Returns the time after which credentials of this address are examined again; `None` if they
    /// are examined now.
    pub fn limited_for(&self, address: IpAddr, now: Duration) -> Option<Duration> {
        let network = network(address);
        let entries = self.set(network).lock().unwrap_or_else(PoisonError::into_inner);
        let known = entries.iter().find(|entry| entry.network == network && entry.forgiven_at > 0);
        wait(known?.forgiven_at, nanos(now))
    }

    /// Counts a failure of this address. Returns the time after which its credentials are examined
    /// again, if this one was too many.
    pub fn record(&self, address: IpAddr, now: Duration) -> Option<Duration> {
        let (network, now) = (network(address), nanos(now));
        let mut entries = self.set(network).lock().unwrap_or_else(PoisonError::into_inner);
        let index = entries.iter().position(|entry| entry.network == network);
        // An address without an entry replaces the one that will be forgiven first.
        let oldest = (0..WAYS).min_by_key(|way| entries[*way].forgiven_at).unwrap_or(0);
        let entry = &mut entries[index.unwrap_or(oldest)];
        if index.is_none() {
            *entry = FailureEntry { network, forgiven_at: 0 };
        }
        let limited = wait(entry.forgiven_at, now);
        if limited.is_none() {
            entry.forgiven_at = entry.forgiven_at.max(now).saturating_add(RATE.nanos(1));
        }
        limited
    }

    /// Returns the bytes of all entries.
    pub fn bytes(&self) -> usize {
        std::mem::size_of_val(&*self.sets)
    }

    fn set(&self, network: u128) -> &Mutex<[FailureEntry; WAYS]> {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(&network.to_le_bytes());
        &self.sets[hasher.finish() as usize % SETS]
    }
}

impl fmt::Debug for FailureLimiter {
    /// Leaves out the secret and the addresses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} addresses at most", Self::ADDRESSES_MAX)
    }
}

fn wait(forgiven_at: u64, now: u64) -> Option<Duration> {
    let full = now.saturating_add(RATE.nanos(RATE.burst));
    let next = forgiven_at.saturating_add(RATE.nanos(1));
    (next > full).then(|| Duration::from_nanos(next - full))
}

/// Returns the network of an address: itself for IPv4, and the first 64 bits for IPv6, because one
/// client usually has all addresses that begin with them.
pub(super) fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}
