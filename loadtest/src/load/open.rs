//! Open model: requests are sent at a fixed rate, which does not depend on the responses.
//!
//! Request number n is due at `start + n / rate`, and its latency is measured from that moment. So
//! if a router stalls for a second, every request that was due in that second counts as slow. In
//! the closed model the users would have waited, and the result would show only one slow request
//! per user ("coordinated omission": Tene, "How NOT to Measure Latency", 2013; open and closed:
//! Schroeder, Wierman and Harchol-Balter, NSDI 2006).
//!
//! **Invariant:** a request that is due is sent, or is counted as dropped because too many requests
//! are in progress.
//! **Not here:** sessions. The requests are independent of each other, so only rows that were
//! written before the run must be found.

use std::sync::Arc;
use std::time::{Duration, Instant};

use goose::prelude::*;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::operation::{self, Known, OperationResult};
use super::plan::Plan;
use super::report_to_goose;
use crate::random::Random;

/// Time for which goose's only user sends requests in one transaction of goose. Goose can end the
/// user between two transactions.
const TURN: Duration = Duration::from_millis(50);

/// Returns the scenario of goose's only user, who sends the requests that are due and reports the
/// responses.
pub(super) fn scenario(plan: Arc<Plan>, rate: f64, in_flight_max: u32) -> Scenario {
    let enter = Transaction::new(Arc::new(move |user: &mut GooseUser| {
        let random = Random::of_user(plan.seed, 0);
        user.set_session_data(Shared(Arc::new(tokio::sync::Mutex::new(Sender::new(
            Arc::clone(&plan),
            random,
            rate,
            in_flight_max,
        )))));
        Box::pin(std::future::ready(Ok(())))
    }));
    Scenario::new("open")
        .register_transaction(enter.set_name("enter").set_on_start())
        .register_transaction(transaction!(turn).set_name("send"))
        .register_transaction(transaction!(finish).set_name("finish").set_on_stop())
}

/// Session data of goose's user. It is in an `Arc`, because goose clones it.
#[derive(Clone)]
struct Shared(Arc<tokio::sync::Mutex<Sender>>);

struct Sender {
    plan: Arc<Plan>,
    random: Random,
    rate: f64,
    in_flight_max: u32,
    start: Instant,
    /// Number of requests that were due so far.
    due: u64,
    in_flight: u32,
    done: UnboundedReceiver<OperationResult>,
    results: UnboundedSender<OperationResult>,
}

impl Sender {
    fn new(plan: Arc<Plan>, random: Random, rate: f64, in_flight_max: u32) -> Self {
        // The number of messages in the channel is limited by the number of requests in progress.
        let (results, done) = mpsc::unbounded_channel();
        let start = Instant::now();
        plan.counters.start(start);
        Self { plan, random, rate, in_flight_max, start, due: 0, in_flight: 0, done, results }
    }

    fn next_due(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.due as f64 / self.rate)
    }

    /// Sends all requests that are due by now.
    fn send_due(&mut self) {
        let now = Instant::now();
        let mut dropped = 0;
        while self.next_due() <= now {
            let intended = self.next_due();
            self.due += 1;
            if self.in_flight >= self.in_flight_max {
                dropped += 1;
                continue;
            }
            self.in_flight += 1;
            self.send(intended);
        }
        if dropped > 0 {
            self.plan.counters.drop_due(dropped);
        }
    }

    fn send(&mut self, intended: Instant) {
        let number = self.due as usize;
        let step = self.plan.next_step(&mut self.random, number);
        let acknowledged = self.plan.filled && step.key < self.plan.keys_filled;
        let client = Arc::clone(self.plan.client(number));
        let (token, patience) = (client.token(), self.plan.patience);
        let known = Known { client, token, acknowledged, patience };
        let pool = Arc::clone(self.plan.pool(number));
        let results = self.results.clone();
        tokio::spawn(async move {
            // An error is ignored, because the receiver no longer exists only after the end of the
            // run.
            let _ = results.send(operation::perform(&pool, &step, &known, intended).await);
        });
    }
}

async fn turn(user: &mut GooseUser) -> TransactionResult {
    let sender = sender(user)?;
    let mut sender = sender.lock().await;
    let end = Instant::now() + TURN;
    while Instant::now() < end {
        sender.send_due();
        let next = sender.next_due().min(end);
        tokio::select! {
            done = sender.done.recv() => take(user, &mut sender, done).await?,
            () = tokio::time::sleep_until(next.into()) => {}
        }
        while let Ok(done) = sender.done.try_recv() {
            take(user, &mut sender, Some(done)).await?;
        }
    }
    Ok(())
}

/// Waits for the requests that are still in progress. Each of them ends at its timeout at the
/// latest.
async fn finish(user: &mut GooseUser) -> TransactionResult {
    let sender = sender(user)?;
    let mut sender = sender.lock().await;
    while sender.in_flight > 0 {
        let done = sender.done.recv().await;
        take(user, &mut sender, done).await?;
    }
    Ok(())
}

async fn take(
    user: &mut GooseUser,
    sender: &mut Sender,
    done: Option<OperationResult>,
) -> Result<(), Box<TransactionError>> {
    let Some(OperationResult { sample, status, .. }) = done else { return Ok(()) };
    sender.in_flight -= 1;
    report_to_goose(user, sample.operation, &sample, status).await?;
    sender.plan.counters.add(sample);
    Ok(())
}

fn sender(user: &GooseUser) -> Result<Arc<tokio::sync::Mutex<Sender>>, Box<TransactionError>> {
    let shared = user.get_session_data::<Shared>();
    shared.map(|shared| Arc::clone(&shared.0)).ok_or_else(|| "the sender did not enter".into())
}
