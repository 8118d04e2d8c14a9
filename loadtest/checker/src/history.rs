//! History: all requests and responses of a run, in a form that is small enough to check as a
//! whole.
//!
//! An [`Operation`] is one write, delete or read of one row. Besides operations there are a few
//! [records] about many rows at once (the sum of a bank's accounts, a bank's ledger, a page of a
//! walk over a whole table) and about injected faults. The load tester's recorder collects
//! operations and records while many tasks run; [`lines`] writes them to a file and reads them
//! again.
//!
//! **Invariant:** the names of all keys and nodes to which a record refers are in the same history.
//! Times are nanoseconds since the start of the history, on one monotonic clock.
//! **Not here:** checking the history ([`check`](crate::check())).

mod names;
mod nodes;
mod operation;

pub mod lines;
pub mod records;

pub use self::names::{Key, Names};
pub use self::nodes::{Node, NodeId, Nodes, Role};
pub use self::operation::{Kind, Level, NEVER, Operation, Outcome, Value};
pub use self::records::{Fault, Ledger, Page, Total};

/// Version of the file format of a history; this program writes and reads only this version.
pub const FORMAT: u32 = 1;

/// Description of a run, which precedes the first record in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The run's name; request ids begin with it.
    pub run: String,
    /// Wall-clock time at which the history's clock was 0, as RFC 3339 in UTC.
    pub started: String,
    /// Routers of the run, such as `http://127.0.0.1:3000`.
    pub hosts: Vec<String>,
    /// Sum and number of the accounts of each bank; `None` for a run without banks.
    pub bank: Option<BankConstants>,
}

/// Numbers that no transfer between the accounts of a bank may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BankConstants {
    /// The sum over all accounts of one bank.
    pub total: i64,
    /// Number of accounts of one bank.
    pub accounts: u32,
}

impl Header {
    /// Returns the header of a run without banks.
    pub fn new(run: &str, started: String, hosts: Vec<String>) -> Self {
        Self { run: run.to_owned(), started, hosts, bank: None }
    }
}

/// All records of a run, in no particular order.
#[derive(Clone, Debug, Default)]
pub struct OperationHistory {
    /// Description of the run.
    pub header: Header,
    /// Names of the keys; operations refer to them by number.
    pub keys: Names,
    /// Nodes that responded; operations refer to them by number.
    pub nodes: Nodes,
    /// Operations on single rows.
    pub operations: Vec<Operation>,
    /// Sums of banks.
    pub totals: Vec<Total>,
    /// Counters and ledgers of banks at the end.
    pub ledgers: Vec<Ledger>,
    /// Pages of walks over whole tables.
    pub pages: Vec<Page>,
    /// Faults injected during the run.
    pub faults: Vec<Fault>,
}

impl OperationHistory {
    /// Returns the id that a request had as `x-request-id`.
    pub fn request_id(&self, operation: &Operation) -> String {
        request_id(&self.header.run, operation.session, operation.request)
    }

    /// Returns the operations with these indices.
    pub fn select(&self, indices: &[u32]) -> Vec<&Operation> {
        indices.iter().map(|&index| &self.operations[index as usize]).collect()
    }
}

/// Returns the id of a session's request. The sender and the reports both use this function.
pub fn request_id(run: &str, session: u32, request: u32) -> String {
    format!("{run}-{session}-{request}")
}
