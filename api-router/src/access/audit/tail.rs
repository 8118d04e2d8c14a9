//! Tail: finds the last line of a log that an earlier process of the router wrote.
//!
//! **Invariant:** files are only read. Bytes without a final newline are never taken for a line.
//! **Not here:** writing (`file`).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use shard_manager::access::audit::LINE_MAX;
use shard_manager::access::audit::chain::AuditHead;
use shard_manager::access::audit::check::ChainLine;

/// Content of the end of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileTail {
    /// The file has no complete line.
    Empty,
    /// The last complete line, from which the log can be continued.
    Line(AuditHead),
    /// The last complete line, or the first line of the file, is not a line of an audit log.
    Damaged,
}

/// Reads the end of a file. Also returns the number of bytes after its last complete line.
pub(super) fn read_tail(file: &mut File) -> io::Result<(FileTail, u64)> {
    let length = file.metadata()?.len();
    let window = length.min(2 * LINE_MAX as u64);
    file.seek(SeekFrom::Start(length - window))?;
    let mut bytes = Vec::new();
    file.by_ref().take(window).read_to_end(&mut bytes)?;
    let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
        // If the window is smaller than the file, these bytes are longer than any line of a log, so
        // that no router wrote them.
        let tail = if window < length { FileTail::Damaged } else { FileTail::Empty };
        return Ok((tail, length));
    };
    let torn = (bytes.len() - end - 1) as u64;
    let begin = bytes[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |before| before + 1);
    let Ok(line) = ChainLine::read(&bytes[begin..end]) else {
        return Ok((FileTail::Damaged, torn));
    };
    let tail = match log_name(file)? {
        Some(log) => FileTail::Line(AuditHead { log, point: line.point }),
        None => FileTail::Damaged,
    };
    Ok((tail, torn))
}

/// Returns the name of the log, which is in the first line of each of its files.
fn log_name(file: &mut File) -> io::Result<Option<Box<str>>> {
    file.seek(SeekFrom::Start(0))?;
    let mut first = Vec::new();
    BufReader::new(file).take(LINE_MAX as u64).read_until(b'\n', &mut first)?;
    let line = first.strip_suffix(b"\n").and_then(|line| ChainLine::read(line).ok());
    Ok(line.and_then(|line| line.log))
}
