//! Violation report: formats a report, and the records that contradict each other, as text and
//! JSON.
//!
//! **Invariant:** each record is printed on one line. Control characters in recorded strings are
//! removed, so that they cannot affect the terminal.
//! **Not here:** finding violations (the checks).

use std::fmt::Write;

use serde_json::{Value as Json, json};

use crate::checks::availability::{OperationGroup, Outcomes, Summary};
use crate::findings::REPORTED_MAX;
use crate::history::{Kind, NEVER, NodeId, Operation, OperationHistory, Outcome, Value};
use crate::report::Report;
use crate::violation::{Check, Evidence, Violation};

impl Report {
    /// Returns the report as text.
    pub fn text(&self, history: &OperationHistory) -> String {
        let mut text = String::new();
        let run = &history.header.run;
        let count = history.operations.len();
        line(&mut text, &format!("history {run}: {count} operations, {} rows", history.keys.len()));
        for check in Check::ALL {
            let count = self.count(check);
            let word = if count == 0 { "ok".to_owned() } else { format!("{count} violations") };
            line(&mut text, &format!("  {:<4}{:<24}{word}", check.id(), check.name()));
        }
        for group in self.availability_lines() {
            line(&mut text, &format!("  C10 {group}"));
        }
        if self.lost > 0 {
            line(&mut text, &format!("  {}", lost_text(self.lost)));
        }
        for fault in &history.faults {
            line(&mut text, &format!("  fault at {} s: {}", seconds(fault.at), fault.what));
        }
        if self.rows_not_read_back > 0 {
            line(
                &mut text,
                &format!("  {} rows were not read at the end", self.rows_not_read_back),
            );
        }
        for violation in &self.violations {
            line(&mut text, "");
            for reported in violation.lines(history) {
                line(&mut text, &reported);
            }
        }
        if let Some(most) = self.counts.iter().max().filter(|&&most| most > REPORTED_MAX as u64) {
            line(
                &mut text,
                &format!(
                    "\nonly the first {REPORTED_MAX} violations of each check are listed, of up to {most}"
                ),
            );
        }
        for loss in &self.losses {
            line(&mut text, "");
            for reported in loss.loss_lines(history) {
                line(&mut text, &reported);
            }
        }
        let verdict = match (self.passed(), self.lost) {
            (true, 0) => "PASS: no guarantee was violated".to_owned(),
            (true, lost) => format!("LOST: {}", lost_text(lost)),
            (false, _) => "FAIL: guarantees were violated".to_owned(),
        };
        line(&mut text, &verdict);
        text
    }

    /// Returns the result of C10 as text: for each level, one line for reads and one for changes.
    pub fn availability_lines(&self) -> Vec<String> {
        self.availability.summaries().iter().map(summary_text).collect()
    }

    /// Returns the report as one JSON object.
    pub fn json(&self, history: &OperationHistory) -> Json {
        let checks: Vec<Json> = Check::ALL
            .iter()
            .map(|&check| json!({"check": check.id(), "name": check.name(), "violations": self.count(check)}))
            .collect();
        let faults: Vec<Json> = history
            .faults
            .iter()
            .map(|fault| json!({"at_ns": fault.at, "what": fault.what}))
            .collect();
        let violations: Vec<Json> = self.violations.iter().map(|one| one.json(history)).collect();
        let losses: Vec<Json> = self.losses.iter().map(|one| one.json(history)).collect();
        let groups: Vec<Json> = self.availability.groups.iter().map(group_json).collect();
        json!({
            "run": history.header.run,
            "passed": self.passed(),
            "operations": history.operations.len(),
            "rows": history.keys.len(),
            "rows_not_read_back": self.rows_not_read_back,
            "checks": checks,
            "violations": violations,
            "lost": self.lost,
            "losses": losses,
            "availability": groups,
            "faults": faults,
        })
    }
}

impl Violation {
    /// Returns the text of the violation: one line for the violation, one for the promise, and one
    /// for each record.
    pub fn lines(&self, history: &OperationHistory) -> Vec<String> {
        let key = self.key.map_or(String::new(), |key| format!(" {}:", history.keys.name(key)));
        let mut lines = vec![
            format!("{} {}:{key} {}", self.check.id(), self.check.name(), self.what),
            format!("  promised: {}", self.promise),
        ];
        lines.extend(
            self.evidence.iter().map(|record| format!("  {}", evidence_text(history, *record))),
        );
        lines
    }

    /// Returns the lines of a loss that level `one` allows.
    pub fn loss_lines(&self, history: &OperationHistory) -> Vec<String> {
        let mut lines = self.lines(history);
        lines[0].insert_str(0, "lost at level one after a promotion: ");
        lines
    }

    /// Returns the violation as a JSON object.
    pub fn json(&self, history: &OperationHistory) -> Json {
        let records: Vec<Json> =
            self.evidence.iter().map(|record| evidence_json(history, *record)).collect();
        json!({
            "check": self.check.id(),
            "name": self.check.name(),
            "key": self.key.map(|key| history.keys.name(key)),
            "what": self.what,
            "promise": self.promise,
            "at_ns": self.at,
            "records": records,
        })
    }
}

/// Returns a sentence with the number of losses.
pub fn lost_text(lost: u64) -> String {
    format!(
        "lost at level one after a promotion: acknowledged changes were found gone {lost} times, \
         which that level allows"
    )
}

/// Appends a line without its control characters, with which recorded strings could affect a
/// terminal.
fn line(text: &mut String, reported: &str) {
    text.extend(reported.chars().filter(|letter| *letter == '\n' || !letter.is_control()));
    text.push('\n');
}

fn evidence_text(history: &OperationHistory, evidence: Evidence) -> String {
    match evidence {
        Evidence::Operation(index) => operation_text(history, &history.operations[index as usize]),
        Evidence::Total(index) => {
            let total = &history.totals[index as usize];
            let what = format!("sum {} over {} accounts", total.sum, total.accounts);
            let when = interval(total.start, total.end);
            let at = format!("bank {} at {} -> {what}", total.bank, total.level.name());
            with_request(
                history,
                total.session,
                total.request,
                total.node,
                &format!("{when}  session {}  {at}", total.session),
            )
        }
        Evidence::Ledger(index) => {
            let ledger = &history.ledgers[index as usize];
            let what = format!("counter {}, {} rows", ledger.counter, ledger.rows);
            let when = interval(ledger.start, ledger.end);
            let text =
                format!("{when}  session {}  ledger of {} -> {what}", ledger.session, ledger.bank);
            with_request(history, ledger.session, ledger.request, ledger.node, &text)
        }
        Evidence::Page(index) => {
            let page = &history.pages[index as usize];
            let when = interval(page.start, page.end);
            let what = format!(
                "{} rows{}",
                page.keys.len(),
                if page.complete { ", the last page" } else { "" }
            );
            let text =
                format!("{when}  session {}  walk over {} -> {what}", page.session, page.table);
            with_request(history, page.session, page.request, NodeId::NONE, &text)
        }
    }
}

fn operation_text(history: &OperationHistory, one: &Operation) -> String {
    let mut text = format!("{}  session {}  ", interval(one.start, one.end), one.session);
    text += one.kind.name();
    match one.kind {
        Kind::Write | Kind::Replay => text += &format!(" {}", one.value),
        Kind::Delete | Kind::Read => {}
    }
    text += &format!(" of {} at {}", history.keys.name(one.key), one.level.name());
    if one.bound_ms > 0 {
        text += &format!(", at most {} ms old", one.bound_ms);
    }
    if one.based_on > 0 {
        text += &format!(", if at version {}", one.based_on);
    }
    if one.token {
        text += ", with token";
    }
    if one.last {
        text += ", after the run";
    }
    text += " -> ";
    text += match one.outcome {
        Outcome::Ok if one.is_absent_read() => "no row",
        Outcome::Ok | Outcome::Committed | Outcome::Rejected | Outcome::Unknown => {
            one.outcome.name()
        }
    };
    if one.kind == Kind::Read && one.value != Value::NONE {
        text += &format!(" {}", one.value);
    }
    if one.version > 0 {
        text += &format!(", version {}", one.version);
    }
    if one.attempts > 1 {
        text += &format!(", sent {} times", one.attempts);
    }
    with_request(history, one.session, one.request, one.node, &text)
}

fn with_request(
    history: &OperationHistory,
    session: u32,
    request: u32,
    node: NodeId,
    text: &str,
) -> String {
    let mut text = text.to_owned();
    if let Some(node) = history.nodes.get(node) {
        let host = history.header.hosts.get(usize::from(node.host));
        text += &format!(", {node} via {}", host.map_or("an unknown host", String::as_str));
    }
    let id = crate::history::request_id(&history.header.run, session, request);
    // Writing to a String cannot fail.
    let _ = write!(text, ", request {id}");
    text
}

fn evidence_json(history: &OperationHistory, evidence: Evidence) -> Json {
    use crate::history::lines;
    let (record, session, request) = match evidence {
        Evidence::Operation(index) => {
            let one = &history.operations[index as usize];
            (lines::operation_json(history, one), one.session, one.request)
        }
        Evidence::Total(index) => {
            let total = &history.totals[index as usize];
            (lines::total_json(history, total), total.session, total.request)
        }
        Evidence::Ledger(index) => {
            let ledger = &history.ledgers[index as usize];
            (lines::ledger_json(history, ledger), ledger.session, ledger.request)
        }
        Evidence::Page(index) => {
            let page = &history.pages[index as usize];
            (lines::page_json(history, page), page.session, page.request)
        }
    };
    let id = crate::history::request_id(&history.header.run, session, request);
    let mut record = record;
    // The line of a record is always a JSON object.
    record["request_id"] = Json::String(id);
    record
}

fn summary_text(summary: &Summary<'_>) -> String {
    let what = if summary.reads { "reads" } else { "changes" };
    let Outcomes { ok, committed, rejected, unknown } = summary.outcomes;
    let mut text = format!("{what} at {}: {ok} ok", summary.level.name());
    for (count, name) in [(committed, "committed"), (rejected, "rejected")] {
        if count > 0 {
            text += &format!(", {count} {name}");
        }
    }
    if unknown > 0 {
        text += &format!(", {unknown} unknown ({:.2} %)", summary.outcomes.unknown_ratio() * 100.0);
    }
    if let Some((gap, shard)) = summary.worst {
        let shard = if shard.is_empty() { "some shard" } else { shard };
        text += &format!("; none on {shard} for {:.2} s", gap.nanos() as f64 / 1e9);
        text += &format!(", from {:.2} s", gap.from as f64 / 1e9);
    }
    text
}

fn group_json(group: &OperationGroup) -> Json {
    let outcomes = &group.outcomes;
    json!({
        "shard": group.shard,
        "kind": if group.reads { "reads" } else { "changes" },
        "level": group.level.name(),
        "ok": outcomes.ok,
        "committed": outcomes.committed,
        "rejected": outcomes.rejected,
        "unknown": outcomes.unknown,
        "unknown_ratio": outcomes.unknown_ratio(),
        "gap_ns": group.gap.map(|gap| gap.nanos()),
        "gap_from_ns": group.gap.map(|gap| gap.from),
    })
}

fn interval(start: u64, end: u64) -> String {
    if end == NEVER {
        return format!("{} s .. never", seconds(start));
    }
    format!("{} .. {} s", seconds(start), seconds(end))
}

/// Returns nanoseconds as seconds with six decimals.
fn seconds(nanos: u64) -> String {
    format!("{}.{:06}", nanos / 1_000_000_000, nanos % 1_000_000_000 / 1_000)
}
