//! Keys: reads shard keys from a file or from standard input, one per line.
//!
//! A byte order mark, carriage returns at line ends and blank lines are skipped.
//!
//! **Invariant:** the memory needed is bounded by the maximum length of a key, however long a line
//! is.
//! **Not here:** the shard of a key (`route`, `placement`).

use std::fmt::Display;
use std::io::{BufRead, Read};

use model::keyspace::ShardKey;

use super::CommandError;

/// Byte order mark of UTF-8, which is skipped at the start of the input.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Maximum length of a line in bytes: the longest key, and two bytes for the line end.
const LINE_MAX: usize = ShardKey::LEN_MAX + 2;

/// Reader of shard keys.
pub(super) struct Keys<R> {
    /// Name of the input, for error messages.
    name: String,
    input: R,
    line: u64,
    text: Vec<u8>,
}

impl<R: BufRead> Keys<R> {
    pub(super) fn new(name: impl Display, input: R) -> Self {
        Self { name: name.to_string(), input, line: 0, text: Vec::new() }
    }

    /// Returns the next key, without checking its form; `None` at the end of the input.
    pub(super) fn next(&mut self) -> Result<Option<String>, CommandError> {
        loop {
            let mark = if self.line == 0 { BYTE_ORDER_MARK } else { b"" };
            let most = LINE_MAX + mark.len();
            self.line += 1;
            self.text.clear();
            let mut line = self.input.by_ref().take(most as u64);
            let read = line.read_until(b'\n', &mut self.text);
            match read {
                Err(error) => return Err(self.refused(&error)),
                Ok(0) => return Ok(None),
                Ok(_) => {}
            }
            let text = self.text.strip_prefix(mark).unwrap_or(&self.text);
            let ended = text.strip_suffix(b"\n");
            if ended.is_none() && self.text.len() == most {
                let most = ShardKey::LEN_MAX;
                let reported =
                    format_args!("a shard key has at most {most} bytes, this line has more");
                return Err(self.refused(&reported));
            }
            let text = ended.unwrap_or(text);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if !text.is_empty() {
                let key = std::str::from_utf8(text).map(str::to_owned);
                return key.map(Some).map_err(|_| self.refused(&"the line is not UTF-8"));
            }
        }
    }

    /// Returns an error with this cause that names the line that was read last.
    pub(super) fn refused(&self, cause: &dyn Display) -> CommandError {
        CommandError::Refused(format!("{}: line {}: {cause}", self.name, self.line))
    }
}
