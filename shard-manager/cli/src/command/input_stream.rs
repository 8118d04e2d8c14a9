//! Input stream: reads a command's input so that the command can still be interrupted.
//!
//! A pipe may send nothing for an unlimited time, and a thread that is blocked in a read does not
//! notice an interrupt. So a separate thread reads every input except a regular file and sends it
//! on in pieces, and the command checks for an interrupt while it waits for the next piece.
//!
//! **Invariant:** however slowly the command takes pieces, at most [`PIECES`] of them wait in the
//! channel, and the thread holds at most one more.
//! **Not here:** parsing rows (`import`).

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use super::atomic_file::refused;
use super::{CommandError, interrupt};

/// Size of a piece in bytes.
const PIECE: usize = 64 << 10;
/// Maximum number of pieces that wait in the channel.
const PIECES: usize = 4;
/// Interval between two checks for an interrupt.
const LOOK: Duration = Duration::from_millis(50);

/// Input that fails once the command is interrupted.
pub(super) enum Input {
    /// A regular file, whose reads do not block for long.
    File(File),
    /// Any other input.
    Stream(Stream),
}

/// Input that a separate thread reads in pieces.
pub(super) struct Stream {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    taken: usize,
}

impl Input {
    /// Opens a file; `-` is standard input.
    pub(super) fn open(path: &Path) -> Result<Self, CommandError> {
        if path == Path::new("-") {
            return Ok(Self::Stream(Stream::begin(|| Ok(io::stdin()))));
        }
        let failed = |error: io::Error| refused(path, &error);
        let found = fs::metadata(path).map_err(failed)?;
        if found.is_file() {
            return File::open(path).map(Self::File).map_err(failed);
        }
        if found.is_dir() {
            return Err(failed(ErrorKind::IsADirectory.into()));
        }
        // The separate thread also opens the file, because opening a named pipe blocks until it has
        // a writer.
        let path = PathBuf::from(path);
        Ok(Self::Stream(Stream::begin(move || File::open(&path))))
    }
}

impl Stream {
    fn begin<R: Read>(open: impl FnOnce() -> io::Result<R> + Send + 'static) -> Self {
        let (pieces, taken) = sync_channel(PIECES);
        // The thread ends at the end of its input, when it sends after the receiver was dropped, or
        // when the process ends.
        std::thread::spawn(move || {
            let ended = open().and_then(|mut input| read_all(&mut input, &pieces));
            if let Err(error) = ended {
                let _ = pieces.send(Err(error));
            }
        });
        Self { pieces: taken, piece: Vec::new(), taken: 0 }
    }
}

fn read_all(input: &mut impl Read, pieces: &SyncSender<io::Result<Vec<u8>>>) -> io::Result<()> {
    loop {
        let mut piece = vec![0; PIECE];
        let read = match input.read(&mut piece) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        piece.truncate(read);
        if read == 0 || pieces.send(Ok(piece)).is_err() {
            return Ok(());
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        interrupt::check()?;
        match self {
            Self::File(file) => file.read(buffer),
            Self::Stream(stream) => stream.read(buffer),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.piece.len() {
            match self.pieces.recv_timeout(LOOK) {
                Ok(piece) => (self.piece, self.taken) = (piece?, 0),
                Err(RecvTimeoutError::Timeout) => interrupt::check()?,
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            }
        }
        let read = (&self.piece[self.taken..]).read(buffer)?;
        self.taken += read;
        Ok(read)
    }
}
