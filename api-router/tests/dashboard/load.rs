//! Load: a client that writes and reads until it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::router::{Router, write_user};

/// A client at work.
pub(crate) struct Load {
    ends: Arc<AtomicBool>,
    client: Option<JoinHandle<()>>,
}

impl Load {
    /// Begins: one write, two reads, and now and then a request that is refused.
    pub(crate) fn begin(router: &Router) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let (agent, seen) = (router.agent(), Arc::clone(&ends));
        let (write, read) =
            (router.url("/api/write"), router.url("/api/read?table=users&limit=10"));
        let refused = router.url("/api/read?table=users&name=Ada");
        let client = std::thread::spawn(move || {
            for round in 0_u64.. {
                if seen.load(Ordering::Relaxed) {
                    break;
                }
                // A key with more requests than others.
                let key = if round % 3 == 0 {
                    "user_1".to_owned()
                } else {
                    format!("user_{}", round % 500)
                };
                write_user(&agent, &write, &key);
                for _ in 0..2 {
                    agent.get(&read).header("x-shard-key", &key).call().unwrap();
                }
                if round % 20 == 0 {
                    agent.get(&refused).header("x-shard-key", &key).call().unwrap();
                }
            }
        });
        Self { ends, client: Some(client) }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(client) = self.client.take() {
            let ended = client.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the client had an answer for each request"
            );
        }
    }
}
