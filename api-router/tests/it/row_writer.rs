//! Row writer: a client that writes users one after another while other work is done.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::client::user;
use crate::harness::Router;
use crate::moves::{End, PATIENT};

/// Writes that are acknowledged before the other work begins.
const WRITES_BEFORE: usize = 30;

/// Numbers of acknowledged writes before and after some work, and the result of the work.
///
/// The users are `user_0`, `user_1` and so on, so a consistent snapshot contains the first of them
/// without a gap.
pub(crate) struct BesideWrites<T> {
    pub(crate) before: usize,
    pub(crate) after: usize,
    pub(crate) result: T,
}

/// Does some work while a client writes users. If a write is refused, the test fails.
pub(crate) fn beside_writes<T>(router: &Router, work: impl FnOnce() -> T) -> BesideWrites<T> {
    let (acknowledged, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (before, result) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0.. {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let key = format!("user_{number}");
                let headers = [("x-shard-key", &*key), PATIENT];
                let reply = router.post("/api/write", &headers, &user(&key, "n"));
                assert_eq!(reply.status, 201, "{}", reply.text());
                acknowledged.store(number + 1, Ordering::SeqCst);
            }
        });
        let _end = End(&ended);
        while acknowledged.load(Ordering::SeqCst) < WRITES_BEFORE && !writer.is_finished() {
            std::thread::yield_now();
        }
        (acknowledged.load(Ordering::SeqCst), work())
    });
    BesideWrites { before, after: acknowledged.load(Ordering::SeqCst), result }
}
