//! Log: what a router says to whoever runs it, as one line for each event.

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

struct Keeper;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.0, " {}={value}", field.name());
    }
}

impl Subscriber for Keeper {
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

/// From now on what is said in this process is kept: by all tests, so look for a port of your own.
pub(crate) fn listen() {
    static LISTEN: Once = Once::new();
    LISTEN.call_once(|| tracing::subscriber::set_global_default(Keeper).unwrap());
}

/// The lines in which all of these stand.
pub(crate) fn said(words: &[&str]) -> Vec<String> {
    let lines = lines();
    let fits = |line: &&String| words.iter().all(|word| line.contains(word));
    lines.iter().filter(fits).cloned().collect()
}

/// That there is such a line.
#[track_caller]
pub(crate) fn check_said(words: &[&str]) {
    assert!(!said(words).is_empty(), "{words:?} is not in\n{}", lines().join("\n"));
}
