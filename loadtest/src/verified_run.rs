//! Verified run: runs the verifying workload (`--verify`), and passes its history to the checker.
//!
//! **Not here:** the workload (`verify`), the faults (`chaos`), the checks (`checker`).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use checker::history::{OperationHistory, lines};
use checker::{self, Check, Violation};
use loadtest::recorder::Recorder;

use crate::chaos::{self, Chaos, ChaosTargets, ClusterError};
use crate::clients::Clients;
use crate::counters::Counters;
use crate::growth_summary::GrowthSummary;
use crate::http_client::Pool;
use crate::measured_run;
use crate::move_summary::MoveSummary;
use crate::options::Options;
use crate::own_rows::OwnRows;
use crate::report::{Checked, Fault, Finding, Ran, Report, Verified};
use crate::verify::Verification;

/// Name of the check that everything works again in time after the last fault. Its violations are
/// not visible in a history.
const LIVENESS: &str = "liveness";
/// Name of the check that a moved copy equals its source. The router itself compares them.
const MOVES: &str = "moves";
/// Name of the check that each shard map contains every slot once. The maps are read while shards
/// join and are drained.
const MAP: &str = "map";

/// Runs the workload against routers that are already running.
pub(crate) async fn run(options: &Options, clients: &Clients) -> anyhow::Result<Report> {
    let file = open_history(options)?;
    let counters = Arc::new(Counters::default());
    let verification = Arc::new(Verification::new(options, clients, Arc::clone(&counters))?);
    verification.open_banks().await?;
    let ran = measured_run::run(options, Arc::clone(&verification).scenario()?, &counters).await?;
    let read_back = verification.finish().await;
    let history = verification.recorder().finish();
    let mut verified = judge(&history, file)?;
    if let Err(error) = read_back {
        verified.add_liveness_violation(
            "what was written can be read after the run",
            format!("{error:#}"),
        );
    }
    let start = start(&counters, verification.recorder());
    Ok(conclude(options, &counters, ran, &history, (verified, start)))
}

/// Runs the workload against routers that the tester starts, while faults are injected into these
/// routers or the servers behind them. Within [`chaos::LIVENESS`] after the last fault, everything
/// must work again.
pub(crate) async fn under_chaos(options: &Options) -> anyhow::Result<Report> {
    let mut targets = ChaosTargets::start(&options.load).await?;
    let mut options = options.clone();
    options.aim_at(targets.urls()).map_err(anyhow::Error::msg)?;
    let file = open_history(&options)?;
    let pools = options.pools()?;
    let pool = Arc::clone(&pools[0]);
    targets.await_ready(&pools).await?;
    targets.check(&pool).await?;
    let own = OwnRows::prepare(&options, &pools).await?;
    let ended = break_meanwhile(&options, targets, pools, &own, file).await;
    // Rows are removed only from a cluster. Without a cluster, they are removed together with the
    // router's directory.
    if options.load.cluster.is_some() {
        match &ended {
            Ok((_, Some(_))) => own.remove(&options, &pool).await,
            Ok((_, None)) | Err(_) => own.report_left_rows(),
        }
    }
    let (report, targets) = ended?;
    if let Some(mut targets) = targets.filter(|_| !report.passed) {
        for kept in targets.keep() {
            let kept = kept.display();
            let _ = writeln!(std::io::stderr(), "loadtest: a router's directory is kept: {kept}");
        }
    }
    Ok(report)
}

/// Runs the load while faults are injected. Returns the report, and also the targets unless one of
/// them could not be started again.
async fn break_meanwhile(
    options: &Options,
    targets: ChaosTargets,
    pools: Vec<Arc<Pool>>,
    own: &OwnRows,
    file: Option<File>,
) -> anyhow::Result<(Report, Option<ChaosTargets>)> {
    let counters = Arc::new(Counters::default());
    let pool = Arc::clone(&pools[0]);
    let clients = Clients::of_run(pools.clone(), Arc::clone(own.names()));
    let verification = Arc::new(Verification::new(options, &clients, Arc::clone(&counters))?);
    verification.open_banks().await?;
    let recorder = Arc::clone(verification.recorder());
    let moving = Arc::clone(verification.moving());
    let seed = options.load.seed;
    let chaos = Chaos::start(targets, Arc::clone(&recorder), &pools, moving, seed);
    let ran = measured_run::run(options, Arc::clone(&verification).scenario()?, &counters).await;
    let stopped = chaos.stop().await;
    let ran = ran?;
    let (targets, works) = match stopped {
        Ok(targets) => (Some(targets), wait_until_working(&pool, &verification).await),
        Err(error) if error.is::<ClusterError>() => return Err(error),
        Err(error) => (None, Err(error)),
    };
    let history = recorder.finish();
    let mut verified = judge(&history, file)?;
    match (works, &targets) {
        (Ok(took), _) => {
            let note = format!(
                "after the last fault rows of all shards were written within {took} ms, and then all read"
            );
            verified.notes.insert(0, note);
        }
        (Err(error), Some(_)) => {
            let promise = "after the last fault everything works again in time";
            verified.add_liveness_violation(promise, format!("{error:#}"));
        }
        (Err(error), None) => {
            verified.add_liveness_violation(
                "a router can be ended and started again",
                format!("{error:#}"),
            );
        }
    }
    let moves = targets.as_ref().and_then(ChaosTargets::move_summary).cloned();
    if let Some(moves) = &moves {
        verified.add_moves(moves);
    }
    let growth = targets.as_ref().and_then(ChaosTargets::growth_summary).cloned();
    if let Some(growth) = &growth {
        verified.add_growth(growth);
    }
    let start = start(&counters, &recorder);
    let mut report = conclude(options, &counters, ran, &history, (verified, start));
    report.warnings.extend(moves.iter().flat_map(MoveSummary::warnings));
    report.warnings.extend(growth.iter().flat_map(GrowthSummary::warnings));
    Ok((report, targets))
}

/// Waits until everything works again, and then reads all rows. Returns the duration of the wait in
/// milliseconds.
async fn wait_until_working(pool: &Pool, verification: &Arc<Verification>) -> anyhow::Result<u128> {
    let began = Instant::now();
    match tokio::time::timeout(chaos::LIVENESS, alive(pool, verification)).await {
        Ok(alive) => alive?,
        Err(_) => anyhow::bail!("new writes are not accepted within {:?}", chaos::LIVENESS),
    }
    let took = began.elapsed().as_millis();
    verification.finish().await?;
    Ok(took)
}

/// Waits until the router is ready and new writes succeed on every shard.
async fn alive(pool: &Pool, verification: &Arc<Verification>) -> anyhow::Result<()> {
    chaos::ready(pool, chaos::LIVENESS).await?;
    verification.write_everywhere(chaos::LIVENESS).await
}

/// Opens the file for the history. This is done before the run, so that an error is reported before
/// the load begins.
fn open_history(options: &Options) -> anyhow::Result<Option<File>> {
    let Some(path) = &options.load.history else { return Ok(None) };
    let file = File::create(path);
    file.map(Some).with_context(|| format!("{} cannot be written", path.display()))
}

/// Writes the history to its file, if one was named, and checks it.
fn judge(history: &OperationHistory, file: Option<File>) -> anyhow::Result<Verified> {
    if let Some(file) = file {
        let mut out = BufWriter::new(file);
        let written = lines::write(history, &mut out).and_then(|()| out.flush());
        written.context("the history cannot be written")?;
    }
    Ok(summarize(history, &checker::check(history)))
}

fn conclude(
    options: &Options,
    counters: &Counters,
    ran: Ran,
    history: &OperationHistory,
    (verified, start): (Verified, u64),
) -> Report {
    let ran = Ran { faults: faults(history, start), verified: Some(verified), ..ran };
    Report::new(options, &counters.counts(), ran)
}

impl Verified {
    /// Adds a violation of liveness (something did not work again in time), which the history does
    /// not show.
    fn add_liveness_violation(&mut self, promise: &str, what: String) {
        self.add_violation(LIVENESS, promise, what);
    }

    fn add_violation(&mut self, check: &str, promise: &str, what: String) {
        match self.checks.iter_mut().find(|checked| checked.check == check) {
            Some(checked) => checked.violations += 1,
            None => self.checks.push(Checked { check: check.to_owned(), violations: 1 }),
        }
        let lines = vec![format!("{check}: {what}"), format!("  promised: {promise}")];
        let finding = Finding { check: check.to_owned(), promise: promise.to_owned(), lines };
        self.findings.push(finding);
    }

    /// Adds the results of the moves of slots. A copy that differs from its source is a violation,
    /// even though the router has detected it and the slots have not changed their shard.
    fn add_moves(&mut self, moves: &MoveSummary) {
        self.notes.insert(0, moves.describe());
        for differing in moves.differing() {
            let promise = "a move copies every row of its slots as it is";
            self.add_violation(MOVES, promise, differing.clone());
        }
    }

    /// Adds the results of the joins and drains of shards. A shard map that lacks a slot, or
    /// contains one twice, is a violation.
    fn add_growth(&mut self, growth: &GrowthSummary) {
        self.notes.insert(0, growth.describe());
        let more = growth.more_broken_maps;
        let more = (more > 0).then(|| format!("{more} more maps are not described"));
        for broken in growth.broken_maps.iter().cloned().chain(more) {
            let promise = "each slot has exactly one owner at any time";
            self.add_violation(MAP, promise, broken);
        }
    }
}

/// Returns the time at which the first user started, on the history's clock.
fn start(counters: &Counters, recorder: &Recorder) -> u64 {
    counters.started().map_or(0, |started| recorder.at(started))
}

fn faults(history: &OperationHistory, start: u64) -> Vec<Fault> {
    let at_s = |at: u64| at.saturating_sub(start) as f64 / 1e9;
    history
        .faults
        .iter()
        .map(|fault| Fault { at_s: at_s(fault.at), what: fault.what.clone() })
        .collect()
}

fn summarize(history: &OperationHistory, judged: &checker::Report) -> Verified {
    let mut notes = Vec::new();
    let checks = Check::ALL.iter().map(|&check| Checked {
        check: format!("{} {}", check.id(), check.name()),
        violations: judged.count(check),
    });
    let finding = |violation: &Violation, lines| Finding {
        check: violation.check.id().to_owned(),
        promise: violation.promise.to_owned(),
        lines,
    };
    let findings = judged.violations.iter().map(|one| finding(one, one.lines(history)));
    let losses = judged.losses.iter().map(|one| finding(one, one.loss_lines(history)));
    notes.extend(judged.availability_lines().into_iter().map(|line| format!("C10 {line}")));
    if judged.rows_not_read_back > 0 {
        notes.push(format!("{} rows were not read at the end", judged.rows_not_read_back));
    }
    Verified {
        operations: history.operations.len() as u64,
        checks: checks.collect(),
        findings: findings.collect(),
        lost: judged.lost,
        losses: losses.collect(),
        notes,
    }
}
