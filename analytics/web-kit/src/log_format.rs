//! Log format: one line per event on standard error.
//!
//! **Not here:** the events themselves, which the modules log.

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts to log events of at least this severity. Unless the level is debug or trace, the HTTP
/// framework logs only warnings and errors about its workers. Its errors about invalid HTTP are
/// left out, because otherwise a port scan would fill the log.
///
/// # Panics
/// Panics if logging has been started in this process already.
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
