//! Killed writer: a separate process that writes to a cluster until it is killed.
//!
//! The process prints the number of each row to its standard output once the row is acknowledged.
//! So the process that kills it knows which rows must be found afterwards.
//!
//! **Invariant:** a number is printed only after its row was acknowledged.
//! **Not here:** the command line of the process (`cli`).

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use model::row_change::Operation;

use crate::dataset::{UserIds, new_user};
use crate::experiment_observer::ExperimentObserver;
use crate::lab_cluster::{LabCluster, block_on, failure, options};
use crate::lab_error::LabError;

/// Function that returns the command of a process that writes to a cluster. Its argument is the
/// folder by which the process finds the cluster.
pub type StartWriter<'s> = &'s (dyn Fn(&Path) -> Command + Sync);

/// Number of concurrent clients in the process.
const CLIENTS: u64 = 4;
/// Interval at which cancellation of the experiment is checked while the process prints nothing.
const RECHECK_EVERY: Duration = Duration::from_millis(100);

/// Returns the ids of the users that a process with this seed writes.
pub(crate) fn user_ids(seed: u64) -> UserIds {
    UserIds::new(seed, "killed writer")
}

/// Writes users to a cluster, numbered from `first`, and prints the number of each, until the
/// process is killed or its output is closed.
///
/// # Errors
/// [`LabError::Failed`] if a row is not stored.
pub fn write_until_killed(cluster: &LabCluster, first: u64, seed: u64) -> Result<(), LabError> {
    let ids = user_ids(seed);
    let users = cluster.table("users")?;
    let client = |client: u64| -> Result<(), LabError> {
        let mut number = first + client;
        loop {
            let id = ids.of(number);
            let placed = cluster.place(&users, Operation::Insert, &id, new_user(&id));
            let placed = placed.map_err(LabError::failed)?;
            block_on(cluster.write(placed, &options())).map_err(failure)?;
            let mut out = std::io::stdout().lock();
            if writeln!(out, "{number}").and_then(|()| out.flush()).is_err() {
                return Ok(());
            }
            number += CLIENTS;
        }
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|own| scope.spawn(move || client(own))).collect();
        clients.into_iter().try_for_each(|client| {
            client.join().unwrap_or_else(|_| Err(LabError::failed("a client ended")))
        })
    })
}

/// Starts a process that writes, kills it with SIGKILL once it has printed this many row numbers,
/// and returns all row numbers that it has printed. Immediately before the process, `kill_servers`
/// kills the database servers to which it writes, if there are any.
///
/// # Errors
/// [`LabError`] if the process cannot be started or ends by itself, or the experiment is cancelled;
/// errors of `kill_servers`.
pub(crate) fn kill_after(
    mut command: Command,
    acknowledged: usize,
    kill_servers: &dyn Fn() -> Result<(), LabError>,
    observer: &dyn ExperimentObserver,
) -> Result<BTreeSet<u64>, LabError> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut writer = Writer(command.spawn().map_err(LabError::failed)?);
    let lines = writer.lines()?;
    let message = writer.message()?;
    let (mut numbers, mut is_killed) = (BTreeSet::new(), false);
    loop {
        match lines.recv_timeout(RECHECK_EVERY) {
            Ok(number) => drop(numbers.insert(number)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if !is_killed && (numbers.len() >= acknowledged || observer.is_cancelled()) {
            // Without its servers the process may end by itself before it is killed, which is not
            // an error.
            kill_servers()?;
            writer.0.kill().map_err(LabError::failed)?;
            is_killed = true;
        }
    }
    writer.0.wait().map_err(LabError::failed)?;
    observer.check_cancelled()?;
    if !is_killed {
        let message = message.join().unwrap_or_default();
        return Err(LabError::Failed(format!(
            "the writer ended without being killed: {}",
            message.trim()
        )));
    }
    Ok(numbers)
}

/// Process that writes. It is killed when this value is dropped.
struct Writer(Child);

impl Writer {
    /// Starts to read the output of the process, and returns the receiver of the printed numbers.
    /// The receiver is closed when the output ends.
    fn lines(&mut self) -> Result<Receiver<u64>, LabError> {
        let out = self.0.stdout.take();
        let out = out.ok_or_else(|| LabError::failed("the writer has no output"))?;
        let (sender, lines) = mpsc::channel();
        let read = move || -> io::Result<()> {
            let (mut out, mut line) = (BufReader::new(out), String::new());
            while out.read_line(&mut line)? > 0 {
                // The last line may be truncated, and its digits would then be the wrong number.
                let number = line.strip_suffix('\n').and_then(|line| line.parse().ok());
                if number.is_some_and(|number| sender.send(number).is_err()) {
                    break;
                }
                line.clear();
            }
            Ok(())
        };
        spawn(read)?;
        Ok(lines)
    }

    /// Starts to read the standard error of the process, so that the process never blocks on a full
    /// pipe.
    fn message(&mut self) -> Result<JoinHandle<String>, LabError> {
        let err = self.0.stderr.take();
        spawn(move || {
            let mut message = String::new();
            if let Some(mut err) = err {
                // An incomplete message is better than none.
                let _ = err.read_to_string(&mut message);
            }
            message
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Killing fails only if the process has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a thread that reads output of the process.
fn spawn<T: Send + 'static>(
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, LabError> {
    let thread = thread::Builder::new().name("killed-writer".to_owned());
    thread.spawn(read).map_err(LabError::failed)
}
