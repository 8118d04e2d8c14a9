//! Interrupt: handling of Ctrl-C in commands that must finish cleanly.
//!
//! The first Ctrl-C (SIGINT) or SIGTERM requests a clean end, the second one ends the process at
//! once.
//!
//! **Not here:** the cleanup (each command).

use std::io;
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::terminal::say;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Exit code 128 + 2, which shells report for a process that SIGINT has ended.
const ENDED: i32 = 130;

/// Returns true if the command was interrupted.
pub(super) fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Returns an error once the command has been interrupted, which ends reading or writing.
///
/// # Errors
/// Fails only if the command was interrupted.
pub(super) fn check() -> io::Result<()> {
    // The kind is not `Interrupted`, because `read_to_end` and `write_all` would retry.
    if is_interrupted() { Err(io::Error::other("cancelled")) } else { Ok(()) }
}

/// Installs handlers of SIGINT and SIGTERM. After this returns, the first signal requests a clean
/// end, and only the second one ends the process at once.
pub(super) fn watch() {
    listen(|| {
        INTERRUPTED.store(true, Ordering::SeqCst);
        say("ending in good order; once more ends at once");
    });
}

/// Makes SIGINT and SIGTERM end this process even if it is process 1, as in a container: process 1
/// receives only signals that it handles.
pub(super) fn obey() {
    listen(|| exit(ENDED));
}

/// Installs handlers of SIGINT and SIGTERM: the first signal calls `first`, the second one ends the
/// process.
fn listen(first: impl FnOnce() + Send + 'static) {
    let (looks, begun) = mpsc::channel::<()>();
    let listening = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            let both = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
            let (Ok(mut interrupt), Ok(mut terminate)) = both else { return };
            drop(looks);
            next(&mut interrupt, &mut terminate).await;
            first();
            next(&mut interrupt, &mut terminate).await;
            exit(ENDED);
        });
    });
    // Without the thread, Ctrl-C has its default effect.
    if listening.is_ok() {
        // No message is ever sent. `recv` returns an error once the thread drops the sender: as
        // soon as the handlers are installed, or if that fails.
        let _ = begun.recv();
    }
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
