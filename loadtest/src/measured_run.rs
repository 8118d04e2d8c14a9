//! Measured run: runs a scenario with goose, shows its progress, and measures the CPU time.
//!
//! **Not here:** the scenarios (`load`, `verify`), the numbers of the report (`counters`).

use std::sync::Arc;

use goose::goose::Scenario;

use crate::counters::Counters;
use crate::cpu::Watch;
use crate::load;
use crate::options::Options;
use crate::progress::Progress;
use crate::report::Ran;

/// Runs a scenario to its end.
///
/// # Errors
/// Goose cannot run the scenario.
pub(crate) async fn run(
    options: &Options,
    scenario: Scenario,
    counters: &Arc<Counters>,
) -> anyhow::Result<Ran> {
    let progress = Progress::start(Arc::clone(counters));
    let watch = Watch::start();
    let ran = load::run(options, scenario).await;
    let cpu = watch.stop();
    progress.stop();
    let thresholds_failed = ran?.thresholds_failed;
    Ok(Ran { thresholds_failed, cpu, faults: Vec::new(), verified: None })
}
