//! Process: a router as a child process of the load tester. Its shards are files in its own data
//! directory, or databases on servers.
//!
//! **Invariant:** signals are sent only to a child that has not been waited for, so that its
//! process id cannot belong to another process.

use std::ffi::OsString;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpSocket;

/// Longest wait for an orderly shutdown, which takes some seconds because the router first drains.
const END_PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two checks whether the process has ended.
const POLL: Duration = Duration::from_millis(5);

pub(crate) struct RouterProcess {
    program: PathBuf,
    flags: Vec<String>,
    /// Environment variables that name the router's servers; empty if the router has its own data
    /// directory.
    servers: Vec<(String, String)>,
    /// URL of the router's cache, if it has one.
    cache: Option<String>,
    address: SocketAddr,
    /// Socket that is bound to the router's port and thereby reserves the port while no router
    /// runs, so that the system does not give the port to another program that requests any free
    /// port. The router can nevertheless listen on the port, because both sockets set SO_REUSEADDR.
    _port: TcpSocket,
    dir: Option<TempDir>,
    path: PathBuf,
    child: Option<Child>,
}

impl RouterProcess {
    /// Starts a router on a free port. The router uses the servers that the variables name, or a
    /// new data directory if there are no variables.
    ///
    /// # Errors
    /// Fails if the program cannot be started.
    pub(super) fn new(
        program: PathBuf,
        flags: Vec<String>,
        servers: Vec<(String, String)>,
        cache: Option<String>,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("tessera-chaos-").tempdir()?;
        // The port must be the same after each start, so it is chosen here.
        let port = TcpSocket::new_v4()?;
        port.set_reuseaddr(true)?;
        port.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = port.local_addr()?;
        let path = dir.path().to_owned();
        let mut router = Self {
            program,
            flags,
            servers,
            cache,
            address,
            _port: port,
            dir: Some(dir),
            path,
            child: None,
        };
        router.start()?;
        Ok(router)
    }

    /// Returns the data directory, which a router without servers uses.
    pub(super) fn data_dir(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Returns the URL of the router.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts the router in its directory; its output is appended to `router.log` there.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(self.child.is_none(), "one router runs already");
        let log = File::options().create(true).append(true).open(self.path.join("router.log"))?;
        let mut command = Command::new(&self.program);
        command.current_dir(&self.path).args(["--bind", &self.address.to_string()]);
        if self.servers.is_empty() {
            command.arg("--data-dir").arg(self.data_dir());
        }
        // A Redis that the environment names may belong to another program and must not be used.
        remove_cache(&mut command, std::env::vars_os().map(|(name, _)| name));
        if let Some(url) = &self.cache {
            // The cache serves as many reads as possible, so that its errors are found. An option
            // of the router can override this setting.
            command.env("REDIS_URL", url).env("TESSERA_CACHE_MIN_USES", "1");
        }
        let child = command
            .args(&self.flags)
            .envs(self.servers.iter().map(|(name, value)| (name, value)))
            // The router has a process group of its own, so that Ctrl-C at the terminal reaches
            // only the tester.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be started", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Kills the router (SIGKILL), and waits for its end.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Ends the router (SIGTERM), and waits for its end.
    pub(super) async fn end(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)?;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let began = Instant::now();
        loop {
            if child.try_wait()?.is_some() {
                return Ok(());
            }
            if began.elapsed() > END_PATIENCE {
                self.child = Some(child);
                bail!("the router does not end within {END_PATIENCE:?} after SIGTERM");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Returns the exit status of the router if it has ended by itself.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let ended = child.try_wait()?;
        if ended.is_some() {
            self.child = None;
        }
        Ok(ended)
    }

    pub(super) fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    pub(super) fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Keeps the directory after the run, and returns its path.
    pub(crate) fn keep(&mut self) -> &Path {
        if let Some(dir) = self.dir.take() {
            let _ = dir.keep();
        }
        &self.path
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let Some(child) = &self.child else { return Ok(()) };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("a process without a number")?, signal)?;
        Ok(())
    }
}

/// Removes the variables that configure a router's cache from the command's environment.
fn remove_cache(command: &mut Command, names: impl IntoIterator<Item = OsString>) {
    for name in names {
        let text = name.to_string_lossy();
        let is_address = ["REDIS_URL", "TESSERA_REDIS_URL"].contains(&&*text);
        if is_address || text.starts_with("TESSERA_CACHE_") {
            command.env_remove(&name);
        }
    }
}

impl Drop for RouterProcess {
    fn drop(&mut self) {
        // This ends a frozen process too: SIGKILL does not wait for SIGCONT.
        let _ = self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_does_not_inherit_cache_settings_from_the_environment_of_the_tester() {
        let mut command = Command::new("api-router");
        let names = [
            "PATH",
            "REDIS_URL",
            "TESSERA_CACHE_MIN_USES",
            "TESSERA_CACHE_TTL_MS",
            "TESSERA_LOG",
            "TESSERA_REDIS_URL",
        ];
        remove_cache(&mut command, names.map(OsString::from));
        let found = command.get_envs().map(|(name, value)| (name.to_str(), value.is_some()));
        let mut removed: Vec<_> = found.collect();
        removed.sort_unstable();
        let wanted =
            ["REDIS_URL", "TESSERA_CACHE_MIN_USES", "TESSERA_CACHE_TTL_MS", "TESSERA_REDIS_URL"];
        assert_eq!(removed, wanted.map(|name| (Some(name), false)));
    }
}
