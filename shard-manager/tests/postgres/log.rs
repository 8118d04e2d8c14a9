//! Captures the log of the router, one line per event.

use std::fmt::{Debug, Write as _};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn lines() -> MutexGuard<'static, Vec<String>> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Crates whose lines are kept.
const CRATES: [&str; 6] = ["assembly", "cluster", "engine", "model", "postgres", "sqlite"];

struct LineCollector;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.0, " {}={value}", field.name());
    }
}

impl Subscriber for LineCollector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let module = metadata.target().split("::").next().unwrap_or_default();
        *metadata.level() <= Level::INFO && CRATES.contains(&module)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        lines().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Records the log of this process from now on. All tests share it, so search for a port that only
/// your test uses.
pub(crate) fn listen() {
    static LISTEN: Once = Once::new();
    LISTEN.call_once(|| tracing::subscriber::set_global_default(LineCollector).unwrap());
}

/// Lines that contain all of these words.
pub(crate) fn said(words: &[&str]) -> Vec<String> {
    let lines = lines();
    let fits = |line: &&String| words.iter().all(|word| line.contains(word));
    lines.iter().filter(fits).cloned().collect()
}

/// Asserts that such a line exists.
#[track_caller]
pub(crate) fn check_logged(words: &[&str]) {
    assert!(!said(words).is_empty(), "{words:?} is not in\n{}", lines().join("\n"));
}
