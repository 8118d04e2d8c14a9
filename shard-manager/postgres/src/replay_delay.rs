//! Replay delay: lets a replica apply changes late, for experiments about lag.
//!
//! **Invariant:** a replica receives and stores every change without delay; only applying it waits.
//! **Not here:** the experiments (`lab`).

use std::thread::sleep;
use std::time::{Duration, Instant};

use diesel_async::SimpleAsyncConnection;
use engine::open_error::OpenError;

use super::node_address::NodeAddress;
use super::statement::{Statement, load};
use super::temporary_database::in_session;

/// Query for the delay, in milliseconds.
const DELAY: &str = "SELECT setting FROM pg_settings WHERE name = 'recovery_min_apply_delay'";
/// Time limit for a server to use its new delay.
const USED_MAX: Duration = Duration::from_secs(30);
/// Interval at which the delay is polled.
const LOOK: Duration = Duration::from_millis(5);

/// Makes a replica apply each change with the delay `by` after its commit on the primary, and
/// returns once the replica does so. Blocks the thread.
///
/// The delay remains when the process ends, so this is meant for servers that the calling program
/// removes.
///
/// # Errors
/// [`OpenError`] if the server does not answer, or does not use the delay in time.
pub fn delay_replay(replica: &NodeAddress, by: Duration) -> Result<(), OpenError> {
    let millis = by.as_millis().to_string();
    let sql = format!("ALTER SYSTEM SET recovery_min_apply_delay = '{millis}ms'");
    in_session(replica, async |connection| {
        connection.batch_execute(&sql).await?;
        connection.batch_execute("SELECT pg_reload_conf()").await
    })?;
    let began = Instant::now();
    // The server has passed the setting to its running processes before it begins a session in
    // which the setting is visible.
    while delay_of(replica)?.as_ref() != Some(&millis) {
        if began.elapsed() > USED_MAX {
            let cause = "it does not use its new recovery_min_apply_delay";
            return Err(OpenError::node(&replica.to_string(), cause));
        }
        sleep(LOOK);
    }
    Ok(())
}

/// Returns the delay of a replica, in milliseconds.
fn delay_of(replica: &NodeAddress) -> Result<Option<String>, OpenError> {
    in_session(replica, async |connection| {
        let delay = Statement { sql: DELAY, binds: &[], cached: false };
        let rows = load(connection, delay).await;
        rows.map(|rows| rows.first().and_then(|row| row.text(0)))
    })
}
