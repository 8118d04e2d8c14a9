//! Redis: the cache of the tested router, as a child process of the load tester.
//!
//! **Invariant:** signals are sent only to a child that has not been waited for, so that its
//! process id cannot belong to another process. The server writes nothing to disk.
//! **Not here:** the behaviour of a router whose cache is down.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Name of the program, which is the same in every package.
const PROGRAM: &str = "redis-server";
/// Longest wait for the start, and for a reply.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two requests during the start.
const POLL: Duration = Duration::from_millis(10);

pub(super) struct RedisProcess {
    program: PathBuf,
    address: SocketAddr,
    child: Option<Child>,
}

impl RedisProcess {
    /// Starts a server on a free port.
    ///
    /// # Errors
    /// Fails if the program does not exist, or does not respond.
    pub(super) async fn new(program: Option<&Path>) -> anyhow::Result<Self> {
        let program = program.map_or_else(|| PathBuf::from(PROGRAM), Path::to_owned);
        // The port must be the same after each start, so a free one is chosen here.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut redis = Self { program, address, child: None };
        redis.start().await?;
        Ok(redis)
    }

    /// Returns the URL of the server for the router's settings.
    pub(super) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Starts the server, and waits until it responds.
    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(self.child.is_none(), "one Redis runs already");
        let mut command = Command::new(&self.program);
        command.args(["--bind", "127.0.0.1", "--port", &self.address.port().to_string()]);
        command.args(["--save", "", "--appendonly", "no"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| {
            format!(
                "{} cannot be started: install Redis, or name it with --redis-server",
                self.program.display()
            )
        })?;
        self.child = Some(child);
        let began = Instant::now();
        while self.ask("PING").await.is_err() {
            anyhow::ensure!(began.elapsed() < PATIENCE, "Redis does not answer");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Kills the server (SIGKILL), and waits for its end.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Deletes all entries of the cache.
    pub(super) async fn empty(&self) -> anyhow::Result<()> {
        self.ask("FLUSHALL").await
    }

    pub(super) fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    pub(super) fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let Some(child) = &self.child else { return Ok(()) };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("a process without a number")?, signal)?;
        Ok(())
    }

    /// Sends a command, and waits for the reply, which is one line.
    async fn ask(&self, command: &str) -> anyhow::Result<()> {
        let asked = async {
            let mut stream = TcpStream::connect(self.address).await?;
            stream.write_all(format!("{command}\r\n").as_bytes()).await?;
            let mut first = [0];
            stream.read_exact(&mut first).await?;
            anyhow::ensure!(first == *b"+", "Redis refuses {command}");
            Ok(())
        };
        tokio::time::timeout(PATIENCE, asked).await.context("Redis does not answer")?
    }
}

impl Drop for RedisProcess {
    fn drop(&mut self) {
        // This ends a frozen process too: SIGKILL does not wait for SIGCONT.
        let _ = self.kill();
    }
}
