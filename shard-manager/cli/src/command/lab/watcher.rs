//! Watcher: shows the progress of an experiment on the terminal, and lets the experiment end early
//! after Ctrl-C.

use ::lab::experiment_observer::{Bar, ExperimentObserver};
use indicatif::ProgressBar;

use crate::command::interrupt;
use crate::terminal::{Terminal, say};

/// Observer of an experiment that shows its progress on a terminal.
pub(super) struct Watcher<'t> {
    terminal: &'t Terminal,
}

/// Progress bar on the terminal, removed when its part of the experiment ends.
struct TerminalBar(ProgressBar);

impl<'t> Watcher<'t> {
    pub(super) fn new(terminal: &'t Terminal) -> Self {
        Self { terminal }
    }
}

impl ExperimentObserver for Watcher<'_> {
    fn report(&self, line: &str) {
        self.terminal.above_bars(|| say(line));
    }

    fn bar(&self, name: &str, total: u64) -> Box<dyn Bar> {
        Box::new(TerminalBar(self.terminal.progress(name, total)))
    }

    fn is_cancelled(&self) -> bool {
        interrupt::is_interrupted()
    }
}

impl Bar for TerminalBar {
    fn add(&self, steps: u64) {
        self.0.inc(steps);
    }
}

impl Drop for TerminalBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
