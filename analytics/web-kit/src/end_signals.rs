//! End signals: the signals that end a server program, and the time for which it still listens
//! after such a signal.
//!
//! **Not here:** the work that a program finishes before it ends.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Time for which `/ready` reports that the program is about to end before it stops listening:
/// longer than the usual second between two probes.
const DRAIN: Duration = Duration::from_millis(1_500);

/// Signals that end a program: SIGTERM, and SIGINT, which is Ctrl-C.
#[derive(Debug)]
pub struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

/// Signal that ends a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndSignal {
    /// SIGTERM, which supervisors send.
    Terminate,
    /// SIGINT, which Ctrl-C sends.
    Interrupt,
}

impl EndSignals {
    /// Starts to receive the signals, which from now on do not end the process by themselves.
    ///
    /// # Errors
    /// Fails if the system refuses.
    pub fn listen() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> EndSignal {
        tokio::select! {
            _ = self.terminate.recv() => EndSignal::Terminate,
            _ = self.interrupt.recv() => EndSignal::Interrupt,
        }
    }

    /// Waits until the program may stop listening after this first signal: load balancers have that
    /// time to notice it on `/ready` and to stop sending requests. Ctrl-C, or a second signal,
    /// skips that time.
    pub async fn drained(&mut self, first: EndSignal) {
        match first {
            EndSignal::Terminate => {
                // Elapsed or not, the program may end now.
                let _ = tokio::time::timeout(DRAIN, self.next()).await;
            }
            EndSignal::Interrupt => {}
        }
    }
}
