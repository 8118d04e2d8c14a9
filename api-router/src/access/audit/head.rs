//! Head: regularly copies the position and hash of the audit log's last line (its head) to the
//! catalog, so that removed lines are noticed.
//!
//! **Invariant:** a line is durable in its file before its hash is stored in the catalog.
//! **Not here:** storage in the catalog (`shard_manager::engine::access_store`).

use std::sync::Arc;
use std::time::Duration;

use shard_manager::access::audit::chain::AuditHead;
use shard_manager::manager::Manager;

use super::AuditLog;
use crate::access::clock::unix_now;

/// Interval at which the head of the log is stored in the catalog.
const KEEP_EVERY: Duration = Duration::from_secs(3_600);
/// Time after which a failed attempt to store it is repeated.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Stores the head of the log in the catalog at once, and from then on every hour, in the
/// background.
pub fn begin_keeping_head(log: &Arc<AuditLog>, manager: &Arc<Manager>) {
    let (log, manager) = (Arc::clone(log), Arc::clone(manager));
    actix_web::rt::spawn(async move {
        loop {
            let synced = Arc::clone(&log);
            let head = tokio::task::spawn_blocking(move || synced.sync()).await;
            let kept = keep(&log, &manager, head.ok().flatten()).await;
            tokio::time::sleep(if kept { KEEP_EVERY } else { RETRY_AFTER }).await;
        }
    });
}

/// Ends the log, and stores its head in the catalog.
pub async fn keep_last_head(log: &Arc<AuditLog>, manager: &Manager) {
    let ended = Arc::clone(log);
    let head = tokio::task::spawn_blocking(move || ended.end()).await;
    keep(log, manager, head.ok().flatten()).await;
}

/// Stores a head in the catalog. Returns false if the attempt must be repeated.
async fn keep(log: &AuditLog, manager: &Manager, head: Option<AuditHead>) -> bool {
    let Some(head) = head else { return !log.has_files };
    let kept = manager.access().keep_audit_head(head, unix_now()).await;
    if let Err(error) = &kept {
        tracing::warn!(%error, "the last line of the audit log is not kept in the catalog");
    }
    kept.is_ok()
}
