//! On router: requests a backup that a router makes in its own backup folder, and polls it until it
//! has ended.
//!
//! **Invariant:** an interrupt (Ctrl-C) cancels the backup that this command has begun, and no
//! other.
//! **Not here:** making the backup (`cluster`).

use std::thread::sleep;
use std::time::{Duration, Instant};

use engine::backup_view::{BackupState, BackupView, CANCEL, CopiedShardView};
use engine::progress_observer::{ProgressObserver, Step};
use serde_json::{Value, json};

use super::super::CommandError;
use super::super::http_agent::RouterAddress;
use super::super::router::Router;
use super::with_bars;
use crate::terminal::Terminal;

/// URL path of a router's backups.
const PATH: &str = "/api/backup";
/// Interval at which a backup is polled.
const LOOK: Duration = Duration::from_millis(200);
/// Time for which the router may be unreachable before the command fails.
const UNREACHABLE_MAX: Duration = Duration::from_secs(30);

/// Requests a backup from a router, waits for its end, and shows the result.
pub(super) fn run(address: &RouterAddress, terminal: &Terminal) -> Result<(), CommandError> {
    let router = Router::at(address)?;
    let begun = read(router.post(PATH, &json!({}))?)?;
    let ended = with_bars(terminal, |observer| follow(&router, begun, observer))?;
    if ended.state != BackupState::Done {
        let reason = ended.reason.as_deref().unwrap_or("it was cancelled and has left no copy");
        return Err(CommandError::Refused(format!("the backup {}: {reason}", ended.id)));
    }
    Ok(terminal.show(&ended, |_| sentence(&ended))?)
}

fn follow(
    router: &Router,
    begun: BackupView,
    observer: &ProgressObserver<'_>,
) -> Result<BackupView, CommandError> {
    let path = format!("{PATH}/{}", begun.id);
    let (mut shown, mut seen, mut is_cancelled) = (begun, Instant::now(), false);
    while shown.state == BackupState::Running {
        for shard in shown.shards.iter().flatten() {
            (observer.step)(&step(shard));
        }
        if !is_cancelled && (observer.cancelled)() {
            is_cancelled = true;
            // An error is ignored: if the backup has ended meanwhile, the next response shows that.
            let _ = router.post(&format!("{path}/{CANCEL}"), &json!({}));
        }
        sleep(LOOK);
        match router.get(&path, &[]).and_then(read) {
            Ok(view) => (shown, seen) = (view, Instant::now()),
            Err(error) if seen.elapsed() > UNREACHABLE_MAX => return Err(error),
            Err(_) => {}
        }
    }
    Ok(shown)
}

fn step(shard: &CopiedShardView) -> Step {
    let of = shard.expected_bytes.unwrap_or(shard.bytes);
    Step::Copying { shard: shard.shard.clone(), bytes: shard.bytes, of }
}

fn sentence(done: &BackupView) -> String {
    let (rows, shards) = (done.rows.unwrap_or(0), done.shards.as_ref().map_or(0, Vec::len));
    let (at, held) = (done.as_of.as_deref().unwrap_or("-"), done.writes_held_ms.unwrap_or(0.0));
    format!(
        "{} holds {rows} rows of {shards} shards as of {at} ({} MiB; writes waited {held:.1} ms)",
        done.id,
        done.bytes >> 20
    )
}

fn read(answer: Value) -> Result<BackupView, CommandError> {
    serde_json::from_value(answer).map_err(|error| {
        CommandError::Refused(format!("this is not the response of a router: {error}"))
    })
}
