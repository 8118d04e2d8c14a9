//! One data request, as the router reports it when the answer is known.
//!
//! **Invariant:** a sample is borrowed plain data; making one allocates nothing.
//! **Not here:** no table and no client. The key is only looked at: what is kept of keys is `hot`'s, and bounded.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a request did. A bulk write of any size is one write.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Rows were asked for.
    Read,
    /// Rows were to be stored, changed or removed.
    Write,
}

impl Operation {
    /// As it is spelled in JSON and in labels: `read` or `write`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// What kind of node answered.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The node that takes a shard's writes.
    Primary,
    /// A node that follows it.
    Replica,
    /// No node: what a cache held.
    Cache,
}

impl Role {
    /// As it is spelled in JSON and in labels: `primary`, `replica` or `cache`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Cache => "cache",
        }
    }
}

/// How a request ended, by the class of its HTTP status.
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
    /// The class of an HTTP status.
    pub fn of_status(status: u16) -> Self {
        match status {
            0..400 => Self::Success,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }

    /// Whether it is one of the two kinds of errors.
    pub const fn is_error(self) -> bool {
        match self {
            Self::Success => false,
            Self::ClientError | Self::ServerError => true,
        }
    }
}

/// The names behind the numbers in a [`Sample`]: given once, in the order of every answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Routes as they are declared, without values: `/api/write`. At most [`Labels::ROUTES_MAX`].
    pub routes: Vec<&'static str>,
    /// Shards. At most [`Labels::SHARDS_MAX`].
    pub shards: Vec<String>,
    /// How many slots the keys are spread over; at most [`Labels::SLOTS_MAX`].
    pub slots: usize,
}

impl Labels {
    /// Routes there may be.
    pub const ROUTES_MAX: usize = 32;
    /// Shards there may be.
    pub const SHARDS_MAX: usize = 1_024;
    /// Slots there may be: their numbers take 16 bits, and one number means none.
    pub const SLOTS_MAX: usize = 65_535;
}

/// One answered data request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample<'k> {
    /// Index into [`Labels::routes`]; one beyond the list counts as `(other)`.
    pub route: u8,
    /// Read or write.
    pub operation: Operation,
    /// Index into [`Labels::shards`]. `None` (or an index beyond the list) when several shards took part, or none.
    pub shard: Option<u16>,
    /// The key's slot, when there is one key.
    pub slot: Option<u16>,
    /// Who answered: of a write the primary; `None` when nobody was asked.
    pub role: Option<Role>,
    /// HTTP status of the answer.
    pub status: u16,
    /// Shards asked: 0 when refused before, 1 by key.
    pub fanout: u16,
    /// From the arrival of the request to its answer. BucketCounter in whole µs, 1 µs to 60 s, as are the next two.
    pub elapsed: Duration,
    /// Of that, waiting for a lane or a connection.
    pub queue: Duration,
    /// Of that, inside the database. The rest is `elapsed` less these two.
    pub database: Duration,
    /// The shard key, when there is one.
    pub key: Option<&'k str>,
    /// The trace it belongs to.
    pub trace: Option<[u8; 16]>,
}
