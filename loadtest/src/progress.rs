//! Progress: shows a line on stderr while the users run.
//!
//! **Invariant:** nothing but the report is written to stdout.
//! **Not here:** the numbers of the report (`counters`).

use std::io::{IsTerminal, Write, stderr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, interval_at};

use crate::counters::{Counters, Standing};

/// Time between two updates of the line on a terminal.
const TERMINAL_PERIOD: Duration = Duration::from_secs(1);
/// Time between two lines if stderr is not a terminal.
const PLAIN_PERIOD: Duration = Duration::from_secs(5);

/// Task that prints the progress until it is stopped.
pub(crate) struct Progress {
    task: JoinHandle<()>,
    terminal: bool,
}

impl Progress {
    /// Starts to print.
    pub(crate) fn start(counters: Arc<Counters>) -> Self {
        let terminal = stderr().is_terminal();
        Self { task: tokio::spawn(print(counters, terminal)), terminal }
    }

    /// Stops printing, and clears the current line of a terminal.
    pub(crate) fn stop(self) {
        self.task.abort();
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

async fn print(counters: Arc<Counters>, terminal: bool) {
    let period = if terminal { TERMINAL_PERIOD } else { PLAIN_PERIOD };
    let mut ticks = interval_at(Instant::now() + period, period);
    let (mut seconds, mut before) = (0, 0);
    loop {
        ticks.tick().await;
        seconds += period.as_secs();
        let standing = counters.standing();
        let rate = (standing.requests - before) / period.as_secs();
        before = standing.requests;
        let line = line(seconds, rate, standing);
        let _ = match terminal {
            true => write!(stderr(), "\r{line}\x1b[K"),
            false => writeln!(stderr(), "{line}"),
        };
    }
}

/// Returns the progress line after `seconds` seconds, with a dash if there is no p99 yet.
fn line(seconds: u64, rate: u64, standing: Standing) -> String {
    let Standing { requests, failed, dropped, p99_ms } = standing;
    let p99 = p99_ms.map_or_else(|| "-".to_owned(), |p99_ms| format!("{p99_ms:.1} ms"));
    let dropped = if dropped > 0 { format!("  dropped {dropped}") } else { String::new() };
    format!("{seconds:>4} s  {requests} requests  {rate}/s  p99 {p99}  failed {failed}{dropped}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_p99_is_shown_once_it_is_measured() {
        let first = Standing { requests: 7, ..Standing::default() };
        assert_eq!(line(1, 7, first), "   1 s  7 requests  7/s  p99 -  failed 0");
        let later = Standing { requests: 20, failed: 1, dropped: 2, p99_ms: Some(3.25) };
        let reported = "   2 s  20 requests  13/s  p99 3.2 ms  failed 1  dropped 2";
        assert_eq!(line(2, 13, later), reported);
    }
}
