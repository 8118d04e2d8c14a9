//! Interrupt: what Ctrl-C means to a command that must not be cut off.
//!
//! The first one asks the command to end in good order, the second ends the process as it is.
//!
//! **Not here:** what is left behind in good order (each command).

use std::io;
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::terminal::say;

static ASKED: AtomicBool = AtomicBool::new(false);
/// As shells count a process that was ended by SIGINT.
const ENDED: i32 = 130;

/// Whether the command has been asked to end.
pub(super) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// An error that ends reading or writing once the command has been asked to end.
///
/// # Errors
/// Nothing else.
pub(super) fn check() -> io::Result<()> {
    // Not `Interrupted`, which whoever reads or writes all takes for a reason to go on.
    if asked() { Err(io::Error::other("cancelled")) } else { Ok(()) }
}

/// Begins to look for Ctrl-C and SIGTERM. From its return on neither cuts the command off.
pub(super) fn watch() {
    listen(|| {
        ASKED.store(true, Ordering::SeqCst);
        say("ending in good order; once more ends at once");
    });
}

/// Lets Ctrl-C and SIGTERM end this process also where it is the first of its system, as in a container: such a one is
/// sent only signals that it looks for.
pub(super) fn obey() {
    listen(|| exit(ENDED));
}

/// Looks for signals: the first one is answered as told, the second ends the process.
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
    // Without the thread Ctrl-C ends the process, as it does by itself.
    if listening.is_ok() {
        // It only ends: by the thread that looks now, or that has ended because it cannot.
        let _ = begun.recv();
    }
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
