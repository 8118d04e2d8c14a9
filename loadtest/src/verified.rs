//! Verified: a run of the verifying workload, from the first request to the verdict.
//!
//! **Not here:** the workload (`verify`), the faults (`chaos`) and the checks (`loadtest::checker`).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use loadtest::checker::{self, Check};
use loadtest::history::{History, lines};

use crate::chaos::{self, Chaos, RouterProcess};
use crate::options::Options;
use crate::report::{Checked, Fault, Finding, Ran, Report, Verified};
use crate::tally::Tally;
use crate::verify::Verification;
use crate::wire::Pool;

/// Runs the workload against routers that are there.
pub(crate) async fn run(options: &Options, pools: Vec<Arc<Pool>>) -> anyhow::Result<Report> {
    let file = open_history(options)?;
    let tally = Arc::new(Tally::default());
    let verification = Arc::new(Verification::new(options, pools, Arc::clone(&tally))?);
    verification.open_banks().await?;
    let ran = crate::attack(options, Arc::clone(&verification).scenario()?, &tally).await?;
    let history = verification.finish().await?;
    conclude(options, &tally, ran, &history, Vec::new(), file)
}

/// Runs the workload against a router of its own, which is killed and frozen meanwhile; then everything must work
/// again within [`chaos::LIVENESS`].
pub(crate) async fn under_chaos(options: &Options) -> anyhow::Result<Report> {
    let program = chaos::program(options.load.router.as_ref())?;
    let flags = options.load.router_options.as_deref().unwrap_or_default();
    let flags = flags.split_whitespace().map(str::to_owned).collect();
    let router = RouterProcess::new(program, flags)?;
    let mut options = options.clone();
    options.aim_at(&router.url()).map_err(anyhow::Error::msg)?;
    let file = open_history(&options)?;
    let pools = crate::pools(&options);
    let pool = Arc::clone(&pools[0]);
    chaos::ready(&pool, chaos::LIVENESS).await?;

    let tally = Arc::new(Tally::default());
    let verification = Arc::new(Verification::new(&options, pools, Arc::clone(&tally))?);
    verification.open_banks().await?;
    let recorder = Arc::clone(verification.recorder());
    let chaos = Chaos::start(router, Arc::clone(&recorder), options.load.seed);
    let ran = crate::attack(&options, Arc::clone(&verification).scenario()?, &tally).await;
    let mut router = chaos.stop().await?;
    let ran = ran?;

    let began = Instant::now();
    let alive = alive(&pool, &verification).await;
    let history = match alive {
        Ok(()) => verification.finish().await,
        Err(error) => Err(error),
    };
    let history = history.with_context(|| {
        format!(
            "after the last fault the router does not work any more: see {}",
            router.keep().display()
        )
    })?;
    let note = format!(
        "after the last fault all rows were read and new ones written within {} ms",
        began.elapsed().as_millis()
    );
    let report = conclude(&options, &tally, ran, &history, vec![note], file)?;
    if !report.passed {
        let kept = router.keep().display().to_string();
        let _ = writeln!(std::io::stderr(), "loadtest: the router's directory is kept: {kept}");
    }
    Ok(report)
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

fn conclude(
    options: &Options,
    tally: &Tally,
    ran: Ran,
    history: &History,
    notes: Vec<String>,
    file: Option<File>,
) -> anyhow::Result<Report> {
    if let Some(file) = file {
        let mut out = BufWriter::new(file);
        lines::write(history, &mut out)
            .and_then(|()| out.flush())
            .context("the history cannot be written")?;
    }
    let judged = checker::check(history);
    let ran = Ran { faults: faults(history), verified: Some(told(history, &judged, notes)), ..ran };
    Ok(Report::new(options, &tally.counts(), ran))
}

fn faults(history: &History) -> Vec<Fault> {
    let first = history.operations.iter().map(|one| one.start).min().unwrap_or_default();
    let at_s = |at: u64| at.saturating_sub(first) as f64 / 1e9;
    history
        .faults
        .iter()
        .map(|fault| Fault { at_s: at_s(fault.at), what: fault.what.clone() })
        .collect()
}

fn told(history: &History, judged: &checker::Report, mut notes: Vec<String>) -> Verified {
    let checks = Check::ALL.iter().map(|&check| Checked {
        check: format!("{} {}", check.id(), check.name()),
        violations: judged.count(check),
    });
    let findings = judged.violations.iter().map(|violation| Finding {
        check: violation.check.id().to_owned(),
        promise: violation.promise.to_owned(),
        lines: violation.lines(history),
    });
    notes.extend(judged.availability_lines().into_iter().map(|line| format!("C10 {line}")));
    if judged.rows_not_read_back > 0 {
        notes.push(format!("{} rows were not read at the end", judged.rows_not_read_back));
    }
    Verified {
        operations: history.operations.len() as u64,
        checks: checks.collect(),
        findings: findings.collect(),
        notes,
    }
}
