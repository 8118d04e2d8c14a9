//! Fence: makes writes to some slots wait for a limited time, with the command `shard-manager slots
//! fence`.
//!
//! **Not here:** the choice of the slots (`schedule`).

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use super::cluster::ClusterError;
use super::operator_requests::metric;
use crate::http_client::Pool;

/// Metric of the router that counts the rows that have waited for a slot.
const WAITED: &str = "tessera_parked_refusals_total{result=\"waited\"} ";

/// Command that fences slots of one cluster: writes to these slots wait until the fence ends.
pub(super) struct FenceCommand {
    program: PathBuf,
    /// Environment variables that name the servers of the shards; empty if the shards are files.
    servers: Vec<(String, String)>,
    data_dir: PathBuf,
}

impl FenceCommand {
    /// Creates the command for the cluster of a router: for the servers that the variables name, or
    /// for the router's data directory if there are no variables.
    pub(super) fn new(program: PathBuf, servers: Vec<(String, String)>, data_dir: PathBuf) -> Self {
        Self { program, servers, data_dir }
    }

    /// Fences slots, and waits until the fence has ended. Returns the number of rows that have
    /// waited, or the reason why the slots were not fenced.
    ///
    /// # Errors
    /// Returns a [`ClusterError`] if the command does not start.
    pub(super) async fn run(
        &self,
        pool: &Pool,
        (first, last): (u32, u32),
        lasts: Duration,
    ) -> anyhow::Result<Option<String>> {
        let before = metric(pool, WAITED).await;
        let mut command = Command::new(&self.program);
        command.args(["slots", "fence", "--slots", &format!("{first}-{last}")]);
        command.args(["--seconds", &lasts.as_secs_f64().to_string()]).stdin(Stdio::null());
        if self.servers.is_empty() {
            command.arg("--data-dir").arg(&self.data_dir);
        } else {
            command.envs(self.servers.iter().map(|(name, value)| (name, value)));
            command.env_remove("TESSERA_DATA_DIR");
        }
        let ended = tokio::task::spawn_blocking(move || command.output()).await?;
        let program = self.program.display();
        let ended =
            ended.with_context(|| ClusterError::new(format!("{program} does not start")))?;
        if !ended.status.success() {
            // This is not treated as an error, because the router may still be starting.
            let reason = String::from_utf8_lossy(&ended.stderr);
            return Ok(Some(format!("not fenced: {}", reason.trim())));
        }
        tokio::time::sleep(lasts).await;
        let waited = before.zip(metric(pool, WAITED).await);
        let waited = waited.map(|(before, now)| (now - before).max(0.0));
        Ok(waited.map(|rows| format!("{rows} rows waited")))
    }
}
