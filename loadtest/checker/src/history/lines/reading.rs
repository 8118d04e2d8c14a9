//! Reading: parses the lines of a history one at a time.
//!
//! **Invariant:** no input causes a panic, or needs more memory than its records and one line.
//! **Not here:** opening and buffering a file, which the calling function must do.

use std::fmt;
use std::io::{self, BufRead, Read};

use super::line::{FormatLine, HeaderLine, Is, Line, Text};
use crate::history::{
    FORMAT, Fault, Key, Kind, Ledger, Level, NodeId, Operation, OperationHistory, Outcome, Page,
    Role, Total, Value,
};

/// Maximum length of a line in bytes: four times the length of a page of 1 000 keys of 256 bytes.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// Error for input that is not a valid history.
#[derive(Debug)]
pub struct BadHistory {
    /// Number of the line, counted from 1.
    pub line: u64,
    /// Description of the fault.
    pub what: String,
}

impl fmt::Display for BadHistory {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for BadHistory {}

/// Reads a history written by [`write`](super::write()).
pub fn read(input: &mut impl BufRead) -> Result<OperationHistory, BadHistory> {
    let mut history = OperationHistory::default();
    let mut text = Vec::new();
    let mut line = 0;
    loop {
        line += 1;
        let bad = |what: String| BadHistory { line, what };
        if !next_line(input, &mut text).map_err(|error| bad(error.to_string()))? {
            break;
        }
        if line == 1 {
            history.header = header(&text).map_err(bad)?.into_header();
        } else if !text.is_empty() {
            record(&mut history, &text).map_err(bad)?;
        }
    }
    if line == 1 {
        return Err(BadHistory { line, what: "empty; a header is expected".to_owned() });
    }
    Ok(history)
}

/// Reads the next line without its line break; returns false at the end of the input.
fn next_line(input: &mut impl BufRead, text: &mut Vec<u8>) -> io::Result<bool> {
    text.clear();
    let mut limited = input.take(LINE_BYTES_MAX as u64 + 1);
    if limited.read_until(b'\n', text)? == 0 {
        return Ok(false);
    }
    if text.last() == Some(&b'\n') {
        text.pop();
    }
    if text.len() > LINE_BYTES_MAX {
        return Err(io::Error::other(format!("longer than {LINE_BYTES_MAX} bytes")));
    }
    Ok(true)
}

fn header(text: &[u8]) -> Result<HeaderLine, String> {
    let wanted = "the first line is a header with `format`, `run` and `started`";
    let format: FormatLine =
        serde_json::from_slice(text).map_err(|error| format!("{error}; {wanted}"))?;
    if format.format != FORMAT {
        let other = format.format;
        return Err(format!("this is format {other} of a history; format {FORMAT} is understood"));
    }
    serde_json::from_slice(text).map_err(|error| format!("{error}; {wanted}"))
}

fn record(history: &mut OperationHistory, text: &[u8]) -> Result<(), String> {
    let line: Line<'_> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if line.end < line.start {
        return Err("`end` is before `start`".to_owned());
    }
    match line.is {
        Is::Write => operation(history, &line, Kind::Write)?,
        Is::Delete => operation(history, &line, Kind::Delete)?,
        Is::Read => operation(history, &line, Kind::Read)?,
        Is::Replay => operation(history, &line, Kind::Replay)?,
        Is::Total => total(history, &line)?,
        Is::Ledger => ledger(history, &line)?,
        Is::Page => page(history, &line)?,
        Is::Fault => {
            let what = wanted(line.what.as_deref(), "what")?.to_owned();
            history.faults.push(Fault { at: line.start, what });
        }
    }
    Ok(())
}

fn operation(history: &mut OperationHistory, line: &Line<'_>, kind: Kind) -> Result<(), String> {
    let name = wanted(line.key.as_deref(), "key")?;
    let value = wanted(line.value, "value")?;
    if kind != Kind::Read && (value == Value::NONE || value == Value::FOREIGN) {
        return Err(format!("a {} is named by its `value`, session:number", kind.name()));
    }
    if line.session == 0 {
        return Err("`session` is required, from 1".to_owned());
    }
    let key = intern(history, name)?;
    let node = node(history, line);
    history.operations.push(Operation {
        start: line.start,
        end: line.end,
        value,
        version: line.version,
        based_on: line.based_on,
        bound_ms: line.bound_ms,
        node,
        attempts: line.attempts,
        level: line.level.unwrap_or(Level::One),
        outcome: line.outcome.unwrap_or(Outcome::Ok),
        token: line.token,
        last: line.last,
        ..Operation::new(kind, key, line.session, line.request)
    });
    Ok(())
}

fn total(history: &mut OperationHistory, line: &Line<'_>) -> Result<(), String> {
    let node = node(history, line);
    history.totals.push(Total {
        bank: wanted(line.bank.as_deref(), "bank")?.to_owned(),
        session: line.session,
        request: line.request,
        start: line.start,
        end: line.end,
        node,
        level: line.level.unwrap_or(Level::One),
        sum: wanted(line.sum, "sum")?,
        accounts: wanted(line.accounts, "accounts")?,
    });
    Ok(())
}

fn ledger(history: &mut OperationHistory, line: &Line<'_>) -> Result<(), String> {
    let node = node(history, line);
    history.ledgers.push(Ledger {
        bank: wanted(line.bank.as_deref(), "bank")?.to_owned(),
        session: line.session,
        request: line.request,
        start: line.start,
        end: line.end,
        node,
        counter: wanted(line.counter, "counter")?,
        rows: wanted(line.rows, "rows")?,
        acknowledged: wanted(line.acknowledged, "acknowledged")?,
        attempted: wanted(line.attempted, "attempted")?,
    });
    Ok(())
}

fn page(history: &mut OperationHistory, line: &Line<'_>) -> Result<(), String> {
    let names = wanted(line.keys.as_ref(), "keys")?;
    let keys = names.iter().map(|Text(name)| intern(history, name)).collect::<Result<_, _>>()?;
    history.pages.push(Page {
        table: wanted(line.table.as_deref(), "table")?.to_owned(),
        session: line.session,
        request: line.request,
        start: line.start,
        end: line.end,
        keys,
        complete: line.complete,
    });
    Ok(())
}

fn intern(history: &mut OperationHistory, name: &str) -> Result<Key, String> {
    if name.is_empty() {
        return Err("a key has a name".to_owned());
    }
    Ok(history.keys.intern(name))
}

fn node(history: &mut OperationHistory, line: &Line<'_>) -> NodeId {
    line.shard.as_deref().map_or(NodeId::NONE, |shard| {
        let role = line.role.unwrap_or(Role::Unknown);
        history.nodes.intern(shard, role, line.host.unwrap_or_default())
    })
}

fn wanted<T>(member: Option<T>, name: &str) -> Result<T, String> {
    member.ok_or_else(|| format!("`{name}` is missing"))
}
