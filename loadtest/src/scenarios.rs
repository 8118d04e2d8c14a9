//! Scenarios: what a user does, one request after the other without a pause.
//!
//! There is one scenario yet, a mix of upserts and reads of users by key. A further one is a
//! [`Scenario`] beside [`mix`].
//!
//! **Invariant:** a user asks for what its own random stream says, whatever the others do; a key it
//! wrote with success is one it must find again.
//! **Not here:** how a request is sent (`client`) or judged (`verdict`).

use std::collections::HashSet;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use goose::client::GooseClientBuilder;
use goose::config::GooseConfiguration;
use goose::prelude::*;
use reqwest::Client;

use crate::client::{self, Answer, SessionToken};
use crate::options::Options;
use crate::random::Random;
use crate::tally::{Operation, Tally};
use crate::verdict;

/// Users started per second for each user: all of them within the first tenth of a second.
const STARTS_PER_USER: u32 = 10;
/// Pause after no answer at all, so that a dead router is not called a million times.
const NO_ANSWER_PAUSE: Duration = Duration::from_millis(100);

/// What all users have in common.
struct Plan {
    client: Client,
    tally: Arc<Tally>,
    keys: u32,
    writes: u32,
    seed: u64,
}

/// What one user knows.
#[derive(Clone)]
struct Visitor {
    plan: Arc<Plan>,
    random: Random,
    token: Option<SessionToken>,
    /// Keys whose write was answered well. Nobody deletes, so each must be found again.
    written: HashSet<u32>,
}

/// What to ask next.
struct Step {
    operation: Operation,
    key: u32,
    acknowledged: bool,
    token: Option<SessionToken>,
}

/// Runs the load test to its end.
pub(crate) async fn run(
    options: &Options,
    client: Client,
    tally: Arc<Tally>,
) -> anyhow::Result<()> {
    silence_goose();
    let plan = Arc::new(Plan {
        client,
        tally,
        keys: options.keys,
        writes: u32::from(options.writes),
        seed: options.seed,
    });
    GooseAttack::initialize_with_config(configuration(options))
        // Goose would build a client with a TLS store for each user; `enter` replaces it anyway.
        .and_then(|attack| {
            attack.set_client_builder_without_cookies(GooseClientBuilder::new().without_cookies())
        })
        .context("goose cannot be set up")?
        .register_scenario(mix(plan))
        .execute()
        .await
        .context("goose stopped")?;
    Ok(())
}

/// Goose as an engine only: it starts users and ends them, and says nothing.
///
/// Its own metrics stay off: they cost time, know neither shards nor codes, and either forget what
/// happened before the last user had started, or print a line to stdout.
fn configuration(options: &Options) -> GooseConfiguration {
    let mut goose = GooseConfiguration::default();
    goose.host = Some(options.host.to_string());
    goose.users = Some(options.users as usize);
    goose.increase_rate = Some((options.users * STARTS_PER_USER).to_string());
    goose.run_time = Some(options.run_time.as_secs().to_string());
    goose.quiet = 1;
    goose.no_telnet = true;
    goose.no_metrics = true;
    goose.no_print_metrics = true;
    goose
}

/// The mix: writes and reads of random users, in the asked proportion.
///
/// One transaction draws what to do. Goose's weights would give all users the same fixed order, in
/// step with each other.
fn mix(plan: Arc<Plan>) -> Scenario {
    let enter = Transaction::new(Arc::new(move |user| {
        enter(user, &plan);
        Box::pin(ready(Ok(())))
    }));
    Scenario::new("mix")
        .register_transaction(enter.set_name("enter").set_on_start())
        .register_transaction(transaction!(step).set_name("step"))
}

fn enter(user: &mut GooseUser, plan: &Arc<Plan>) {
    user.client = plan.client.clone();
    user.set_session_data(Visitor {
        plan: Arc::clone(plan),
        random: Random::of_user(plan.seed, user.weighted_users_index),
        token: None,
        written: HashSet::new(),
    });
    plan.tally.user_started();
}

async fn step(user: &mut GooseUser) -> TransactionResult {
    let Step { operation, key, acknowledged, token } = visitor(user)?.next_step();
    let name = format!("user_{key}");
    let (time, answer) = client::send(user, operation, &name, token).await?;

    let visitor = visitor(user)?;
    let tally = Arc::clone(&visitor.plan.tally);
    let (shard, verdict) = match answer {
        Ok(Answer { status, shard, token, body }) => {
            visitor.token = token.or_else(|| visitor.token.take());
            let verdict = match operation {
                Operation::Write => verdict::of_write(status, &body),
                Operation::Read => verdict::of_read(status, &body, &name, acknowledged),
            };
            (shard, verdict)
        }
        Err(failure) => (None, Err(failure)),
    };
    if verdict.is_ok() && operation == Operation::Write {
        visitor.written.insert(key);
    }
    let pause = verdict.as_ref().is_err_and(|failure| failure.status.is_none());
    tally.add(operation, time, shard, verdict);
    if pause {
        tokio::time::sleep(NO_ANSWER_PAUSE).await;
    }
    Ok(())
}

fn visitor(user: &mut GooseUser) -> Result<&mut Visitor, Box<TransactionError>> {
    user.get_session_data_mut::<Visitor>().ok_or_else(|| "a user did not enter".into())
}

impl Visitor {
    fn next_step(&mut self) -> Step {
        let write = self.random.below(100) < self.plan.writes;
        let key = self.random.below(self.plan.keys);
        Step {
            operation: if write { Operation::Write } else { Operation::Read },
            key,
            acknowledged: self.written.contains(&key),
            token: self.token.clone(),
        }
    }
}

/// Takes the place of goose's logger, which prints refused connections to stdout.
fn silence_goose() {
    struct Silence;
    impl log::Log for Silence {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            false
        }
        fn log(&self, _: &log::Record<'_>) {}
        fn flush(&self) {}
    }
    // It fails only when a logger is set already, and then goose cannot set its own either.
    let _ = log::set_logger(&Silence);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(writes: u32) -> Vec<Step> {
        let plan = Plan {
            client: client::build().unwrap(),
            tally: Arc::default(),
            keys: 10_000,
            writes,
            seed: 1,
        };
        let mut visitor = Visitor {
            plan: Arc::new(plan),
            random: Random::of_user(1, 0),
            token: None,
            written: HashSet::new(),
        };
        (0..10_000).map(|_| visitor.next_step()).collect()
    }

    fn writes_in(steps: &[Step]) -> usize {
        steps.iter().filter(|step| step.operation == Operation::Write).count()
    }

    #[test]
    fn the_mix_is_as_asked() {
        assert_eq!(writes_in(&steps(0)), 0);
        assert_eq!(writes_in(&steps(100)), 10_000);
        assert!((6_800..7_200).contains(&writes_in(&steps(70))));
    }

    #[test]
    fn keys_stay_in_range_and_spread() {
        let steps = steps(70);
        assert!(steps.iter().all(|step| step.key < 10_000));
        assert!(steps.iter().map(|step| step.key).collect::<HashSet<_>>().len() > 5_000);
    }
}
