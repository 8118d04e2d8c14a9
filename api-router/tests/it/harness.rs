//! Harness: a real router process on a free loopback port, with a data directory or databases of
//! its own (`backend`).
//!
//! When the [`Router`] is dropped, the process is ended by its id, and the directory is removed.
//!
//! The functions of a [`Router`] send requests like one client that keeps its session token: such a
//! client reads its own writes, although replicas answer the reads. Clients without a token, and
//! further clients with their own token, are in `client`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::backend;
use crate::secrets::Secrets;

/// Longest time for anything that must happen before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Deadline of simple reads and writes, which a busy machine does not exceed: nearly as long as the
/// client waits.
const PATIENT: (&str, &str) = ("x-deadline-ms", "25000");
/// Interval between attempts of a test that waits for a state of another process.
const ATTEMPT_EVERY: Duration = Duration::from_millis(20);

/// Maximum number of bytes of session tokens that a router accepts.
pub(crate) const TOKEN_LEN_MAX: usize = 4_096;
/// Paths of responses about rows, which have a session token; paths of single values (`/api/kv/`)
/// do too.
const DATA_PATHS: [&str; 5] = ["/api/read", "/api/write", "/api/bulk-write", "/read", "/write"];

/// Returns true if the responses of a path are about rows.
fn is_about_rows(path: &str) -> bool {
    let path = path.split('?').next().unwrap_or(path);
    DATA_PATHS.contains(&path) || path.starts_with("/api/kv/")
}

/// Returns the first result of repeated attempts. The states of other processes send no events, so
/// tests poll them.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(ATTEMPT_EVERY);
    }
}

/// A running router.
pub(crate) struct Router {
    child: Child,
    address: SocketAddr,
    banner: String,
    agent: ureq::Agent,
    data: Option<TempDir>,
    /// Tokens of responses that no later response has merged yet: several, as threads receive
    /// responses at the same time.
    session: Mutex<Vec<String>>,
    secrets: Secrets,
}

/// Response of the router.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// Returns the body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Returns the code of a problem.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or("no code").to_owned()
    }
}

/// Returns the command of the router without any flag, which ignores the settings of the user who
/// runs the tests.
pub(crate) fn bare_command(folder: &Path) -> Command {
    isolated(Command::new(env!("CARGO_BIN_EXE_api-router")), folder)
}

/// Returns a command without Tessera's environment variables, which runs in this folder.
pub(crate) fn isolated(mut command: Command, folder: &Path) -> Command {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let plain = ["SHARD_URLS", "REPLICA_URLS", "MAINDB_URL", "PGPASSWORD", "REDIS_URL"];
        if name.starts_with("TESSERA_") || plain.contains(&&*name) {
            command.env_remove(name);
        }
    }
    command.current_dir(folder);
    command
}

/// Returns a command that starts the router over this directory on a free port.
pub(crate) fn command(data_dir: &Path) -> Command {
    backend::command(data_dir, &[])
}

impl Router {
    /// Starts a router with three shards in a new directory.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a router with more flags.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        Self::start_owning(|data_dir| backend::command(data_dir, flags))
    }

    /// Starts a router with a command for a new directory, which is removed with the router.
    pub(crate) fn start_owning(command: impl FnOnce(&Path) -> Command) -> Self {
        let data = crate::folders::temporary();
        Self::start_command(command(&data.path().join("data"))).owning(data)
    }

    /// Starts a router over a directory that outlives it. Its client's session includes all rows
    /// that are already stored.
    pub(crate) fn start_in(data_dir: &Path, flags: &[&str]) -> Self {
        let is_used = backend::is_used(data_dir);
        let router = Self::start_command(backend::command(data_dir, flags));
        if is_used {
            let level = [("x-consistency", "all")];
            let seen = router.send("GET", "/api/read?table=users&limit=1", &level, None);
            assert_eq!(seen.status, 200, "{}", seen.text());
        }
        router
    }

    /// Starts a router with this command; waits until its banner has the address. Its log is
    /// printed, and searched for secrets.
    pub(crate) fn start_command(command: Command) -> Self {
        let mut router = Self::start_logging(command, Stdio::piped());
        let log = BufReader::new(router.child.stderr.take().unwrap());
        router.secrets.watch(log);
        router
    }

    /// Starts a router that writes its log to the given destination.
    pub(crate) fn start_logging(mut command: Command, log: Stdio) -> Self {
        let secrets = Secrets::of(&command);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut banner = String::new();
        let mut address = None;
        // The last line of the banner says how to end the router.
        while !banner.lines().last().is_some_and(|line| line.trim().starts_with("end ")) {
            let Some(line) = lines.next() else { panic!("{}", failed_start(&mut child)) };
            let line = line.unwrap();
            if let Some(rest) = line.trim().strip_prefix("API") {
                let url = rest.split_whitespace().next().unwrap();
                let (_, place) = url.split_once("://").unwrap();
                address = Some(place.trim_end_matches('/').to_owned());
            }
            banner.push_str(&line);
            banner.push('\n');
        }
        let address = address.expect("the banner has the address").parse().unwrap();
        // The pipe is kept open and read, so that the router never writes into a closed pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(PATIENCE))
            .build();
        let session = Mutex::default();
        secrets.look(banner.as_bytes());
        Self { child, address, banner, agent: agent.into(), data: None, session, secrets }
    }

    /// Returns the router with a folder that is removed with it.
    pub(crate) fn owning(mut self, data: TempDir) -> Self {
        self.data = Some(data);
        self
    }

    /// Returns the banner.
    pub(crate) fn banner(&self) -> &str {
        &self.banner
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends a request with these headers and this body.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Reply {
        self.try_send(method, path, headers, body).unwrap()
    }

    /// Sends a request whose connection may break.
    pub(crate) fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Reply, ureq::Error> {
        let has_token =
            headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("x-session-token"));
        if has_token || !is_about_rows(path) {
            return self.exchange(method, path, headers, body);
        }
        let sent = self.session_tokens();
        let joined = sent.join(",");
        let mut all = headers.to_vec();
        if !sent.is_empty() {
            all.push(("x-session-token", &joined));
        }
        let reply = self.exchange(method, path, &all, body)?;
        if let Some(token) = reply.header("x-session-token") {
            let mut session = self.session.lock().unwrap();
            session.retain(|known| !sent.contains(known));
            session.push(token.to_owned());
        }
        Ok(reply)
    }

    /// Returns as many tokens of this client as a request may have, which is all of them unless
    /// there are many threads.
    fn session_tokens(&self) -> Vec<String> {
        let session = self.session.lock().unwrap();
        let mut room = TOKEN_LEN_MAX;
        let fits = |token: &&String| {
            let left = room.checked_sub(token.len() + 1);
            room = left.unwrap_or(room);
            left.is_some()
        };
        session.iter().filter(fits).cloned().collect()
    }

    /// Sends a request unchanged: without the token of this router's client, and without keeping
    /// that of the response.
    pub(crate) fn exchange(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Reply, ureq::Error> {
        let mut request = ureq::http::Request::builder().method(method).uri(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = match body {
            Some(body) => self.agent.run(request.body(body).unwrap())?,
            None => self.agent.run(request.body(()).unwrap())?,
        };
        let body = response.body_mut().with_config().limit(256 << 20).read_to_vec()?;
        self.secrets.look(&body);
        response.headers().values().for_each(|value| self.secrets.look(value.as_bytes()));
        Ok(Reply { status: response.status().as_u16(), headers: response.headers().clone(), body })
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], None)
    }

    /// Posts JSON.
    pub(crate) fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.send("POST", path, &all, Some(body.to_string().as_bytes()))
    }

    /// Writes a row under a key, with a long deadline.
    pub(crate) fn write(&self, key: &str, body: &Value) -> Reply {
        self.post("/api/write", &[("x-shard-key", key), PATIENT], body)
    }

    /// Writes a user whose id is the key.
    pub(crate) fn write_user(&self, key: &str, name: &str) -> Reply {
        let email = format!("{key}@example.com");
        let data = serde_json::json!({"user_id": key, "name": name, "email": email});
        self.write(key, &serde_json::json!({"table": "users", "data": data}))
    }

    /// Reads with a key, with a long deadline.
    pub(crate) fn read(&self, key: &str, query: &str) -> Reply {
        self.send("GET", &format!("/api/read?{query}"), &[("x-shard-key", key), PATIENT], None)
    }

    /// Returns a bare connection, for bytes that no HTTP client would send.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends raw bytes and returns what comes back until the connection ends.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        // The router may close the connection before it has read everything.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    /// Sends a signal by its name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(sent.success(), "kill -s {name} {pid}");
    }

    /// Ends the process by an orderly shutdown (SIGINT), without the delay for load balancers.
    pub(crate) fn end(&mut self) {
        self.signal("INT");
        assert_eq!(self.wait().code(), Some(0), "an end in good order");
    }

    /// Ends the process at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the process to end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "the router does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // The guard of a shared router ends it as soon as its own input ends.
        if self.child.stdin.is_none() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        if !std::thread::panicking() {
            self.secrets.look(b"");
        }
    }
}

/// Returns the log of a router that ended before it served.
fn failed_start(child: &mut Child) -> String {
    let mut log = String::new();
    if let Some(mut pipe) = child.stderr.take() {
        let _ = pipe.read_to_string(&mut log);
    }
    format!("the router ended before it served:\n{log}")
}

/// Runs a router that should refuse to start; returns its exit code and output. A router that
/// starts anyway is killed as soon as it prints its banner, and has no exit code.
pub(crate) fn refused_start(mut command: Command) -> (Option<i32>, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut banner = String::new();
    let printed = BufReader::new(child.stdout.take().unwrap()).read_line(&mut banner).unwrap();
    if printed > 0 {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), format!("{banner}{said}"))
}
