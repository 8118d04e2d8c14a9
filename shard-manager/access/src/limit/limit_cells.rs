//! Counters of all callers, found by the names of the callers.
//!
//! Callers that share tenants share counters; a caller without tenants has its own.
//!
//! **Invariant:** memory is bounded; in a full table, a caller that has not been seen for long
//! loses its counters, so that its limits begin again. Addresses are in a table of their own:
//! requests without credentials from many addresses make no caller lose its counters.
//! **Not here:** the counters (`caller_limits`).

use std::fmt;
use std::hash::Hasher as _;
use std::net::IpAddr;
use std::sync::Arc;

use quick_cache::sync::Cache;
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use super::caller_limits::LimitState;
use super::failures::network;
use super::usage::UsageLedger;
use crate::key::KeyId;
use crate::tenant::Tenants;

/// Callers that share one set of counters.
#[derive(Clone, Copy, Debug)]
pub enum LimitSubject<'s> {
    /// Callers of one role that have the same tenants.
    Tenants {
        /// Name of the role.
        role: &'s str,
        /// The tenants.
        tenants: &'s Tenants,
    },
    /// Key without tenants.
    Key(KeyId),
    /// Token or certificate without tenants.
    Subject {
        /// Issuer of the token; empty for a certificate.
        issuer: &'s str,
        /// Subject of the token, or name of the certificate.
        subject: &'s str,
    },
    /// Requests without credentials, by the network of their address.
    Address(IpAddr),
}

impl LimitSubject<'_> {
    /// Returns the name under which rows are summed; `None` for an address. Lists are JSON, so that
    /// no two subjects share a name, and no name contains a control character.
    fn text(&self) -> Option<String> {
        let list = |texts: &[&str]| serde_json::to_string(texts).expect("texts always serialise");
        match self {
            Self::Tenants { role, tenants } => {
                let tenants: Vec<&str> =
                    tenants.as_slice().iter().map(|tenant| &**tenant).collect();
                Some(format!("tenants {role} {}", list(&tenants)))
            }
            Self::Key(id) => Some(format!("key {id}")),
            Self::Subject { issuer, subject } => {
                Some(format!("subject {}", list(&[issuer, subject])))
            }
            Self::Address(_) => None,
        }
    }
}

/// Counters of all callers.
pub struct LimitCells {
    secret: [u8; 16],
    callers: Cache<u128, Arc<LimitState>>,
    addresses: Cache<u128, Arc<LimitState>>,
    usage: UsageLedger,
}

impl LimitCells {
    /// Highest number of counters: those of the keys of a full snapshot, and some of tokens.
    pub const MAX: usize = 131_072;
    /// Highest number of counters of addresses.
    pub const ADDRESSES_MAX: usize = 16_384;

    /// Creates an empty table. The random secret keeps clients from choosing subjects that collide.
    pub fn new(secret: [u8; 16]) -> Self {
        let (callers, addresses) = (Cache::new(Self::MAX), Cache::new(Self::ADDRESSES_MAX));
        Self { secret, callers, addresses, usage: UsageLedger::default() }
    }

    /// Returns the counters of a subject.
    pub fn state(&self, subject: &LimitSubject<'_>) -> Arc<LimitState> {
        let name = self.name(subject);
        let states = match subject {
            LimitSubject::Address(_) => &self.addresses,
            LimitSubject::Tenants { .. } | LimitSubject::Key(_) | LimitSubject::Subject { .. } => {
                &self.callers
            }
        };
        if let Some(known) = states.get(&name) {
            return known;
        }
        let made = states.get_or_insert_with(&name, || Ok::<_, ()>(Arc::default()));
        made.unwrap_or_default()
    }

    /// Returns the number of a subject. It stays the same as long as this table exists, even for a
    /// subject without counters, and clients cannot choose two subjects with equal numbers.
    pub fn number(&self, subject: &LimitSubject<'_>) -> u64 {
        self.name(subject) as u64
    }

    /// Returns the counters of a subject that has a quota of rows per day, which are summed over
    /// all routers. Those of an address are not summed, so that no list of addresses is stored
    /// anywhere.
    pub fn state_with_quota(&self, subject: &LimitSubject<'_>) -> Arc<LimitState> {
        let state = self.state(subject);
        match subject.text() {
            Some(name) => self.usage.register(name, state),
            None => state,
        }
    }

    /// Returns the rows of all callers with a quota.
    pub fn usage(&self) -> &UsageLedger {
        &self.usage
    }

    fn name(&self, subject: &LimitSubject<'_>) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        // Each part is preceded by its length, so that no two subjects yield the same bytes.
        let mut push = |part: &[u8]| {
            hasher.write(&(part.len() as u64).to_le_bytes());
            hasher.write(part);
        };
        match subject {
            LimitSubject::Tenants { role, tenants } => {
                push(b"tenants");
                push(role.as_bytes());
                tenants.as_slice().iter().for_each(|tenant| push(tenant.as_bytes()));
            }
            LimitSubject::Key(id) => {
                push(b"key");
                push(id.as_str().as_bytes());
            }
            LimitSubject::Subject { issuer, subject } => {
                push(b"subject");
                push(issuer.as_bytes());
                push(subject.as_bytes());
            }
            LimitSubject::Address(address) => {
                push(b"address");
                push(&network(*address).to_le_bytes());
            }
        }
        hasher.finish128().as_u128()
    }
}

impl fmt::Debug for LimitCells {
    /// Leaves out the secret and the counters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} callers, {} addresses", self.callers.len(), self.addresses.len())
    }
}
