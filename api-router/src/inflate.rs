//! Inflate: the bytes of a body as they were before their encoding, as they come and no more than is asked for.
//!
//! **Invariant:** however much a body would inflate to, at most the room that is given is filled at once.
//! **Not here:** where bytes come from, and where they go.

use std::collections::VecDeque;
use std::io::{BufRead, ErrorKind, Read};

use bytes::{Buf, Bytes};
use flate2::bufread::MultiGzDecoder;

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// `Content-Encoding: gzip`; several members after each other are one body (RFC 1952, 2.2).
    Gzip,
}

/// Bytes on their way in.
#[derive(Debug)]
pub struct Inflow(Source);

#[derive(Debug)]
enum Source {
    Plain(Queue),
    Gzip(Box<MultiGzDecoder<Queue>>),
}

/// What came of a look for more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// There were some.
    Some,
    /// There are none before more is pushed.
    Hungry,
    /// There will be none.
    Ended,
}

/// The body is no gzip, or ends within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadGzip;

impl Inflow {
    /// An inflow of a body of this coding.
    pub fn new(coding: Coding) -> Self {
        let queue = Queue { parts: VecDeque::new(), ended: false };
        Self(match coding {
            Coding::Identity => Source::Plain(queue),
            Coding::Gzip => Source::Gzip(Box::new(MultiGzDecoder::new(queue))),
        })
    }

    fn queue(&mut self) -> &mut Queue {
        match &mut self.0 {
            Source::Plain(queue) => queue,
            Source::Gzip(decoder) => decoder.get_mut(),
        }
    }

    /// The next bytes of the body.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.queue().parts.push_back(bytes);
        }
    }

    /// The body ends here.
    pub fn end(&mut self) {
        self.queue().ended = true;
    }

    /// Appends at most `room` bytes to `out`.
    ///
    /// # Errors
    /// [`BadGzip`].
    pub fn fill(&mut self, out: &mut Vec<u8>, room: usize) -> Result<Flow, BadGzip> {
        match &mut self.0 {
            Source::Plain(queue) => Ok(queue.take(out, room)),
            Source::Gzip(decoder) => {
                let begin = out.len();
                out.resize(begin + room, 0);
                let read = decoder.read(&mut out[begin..]);
                out.truncate(begin + read.as_ref().map_or(0, |bytes| *bytes));
                match read {
                    Ok(0) => Ok(Flow::Ended),
                    Ok(_) => Ok(Flow::Some),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Flow::Hungry),
                    Err(_) => Err(BadGzip),
                }
            }
        }
    }
}

/// What was pushed and is not taken yet.
#[derive(Debug)]
struct Queue {
    parts: VecDeque<Bytes>,
    ended: bool,
}

impl Queue {
    fn take(&mut self, out: &mut Vec<u8>, room: usize) -> Flow {
        let Some(first) = self.parts.front_mut() else {
            return if self.ended { Flow::Ended } else { Flow::Hungry };
        };
        let taken = room.min(first.len());
        out.extend_from_slice(&first[..taken]);
        self.consume(taken);
        Flow::Some
    }
}

impl Read for Queue {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let taken = self.fill_buf()?.read(out)?;
        self.consume(taken);
        Ok(taken)
    }
}

impl BufRead for Queue {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        match self.parts.front() {
            Some(first) => Ok(first),
            None if self.ended => Ok(&[]),
            None => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn consume(&mut self, bytes: usize) {
        if let Some(first) = self.parts.front_mut() {
            first.advance(bytes);
            if first.is_empty() {
                self.parts.pop_front();
            }
        }
    }
}
