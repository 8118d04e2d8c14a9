//! Trace: parses the header that identifies the client's trace (`traceparent`, W3C Trace Context,
//! level 1).
//!
//! **Invariant:** an invalid header is ignored, as the standard demands: no request is refused
//! because of it.
//! **Not here:** the use of a trace (`middleware`, `otlp`).

use std::fmt;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::web::Bytes;

/// Header that identifies the trace of a request, and of its response.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Length of `00-<32 hex>-<16 hex>-<2 hex>`.
const LENGTH: usize = 55;
/// The flag "sampled", the only one that level 1 defines: the client may have recorded the trace.
const SAMPLED: u8 = 1;

/// A trace, and the span of this router in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Id of the trace.
    pub id: [u8; 16],
    /// Span of the client; `None` if the trace begins here.
    pub parent: Option<[u8; 8]>,
    /// Span of this router.
    pub span: [u8; 8],
    /// True if the client may have recorded the trace, or the trace begins here.
    pub sampled: bool,
}

impl Trace {
    /// Returns the trace in the headers of a request.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(&TRACEPARENT);
        let parent = parents.next()?;
        // Several headers contradict each other.
        let only = parents.next().is_none();
        only.then(|| Self::parse(parent.as_bytes())).flatten()
    }

    /// Begins a trace.
    pub fn begin() -> Self {
        Self {
            id: uuid::Uuid::new_v4().into_bytes(),
            parent: None,
            span: own_span(),
            sampled: true,
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let [version] = bytes(text.get(..2)?)?;
        // A later version may append a dash and more fields to the known part; version 0 must not.
        let fits = text.len() == LENGTH
            || (version > 0 && text.get(LENGTH).is_some_and(|byte| *byte == b'-'));
        let dashes = [2, 35, 52].iter().all(|at| text.get(*at) == Some(&b'-'));
        if version == 0xff || !fits || !dashes {
            return None;
        }
        let id: [u8; 16] = bytes(text.get(3..35)?)?;
        let parent: [u8; 8] = bytes(text.get(36..52)?)?;
        let [flags] = bytes(text.get(53..LENGTH)?)?;
        if id == [0; 16] || parent == [0; 8] {
            return None;
        }
        let sampled = flags & SAMPLED != 0;
        Some(Self { id, parent: Some(parent), span: own_span(), sampled })
    }

    /// Returns the value of `traceparent` for the response: the same trace with the router's span.
    pub fn header(&self) -> HeaderValue {
        let mut text = Vec::with_capacity(LENGTH);
        text.extend_from_slice(b"00-");
        push_hex(&mut text, &self.id);
        text.push(b'-');
        push_hex(&mut text, &self.span);
        text.push(b'-');
        push_hex(&mut text, &[u8::from(self.sampled)]);
        HeaderValue::from_maybe_shared(Bytes::from(text))
            .expect("hex digits and dashes are a header value")
    }
}

/// Formats the id of the trace, as in logs and in the list of errors.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Returns the id of a new span: half of a random UUID. Its variant bits keep it from being all
/// zeros, which would not be an id.
pub fn own_span() -> [u8; 8] {
    let [.., a, b, c, d, e, f, g, h] = uuid::Uuid::new_v4().into_bytes();
    [a, b, c, d, e, f, g, h]
}

/// Decodes pairs of lower-case hex digits; the standard allows no others.
fn bytes<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}
