//! Lines: the form of a history in a file, which is JSON with one record on each line.
//! `docs/history.md` describes it.
//!
//! While a history is written or read, only one line of the file at a time is in memory. Each line
//! contains the full names of its key and node, so that it can be understood without the other
//! lines. Members that have their default value are left out.
//!
//! **Invariant:** a history that is written and read again is unchanged; reading any other input
//! returns an error with the number of the line.
//! **Not here:** the meaning of the records (`operation`, `records`).

mod line;
mod reading;

use std::io::{self, Write};

use serde_json::Value as Json;

use self::line::{HeaderLine, Line};
use super::{FORMAT, Ledger, Operation, OperationHistory, Page, Total};

pub use self::reading::{BadHistory, LINE_BYTES_MAX, read};

/// Writes a history: its header, then every record. The function makes many small writes, so `out`
/// should be buffered.
pub fn write(history: &OperationHistory, out: &mut impl Write) -> io::Result<()> {
    one(out, &HeaderLine::of(&history.header, FORMAT))?;
    for operation in &history.operations {
        one(out, &Line::of_operation(history, operation))?;
    }
    for total in &history.totals {
        one(out, &Line::of_total(history, total))?;
    }
    for ledger in &history.ledgers {
        one(out, &Line::of_ledger(history, ledger))?;
    }
    for page in &history.pages {
        one(out, &Line::of_page(history, page))?;
    }
    for fault in &history.faults {
        one(out, &Line::of_fault(fault))?;
    }
    out.flush()
}

/// Returns an operation as the JSON object of its line.
pub(crate) fn operation_json(history: &OperationHistory, operation: &Operation) -> Json {
    object(&Line::of_operation(history, operation))
}

/// Returns a total as the JSON object of its line.
pub(crate) fn total_json(history: &OperationHistory, total: &Total) -> Json {
    object(&Line::of_total(history, total))
}

/// Returns a ledger as the JSON object of its line.
pub(crate) fn ledger_json(history: &OperationHistory, ledger: &Ledger) -> Json {
    object(&Line::of_ledger(history, ledger))
}

/// Returns a page as the JSON object of its line. The keys are left out, because there may be a
/// thousand.
pub(crate) fn page_json(history: &OperationHistory, page: &Page) -> Json {
    object(&Line { keys: None, ..Line::of_page(history, page) })
}

fn object(line: &Line<'_>) -> Json {
    // Strings and numbers can always be converted to JSON.
    serde_json::to_value(line).unwrap_or_default()
}

fn one(out: &mut impl Write, line: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}
