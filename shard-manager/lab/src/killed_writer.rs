//! Killed writer: a separate process that writes to a cluster until it is killed.
//!
//! The process reports each row on its standard output once the row is acknowledged. So the
//! process that kills it knows which rows must be there afterwards.
//!
//! **Invariant:** a number is reported only after its row was acknowledged.
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

/// Function that returns the command of a process that writes to the cluster in a folder.
pub type StartWriter<'s> = &'s (dyn Fn(&Path) -> Command + Sync);

/// Number of clients of the process.
const CLIENTS: u64 = 4;
/// Interval of checks whether the experiment is cancelled, while the writer reports nothing.
const RECHECK_EVERY: Duration = Duration::from_millis(100);

/// Returns the ids of the users that a writer with this seed writes.
pub(crate) fn user_ids(seed: u64) -> UserIds {
    UserIds::new(seed, "killed writer")
}

/// Writes users to a cluster and reports the number of each, until the process is killed or its
/// output is closed.
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

/// Starts a writer, kills it with SIGKILL once it has reported this many rows, and returns the
/// numbers of all rows that it has reported. Immediately before that, `kill_servers` kills the
/// servers to which it writes, if there are any.
///
/// # Errors
/// [`LabError`] if the writer cannot be started or ends without being killed, or the experiment is
/// cancelled; errors of `kill_servers`.
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
            // The writer may then end by itself, because it has lost its servers.
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

/// Process of a writer, which is killed when it is dropped.
struct Writer(Child);

impl Writer {
    /// Returns the receiver of the numbers that the process reports, which is closed when its
    /// output ends.
    fn lines(&mut self) -> Result<Receiver<u64>, LabError> {
        let out = self.0.stdout.take();
        let out = out.ok_or_else(|| LabError::failed("the writer has no output"))?;
        let (sender, lines) = mpsc::channel();
        let read = move || -> io::Result<()> {
            let (mut out, mut line) = (BufReader::new(out), String::new());
            while out.read_line(&mut line)? > 0 {
                // The last line may be incomplete, and would then be a different number.
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

    /// Starts to read the error messages of the process, so that it never waits for a full pipe.
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
        // If the process cannot be killed, it has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a thread that reads what a writer prints.
fn spawn<T: Send + 'static>(
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, LabError> {
    let thread = thread::Builder::new().name("killed-writer".to_owned());
    thread.spawn(read).map_err(LabError::failed)
}
