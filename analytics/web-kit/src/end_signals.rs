//! End signals: the signals that end a server program, and the time for which the program still
//! listens after such a signal.
//!
//! **Not here:** the work that a program finishes before it ends.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Time for which `/ready` reports that the program is about to end, before the program stops
/// listening. It is longer than the usual second between two probes of a load balancer.
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
    /// Starts to receive the signals. From now on they do not end the process by themselves.
    ///
    /// # Errors
    /// Fails if the system does not allow it.
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

    /// Waits until the program may stop listening after the signal `first`. In this time load
    /// balancers can notice on `/ready` that the program is about to end, and stop sending
    /// requests. There is no wait if `first` is Ctrl-C, and a second signal ends the wait.
    pub async fn drained(&mut self, first: EndSignal) {
        match first {
            EndSignal::Terminate => {
                // The program may end after the timeout as well as after a second signal.
                let _ = tokio::time::timeout(DRAIN, self.next()).await;
            }
            EndSignal::Interrupt => {}
        }
    }
}
