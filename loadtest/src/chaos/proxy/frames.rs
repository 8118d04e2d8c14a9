//! Frames: parses a PostgreSQL server's messages while the proxy forwards them, to detect when a
//! write is stored.
//!
//! A message consists of a letter, a length of four bytes (which counts itself), and a body. Before
//! its first message, a server may respond to the client's request for encryption with a single
//! letter.
//!
//! Source: PostgreSQL's documentation, "Frontend/Backend Protocol", message formats.
//!
//! **Invariant:** a stream that cannot be parsed (encrypted, or of another protocol) never reports
//! a write.
//! **Not here:** forwarding the messages (`proxy`).

/// Maximum number of bytes of a message that are kept, which is enough for a command tag.
const KEPT_MAX: usize = 32;
const HEAD: usize = 5;

/// Parser of one server's messages on one connection, from the first byte on.
#[derive(Debug, Default)]
pub(super) struct Frames {
    state: State,
    /// True while a transaction block is open, which a later COMMIT or ROLLBACK ends.
    is_open: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Start,
    Head {
        bytes: [u8; HEAD],
        has: usize,
    },
    Body {
        kind: u8,
        left: usize,
        kept: Vec<u8>,
    },
    Unreadable,
}

/// Events found in the bytes of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FrameEvents {
    /// True if the bytes complete the response to a write that is committed, or that will be
    /// committed when its statement ends.
    pub(super) stored: bool,
    /// True if the server waits for the next query after these bytes.
    pub(super) ready: bool,
}

impl Frames {
    /// Parses the next bytes of the stream, and returns the events in them.
    pub(super) fn read(&mut self, bytes: &[u8]) -> FrameEvents {
        let mut reported = FrameEvents::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.step(rest, &mut reported);
        }
        reported
    }

    /// Parses one part of a message, and returns the remaining bytes.
    fn step<'b>(&mut self, bytes: &'b [u8], reported: &mut FrameEvents) -> &'b [u8] {
        match &mut self.state {
            State::Start => match bytes[0] {
                // The server refuses encryption, and the stream continues as if the client had not
                // requested it.
                b'N' => return &bytes[1..],
                b'R' | b'E' | b'v' => self.state = State::Head { bytes: [0; HEAD], has: 0 },
                _ => self.state = State::Unreadable,
            },
            State::Head { bytes: head, has } => {
                let count = bytes.len().min(HEAD - *has);
                head[*has..*has + count].copy_from_slice(&bytes[..count]);
                *has += count;
                if *has == HEAD {
                    let [kind, length @ ..] = *head;
                    let left = usize::try_from(u32::from_be_bytes(length)).unwrap_or_default();
                    self.state = match left.checked_sub(size_of::<u32>()) {
                        Some(left) => State::Body { kind, left, kept: Vec::new() },
                        None => State::Unreadable,
                    };
                    self.finish(reported);
                }
                return &bytes[count..];
            }
            State::Body { left, kept, .. } => {
                let count = bytes.len().min(*left);
                let wanted = count.min(KEPT_MAX.saturating_sub(kept.len()));
                kept.extend_from_slice(&bytes[..wanted]);
                *left -= count;
                self.finish(reported);
                return &bytes[count..];
            }
            State::Unreadable => return &[],
        }
        bytes
    }

    /// Evaluates the current message if it is complete.
    fn finish(&mut self, reported: &mut FrameEvents) {
        let State::Body { kind, left: 0, kept } = &self.state else { return };
        reported.ready = *kind == b'Z';
        match kind {
            b'Z' => self.is_open = kept.first() != Some(&b'I'),
            b'C' => {
                let tag = kept.split(|byte| *byte == 0).next().unwrap_or_default();
                let word = tag.split(|byte| *byte == b' ').next().unwrap_or_default();
                match word {
                    b"BEGIN" | b"START" => self.is_open = true,
                    b"ROLLBACK" => self.is_open = false,
                    b"COMMIT" => {
                        self.is_open = false;
                        reported.stored = true;
                    }
                    b"INSERT" | b"UPDATE" | b"DELETE" => reported.stored |= !self.is_open,
                    _ => {}
                }
            }
            _ => {}
        }
        self.state = State::Head { bytes: [0; HEAD], has: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32 + 4).to_be_bytes();
        [&[kind], &length[..], body].concat()
    }

    fn greeted() -> Frames {
        let mut frames = Frames::default();
        frames.read(&[b"N".to_vec(), message(b'R', &[0; 4]), message(b'Z', b"I")].concat());
        frames
    }

    #[test]
    fn a_write_is_reported_once_it_is_stored() {
        for (messages, stored) in [
            (vec![message(b'C', b"INSERT 0 1\0"), message(b'Z', b"I")], true),
            (vec![message(b'C', b"BEGIN\0"), message(b'C', b"INSERT 0 1\0")], false),
            (vec![message(b'C', b"BEGIN\0"), message(b'C', b"COMMIT\0")], true),
            (vec![message(b'C', b"SELECT 1\0"), message(b'Z', b"I")], false),
            (vec![message(b'Z', b"T"), message(b'C', b"UPDATE 1\0")], false),
            (vec![message(b'D', b"C INSERT 0 1\0"), message(b'Z', b"I")], false),
        ] {
            let all = messages.concat();
            let reported = greeted().read(&all);
            assert_eq!(reported.stored, stored, "{messages:?}");
            // The result is the same if the stream arrives byte by byte.
            let mut frames = greeted();
            let bytes: Vec<_> = all.iter().map(|byte| frames.read(&[*byte])).collect();
            assert_eq!(bytes.iter().any(|reported| reported.stored), stored, "{messages:?}");
            assert_eq!(bytes.last().unwrap().ready, reported.ready);
        }
    }

    #[test]
    fn an_unreadable_stream_reports_nothing() {
        for first in [b"S".to_vec(), b"HTTP/1.1 200 OK".to_vec(), vec![b'R', 0, 0, 0, 1]] {
            let mut frames = Frames::default();
            frames.read(&first);
            assert_eq!(
                frames.read(&message(b'C', b"COMMIT\0")),
                FrameEvents::default(),
                "{first:?}"
            );
        }
    }
}
