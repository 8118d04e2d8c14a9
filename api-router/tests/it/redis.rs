//! Redis: a Redis server for one test, on a free loopback port, with a password, in a temporary
//! folder.
//!
//! When the [`Redis`] is dropped, the server is ended by its process id. It writes to a disk only
//! if a setting of the test requires that.
//!
//! **Invariant:** after a start the server answers, and after a kill its process has ended.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::free_port::free_port;

/// Longest time for a server to start, or to respond.
const PATIENCE: Duration = Duration::from_secs(30);
/// Password of the server, which no output may contain.
pub(crate) const PASSWORD: &str = "canary-of-redis-4711";

/// A running server.
pub(crate) struct Redis {
    child: Child,
    port: u16,
    folder: TempDir,
    flags: Vec<String>,
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with more settings, such as `--maxmemory 1mb`.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let port = free_port();
        let child = launch(port, &folder, &flags);
        let redis = Self { child, port, folder, flags };
        redis.await_answer();
        redis
    }

    /// Returns the address of the server, with the password.
    pub(crate) fn url(&self) -> String {
        format!("redis://:{PASSWORD}@127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the server again on the same port, with its saved data if there are any.
    pub(crate) fn come_back(&mut self) {
        self.child = launch(self.port, &self.folder, &self.flags);
        self.await_answer();
    }

    /// Stops the server with SIGSTOP: it accepts connections, but does not respond.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// Continues the server with SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Runs one command, and returns every text and number of its reply.
    pub(crate) fn ask(&self, words: &[&str]) -> Vec<String> {
        self.try_ask(words).unwrap()
    }

    fn try_ask(&self, words: &[&str]) -> std::io::Result<Vec<String>> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut stream = BufReader::new(stream);
        let mut answer = Vec::new();
        for words in [&["AUTH", PASSWORD][..], words] {
            let mut command = format!("*{}\r\n", words.len());
            for word in words {
                command += &format!("${}\r\n{word}\r\n", word.len());
            }
            stream.get_mut().write_all(command.as_bytes())?;
            answer.clear();
            read_reply(&mut stream, &mut answer)?;
        }
        Ok(answer)
    }

    /// Returns all stored keys.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.ask(&["KEYS", "*"])
    }

    fn await_answer(&self) {
        let began = Instant::now();
        while !self.try_ask(&["PING"]).is_ok_and(|answer| answer == ["PONG"]) {
            assert!(began.elapsed() < PATIENCE, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // This also ends a frozen server.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(port: u16, folder: &TempDir, flags: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    // The password is passed by a pipe, because a list of processes shows command lines.
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--appendonly", "no", "--dir"]).arg(folder.path()).args(flags).arg("-");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!("redis-server cannot be started ({error}): ./setup.sh tools installs it")
    });
    writeln!(child.stdin.take().unwrap(), "requirepass {PASSWORD}").unwrap();
    child
}

/// Reads one reply of the protocol RESP2, and adds its texts and numbers to `answer`.
fn read_reply(stream: &mut BufReader<TcpStream>, answer: &mut Vec<String>) -> std::io::Result<()> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let (kind, rest) = line.trim_end().split_at_checked(1).unwrap_or(("", ""));
    let length = rest.parse::<i64>().unwrap_or(0);
    match kind {
        "+" | ":" => answer.push(rest.to_owned()),
        "$" if length < 0 => {}
        "$" => {
            let mut text = vec![0; length as usize + 2];
            stream.read_exact(&mut text)?;
            answer.push(String::from_utf8_lossy(&text[..length as usize]).into_owned());
        }
        "*" => {
            for _ in 0..length {
                read_reply(stream, answer)?;
            }
        }
        _ => return Err(std::io::Error::other(format!("redis-server said {line:?}"))),
    }
    Ok(())
}
