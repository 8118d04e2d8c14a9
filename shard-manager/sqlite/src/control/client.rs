//! Client: sends a command to the process that holds a data directory.
//!
//! **Not here:** the commands (`backup`), the listener (`control`).

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::path::Path;

use super::{LOOK, Reply, Request, connect, is_timeout};
use crate::backup::Watch;
use crate::backup::manifest::Manifest;

/// Maximal size of a line of a response: the manifest of the largest cluster.
const ANSWER_MAX: usize = 16 << 20;

/// Reason why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The data directory has no listener.
    #[error("no router or command listens in this data directory")]
    NobodyListens,
    /// The listener cannot be reached by this user.
    #[error(
        "the process that holds the data directory cannot be reached through its control.sock: {0}"
    )]
    Unreachable(io::Error),
    /// The command was refused, or failed.
    #[error("{0}")]
    Refused(String),
    /// The connection broke off.
    #[error("the process that holds the data directory closed the connection: {0}")]
    Broken(io::Error),
}

/// Sends a command and waits for its outcome. After a cancellation it waits until the command has
/// ended.
///
/// # Errors
/// [`ControlError`].
pub fn ask(
    data_dir: &Path,
    request: &Request,
    watch: &Watch<'_>,
) -> Result<Manifest, ControlError> {
    let broken = ControlError::Broken;
    let nobody = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    };
    let mut stream = connect(data_dir).map_err(|error| {
        if nobody(&error) { ControlError::NobodyListens } else { ControlError::Unreachable(error) }
    })?;
    let mut line = serde_json::to_vec(request).map_err(|error| broken(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(broken)?;
    stream.set_read_timeout(Some(LOOK)).map_err(broken)?;
    let (mut text, mut piece, mut cancelled) = (Vec::new(), vec![0; 64 << 10], false);
    loop {
        if !cancelled && (watch.cancelled)() {
            cancelled = true;
            stream.shutdown(Shutdown::Write).map_err(broken)?;
        }
        match stream.read(&mut piece) {
            Ok(0) => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => text.extend_from_slice(&piece[..read]),
            Err(error) if is_timeout(&error) => continue,
            Err(error) => return Err(broken(error)),
        }
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let reply = serde_json::from_slice(&line).map_err(|error| broken(error.into()))?;
            match reply {
                Reply::Done { done } => return Ok(done),
                Reply::Error { error } => return Err(ControlError::Refused(error)),
                Reply::Step(step) => (watch.step)(&step),
            }
        }
        if text.len() > ANSWER_MAX {
            return Err(broken(io::ErrorKind::InvalidData.into()));
        }
    }
}
