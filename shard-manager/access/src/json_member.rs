//! JSON of requests and files, whose faults name the member.
//!
//! Each member is read on its own, because the error of a whole object names only the expected
//! type, and not the member.
//!
//! **Invariant:** the text of a fault is at most 2 KiB long and has no control characters, whatever
//! the client has sent, because it is shown in responses, logs and terminals.
//! **Not here:** the rules of members (`role`, `denial`, `check`).

use serde::de::{DeserializeOwned, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Longest fault in characters, before control characters are escaped.
const FAULT_LEN_MAX: usize = 256;

/// Reason why JSON is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{member} {fault}")]
pub struct MemberError {
    /// The member.
    pub member: String,
    /// Fault of the member.
    pub fault: String,
}

impl MemberError {
    pub(crate) fn new(member: impl Into<String>, fault: impl Into<String>) -> Self {
        Self { member: member.into(), fault: fault.into() }
    }
}

/// Reads JSON, or returns its fault.
pub(crate) fn read<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| fault(&error))
}

/// Reads an object. The library would read a list as well, with the members in their order and
/// without their names.
pub(crate) fn read_object<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    // The white space of JSON and of ASCII differ, but neither is a brace.
    let is_object = json.trim_ascii_start().starts_with('{');
    if is_object { read(json) } else { Err("it is not an object".to_owned()) }
}

/// Reads a member of a request, which the error names.
pub(crate) fn read_member<T: DeserializeOwned>(member: &str, json: &str) -> Result<T, MemberError> {
    read(json).map_err(|fault| MemberError::new(member, format!("cannot be read: {fault}")))
}

/// Reads a member that may be left out.
pub(crate) fn read_optional<T: DeserializeOwned>(
    member: &str,
    json: Option<&RawValue>,
) -> Result<Option<T>, MemberError> {
    json.map(|json| read_member(member, json.get())).transpose()
}

/// Reads a member that may be left out. A `null` is read like any other value, so that its type can
/// refuse it.
pub(crate) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Returns a value as JSON.
pub(crate) fn raw<T: Serialize + ?Sized>(value: &T) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("texts and numbers always serialise")
}

/// Returns the text of an error. It quotes names and texts of the client.
fn fault(error: &serde_json::Error) -> String {
    let text = error.to_string();
    // The position counts from the beginning of the member, which the client cannot see.
    let text = text.rsplit_once(" at line ").map_or(&*text, |(text, _)| text);
    let mut fault = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == FAULT_LEN_MAX {
            fault.push('…');
            break;
        }
        if character.is_control() {
            fault.extend(character.escape_default());
        } else {
            fault.push(character);
        }
    }
    fault
}
