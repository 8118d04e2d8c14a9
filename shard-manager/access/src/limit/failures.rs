//! Failures: counts failed credentials by client address, and detects addresses with too many
//! failures, for which the program verifies no signatures.
//!
//! **Invariant:** the memory has a fixed size, however many addresses have failures. The hash that
//! selects the entries for an address uses a secret, so an attacker cannot choose addresses that
//! evict the entry of a particular one.
//! **Not here:** finding the address of a client behind a proxy (the router); valid credentials,
//! which are not counted.

use std::fmt;
use std::hash::Hasher as _;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use siphasher::sip::SipHasher24;

use super::{Rate, nanos};

/// Number of failures that one address may have per second, and at once.
const RATE: Rate = Rate { per_second: 10, burst: 10 };
/// Maximum number of signatures that a process verifies per second, and at once. One unit of a
/// [`RateCell`](super::RateCell) is taken before each verification, so that forged tokens cannot
/// occupy all processors.
pub const SIGNATURE_CHECKS: Rate = Rate { per_second: 2_000, burst: 2_000 };
const SETS: usize = 2_048;
const WAYS: usize = 8;

/// Failures of one network: its address, and the time from which all its failures are forgiven, in
/// nanoseconds on the clock of the parameter `now`. The time is 0 if the entry is free.
#[derive(Clone, Copy, Debug, Default)]
struct FailureEntry {
    network: u128,
    forgiven_at: u64,
}

/// Counters of failed credentials, by client address.
pub struct FailureLimiter {
    secret: [u8; 16],
    sets: Box<[Mutex<[FailureEntry; WAYS]>]>,
}

impl FailureLimiter {
    /// Maximum number of addresses that have an entry.
    pub const ADDRESSES_MAX: usize = SETS * WAYS;

    /// Creates a limiter without recorded failures. The secret must be random.
    pub fn new(secret: [u8; 16]) -> Self {
        Self { secret, sets: (0..SETS).map(|_| Mutex::default()).collect() }
    }

    /// Returns the time to wait until this address has few enough failures; `None` if it has few
    /// enough now.
    pub fn limited_for(&self, address: IpAddr, now: Duration) -> Option<Duration> {
        let network = network(address);
        let entries = self.set(network).lock().unwrap_or_else(PoisonError::into_inner);
        let known = entries.iter().find(|entry| entry.network == network && entry.forgiven_at > 0);
        wait(known?.forgiven_at, nanos(now))
    }

    /// Counts a failure of this address. If this failure was one too many, it is not counted, and
    /// the time to wait until the next failure is permitted is returned.
    pub fn record(&self, address: IpAddr, now: Duration) -> Option<Duration> {
        let (network, now) = (network(address), nanos(now));
        let mut entries = self.set(network).lock().unwrap_or_else(PoisonError::into_inner);
        let index = entries.iter().position(|entry| entry.network == network);
        // A new entry replaces the entry whose failures will be forgiven first, or a free one.
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

    /// Returns the number of bytes that all entries occupy.
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

/// Returns the network of an address: for IPv4, the address itself; for IPv6, its first 64 bits,
/// because one client usually has all addresses with the same first 64 bits.
pub(super) fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}
