//! Backup place: the folders of tests about backups, their requests, and ways to delay a backup.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use shard_manager::backup::restore;
use shard_manager::engine::progress_observer::ProgressObserver;
use shard_manager::store::postgres::backup::restore as server_restore;
use tempfile::TempDir;

use crate::backend::{is_servers, url_of};
use crate::client::keys_on;
use crate::databases::{query, try_query};
use crate::faults::meddle;
use crate::folders;
use crate::harness::{Reply, Router, eventually};
use crate::moves::OPERATE;

const JSON: (&str, &str) = ("content-type", "application/json");
pub(crate) const CITUS: &str = "routers do not back up Citus clusters";
/// Runs without an observer and is never cancelled.
pub(crate) const ALONE: ProgressObserver<'_> =
    ProgressObserver { step: &|_| {}, cancelled: &|| false };

/// Folders of a test.
pub(crate) struct BackupPlace {
    pub(crate) folder: TempDir,
}

impl BackupPlace {
    pub(crate) fn new() -> Self {
        Self { folder: folders::temporary() }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn backups(&self) -> PathBuf {
        self.folder.path().join("backups")
    }

    /// Starts a router that makes backups.
    pub(crate) fn start(&self, flags: &[&str]) -> Router {
        let backups = self.backups();
        let own = ["--backup-dir", backups.to_str().unwrap()];
        Router::start_in(&self.data(), &[OPERATE, &own, flags].concat())
    }

    /// Returns the names in the folder of backups.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.backups()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

pub(crate) fn post(router: &Router, path: &str) -> Reply {
    router.send("POST", path, &[JSON], None)
}

/// Begins a backup, and returns its path.
#[track_caller]
pub(crate) fn begin(router: &Router) -> String {
    let reply = post(router, "/api/backup");
    assert_eq!(reply.status, 202, "{}", reply.text());
    let begun = reply.json();
    assert_eq!((&begun["state"], &begun["reason"]), (&json!("running"), &Value::Null), "{begun}");
    let path = format!("/api/backup/{}", begun["id"].as_str().unwrap());
    assert_eq!(reply.header("location"), Some(&*path));
    path
}

#[track_caller]
pub(crate) fn show(router: &Router, path: &str) -> Value {
    let reply = router.get(path);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// Waits until a backup has ended in this state, and returns it.
#[track_caller]
pub(crate) fn until(router: &Router, path: &str, state: &str) -> Value {
    eventually(&format!("the state {state}"), || {
        let shown = show(router, path);
        assert!(shown["state"] == state || shown["state"] == "running", "{shown}");
        (shown["state"] == state).then_some(shown)
    })
}

pub(crate) fn listed(router: &Router) -> Vec<Value> {
    show(router, "/api/backup")["backups"].as_array().unwrap().clone()
}

/// Verifies a copy, and returns the number of its rows.
#[track_caller]
pub(crate) fn verified(folder: &Path) -> u64 {
    if is_servers() {
        return server_restore::verify(folder, &ALONE).unwrap().rows();
    }
    restore::verify(folder, &ALONE).unwrap().rows().cast_unsigned()
}

/// Prevents a batch of shard1 from ending, or on servers holds the lock of the shard, so that a
/// backup waits.
pub(crate) struct StuckBatch {
    data: PathBuf,
    /// Client that waits for its write.
    _client: Option<TcpStream>,
    session: Option<JoinHandle<()>>,
}

/// Trigger with which a batch never ends.
const ENDLESS: &str =
    "CREATE TRIGGER endless BEFORE INSERT ON users WHEN NEW.name = 'endless' BEGIN
    SELECT (WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT max(n) FROM n);
    END";
/// Lock of a shard that a backup takes exclusively.
const FENCE_LOCK: &str =
    "FROM pg_locks WHERE locktype = 'advisory' AND classid = 1950 AND objid = 1
    AND mode = 'ShareLock' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

impl StuckBatch {
    pub(crate) fn new(router: &Router, data: &Path) -> Self {
        let data = data.to_owned();
        if is_servers() {
            let url = url_of(&data, 0);
            let session = std::thread::spawn({
                let url = url.clone();
                // The test ends this session.
                move || {
                    drop(try_query(
                        &url,
                        "SELECT pg_advisory_lock_shared(1950, 1); SELECT pg_sleep(60)",
                    ))
                }
            });
            let sql = format!("SELECT 1 {FENCE_LOCK}");
            eventually("the lock", || (!query(&url, &sql).is_empty()).then_some(()));
            return Self { data, _client: None, session: Some(session) };
        }
        meddle(&data, ENDLESS);
        let keys = keys_on(router, "shard1", 2);
        let (key, body) = (&keys[0], r#"{"table":"users","data":{"name":"endless","email":"e"}}"#);
        let mut client = router.connect();
        let length = body.len();
        let head = format!(
            "POST /api/write HTTP/1.1\r\nhost: localhost\r\nx-shard-key: {key}\r\ncontent-length: {length}\r\n\
             content-type: application/json\r\nx-deadline-ms: 60000\r\n\r\n{body}"
        );
        client.write_all(head.as_bytes()).unwrap();
        let other = json!({"table": "users", "data": {"name": "n", "email": "e"}});
        // Nothing is stored before the batch has begun, because there is no such row.
        eventually("the batch", || {
            let headers = [("x-shard-key", &*keys[1]), ("x-deadline-ms", "100"), ("if-match", "*")];
            let is_late = || router.post("/api/write", &headers, &other).status == 504;
            // A busy machine delays single responses as well.
            (0..3).all(|_| is_late()).then_some(())
        });
        Self { data, _client: Some(client), session: None }
    }
}

impl Drop for StuckBatch {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        let end = format!("SELECT pg_terminate_backend(pid) {FENCE_LOCK}");
        query(&url_of(&self.data, 0), &end);
        session.join().unwrap();
    }
}

/// Waits until the copy of a backup has begun, and its last step is blocked.
#[track_caller]
pub(crate) fn until_held(router: &Router, place: &BackupPlace, path: &str) {
    let id = path.rsplit('/').next().unwrap();
    let unfinished = place.backups().join(format!("{id}-unfinished"));
    eventually("the backup is held up", || {
        let shown = show(router, path);
        assert_eq!(shown["state"], "running", "{shown}");
        let is_held = is_servers() || shown["stage"] == "following";
        (is_held && unfinished.is_dir()).then_some(())
    });
}
