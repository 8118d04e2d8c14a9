//! Benchmark of access control: a router that checks a key for every request compared with a
//! router whose access control is off.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use shard_manager::access::key::NewApiKey;

use crate::pairs::{Side, compare};
use crate::servers::Router;
use crate::{read, write};

const KEYS_FILE: &str = "keys";

/// Measures writes and reads of both routers.
pub(crate) fn measure(rounds: u32, seconds: u32, workers: &str) -> std::io::Result<()> {
    let dirs = [tempfile::tempdir()?, tempfile::tempdir()?];
    for dir in &dirs {
        Router::start(dir.path(), &["--workers", workers])?.load_users()?;
    }
    let key = make_key(dirs[1].path())?;
    let off = Router::start(dirs[0].path(), &["--workers", workers])?;
    let flags = ["--workers", workers, "--access", "on", "--access-keys-file", KEYS_FILE];
    let on = Router::start(dirs[1].path(), &flags)?;
    // Both receive the same bytes: what differs is the work of access control.
    let header = format!(r#", ["authorization"] = "Bearer {key}""#);
    let sides = [&off, &on].map(|router| Side { router, headers: &header });
    compare("point write", write, &sides, (rounds, seconds), dirs[0].path())?;
    compare("point read", read, &sides, (rounds, seconds), dirs[0].path())
}

/// Creates a key that may read and write all rows, and the file that names it.
fn make_key(dir: &Path) -> std::io::Result<String> {
    // The router lives for seconds and serves loopback only, so the key need not be random.
    let key = NewApiKey::from_random(&[0x5a; NewApiKey::RANDOM_LEN]);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join(KEYS_FILE))?;
    writeln!(file, "{} {} service", key.id().as_str(), key.digest().to_hex())?;
    Ok(key.reveal().to_owned())
}
