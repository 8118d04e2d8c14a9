//! Read gate: admits reads that open a connection of their own to a file, until the file is closed.
//!
//! **Invariant:** once `close` has returned, none of these reads has the file open.
//! **Not here:** the reads (`move_reader`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// Gate of one shard's file.
#[derive(Debug, Default)]
pub struct ReadGate {
    closed: AtomicBool,
    reads: RwLock<()>,
}

impl ReadGate {
    /// Admits a read, which lasts until the returned guard is dropped. Returns `None` if the gate
    /// is closed.
    pub(super) fn enter(&self) -> Option<RwLockReadGuard<'_, ()>> {
        if self.is_closed() {
            return None;
        }
        let guard = self.reads.read().unwrap_or_else(PoisonError::into_inner);
        (!self.is_closed()).then_some(guard)
    }

    /// Returns true as soon as closing has begun, so that running reads can end early.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Closes the gate and blocks until all admitted reads have ended.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        drop(self.reads.write().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_waits_for_reads_and_admits_none() {
        let gate = ReadGate::default();
        std::thread::scope(|scope| {
            let inside = gate.enter().expect("it is open");
            let closing = scope.spawn(|| gate.close());
            while !gate.is_closed() {
                std::thread::yield_now();
            }
            assert!(!closing.is_finished(), "a read has the file open");
            drop(inside);
        });
        assert!(gate.enter().is_none());
    }
}
