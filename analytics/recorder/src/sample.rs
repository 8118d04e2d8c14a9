//! Sample: one data request, as the router reports it once the response is known.
//!
//! **Invariant:** a sample is plain borrowed data, so that creating a sample allocates nothing.
//! **Not here:** the table and the client of a request, which are not recorded; keeping keys
//! (`hot`, a bounded number of them).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Kind of a request. A bulk write of any size is one write.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// The request reads rows.
    Read,
    /// The request stores, changes or removes rows.
    Write,
}

impl Operation {
    /// Returns the name in JSON and in labels: `read` or `write`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Kind of node that answered.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The node that takes the writes of a shard.
    Primary,
    /// A node that follows the primary.
    Replica,
    /// The cache.
    Cache,
}

impl Role {
    /// Returns the name in JSON and in labels: `primary`, `replica` or `cache`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Cache => "cache",
        }
    }
}

/// Result of a request, by the class of its HTTP status.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Below 400.
    Success,
    /// 400 to 499.
    ClientError,
    /// 500 and above.
    ServerError,
}

impl Outcome {
    /// Returns the class of an HTTP status.
    pub fn of_status(status: u16) -> Self {
        match status {
            0..400 => Self::Success,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }

    /// Returns true for the two kinds of errors.
    pub const fn is_error(self) -> bool {
        match self {
            Self::Success => false,
            Self::ClientError | Self::ServerError => true,
        }
    }
}

/// Names of the routes and shards to which the numbers in a [`Sample`] refer. Responses list them
/// in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Routes as they are declared, without values: `/api/write`. At most [`Labels::ROUTES_MAX`].
    pub routes: Vec<&'static str>,
    /// Shards by number. At most [`Labels::SHARDS_MAX`]; more are added by
    /// [`ShardLabels::add`](crate::ShardLabels::add).
    pub shards: Vec<String>,
    /// Number of slots of the keyspace; at most [`Labels::SLOTS_MAX`].
    pub slots: usize,
}

impl Labels {
    /// Maximum number of routes.
    pub const ROUTES_MAX: usize = 32;
    /// Maximum number of shards.
    pub const SHARDS_MAX: usize = 1_024;
    /// Maximum number of slots: slot numbers have 16 bits, and one of them means no slot.
    pub const SLOTS_MAX: usize = 65_535;
}

/// One answered data request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample<'k> {
    /// Index into [`Labels::routes`]; an index beyond the list counts as `(other)`.
    pub route: u8,
    /// Read or write.
    pub operation: Operation,
    /// Number of the shard. `None` (or a number without a name) if several shards took part, or
    /// none.
    pub shard: Option<u16>,
    /// Slot of the key, if there is one key.
    pub slot: Option<u16>,
    /// Node that answered: the primary for a write; `None` if no node was contacted.
    pub role: Option<Role>,
    /// HTTP status of the response.
    pub status: u16,
    /// Number of shards contacted: 0 if the request was refused before, 1 for a request by key.
    pub fanout: u16,
    /// Time from the arrival of the request to its response. This time and the next two are counted
    /// in whole µs, up to 60 s.
    pub elapsed: Duration,
    /// Time spent waiting in the shard's lane (its queue of writes) or for a connection.
    pub queue: Duration,
    /// Time inside the database. The rest is `elapsed` minus `queue` and `database`.
    pub database: Duration,
    /// Shard key, if there is one.
    pub key: Option<&'k str>,
    /// Trace id of the request, if it has one.
    pub trace: Option<[u8; 16]>,
}
