//! Verified: a run of the verifying workload, from the first request to the verdict.
//!
//! **Not here:** the workload (`verify`), the faults (`chaos`) and the checks (`checker`).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use checker::history::{History, lines};
use checker::{self, Check, Violation};
use loadtest::recorder::Recorder;

use crate::chaos::{self, Chaos, ClusterTrouble, Victims};
use crate::options::Options;
use crate::own_rows::OwnRows;
use crate::report::{Checked, Fault, Finding, Ran, Report, Verified};
use crate::tally::Tally;
use crate::verify::Verification;
use crate::wire::Pool;

/// What no check of a history can tell.
const LIVENESS: &str = "liveness";

/// Runs the workload against routers that are there.
pub(crate) async fn run(
    options: &Options,
    pools: Vec<Arc<Pool>>,
    own: &OwnRows,
) -> anyhow::Result<Report> {
    let file = open_history(options)?;
    let tally = Arc::new(Tally::default());
    let of_run = (pools, Arc::clone(own.names()));
    let verification = Arc::new(Verification::new(options, of_run, Arc::clone(&tally))?);
    verification.open_banks().await?;
    let ran = crate::attack(options, Arc::clone(&verification).scenario()?, &tally).await?;
    let read_back = verification.finish().await;
    let history = verification.recorder().finish();
    let mut verified = judge(&history, file)?;
    if let Err(error) = read_back {
        verified.accuse("what was written can be read after the run", format!("{error:#}"));
    }
    let start = start(&tally, verification.recorder());
    Ok(conclude(options, &tally, ran, &history, (verified, start)))
}

/// Runs the workload against a router of its own, which is broken meanwhile, or the servers under it; then everything must work
/// again within [`chaos::LIVENESS`].
pub(crate) async fn under_chaos(options: &Options) -> anyhow::Result<Report> {
    let victims = Victims::start(&options.load).await?;
    let mut options = options.clone();
    options.aim_at(&victims.url()).map_err(anyhow::Error::msg)?;
    let file = open_history(&options)?;
    let pools = crate::pools(&options)?;
    let pool = Arc::clone(&pools[0]);
    chaos::ready(&pool, chaos::LIVENESS).await?;
    let own = OwnRows::prepare(&options, &pools).await?;
    let ended = break_meanwhile(&options, victims, pools, &own, file).await;
    // Without a cluster the rows disappear with the router's directory.
    if options.load.cluster.is_some() {
        match &ended {
            Ok((_, Some(_))) => own.remove(&options, &pool).await,
            Ok((_, None)) | Err(_) => own.tell_left(),
        }
    }
    let (report, victims) = ended?;
    if let Some(mut victims) = victims.filter(|_| !report.passed) {
        let kept = victims.keep().display().to_string();
        let _ = writeln!(std::io::stderr(), "loadtest: the router's directory is kept: {kept}");
    }
    Ok(report)
}

/// Runs the load; returns its report, and the victims unless one could not be started again.
async fn break_meanwhile(
    options: &Options,
    victims: Victims,
    pools: Vec<Arc<Pool>>,
    own: &OwnRows,
    file: Option<File>,
) -> anyhow::Result<(Report, Option<Victims>)> {
    let tally = Arc::new(Tally::default());
    let pool = Arc::clone(&pools[0]);
    let of_run = (pools, Arc::clone(own.names()));
    let verification = Arc::new(Verification::new(options, of_run, Arc::clone(&tally))?);
    verification.open_banks().await?;
    let recorder = Arc::clone(verification.recorder());
    let chaos = Chaos::start(victims, Arc::clone(&recorder), options.load.seed);
    let ran = crate::attack(options, Arc::clone(&verification).scenario()?, &tally).await;
    let stopped = chaos.stop().await;
    let ran = ran?;
    let (victims, works) = match stopped {
        Ok(victims) => (Some(victims), works_again(&pool, &verification).await),
        Err(error) if error.is::<ClusterTrouble>() => return Err(error),
        Err(error) => (None, Err(error)),
    };
    let history = recorder.finish();
    let mut verified = judge(&history, file)?;
    match (works, &victims) {
        (Ok(took), _) => {
            let note = format!(
                "after the last fault rows of all shards were written within {took} ms, and then all read"
            );
            verified.notes.insert(0, note);
        }
        (Err(error), Some(_)) => {
            let promise = "after the last fault everything works again in time";
            verified.accuse(promise, format!("{error:#}"));
        }
        (Err(error), None) => {
            verified.accuse("a router can be ended and started again", format!("{error:#}"));
        }
    }
    let start = start(&tally, &recorder);
    Ok((conclude(options, &tally, ran, &history, (verified, start)), victims))
}

/// Waits until everything works, and reads all rows; returns the milliseconds that the wait took.
async fn works_again(pool: &Pool, verification: &Arc<Verification>) -> anyhow::Result<u128> {
    let began = Instant::now();
    match tokio::time::timeout(chaos::LIVENESS, alive(pool, verification)).await {
        Ok(alive) => alive?,
        Err(_) => anyhow::bail!("new writes are not taken within {:?}", chaos::LIVENESS),
    }
    let took = began.elapsed().as_millis();
    verification.finish().await?;
    Ok(took)
}

/// Liveness: new writes work on every shard.
async fn alive(pool: &Pool, verification: &Arc<Verification>) -> anyhow::Result<()> {
    chaos::ready(pool, chaos::LIVENESS).await?;
    verification.write_everywhere(chaos::LIVENESS).await
}

/// Opened before the run: a file that cannot be written is known in time.
fn open_history(options: &Options) -> anyhow::Result<Option<File>> {
    let Some(path) = &options.load.history else { return Ok(None) };
    let file = File::create(path);
    file.map(Some).with_context(|| format!("{} cannot be written", path.display()))
}

/// Writes the history down, if that was asked for, and judges it.
fn judge(history: &History, file: Option<File>) -> anyhow::Result<Verified> {
    if let Some(file) = file {
        let mut out = BufWriter::new(file);
        let written = lines::write(history, &mut out).and_then(|()| out.flush());
        written.context("the history cannot be written")?;
    }
    Ok(told(history, &checker::check(history)))
}

fn conclude(
    options: &Options,
    tally: &Tally,
    ran: Ran,
    history: &History,
    (verified, start): (Verified, u64),
) -> Report {
    let ran = Ran { faults: faults(history, start), verified: Some(verified), ..ran };
    Report::new(options, &tally.counts(), ran)
}

impl Verified {
    /// Adds a promise that was broken before the history could show it.
    fn accuse(&mut self, promise: &str, what: String) {
        self.checks.push(Checked { check: LIVENESS.to_owned(), violations: 1 });
        let lines = vec![format!("{LIVENESS}: {what}"), format!("  promised: {promise}")];
        let finding = Finding { check: LIVENESS.to_owned(), promise: promise.to_owned(), lines };
        self.findings.push(finding);
    }
}

/// When the first user started, on the history's clock.
fn start(tally: &Tally, recorder: &Recorder) -> u64 {
    tally.started().map_or(0, |started| recorder.at(started))
}

fn faults(history: &History, start: u64) -> Vec<Fault> {
    let at_s = |at: u64| at.saturating_sub(start) as f64 / 1e9;
    history
        .faults
        .iter()
        .map(|fault| Fault { at_s: at_s(fault.at), what: fault.what.clone() })
        .collect()
}

fn told(history: &History, judged: &checker::Report) -> Verified {
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
