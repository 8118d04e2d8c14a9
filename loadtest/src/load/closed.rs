//! Closed model: a user waits for the response to a request before it sends the next one.

use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use goose::prelude::*;

use super::operation::{self, OperationResult};
use super::plan::Plan;
use super::report_to_goose;
use super::virtual_user::VirtualUser;

/// Pause of a user after a request without a response, so that a router that is down is not flooded
/// with requests.
const NO_ANSWER_PAUSE: Duration = Duration::from_millis(100);

/// Returns the scenario of each user.
///
/// A single transaction of goose draws the next operation. With one transaction per operation and
/// goose's weights, all users would send the same fixed sequence in step with each other.
pub(super) fn scenario(plan: Arc<Plan>) -> anyhow::Result<Scenario> {
    let enter = Transaction::new(Arc::new(move |user| {
        let virtual_user = VirtualUser::new(Arc::clone(&plan), user.weighted_users_index);
        plan.counters.start(Instant::now());
        user.set_session_data(virtual_user);
        Box::pin(ready(Ok(())))
    }));
    Ok(Scenario::new("mix")
        .register_transaction(enter.set_name("enter").set_on_start())
        .register_transaction(transaction!(step).set_name("step")))
}

async fn step(user: &mut GooseUser) -> TransactionResult {
    throttle(user).await;
    let virtual_user = virtual_user(user)?;
    let (plan, number) = (Arc::clone(&virtual_user.plan), virtual_user.number);
    let (step, known) = virtual_user.next_step();
    let done = operation::perform(plan.pool(number), &step, &known, Instant::now()).await;
    let OperationResult { sample, status, token } = done;

    self::virtual_user(user)?.learn(&step, sample.verdict.is_ok(), token);
    let pause = sample.verdict.as_ref().is_err_and(|failure| failure.status.is_none());
    report_to_goose(user, step.operation, &sample, status).await?;
    plan.counters.add(sample);
    if pause {
        tokio::time::sleep(NO_ANSWER_PAUSE).await;
    }
    Ok(())
}

/// Waits until `--throttle-requests` allows another request. When the run is ending, there is no
/// wait.
async fn throttle(user: &GooseUser) {
    if let Some(throttle) = user.throttle.as_ref().filter(|_| user.is_throttled) {
        let _ = throttle.send_async(true).await;
    }
}

fn virtual_user(user: &mut GooseUser) -> Result<&mut VirtualUser, Box<TransactionError>> {
    user.get_session_data_mut::<VirtualUser>().ok_or_else(|| "a user did not enter".into())
}
