//! Progress: one line on stderr while the users run.
//!
//! **Invariant:** stdout is the report's alone.
//! **Not here:** any number that is part of the result.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, interval_at};

use crate::tally::{Standing, Tally};

/// A terminal's line is rewritten this often.
const TERMINAL_PERIOD: Duration = Duration::from_secs(1);
/// A file gets a new line this often.
const PLAIN_PERIOD: Duration = Duration::from_secs(5);

/// The task that prints, until it is stopped.
pub(crate) struct Progress {
    task: JoinHandle<()>,
    terminal: bool,
}

impl Progress {
    /// Starts to print.
    pub(crate) fn start(tally: Arc<Tally>) -> Self {
        let terminal = stderr().is_terminal();
        Self { task: tokio::spawn(print(tally, terminal)), terminal }
    }

    /// Stops, and leaves a clean line behind.
    pub(crate) fn stop(self) {
        self.task.abort();
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

async fn print(tally: Arc<Tally>, terminal: bool) {
    let period = if terminal { TERMINAL_PERIOD } else { PLAIN_PERIOD };
    let mut ticks = interval_at(Instant::now() + period, period);
    let (mut seconds, mut before) = (0, 0);
    loop {
        ticks.tick().await;
        seconds += period.as_secs();
        let Standing { requests, failed, dropped, p99_ms } = tally.standing();
        let rate = (requests - before) / period.as_secs();
        before = requests;
        let dropped = if dropped > 0 { format!("  dropped {dropped}") } else { String::new() };
        let line = format!(
            "{seconds:>4} s  {requests} requests  {rate}/s  p99 {p99_ms:.1} ms  failed {failed}{dropped}"
        );
        let _ = match terminal {
            true => write!(stderr(), "\r{line}\x1b[K"),
            false => writeln!(stderr(), "{line}"),
        };
    }
}
