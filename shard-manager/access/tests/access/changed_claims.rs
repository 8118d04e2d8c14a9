//! Changed claims: the claims of a token with another value of one member.

use serde_json::Value;

/// Returns claims with another value of a member; `null` removes it.
pub(crate) fn changed(mut claims: Value, member: &str, value: Value) -> Value {
    let object = claims.as_object_mut().expect("an object");
    if value.is_null() {
        object.remove(member);
    } else {
        object.insert(member.to_owned(), value);
    }
    claims
}
