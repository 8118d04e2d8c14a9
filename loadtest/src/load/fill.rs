//! Fill: writes all keys before the run, so that reads return rows.

use std::time::Duration;

use anyhow::{bail, ensure};

use super::plan::Plan;
use crate::clients::Client;
use crate::random::Random;
use crate::requests::{self, SESSION_TOKEN};
use crate::response_check;

/// Number of rows of one request.
const ROWS: u32 = 1_000;
/// Longest wait for a response, which is long enough even for a slow disk.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn run(plan: &Plan) -> anyhow::Result<()> {
    for client in plan.clients.iter().filter(|_| plan.filled) {
        fill(plan, client).await?;
    }
    Ok(())
}

async fn fill(plan: &Plan, client: &Client) -> anyhow::Result<()> {
    let mut random = Random::of_user(plan.seed, usize::MAX - 1);
    let keys: Vec<u32> = (0..plan.keys_filled).collect();
    let mut token = None;
    for part in keys.chunks(ROWS as usize) {
        ensure!(!goose::is_killswitch_triggered(), "ended before all keys were written");
        let asked = requests::bulk(client.names(), part, &plan.value(&mut random));
        // The requests are sent one after the other, so that the last session token covers all
        // writes.
        let sent = match asked {
            Ok(asked) => {
                let asked = requests::with_token(asked, token.as_ref());
                client.pool(0).send(asked, PATIENCE).await
            }
            Err(failure) => Err(failure),
        };
        let verdict = sent.and_then(|answer| {
            token = answer.headers.get(SESSION_TOKEN).cloned().or(token.take());
            response_check::of_bulk(answer.status, &answer.body)
        });
        if let Err(failure) = verdict {
            let detail = failure.detail;
            bail!("the keys cannot be written before the run: {} {detail}", failure.code);
        }
    }
    client.set_token(token);
    Ok(())
}
