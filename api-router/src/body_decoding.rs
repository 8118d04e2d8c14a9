//! Body decoding: inflates a compressed body as it arrives, and never more bytes at once than the
//! calling function requests.
//!
//! **Invariant:** one call produces at most the given number of bytes, however large the inflated
//! body is.
//! **Not here:** the source and the destination of the bytes.

use std::collections::VecDeque;
use std::io::{BufRead, ErrorKind, Read};

use bytes::{Buf, Bytes};
use flate2::bufread::MultiGzDecoder;

/// Maximum ratio of inflated to compressed bytes. Text usually shrinks to a tenth, and nearly
/// identical rows to a hundredth, so that a higher ratio indicates a decompression bomb.
pub const RATIO_MAX: usize = 200;
/// Inflated size, in bytes, that a body may reach whatever its ratio.
pub const FREE_BYTES: usize = 16 << 20;
/// Memory that inflating a body needs, in bytes: the state of the decoder, including its window of
/// 32 KiB, and the buffer for its output.
const INFLATER_BYTES: usize = (48 << 10) + SPARE_BYTES;
/// Maximum number of bytes that are inflated at once.
const SPARE_BYTES: usize = 32 << 10;
/// Step, in bytes, in which the capacity for a small inflated body grows.
const SMALL_STEP: usize = 16 << 10;
/// Step, in bytes, in which the capacity for a larger inflated body grows.
const LARGE_STEP: usize = 256 << 10;
/// Size, in bytes, from which the capacity grows to the next power of two.
const STEPS_END: usize = 4 << 20;

/// Content coding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentCoding {
    /// No coding.
    Identity,
    /// `Content-Encoding: gzip`; several gzip members in a row form one body (RFC 1952, 2.2).
    Gzip,
}

/// Decoder of a body that arrives in parts.
#[derive(Debug)]
pub struct BodyDecoder {
    source: Source,
    /// Number of bytes returned so far.
    given: usize,
}

#[derive(Debug)]
enum Source {
    Plain(InputQueue),
    Gzip(Box<Inflater>),
}

/// Decoder of gzip, and the buffer into which it writes. The buffer is zeroed only once: a body may
/// consist of many gzip members of one byte each, and every member ends a read, so that zeroing the
/// buffer for each read would be slow.
#[derive(Debug)]
struct Inflater {
    decoder: MultiGzDecoder<InputQueue>,
    spare: Box<[u8]>,
}

/// Result of a request for more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeStep {
    /// Some bytes were returned.
    Bytes,
    /// No bytes are available until more input is pushed.
    NeedsInput,
    /// The body has ended.
    Ended,
}

/// Error of a body that is not gzip, or is truncated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadGzip;

impl BodyDecoder {
    /// Creates a decoder for a body of this coding.
    pub fn new(coding: ContentCoding) -> Self {
        let queue = InputQueue::default();
        let source = match coding {
            ContentCoding::Identity => Source::Plain(queue),
            ContentCoding::Gzip => Source::Gzip(Box::new(Inflater::new(queue))),
        };
        Self { source, given: 0 }
    }

    fn queue(&mut self) -> &mut InputQueue {
        match &mut self.source {
            Source::Plain(queue) => queue,
            Source::Gzip(inflater) => inflater.decoder.get_mut(),
        }
    }

    /// Returns true if the body has inflated to more than [`RATIO_MAX`] times its compressed size
    /// plus [`FREE_BYTES`].
    pub fn exceeds_ratio(&self) -> bool {
        match &self.source {
            Source::Plain(_) => false,
            Source::Gzip(inflater) => {
                let honest = inflater.decoder.get_ref().taken.saturating_mul(RATIO_MAX);
                self.given > honest.saturating_add(FREE_BYTES)
            }
        }
    }

    /// Returns the number of bytes in memory: those that were pushed and not decoded yet, and the
    /// memory that inflating needs.
    pub fn held(&self) -> usize {
        match &self.source {
            Source::Plain(queue) => queue.waiting,
            Source::Gzip(inflater) => inflater.decoder.get_ref().waiting + INFLATER_BYTES,
        }
    }

    /// Adds the next received bytes of the body.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            let queue = self.queue();
            queue.waiting += bytes.len();
            queue.parts.push_back(bytes);
        }
    }

    /// Marks the end of the body.
    pub fn end(&mut self) {
        self.queue().ended = true;
    }

    /// Appends at most `room` decoded bytes to `out`.
    ///
    /// # Errors
    /// [`BadGzip`] if the input is not gzip, or is truncated.
    pub fn fill(&mut self, out: &mut Vec<u8>, room: usize) -> Result<DecodeStep, BadGzip> {
        let begin = out.len();
        let flow = self.fill_from(out, room);
        self.given += out.len() - begin;
        flow
    }

    fn fill_from(&mut self, out: &mut Vec<u8>, room: usize) -> Result<DecodeStep, BadGzip> {
        match &mut self.source {
            Source::Plain(queue) => Ok(queue.take(out, room)),
            Source::Gzip(inflater) => inflater.fill(out, room),
        }
    }
}

impl Inflater {
    fn new(queue: InputQueue) -> Self {
        let spare = vec![0; SPARE_BYTES].into_boxed_slice();
        Self { decoder: MultiGzDecoder::new(queue), spare }
    }

    fn fill(&mut self, out: &mut Vec<u8>, room: usize) -> Result<DecodeStep, BadGzip> {
        let most = room.min(self.spare.len());
        match self.decoder.read(&mut self.spare[..most]) {
            Ok(0) => Ok(DecodeStep::Ended),
            Ok(bytes) => {
                make_room(out, bytes);
                out.extend_from_slice(&self.spare[..bytes]);
                Ok(DecodeStep::Bytes)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(DecodeStep::NeedsInput),
            Err(_) => Err(BadGzip),
        }
    }
}

/// Bytes that were pushed and are not taken yet.
#[derive(Debug, Default)]
struct InputQueue {
    parts: VecDeque<Bytes>,
    ended: bool,
    /// Total length of `parts`, in bytes.
    waiting: usize,
    /// Number of bytes that were taken so far.
    taken: usize,
}

/// Reserves space for this many more bytes. Below [`STEPS_END`], the capacity grows in small steps
/// instead of doubling, because it is charged to the body budget.
fn make_room(out: &mut Vec<u8>, more: usize) {
    let needed = out.len() + more;
    if needed > out.capacity() {
        let capacity = match needed {
            0..LARGE_STEP => needed.next_multiple_of(SMALL_STEP),
            LARGE_STEP..STEPS_END => needed.next_multiple_of(LARGE_STEP),
            // A body of this size stops growing soon.
            STEPS_END.. => needed.next_power_of_two(),
        };
        out.reserve_exact(capacity - out.len());
    }
}

impl InputQueue {
    fn take(&mut self, out: &mut Vec<u8>, room: usize) -> DecodeStep {
        let Some(first) = self.parts.front_mut() else {
            return if self.ended { DecodeStep::Ended } else { DecodeStep::NeedsInput };
        };
        let taken = room.min(first.len());
        make_room(out, taken);
        out.extend_from_slice(&first[..taken]);
        self.consume(taken);
        DecodeStep::Bytes
    }
}

impl Read for InputQueue {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let taken = self.fill_buf()?.read(out)?;
        self.consume(taken);
        Ok(taken)
    }
}

impl BufRead for InputQueue {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        match self.parts.front() {
            Some(first) => Ok(first),
            None if self.ended => Ok(&[]),
            None => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn consume(&mut self, bytes: usize) {
        self.waiting -= bytes;
        self.taken += bytes;
        if let Some(first) = self.parts.front_mut() {
            first.advance(bytes);
            if first.is_empty() {
                self.parts.pop_front();
            }
        }
    }
}
