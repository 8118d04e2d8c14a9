//! Records: observations about many rows at once, such as the sum of a bank or a page of rows.
//!
//! **Invariant:** a [`Total`] or a [`Page`] contains the content of one response. A [`Ledger`] is
//! computed from several responses.
//! **Not here:** single rows (`operation`).

use super::{Key, Level, NodeId};

/// A read of all accounts of one bank (all rows of one shard key) at one moment. The returned rows
/// are also recorded as reads of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Total {
    /// The bank's name.
    pub bank: String,
    /// Session that sent the request.
    pub session: u32,
    /// The number of the request within its session.
    pub request: u32,
    /// Time at which the request was sent.
    pub start: u64,
    /// Time of the response.
    pub end: u64,
    /// Node that responded.
    pub node: NodeId,
    /// Requested level.
    pub level: Level,
    /// Sum over the accounts returned.
    pub sum: i64,
    /// Number of accounts returned.
    pub accounts: u32,
}

/// State of a bank after the run. Each transfer increments the bank's counter and inserts a row
/// into its ledger in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// The bank's name.
    pub bank: String,
    /// Session that sent the request.
    pub session: u32,
    /// The number of the request within its session.
    pub request: u32,
    /// Time at which the request was sent.
    pub start: u64,
    /// Time of the response.
    pub end: u64,
    /// Node that responded.
    pub node: NodeId,
    /// Value of the counter.
    pub counter: u64,
    /// Number of rows of the ledger.
    pub rows: u64,
    /// Number of acknowledged transactions.
    pub acknowledged: u64,
    /// Number of transactions that were sent, except those that were rejected.
    pub attempted: u64,
}

/// One page of a walk: an iteration over a whole table by cursor, after the run or while no row of
/// the table changes. Rows of other runs are left out. Keys have the same names as in operations,
/// such as `table/…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Name of the table. The table contains every key whose name begins with this name and a
    /// slash.
    pub table: String,
    /// Session that sent the request.
    pub session: u32,
    /// The number of the request within its session.
    pub request: u32,
    /// Time at which the request was sent.
    pub start: u64,
    /// Time of the response.
    pub end: u64,
    /// Keys of the rows of the page, in the order of the page.
    pub keys: Vec<Key>,
    /// True on the last page of the walk, which has no further cursor.
    pub complete: bool,
}

/// Fault injected on purpose: something is broken, frozen or restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Time of the fault.
    pub at: u64,
    /// Description, such as `kill -9 of the router`.
    pub what: String,
}
