//! Hangup signals: the signals by which an operator asks a program to read its files again.
//!
//! **Invariant:** a hangup signal never ends the program, whether it has such files or not.
//! **Not here:** the files of a program; the signals that end it (`end_signals`).

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hangup signals (SIGHUP) that a program receives.
#[derive(Debug)]
pub struct HangupSignals(Signal);

impl HangupSignals {
    /// Starts to receive the signals. From now on they do not end the process, even after this
    /// value was dropped.
    ///
    /// # Errors
    /// Fails if the system does not allow it.
    pub fn listen() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }

    /// Logs at each signal that there is nothing to read again, for a program without such files.
    pub async fn report_nothing_to_read(mut self) {
        while self.0.recv().await.is_some() {
            tracing::info!(
                "SIGHUP: there is nothing to read again, because no file of keys, roles or certificates is in use"
            );
        }
    }
}
