//! Lifecycle: runtimes that a manager's backend uses while it serves, and the shutdown.
//!
//! **Not here:** opening (`assembly`), changes of the tables (`schema`).

use tokio::runtime::Handle;

use super::Manager;

impl Manager {
    /// Adds the runtime of a thread that serves clients to the [runtime
    /// pool](engine::runtime_pool), if nodes are servers. Its thread must drive it until
    /// [`Manager::remove_runtimes`].
    pub fn add_runtime(&self, runtime: Handle) {
        if let Some(runtimes) = self.backend.runtime_pool() {
            runtimes.add_runtime(runtime);
        }
    }

    /// Removes all runtimes that were added.
    pub fn remove_runtimes(&self) {
        if let Some(runtimes) = self.backend.runtime_pool() {
            runtimes.remove_runtimes();
        }
    }

    /// Applies what is queued and closes the files. Blocks.
    pub fn close(&self) {
        self.backend.stop_background();
        if let Some(cache) = &self.cache {
            cache.close();
        }
        self.shards.load().iter().for_each(|(_, shard)| shard.close());
        self.backend.release();
    }
}
