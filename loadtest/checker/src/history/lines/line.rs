//! Line: the members of one line, and the conversion of a record to a line.
//!
//! All kinds of records share one flat struct, which serde parses in one pass. A tagged enum would
//! need two passes.
//!
//! **Invariant:** a member is left out exactly if it has its default value.
//! **Not here:** the conversion of a line to a record (`reading`), which trusts no input.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::history::{
    BankConstants, Fault, Header, Key, Kind, Ledger, Level, NEVER, NodeId, Operation,
    OperationHistory, Outcome, Page, Role, Total, Value,
};

/// First line of a file: the description of the run.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderLine {
    pub(super) format: u32,
    run: String,
    started: String,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bank: Option<BankLine>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BankLine {
    total: i64,
    accounts: u32,
}

/// Format number of a header line. It is parsed before the other members, so that a file of a later
/// format is refused because of this number and not because of unknown members.
#[derive(Deserialize)]
pub(super) struct FormatLine {
    pub(super) format: u32,
}

impl HeaderLine {
    pub(super) fn of(header: &Header, format: u32) -> Self {
        let bank = header.bank.map(|bank| BankLine { total: bank.total, accounts: bank.accounts });
        let (run, started) = (header.run.clone(), header.started.clone());
        Self { format, run, started, hosts: header.hosts.clone(), bank }
    }

    pub(super) fn into_header(self) -> Header {
        let bank =
            self.bank.map(|bank| BankConstants { total: bank.total, accounts: bank.accounts });
        Header { run: self.run, started: self.started, hosts: self.hosts, bank }
    }
}

/// Kind of record in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Is {
    Write,
    Delete,
    Read,
    Replay,
    Total,
    Ledger,
    Page,
    Fault,
}

/// Any line after the first; it contains one record.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line<'a> {
    pub(super) is: Is,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) session: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) request: u32,
    pub(super) start: u64,
    #[serde(default = "never", skip_serializing_if = "is_never")]
    pub(super) end: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<Value>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) version: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) based_on: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) level: Option<Level>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<Outcome>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) bound_ms: u32,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub(super) attempts: u8,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) token: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) last: bool,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) shard: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<Role>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) host: Option<u16>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) bank: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sum: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) accounts: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) counter: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rows: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) acknowledged: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) attempted: Option<u64>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) table: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) keys: Option<Vec<Text<'a>>>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) complete: bool,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) what: Option<Cow<'a, str>>,
}

/// A string inside a list. Serde borrows a `Cow` only in a field with the attribute `borrow`, so
/// the elements of a list need this wrapper.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

impl<'a> Line<'a> {
    fn new(is: Is, start: u64, end: u64) -> Self {
        Self {
            is,
            key: None,
            session: 0,
            request: 0,
            start,
            end,
            value: None,
            version: 0,
            based_on: 0,
            level: None,
            outcome: None,
            bound_ms: 0,
            attempts: 1,
            token: false,
            last: false,
            shard: None,
            role: None,
            host: None,
            bank: None,
            sum: None,
            accounts: None,
            counter: None,
            rows: None,
            acknowledged: None,
            attempted: None,
            table: None,
            keys: None,
            complete: false,
            what: None,
        }
    }

    pub(super) fn of_operation(history: &'a OperationHistory, operation: &Operation) -> Self {
        let is = match operation.kind {
            Kind::Write => Is::Write,
            Kind::Delete => Is::Delete,
            Kind::Read => Is::Read,
            Kind::Replay => Is::Replay,
        };
        let line = Self {
            key: Some(name(history, operation.key)),
            session: operation.session,
            request: operation.request,
            value: Some(operation.value),
            version: operation.version,
            based_on: operation.based_on,
            level: (operation.level != Level::One).then_some(operation.level),
            outcome: (operation.outcome != Outcome::Ok).then_some(operation.outcome),
            bound_ms: operation.bound_ms,
            attempts: operation.attempts,
            token: operation.token,
            last: operation.last,
            ..Self::new(is, operation.start, operation.end)
        };
        line.answered_by(history, operation.node)
    }

    pub(super) fn of_total(history: &'a OperationHistory, total: &'a Total) -> Self {
        let line = Self {
            session: total.session,
            request: total.request,
            bank: Some(Cow::Borrowed(&total.bank)),
            level: (total.level != Level::One).then_some(total.level),
            sum: Some(total.sum),
            accounts: Some(total.accounts),
            ..Self::new(Is::Total, total.start, total.end)
        };
        line.answered_by(history, total.node)
    }

    pub(super) fn of_ledger(history: &'a OperationHistory, ledger: &'a Ledger) -> Self {
        let line = Self {
            session: ledger.session,
            request: ledger.request,
            bank: Some(Cow::Borrowed(&ledger.bank)),
            counter: Some(ledger.counter),
            rows: Some(ledger.rows),
            acknowledged: Some(ledger.acknowledged),
            attempted: Some(ledger.attempted),
            ..Self::new(Is::Ledger, ledger.start, ledger.end)
        };
        line.answered_by(history, ledger.node)
    }

    pub(super) fn of_page(history: &'a OperationHistory, page: &'a Page) -> Self {
        Self {
            session: page.session,
            request: page.request,
            table: Some(Cow::Borrowed(&page.table)),
            keys: Some(page.keys.iter().map(|&key| Text(name(history, key))).collect()),
            complete: page.complete,
            ..Self::new(Is::Page, page.start, page.end)
        }
    }

    pub(super) fn of_fault(fault: &'a Fault) -> Self {
        Self { what: Some(Cow::Borrowed(&fault.what)), ..Self::new(Is::Fault, fault.at, NEVER) }
    }

    fn answered_by(mut self, history: &'a OperationHistory, node: NodeId) -> Self {
        if let Some(node) = history.nodes.get(node) {
            self.shard = Some(Cow::Borrowed(&node.shard));
            self.role = Some(node.role);
            self.host = Some(node.host);
        }
        self
    }
}

fn name(history: &OperationHistory, key: Key) -> Cow<'_, str> {
    Cow::Borrowed(history.keys.name(key))
}

fn is_zero<N: PartialEq + Default>(number: &N) -> bool {
    *number == N::default()
}

fn is_never(end: &u64) -> bool {
    *end == NEVER
}

fn is_one(attempts: &u8) -> bool {
    *attempts == 1
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn never() -> u64 {
    NEVER
}

fn one() -> u8 {
    1
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Value;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a value as session:number, absent or foreign")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
                text.parse().map_err(E::custom)
            }
        }
        from.deserialize_str(Text)
    }
}
