//! Interrupt: what Ctrl-C means to a command that must not be cut off.
//!
//! The first one asks the command to end in good order, the second ends the process as it is.
//!
//! **Not here:** what is left behind in good order (each command).

use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::screen::say;

static ASKED: AtomicBool = AtomicBool::new(false);
/// As shells count a process that was ended by SIGINT.
const ENDED: i32 = 130;

/// Whether the command has been asked to end.
pub(super) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Begins to look for Ctrl-C and SIGTERM.
pub(super) fn watch() {
    let listening = std::thread::Builder::new().name("signals".to_owned()).spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            let both = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
            let (Ok(mut interrupt), Ok(mut terminate)) = both else { return };
            next(&mut interrupt, &mut terminate).await;
            ASKED.store(true, Ordering::SeqCst);
            say("ending in good order; once more ends at once");
            next(&mut interrupt, &mut terminate).await;
            exit(ENDED);
        });
    });
    // Without the thread Ctrl-C ends the process, as it does by itself.
    drop(listening);
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
