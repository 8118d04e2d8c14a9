//! JSON members: reads the JSON of requests and files, and names the faulty member in an error.
//!
//! Each member is parsed separately: if a whole object is parsed at once, the error states the
//! expected type but not the member.
//!
//! **Invariant:** an error message of the JSON parser is shortened to less than 2 KiB and has no
//! control characters, whatever the client has sent, because it is shown in responses, logs and
//! terminals.
//! **Not here:** the rules for the values of members (`role`, `denial`, `check`).

use serde::de::{DeserializeOwned, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Maximum length of a parser's error message in characters, before control characters are escaped.
const FAULT_LEN_MAX: usize = 256;

/// Reason why JSON is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{member} {fault}")]
pub struct MemberError {
    /// Name of the faulty member.
    pub member: String,
    /// Description of the fault, which follows the name in a sentence.
    pub fault: String,
}

impl MemberError {
    pub(crate) fn new(member: impl Into<String>, fault: impl Into<String>) -> Self {
        Self { member: member.into(), fault: fault.into() }
    }
}

/// Parses JSON, or returns the error message of the parser.
pub(crate) fn read<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| fault(&error))
}

/// Parses an object. An array is refused here: `serde_json` would also accept an array of the
/// values, in the order in which the type declares its fields.
pub(crate) fn read_object<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    // ASCII white space includes the form feed, which JSON does not permit. It is skipped here only
    // to find the brace; the parser refuses it.
    let is_object = json.trim_ascii_start().starts_with('{');
    if is_object { read(json) } else { Err("it is not an object".to_owned()) }
}

/// Parses the value of a member, whose name is part of the error.
pub(crate) fn read_member<T: DeserializeOwned>(member: &str, json: &str) -> Result<T, MemberError> {
    read(json).map_err(|fault| MemberError::new(member, format!("cannot be read: {fault}")))
}

/// Parses the value of a member that may be absent.
pub(crate) fn read_optional<T: DeserializeOwned>(
    member: &str,
    json: Option<&RawValue>,
) -> Result<Option<T>, MemberError> {
    json.map(|json| read_member(member, json.get())).transpose()
}

/// Deserializes a member that may be absent. A `null` does not count as absent: it is read like any
/// other value, so that the type of the member can refuse it.
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

/// Returns the message of an error, shortened and escaped, because it may quote names and strings
/// that a client has sent.
fn fault(error: &serde_json::Error) -> String {
    let text = error.to_string();
    // The position in the message is removed: it counts from the beginning of the member, and the
    // client would take it for a position in the whole document.
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
