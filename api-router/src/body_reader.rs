//! Request bodies: reads a body up to a limit, and splits a JSON object into members without
//! building a tree.
//!
//! **Invariant:** no more bytes than the limit are ever held; the depth of nesting is checked
//! before any recursive function sees the body; a repeated member is detected.
//! **Not here:** the meaning of the members (the routes, `shard_manager::row_change`).

use std::borrow::Cow;
use std::fmt;
use std::time::Instant;

use actix_web::http::header::{CONTENT_LENGTH, HeaderMap};
use actix_web::web::{Bytes, BytesMut, Payload};
use futures_util::StreamExt;
use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;
use shard_manager::table::closest;

use crate::body_budget::BudgetShare;
use crate::body_decoding::{BodyDecoder, ContentCoding, DecodeStep};
use crate::problem::{Code, Problem};

/// Maximum size of the body of a single write, in bytes: room for a row with a value of the maximum
/// size (1 MiB) and its JSON escapes.
pub const WRITE_BYTES_MAX: usize = 2 << 20;
/// Maximum size of a body that is a single value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Maximum size of the JSON body of a bulk write, in bytes.
pub const BULK_BYTES_MAX: usize = 16 << 20;
/// Remedy for a value that is larger than [`VALUE_BYTES_MAX`].
pub const VALUE_HINT: &str = "a value has at most 1 MiB: divide it over several keys";
/// Remedy for a bulk write with too many rows, or of more than [`BULK_BYTES_MAX`].
const BULK_HINT: &str = "send the rows in several requests, or stream them as NDJSON: POST /api/bulk-write?table=TABLE \
                         with Content-Type: application/x-ndjson takes any number of rows";
/// Maximum size, in bytes, of a small body. A larger body is parsed on a blocking thread, so that
/// other requests do not wait for it, and is charged to the body budget.
pub const INLINE_BYTES_MAX: usize = 64 << 10;
/// Maximum nesting depth of objects and arrays.
const DEPTH_MAX: usize = 64;
/// Maximum length, in bytes, of a body whose opening brackets are counted first. With at most
/// `DEPTH_MAX` of them, its depth need not be examined.
const COUNTED_BYTES_MAX: usize = 64 << 10;

/// Limits within which a whole body is read.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Length of the body according to `Content-Length`.
    pub declared: Option<usize>,
    /// Maximum length of the body, in bytes.
    pub limit: usize,
    /// Time by which the body must be complete.
    pub deadline: Instant,
}

impl BodyLimits {
    /// Returns the limits for a body with these headers.
    pub fn from_headers(headers: &HeaderMap, limit: usize, deadline: Instant) -> Self {
        let declared = || headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
        Self { declared: declared(), limit, deadline }
    }
}

/// Reads a whole body within its limits. A body of more than [`INLINE_BYTES_MAX`] is charged to the
/// body budget as it arrives, until the returned share is dropped. A body may be evicted only while
/// it is incomplete.
///
/// # Errors
/// TSR108 if the body exceeds the limit, TSR004 if it does not arrive in time, TSR101 if the
/// connection breaks, TSR005 if the body is evicted or the router is shutting down.
pub async fn read(
    mut payload: Payload,
    limits: BodyLimits,
    enter: impl Fn() -> BudgetShare,
) -> Result<(Bytes, Option<BudgetShare>), Problem> {
    if limits.declared.is_some_and(|length| length > limits.limit) {
        return Err(too_large(limits.limit));
    }
    // Declared before the buffers, so that it is dropped after the bytes for which it is charged.
    let mut share: Option<BudgetShare> = None;
    let mut whole: Option<BytesMut> = None;
    let mut first = Bytes::new();
    let mut held = 0;
    while let Some(part) = next_part(&mut payload, limits.deadline, share.as_ref()).await? {
        let received = whole.as_ref().map_or(first.len(), BytesMut::len) + part.len();
        if received > limits.limit {
            return Err(too_large(limits.limit));
        }
        if received > INLINE_BYTES_MAX {
            let share = share.get_or_insert_with(&enter);
            share.add_received(part.len());
            // A buffer that grows without a known size is at most twice as large as its content.
            let holds = if limits.declared.is_some() { received } else { 2 * received };
            share.grow(holds - held, limits.deadline).await?;
            held = holds;
        }
        match &mut whole {
            // Most bodies arrive as one part, which is not copied.
            None if first.is_empty() => first = part,
            None => {
                let mut joined =
                    BytesMut::with_capacity(limits.declared.unwrap_or(0).max(received));
                // Copying frees the read buffer of the connection, which a part keeps in memory as
                // a whole.
                joined.extend_from_slice(&std::mem::take(&mut first));
                joined.extend_from_slice(&part);
                whole = Some(joined);
            }
            Some(joined) => joined.extend_from_slice(&part),
        }
    }
    Ok((whole.map_or(first, BytesMut::freeze), share))
}

/// Reads the next part of a body, if there is one.
async fn next_part(
    payload: &mut Payload,
    deadline: Instant,
    share: Option<&BudgetShare>,
) -> Result<Option<Bytes>, Problem> {
    let next = tokio::time::timeout_at(deadline.into(), payload.next());
    let next = match share {
        None => next.await,
        Some(share) => share.unless_evicted(next).await?,
    };
    match next {
        Ok(Some(Ok(part))) => Ok(Some(part)),
        Ok(Some(Err(_))) => Err(incomplete()),
        Ok(None) => Ok(None),
        Err(_elapsed) => Err(Problem::new(Code::TSR004, "the body did not arrive in time")),
    }
}

/// Returns the problem of a body that did not arrive whole. The HTTP server does not always
/// distinguish between its causes.
pub fn incomplete() -> Problem {
    let detail = "the connection was closed before the body was complete, or the chunks of the body are malformed";
    Problem::new(Code::TSR101, detail)
}

fn too_large(limit: usize) -> Problem {
    let (size, unit) = if limit < 1 << 20 { (limit >> 10, "KiB") } else { (limit >> 20, "MiB") };
    let hint = match limit {
        VALUE_BYTES_MAX => VALUE_HINT,
        BULK_BYTES_MAX => BULK_HINT,
        _ => "send it in smaller parts",
    };
    Problem::new(Code::TSR108, format!("the body is larger than {size} {unit}")).hint(hint)
}

/// Decompresses a gzip body. Stops once the result exceeds the limit, however large it would
/// become.
///
/// # Errors
/// TSR108 if the decompressed body exceeds the limit, TSR101 if the body is not valid gzip.
pub fn gunzip(body: Bytes, limit: usize) -> Result<Bytes, Problem> {
    /// Maximum number of bytes that are inflated at once.
    const STEP: usize = 256 << 10;
    let mut decoder = BodyDecoder::new(ContentCoding::Gzip);
    decoder.push(body);
    decoder.end();
    let mut text = Vec::new();
    loop {
        match decoder.fill(&mut text, STEP) {
            Ok(DecodeStep::Bytes) if text.len() > limit => return Err(too_large(limit)),
            Ok(DecodeStep::Bytes) => {}
            Ok(DecodeStep::NeedsInput | DecodeStep::Ended) => return Ok(Bytes::from(text)),
            Err(_) => return Err(bad_gzip()),
        }
    }
}

/// Returns the problem of a body that is declared as gzip but is not gzip, or is truncated.
pub fn bad_gzip() -> Problem {
    Problem::new(Code::TSR101, "the body is not valid gzip, or is truncated")
        .hint("send it without Content-Encoding: gzip, or find out where it is truncated")
}

const MEMBERS_MAX: usize = shard_manager::json_members::Members::MAX;

/// The members of a JSON object in their order: name and raw value.
#[derive(Debug)]
pub struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Parses a body that must be a JSON object.
    ///
    /// # Errors
    /// TSR101 if the body is not JSON or not an object, TSR108 if it is nested too deeply.
    pub fn of_body(body: &'a [u8]) -> Result<Self, Problem> {
        Self::of_text("the body", body)
    }

    /// Parses a part of a body, such as a line, that must be a JSON object.
    ///
    /// # Errors
    /// Errors of [`Members::of_body`], which name `what`.
    pub fn of_text(what: &str, json: &'a [u8]) -> Result<Self, Problem> {
        serde_json::from_str(text(what, json)?).map_err(|error| match error.classify() {
            // serde's own message would repeat the value, and with it the whole body.
            Category::Data => Problem::new(
                Code::TSR101,
                format!("{what} must be a JSON object of at most {MEMBERS_MAX} members"),
            ),
            Category::Io | Category::Syntax | Category::Eof => not_json(what, &error),
        })
    }

    /// Parses a member that must be an object.
    ///
    /// # Errors
    /// TSR101 names the member.
    pub fn of_member(name: &str, json: &'a RawValue) -> Result<Self, Problem> {
        serde_json::from_str(json.get()).map_err(|_| {
            Problem::new(
                Code::TSR101,
                format!("{name} must be an object of at most {MEMBERS_MAX} members"),
            )
        })
    }

    /// Refuses members that are none of `known`, or that are given twice.
    ///
    /// # Errors
    /// TSR102 or TSR101, naming the member.
    pub fn check_names(&self, known: &[&str]) -> Result<(), Problem> {
        for (index, (name, _)) in self.0.iter().enumerate() {
            if !known.contains(&&**name) {
                return Err(unknown_member(name, known));
            }
            if self.0[..index].iter().any(|(other, _)| other == name) {
                return Err(Problem::new(Code::TSR101, format!("{name} is given twice")));
            }
        }
        Ok(())
    }

    /// Returns the raw value of a member.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(member, _)| member == name).map(|(_, json)| *json)
    }

    /// Returns the string value of a member, if the object has the member.
    ///
    /// # Errors
    /// TSR101 if the value is not a string.
    pub fn text(&self, name: &str) -> Result<Option<String>, Problem> {
        let Some(json) = self.get(name) else { return Ok(None) };
        serde_json::from_str(json.get())
            .map(Some)
            .map_err(|_| Problem::new(Code::TSR101, format!("{name} must be a string")))
    }

    /// Returns the string value of a member that the object must have.
    ///
    /// # Errors
    /// TSR101 if the member is missing or not a string.
    pub fn required_text(&self, name: &str) -> Result<String, Problem> {
        let missing = || Problem::new(Code::TSR101, format!("{name} is missing"));
        self.text(name)?.ok_or_else(missing)
    }
}

/// Checks a body that may be any JSON value, and returns it unchanged.
///
/// # Errors
/// TSR101 if the body is not JSON, TSR108 if it is nested too deeply.
pub fn value(body: &[u8]) -> Result<&RawValue, Problem> {
    serde_json::from_str(text("the body", body)?).map_err(|error| not_json("the body", &error))
}

/// Returns a body, or a part of one, as a string, after checking its nesting depth and that it is
/// UTF-8.
fn text<'b>(what: &str, json: &'b [u8]) -> Result<&'b str, Problem> {
    check_depth(what, json)?;
    std::str::from_utf8(json).map_err(|error| {
        let at = error.valid_up_to();
        Problem::new(Code::TSR101, format!("{what} is not UTF-8 (byte {at})"))
    })
}

fn not_json(what: &str, error: &serde_json::Error) -> Problem {
    Problem::new(Code::TSR101, format!("{what} is not JSON: {error}"))
}

fn unknown_member(name: &str, known: &[&str]) -> Problem {
    let shown: String = name.chars().take(80).collect();
    let problem = Problem::new(Code::TSR102, format!("unknown member `{shown}`"));
    match closest(name, known.iter().copied()) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None if known.is_empty() => problem.hint("this body takes no members"),
        None => problem.hint(format!("known members: {}", known.join(", "))),
    }
}

/// Returns the raw items of a JSON array: at most `most`.
///
/// # Errors
/// TSR101 if the member is not an array, TSR108 if it has more items.
pub fn items<'a>(
    name: &str,
    json: &'a RawValue,
    most: usize,
) -> Result<Vec<&'a RawValue>, Problem> {
    let mut items = Vec::new();
    let mut source = serde_json::Deserializer::from_str(json.get());
    let taken = source.deserialize_seq(ItemsVisitor { items: &mut items, most });
    if items.len() > most {
        let detail = format!("{name} has more than {most} rows");
        return Err(Problem::new(Code::TSR108, detail).hint(BULK_HINT));
    }
    taken.map_err(|_| Problem::new(Code::TSR101, format!("{name} must be an array")))?;
    Ok(items)
}

/// Collects items up to a maximum, so that an array of millions of numbers does not become a vector
/// of millions of pointers.
struct ItemsVisitor<'v, 'a> {
    items: &'v mut Vec<&'a RawValue>,
    most: usize,
}

impl<'de> Visitor<'de> for ItemsVisitor<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(item) = list.next_element()? {
            self.items.push(item);
            if self.items.len() > self.most {
                return Err(A::Error::custom("too many"));
            }
        }
        Ok(())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        shard_manager::json_members::Members::deserialize(json).map(|members| Self(members.0))
    }
}

/// Refuses JSON that is nested too deeply, before a parser recurses into it. Brackets within
/// strings do not count; the parser checks later that the input is valid JSON.
///
/// # Errors
/// TSR108, which names `what`, if the input is nested too deeply.
pub fn check_depth(what: &str, body: &[u8]) -> Result<(), Problem> {
    // A few brackets cannot nest deeply, and counting them is far faster than tracking the depth.
    if body.len() <= COUNTED_BYTES_MAX
        && body.iter().filter(|byte| matches!(byte, b'{' | b'[')).count() <= DEPTH_MAX
    {
        return Ok(());
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for &byte in body {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            let detail = format!("{what} is nested deeper than {DEPTH_MAX} levels");
            return Err(Problem::new(Code::TSR108, detail));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use actix_web::test::TestRequest;
    use actix_web::{FromRequest, dev};
    use futures_util::stream;

    use super::*;
    use crate::body_budget::BodyBudget;

    /// Read buffer of a connection, which counts itself as freed when it is dropped.
    struct ReadBuffer(Arc<AtomicUsize>);

    impl AsRef<[u8]> for ReadBuffer {
        fn as_ref(&self) -> &[u8] {
            &[b' '; INLINE_BYTES_MAX]
        }
    }

    impl Drop for ReadBuffer {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn the_buffer_of_a_part_is_freed_when_the_part_is_copied() {
        let (freed, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let parts = stream::iter(0..4).map({
            let (freed, seen) = (Arc::clone(&freed), Arc::clone(&seen));
            move |_| {
                seen.lock().unwrap().push(freed.load(Ordering::SeqCst));
                Ok(Bytes::from_owner(ReadBuffer(Arc::clone(&freed))))
            }
        });
        let declared = Some(4 * INLINE_BYTES_MAX);
        let deadline = Instant::now() + Duration::from_secs(60);
        let limits = BodyLimits { declared, limit: WRITE_BYTES_MAX, deadline };
        let budget = Arc::new(BodyBudget::default());
        let read = actix_web::rt::System::new().block_on(async {
            let request = TestRequest::default().to_http_request();
            let mut payload = dev::Payload::Stream { payload: parts.boxed_local() };
            let payload = Payload::from_request(&request, &mut payload).await.unwrap();
            read(payload, limits, || budget.open_share(None)).await
        });
        assert_eq!(read.unwrap().0.len(), 4 * INLINE_BYTES_MAX);
        // The first part is copied and freed when the second one arrives.
        assert_eq!(*seen.lock().unwrap(), [0, 0, 2, 3]);
    }
}
