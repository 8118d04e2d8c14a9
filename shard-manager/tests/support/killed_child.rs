//! Killed child: a process that a test has started, and that does not outlive the test.

use std::process::Child;

/// A process that is killed when it is dropped, by its id.
pub(crate) struct KilledChild(pub(crate) Child);

impl Drop for KilledChild {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
