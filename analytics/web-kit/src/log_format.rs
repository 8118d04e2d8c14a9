//! Log lines: one line an event on standard error.
//!
//! **Not here:** what is worth an event.

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Begins to write events that are at least as severe. What the framework says of its workers, and of bytes that are no
/// HTTP (it calls each an error, so a port scan would fill the log), is for debugging.
///
/// # Panics
/// If the process writes events somewhere already.
pub fn start(level: tracing::Level) {
    let mut filter = Targets::new().with_default(level);
    if level < tracing::Level::DEBUG {
        filter = filter
            .with_target("actix_server", LevelFilter::WARN)
            .with_target("actix_http", LevelFilter::OFF);
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines).with(filter).init();
}
