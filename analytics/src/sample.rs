//! One data request, as the router reports it when the answer is known.
//!
//! **Invariant:** a sample is plain data of fixed size; making one allocates nothing.
//! **Not here:** no key, no table, no client: nothing whose values have no bound.

use std::time::Duration;

/// What a request did. A bulk write of any size is one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Rows were asked for.
    Read,
    /// Rows were to be stored, changed or removed.
    Write,
}

/// How a request ended, by the class of its HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

/// One answered data request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Read or write.
    pub operation: Operation,
    /// Index of the shard's label in the list given to [`Recorder::new`](crate::Recorder::new).
    /// `None` (or an index beyond the list) when several shards took part, or none.
    pub shard: Option<u16>,
    /// HTTP status of the answer.
    pub status: u16,
    /// From the arrival of the request to its answer. Counted in whole µs, 1 µs to 60 s.
    pub elapsed: Duration,
}
