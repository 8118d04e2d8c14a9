//! Changed claims: sets one member of the claims of a token to another value.

use serde_json::Value;

/// Returns the claims with another value of one member. The value `null` removes the member.
pub(crate) fn changed(mut claims: Value, member: &str, value: Value) -> Value {
    let object = claims.as_object_mut().expect("an object");
    if value.is_null() {
        object.remove(member);
    } else {
        object.insert(member.to_owned(), value);
    }
    claims
}
