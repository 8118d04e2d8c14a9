//! Load: puts a router under load, either by users that each send one request after the other
//! (closed model), or by requests at a fixed rate that does not depend on the responses (open
//! model).
//!
//! The framework goose starts and ends the users, applies its thresholds and writes its reports.
//! Requests are sent over the load tester's own connections (`http_client`), and each is counted
//! here and in goose.
//!
//! **Invariant:** the requests of a user depend only on the user's own stream of random numbers.
//! Later reads of a user must find each key that the user has written successfully.
//! **Not here:** checking a response (`response_check`), the report (`report`).

mod closed;
mod fill;
mod open;
mod operation;
mod plan;
mod virtual_user;

use std::sync::Arc;

use anyhow::Context;
use goose::client::GooseClientBuilder;
use goose::goose::{GooseUser, Scenario, TransactionError};
use goose::{GooseAttack, GooseError};

pub(crate) use plan::Plan;

use crate::counters::{Operation, Sample};
use crate::options::Options;

/// Results that goose determines.
pub(crate) struct Attacked {
    /// Conditions of `--threshold` that were not met, in goose's words.
    pub(crate) thresholds_failed: Vec<String>,
}

/// Writes all keys, so that reads have something to find.
pub(crate) async fn fill(plan: &Plan) -> anyhow::Result<()> {
    fill::run(plan).await
}

/// Returns goose's scenario for a plan.
pub(crate) fn scenario(options: &Options, plan: Arc<Plan>) -> anyhow::Result<Scenario> {
    match options.load.open_rate() {
        None => closed::scenario(plan),
        Some(rate) => Ok(open::scenario(plan, rate, options.load.in_flight)),
    }
}

/// Runs a scenario to its end.
pub(crate) async fn run(options: &Options, scenario: Scenario) -> anyhow::Result<Attacked> {
    if !goose_may_speak(options) {
        silence_goose();
    }
    let mut goose = options.goose.clone();
    // The tester's report replaces goose's text; goose's report files are written as usual.
    goose.no_print_metrics = true;
    if options.load.open_rate().is_some() {
        // In the open model, one user of goose sends all requests.
        goose.users = Some(1);
        goose.increase_rate = Some("10".to_owned());
    }
    let attack = GooseAttack::initialize_with_config(goose)
        // Goose would otherwise create an HTTP client with a certificate store for each user, which
        // is not used.
        .and_then(|attack| {
            attack.set_client_builder_without_cookies(GooseClientBuilder::new().without_cookies())
        })
        .context("goose cannot be set up")?;
    match attack.register_scenario(scenario).execute().await {
        Ok(_) => Ok(Attacked { thresholds_failed: Vec::new() }),
        Err(GooseError::ThresholdsFailed { failed, .. }) => {
            let reported =
                failed.iter().map(|result| format!("{} (was {})", result.rule, result.observed));
            Ok(Attacked { thresholds_failed: reported.collect() })
        }
        Err(GooseError::InvalidOption { option, value, detail }) => {
            Err(anyhow::anyhow!("{} {value}: {detail}", flag_of(&option)))
        }
        Err(error) => Err(error).context("goose stopped"),
    }
}

/// Returns the flag of an option that an error of goose names. Goose spells it as the flag, or as
/// `configuration.report_file` in backquotes; the message of the error does not name the option.
fn flag_of(option: &str) -> String {
    let option = option.trim_matches('`');
    let member = option.strip_prefix("configuration.");
    member.map_or_else(|| option.to_owned(), |member| format!("--{}", member.replace('_', "-")))
}

/// Adds an operation to goose's metrics, which are kept beside the tester's own.
pub(crate) async fn report_to_goose(
    user: &mut GooseUser,
    operation: Operation,
    sample: &Sample,
    status: Option<u16>,
) -> Result<(), Box<TransactionError>> {
    let error = sample.verdict.as_ref().err().map(|failure| failure.code.as_str());
    user.record_custom_request_duration(
        operation.method(),
        operation.name(),
        sample.response(),
        error.is_none(),
        status,
        error,
    )
    .await
}

/// Returns true if the options request goose's own log lines.
fn goose_may_speak(options: &Options) -> bool {
    options.goose.verbose > 0 || options.goose.goose_log.is_some()
}

/// Replaces goose's logger, which prints to stdout.
fn silence_goose() {
    struct Silence;
    impl log::Log for Silence {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            false
        }
        fn log(&self, _: &log::Record<'_>) {}
        fn flush(&self) {}
    }
    // This fails only if a logger is set already, and then goose cannot set its own logger either.
    let _ = log::set_logger(&Silence);
}
