//! Starts the measured servers as separate processes.

use std::io::{BufRead, BufReader, Error};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Number of users that are stored before the measurements.
const KEYS: usize = 10_000;

/// Starts the bare handler, and returns its process and its URL.
pub(crate) fn start_bare(dir: &Path, workers: &str) -> std::io::Result<(Child, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.current_dir(dir).env("BARE_HANDLER", workers).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let line = lines(&mut child).next().unwrap_or_default();
    Ok((child, line))
}

/// Router process, which ends when this is dropped.
pub(crate) struct Router {
    child: Child,
    pub(crate) url: String,
    pub(crate) ready_after: Duration,
}

impl Router {
    /// Starts a router over the directory `data` in `dir`.
    pub(crate) fn start(dir: &Path, flags: &[&str]) -> std::io::Result<Self> {
        Self::start_with(dir, flags, &[])
    }

    /// Starts a router with these environment variables, and without inherited ones that name
    /// servers or a cache.
    pub(crate) fn start_with(
        dir: &Path,
        flags: &[&str],
        variables: &[(String, String)],
    ) -> std::io::Result<Self> {
        Self::start_program(Path::new(env!("CARGO_BIN_EXE_api-router")), dir, flags, variables)
    }

    /// Starts another build of the router, like [`Self::start_with`].
    pub(crate) fn start_program(
        program: &Path,
        dir: &Path,
        flags: &[&str],
        variables: &[(String, String)],
    ) -> std::io::Result<Self> {
        let mut command = Command::new(program);
        command.current_dir(dir).args(["--bind", "127.0.0.1:0"]).args(flags);
        for name in ["SHARD_URLS", "REPLICA_URLS", "MAINDB_URL", "REDIS_URL"] {
            command.env_remove(name);
        }
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let began = Instant::now();
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let api = lines(&mut child).find_map(|line| {
            let rest = line.trim().strip_prefix("API")?.trim().to_owned();
            Some(rest.split('/').take(3).collect::<Vec<_>>().join("/"))
        });
        let url = api.ok_or_else(|| Error::other("the router did not start"))?;
        while ureq::get(format!("{url}/ready")).call().is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Self { child, url, ready_after: began.elapsed() })
    }

    pub(crate) fn load_users(&self) -> std::io::Result<()> {
        let rows: Vec<serde_json::Value> = (0..KEYS)
            .map(|n| {
                let id = format!("user_{n}");
                serde_json::json!({"user_id": id, "name": "Jane Doe", "email": "jane@example.com"})
            })
            .collect();
        let body = serde_json::json!({"table": "users", "records": rows});
        let sent = ureq::post(format!("{}/api/bulk-write", self.url)).send_json(body);
        sent.map(drop).map_err(Error::other)
    }

    pub(crate) fn resident_mib(&self) -> u64 {
        self.memory_mib("VmRSS:")
    }

    /// Returns the highest resident memory since it began or [`Self::reset_peak`].
    pub(crate) fn peak_mib(&self) -> u64 {
        self.memory_mib("VmHWM:")
    }

    /// Makes the kernel forget the highest resident memory so far.
    pub(crate) fn reset_peak(&self) -> std::io::Result<()> {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")
    }

    fn memory_mib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kib.unwrap_or(0) / 1_024
    }

    /// Returns the CPU time of all threads since the start, in hundredths of a second.
    pub(crate) fn ticks(&self) -> std::io::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // utime and stime are the 12th and 13th fields after the name, which is in parentheses.
        let rest = stat.rsplit(')').next().unwrap_or("");
        Ok(rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<f64>().ok()).sum())
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let stdout = child.stdout.take().map(BufReader::new);
    stdout.into_iter().flat_map(|stdout| stdout.lines().map_while(Result::ok))
}
