//! Limit cells: a table of the limit counters of all callers.
//!
//! Callers with the same role and the same tenants share counters; a caller without tenants has
//! counters of its own.
//!
//! **Invariant:** memory is bounded. If the table is full, the counters of a caller without recent
//! requests are removed, and start at zero with its next request. The counters of addresses are in
//! a separate table, so that requests without credentials from many addresses do not evict the
//! counters of other callers.
//! **Not here:** the counters themselves (`caller_limits`).

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

/// Subject of limits: the callers that share one set of counters.
#[derive(Clone, Copy, Debug)]
pub enum LimitSubject<'s> {
    /// Callers of one role that have the same tenants.
    Tenants {
        /// Name of the role.
        role: &'s str,
        /// The tenants.
        tenants: &'s Tenants,
    },
    /// Owner of an API key without tenants.
    Key(KeyId),
    /// Subject of a token or certificate without tenants.
    Subject {
        /// Issuer of the token; empty for a certificate.
        issuer: &'s str,
        /// Subject of the token, or name of the certificate.
        subject: &'s str,
    },
    /// Clients without credentials whose addresses are in the same network.
    Address(IpAddr),
}

impl LimitSubject<'_> {
    /// Returns the name under which the catalog sums the rows of a subject; `None` for an address.
    /// Tenants, issuers and subjects are written as JSON lists, so that no two subjects have the
    /// same name and no name contains a control character.
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
    /// Maximum number of subjects, other than addresses, that have counters: enough for every key
    /// of a full snapshot and for some tokens.
    pub const MAX: usize = 131_072;
    /// Maximum number of addresses that have counters.
    pub const ADDRESSES_MAX: usize = 16_384;

    /// Creates an empty table. The secret must be random: it keeps clients from choosing subjects
    /// whose hashes collide and which would share counters.
    pub fn new(secret: [u8; 16]) -> Self {
        let (callers, addresses) = (Cache::new(Self::MAX), Cache::new(Self::ADDRESSES_MAX));
        Self { secret, callers, addresses, usage: UsageLedger::default() }
    }

    /// Returns the counters of a subject, and creates them if there are none.
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

    /// Returns a number that identifies a subject in the queues of the shards. It stays the same as
    /// long as this table exists, even if the subject has no counters, and clients cannot choose
    /// two subjects with the same number.
    pub fn number(&self, subject: &LimitSubject<'_>) -> u64 {
        self.name(subject) as u64
    }

    /// Returns the counters of a subject that has a quota of rows per day, and registers them so
    /// that its rows are summed over all routers. The rows of an address are not summed, so that no
    /// addresses of clients are stored in the catalog.
    pub fn state_with_quota(&self, subject: &LimitSubject<'_>) -> Arc<LimitState> {
        let state = self.state(subject);
        match subject.text() {
            Some(name) => self.usage.register(name, state),
            None => state,
        }
    }

    /// Returns the ledger of the rows that callers with a quota have used.
    pub fn usage(&self) -> &UsageLedger {
        &self.usage
    }

    fn name(&self, subject: &LimitSubject<'_>) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        // Each part is preceded by its length, so that two different subjects never yield the same
        // bytes.
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
