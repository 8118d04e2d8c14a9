//! Text: the report as text for a terminal.

use std::fmt::{Result, Write};

use checker::lost_text;

use super::{
    Checked, FailureLine, Fault, Finding, Latency, Load, Report, Share, TenantLine, Verified,
    compare,
};

/// Maximum number of characters in a line that lists shares of shards, roles or cache states.
const LINE_CHARS: usize = 100;
/// Maximum number of shares of one kind in the text; the JSON report contains all of them.
const SHARES_MAX: usize = 32;
/// Maximum number of tenants in the text; the JSON report contains all of them.
const TENANTS_MAX: usize = 16;

pub(super) fn write(report: &Report, out: &mut String) -> Result {
    let Report { description, hosts, elapsed_s, requests, requests_per_s, failed, dropped, .. } =
        report;
    writeln!(out, "tessera loadtest: {description} -> {}", hosts.join(", "))?;
    if report.stopped_early {
        writeln!(out, "  stopped early, after {elapsed_s:.1} s")?;
    }
    write!(out, "  requests {requests:>9} {requests_per_s:>7.0}/s   failed {failed}")?;
    match report.target_per_s {
        Some(target) if report.is_open() => {
            writeln!(out, "   asked for {target:.0}/s, dropped {dropped}")?;
        }
        Some(target) => writeln!(out, "   at most {target:.0}/s demanded")?,
        None => writeln!(out)?,
    }
    for load in &report.operations {
        let Load { name, requests, requests_per_s, latency_ms, .. } = load;
        writeln!(
            out,
            "  {name:<8} {requests:>9} {requests_per_s:>7.0}/s   {}",
            latency(latency_ms)
        )?;
    }
    if report.is_open() {
        writeln!(out, "  response {:>19}   {}", "since due", latency(&report.response_ms))?;
        writeln!(out, "  service  {:>19}   {}", "since sent", latency(&report.service_ms))?;
    }
    shares("shards", &report.shards, out)?;
    shares("roles", &report.roles, out)?;
    shares("cache", &report.cache, out)?;
    writeln!(out, "  model    {}", model(report))?;
    for warning in &report.warnings {
        writeln!(out, "  warning  {warning}")?;
    }
    if !report.failures.is_empty() {
        writeln!(out, "  failures")?;
    }
    for FailureLine { operation, status, code, count, example } in &report.failures {
        let status = status.map(|status| format!("{status} ")).unwrap_or_default();
        write!(out, "  {count:>18}  {operation:<5}  {status}{code}")?;
        writeln!(out, "{}{example}", if example.is_empty() { "" } else { ": " })?;
    }
    for Fault { at_s, what } in &report.faults {
        writeln!(out, "  fault    {at_s:>7.1} s  {what}")?;
    }
    tenants(&report.tenants, out)?;
    if let Some(verified) = &report.verified {
        promises(verified, out)?;
    }
    if let Some(comparison) = &report.comparison {
        compare::write(comparison, out)?;
    }
    for rule in &report.thresholds_failed {
        writeln!(out, "  threshold failed: {rule}")?;
    }
    let word = match report.passed {
        true => "PASS",
        false if report.has_only_lost() => "LOST",
        false => "FAIL",
    };
    writeln!(out, "{word}: {}", report.verdict())
}

fn model(report: &Report) -> &'static str {
    let has_maximum = report.target_per_s.is_some();
    match (report.is_open(), has_maximum, report.verified.is_some()) {
        (true, ..) => {
            "open: sent at the rate, whatever the responses; latency counts from when a request was due"
        }
        (false, true, _) => {
            "closed, at the rate at most: a user waits for its response; latency counts from the request itself"
        }
        (false, false, true) => {
            "closed: a user waits for its response, so stalls weigh less than they should"
        }
        (false, false, false) => {
            "closed: a user waits for its response, so stalls weigh less than they should; --rate avoids that"
        }
    }
}

/// Writes a line about the requests of each tenant, for up to [`TENANTS_MAX`] tenants.
fn tenants(lines: &[TenantLine], out: &mut String) -> Result {
    if lines.is_empty() {
        return Ok(());
    }
    let sum = |number: fn(&TenantLine) -> u64| lines.iter().map(number).sum::<u64>();
    let (probes, foreign) = (sum(|line| line.probes), sum(|line| line.foreign_rows));
    writeln!(
        out,
        "  tenants  {}, which sent {probes} requests for rows of others; {foreign} answers had some",
        lines.len()
    )?;
    for line in lines.iter().take(TENANTS_MAX) {
        let TenantLine { tenant, requests, failed, probes, foreign_rows } = line;
        write!(out, "    {tenant:<32} {requests:>8}  failed {failed}  probes {probes}")?;
        writeln!(out, "  rows of others {foreign_rows}")?;
    }
    match lines.len().checked_sub(TENANTS_MAX).filter(|more| *more > 0) {
        Some(more) => writeln!(out, "    and {more} more"),
        None => Ok(()),
    }
}

/// Writes the result of the verifying workload.
fn promises(verified: &Verified, out: &mut String) -> Result {
    let Verified { operations, checks, findings, lost, losses, notes } = verified;
    writeln!(out, "  verified {operations} operations")?;
    for Checked { check, violations } in checks {
        match violations {
            0 => writeln!(out, "    {check:<28} ok")?,
            1 => writeln!(out, "    {check:<28} 1 violation")?,
            _ => writeln!(out, "    {check:<28} {violations} violations")?,
        }
    }
    for note in notes {
        writeln!(out, "    {note}")?;
    }
    if *lost > 0 {
        writeln!(out, "    {}", lost_text(*lost))?;
    }
    for Finding { lines, .. } in findings.iter().chain(losses) {
        writeln!(out)?;
        lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
    }
    Ok(())
}

fn shares(name: &str, shares: &[Share], out: &mut String) -> Result {
    if shares.is_empty() {
        return match name {
            "shards" => writeln!(out, "  shards   no response named one (header x-shard)"),
            _ => Ok(()),
        };
    }
    let texts = shares.iter().take(SHARES_MAX).map(|share| {
        format!("{} {:.1} % (p99 {})", share.name, share.percent, milliseconds(share.p99_ms))
    });
    let more = shares.len().checked_sub(SHARES_MAX).filter(|more| *more > 0);
    let (mut head, mut line) = (name, String::new());
    for share in texts.chain(more.map(|more| format!("and {more} more"))) {
        if line.chars().count() + share.chars().count() > LINE_CHARS {
            writeln!(out, "  {head:<8} {line}")?;
            head = "";
            line.clear();
        }
        line += if line.is_empty() { "" } else { "  " };
        line += &share;
    }
    writeln!(out, "  {head:<8} {line}")
}

fn latency(latency: &Latency) -> String {
    let Latency { p50, p90, p95, p99, p999, max } = *latency;
    let reported =
        [("p50", p50), ("p90", p90), ("p95", p95), ("p99", p99), ("p99.9", p999), ("max", max)];
    let reported: Vec<_> =
        reported.iter().map(|(name, value)| format!("{name} {}", milliseconds(*value))).collect();
    reported.join("  ")
}

/// Returns a time with about three significant digits.
pub(super) fn milliseconds(value: f64) -> String {
    match value {
        value if value < 1.0 => format!("{value:.2} ms"),
        value if value < 100.0 => format!("{value:.1} ms"),
        value => format!("{value:.0} ms"),
    }
}
