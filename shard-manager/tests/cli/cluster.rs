//! Test harness: a cluster in a temporary folder, the program beside it, and direct access to its
//! files.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use serde_json::Value;
use serde_json::value::RawValue;
use shard_manager::access::rights::Rights;
use shard_manager::assembly::{self, EmbeddedCluster};
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{Data, Manager, RequestOptions};
use shard_manager::row_change::Operation;
use tempfile::TempDir;

use crate::scratch;

/// Longest wait for connections that are being closed, on a busy machine.
const CLOSING_MAX: Duration = Duration::from_secs(20);

/// Longest wait for replicas, on a busy machine.
const FOLLOWING_MAX: Duration = Duration::from_secs(60);

/// A running cluster. Its folder is removed with it.
pub(crate) struct Cluster {
    pub(crate) manager: Manager,
    pub(crate) dir: TempDir,
}

/// Exit code and output of the program.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let code = output.status.code().expect("no signal ended it");
        Self { code, out: text(&output.stdout), err: text(&output.stderr) }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts the exit code; a failure shows the program's output.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// Asserts that the program refused in one line.
    #[track_caller]
    pub(crate) fn refused(self, with: &str) {
        let ended = self.expect(2);
        assert!(ended.out.is_empty(), "{ended:#?}");
        assert_eq!(ended.err.lines().count(), 1, "{ended:#?}");
        assert!(ended.err.contains(with), "{ended:#?}");
    }
}

/// The program, isolated from the environment variables of this machine.
pub(crate) fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shard-manager"));
    for name in [
        "TESSERA_DATA_DIR",
        "MAINDB_URL",
        "MAX_GEN_USERS",
        "SHARD_URLS",
        "PGPASSWORD",
        "TESSERA_KEY",
    ] {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null());
    command
}

pub(crate) fn run(args: &[&str]) -> Ended {
    Ended::of(&program(args).output().expect("the program starts"))
}

/// Runs the program with a data directory.
pub(crate) fn run_in(dir: &Path, args: &[&str]) -> Ended {
    Ended::of(&program(args).env("TESSERA_DATA_DIR", dir).output().expect("the program starts"))
}

/// Runs the program with a data directory and a text as standard input.
pub(crate) fn run_reading(dir: &Path, args: &[&str], text: &str) -> Ended {
    let mut command = program(args);
    command.env("TESSERA_DATA_DIR", dir).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(text.as_bytes()).expect("the program reads");
    drop(stdin);
    Ended::of(&child.wait_with_output().expect("the program ends"))
}

/// Interrupts a running program as Ctrl-C does, requires that it ends with the exit code 2, and
/// returns its standard error.
pub(crate) fn interrupt(child: Child) -> String {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", "INT", &pid]).status().expect("kill starts");
    assert!(sent.success(), "{sent}");
    let ended = child.wait_with_output().expect("the program ends");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(2), "{said}");
    said
}

pub(crate) fn open(dir: &Path, shards: usize, replicas: usize) -> Manager {
    let (shards, replicas) = (Some(shards), Some(replicas));
    let wanted = ClusterSpec { shards, replicas, ..ClusterSpec::default() };
    let cluster = EmbeddedCluster { data_dir: dir.to_owned(), wanted };
    assembly::open(&cluster).expect("the cluster starts")
}

impl Cluster {
    pub(crate) fn new(shards: usize, replicas: usize) -> Self {
        let dir = scratch::folder();
        Self { manager: open(dir.path(), shards, replicas), dir }
    }

    /// Three shards with a replica each, and sixty users, which all replicas have.
    pub(crate) fn filled() -> Self {
        let cluster = Self::new(3, 1);
        write_users(&cluster.manager, 0..60);
        await_replicas(&cluster.manager);
        cluster
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Stops the cluster cleanly.
    pub(crate) fn stop(self) -> TempDir {
        self.manager.close();
        drop(self.manager);
        await_closed_files(self.dir.path());
        self.dir
    }
}

/// Waits until every replica has what its primary has. A stop waits for replicas too, but not for
/// long.
pub(crate) fn await_replicas(manager: &Manager) {
    let is_current = || {
        let mut nodes = manager.status().stats().into_iter().flat_map(|shard| shard.nodes);
        nodes.all(|node| node.up && node.behind == Some(0))
    };
    let begun = Instant::now();
    while !is_current() {
        assert!(begun.elapsed() < FOLLOWING_MAX, "a replica does not follow");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until the last connection with each file is closed, which removes its write-ahead log.
/// Pools close theirs on threads of their own.
fn await_closed_files(dir: &Path) {
    let is_log = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.file_name().to_string_lossy().ends_with("-wal"))
    };
    let begun = Instant::now();
    while std::fs::read_dir(dir).expect("a folder").any(is_log) {
        assert!(begun.elapsed() < CLOSING_MAX, "a connection with a file stays open");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs a future to completion.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(future)
}

pub(crate) fn write_users(manager: &Manager, numbers: std::ops::Range<usize>) {
    let rows = numbers.map(|number| {
        let key = format!("user_{number}");
        let row = format!(
            r#"{{"user_id":"{key}","name":"Name of {number}","email":"{number}@example.com"}}"#
        );
        (key, row)
    });
    write(manager, "users", rows);
}

/// Writes users with names of this many bytes.
pub(crate) fn write_long_users(manager: &Manager, count: usize, bytes: usize) {
    let long = "x".repeat(bytes);
    let rows = (0..count).map(|number| {
        let row = format!(r#"{{"user_id":"u{number}","name":"{long}","email":"e"}}"#);
        (format!("u{number}"), row)
    });
    write(manager, "users", rows);
}

/// Writes rows by their keys, all at once, and waits until the primaries have them.
pub(crate) fn write(manager: &Manager, table: &str, rows: impl Iterator<Item = (String, String)>) {
    let table = manager.schema(Rights::ALL).table(table).expect("the table is there");
    let map = manager.map();
    let options = RequestOptions::by(Instant::now() + Duration::from_secs(600));
    let writes = rows.map(|(key, row)| {
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(&row).expect("an object");
        let fields: Vec<_> = members.into_iter().map(|(k, v)| (Cow::Owned(k), v)).collect();
        let key = ShardKey::parse(&key).expect("a good key");
        let (place, row) = Data::prepare(&map, &table, Operation::Upsert, key, &fields)
            .expect("a row of the table");
        manager.data(Rights::ALL).write(place, row, &options)
    });
    for written in block_on(futures_util::future::join_all(writes)) {
        written.expect("the row is stored");
    }
}

/// Path of the file of a node.
pub(crate) fn file(dir: &Path, node: &str) -> PathBuf {
    dir.join(format!("{node}.db"))
}

/// Returns the contents of the catalog and of the files of all nodes, by path.
pub(crate) fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(dir).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let files = paths.filter(|path| path.extension().is_some_and(|extension| extension == "db"));
    files.map(|path| (path.clone(), std::fs::read(path).expect("a file"))).collect()
}

/// Runs SQL on a file behind the cluster's back.
pub(crate) fn meddle(path: &Path, sql: &str) {
    let mut connection =
        SqliteConnection::establish(&path.to_string_lossy()).expect("the file opens");
    connection.batch_execute(sql).expect("the statement runs");
}

/// Serves fixed answers by path, ignoring the query string, until the test ends; returns the URL.
pub(crate) fn serve(answers: &'static [(&'static str, u16, &'static str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
            let head = reader.by_ref().lines().map(|line| line.expect("UTF-8"));
            let head: Vec<String> = head.take_while(|line| !line.is_empty()).collect();
            let request = head.first().expect("a request");
            // A body that is not read would reset the connection before the client reads.
            let mut length = head.iter().filter_map(|line| {
                let (name, value) = line.split_once(':')?;
                let is_length = name.eq_ignore_ascii_case("content-length");
                is_length.then(|| value.trim().parse::<u64>().expect("a number"))
            });
            let length = length.next().unwrap_or(0);
            std::io::copy(&mut reader.take(length), &mut std::io::sink()).expect("a body");
            let target = request.split(' ').nth(1).unwrap_or_default();
            let path = target.split('?').next().unwrap_or_default();
            let found = answers.iter().find(|(known, ..)| *known == path);
            let (_, status, body) = found.unwrap_or(&("", 404, r#"{"title":"not found"}"#));
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\n\
                 content-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
        }
    });
    url
}
