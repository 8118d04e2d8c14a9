//! Compact token: parses a token of three parts in base64url, separated by dots: header, claims and
//! signature.
//!
//! **Invariant:** the header cannot select a key that is not in the issuer's key set: its members
//! `jku`, `x5u`, `x5c` and `jwk` are ignored. A token with the member `crit` is refused, because
//! `crit` lists extensions that the receiver must support, and none is supported here.
//! **Not here:** the verification of the signature, and the meaning of the claims.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{TOKEN_LEN_MAX, TokenAlgorithm, unique_json};
use crate::auth_error::AuthReason;

/// Maximum length of a `kid` in bytes.
const KEY_ID_LEN_MAX: usize = 256;
/// Permitted values of the header member `typ`.
const TYPES: [&str; 3] = ["JWT", "at+jwt", "application/at+jwt"];

/// Well-formed token. Its signature and its claims are not verified yet.
pub(super) struct CompactToken {
    pub(super) algorithm: TokenAlgorithm,
    pub(super) key_id: Option<String>,
    pub(super) claims: Map<String, Value>,
}

impl CompactToken {
    pub(super) fn parse(text: &str) -> Result<Self, AuthReason> {
        if text.len() > TOKEN_LEN_MAX {
            return Err(AuthReason::TokenTooLong);
        }
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(AuthReason::TokenMalformed);
        };
        let header = object(header)?;
        let claims = object(claims)?;
        let algorithm = text_member(&header, "alg")?.ok_or(AuthReason::TokenHeader("alg"))?;
        let algorithm = TokenAlgorithm::find(algorithm).ok_or(AuthReason::TokenAlgorithm)?;
        if let Some(kind) = text_member(&header, "typ")?
            && !TYPES.iter().any(|known| known.eq_ignore_ascii_case(kind))
        {
            return Err(AuthReason::TokenHeader("typ"));
        }
        for refused in ["crit", "b64", "zip", "enc"] {
            if header.contains_key(refused) {
                return Err(AuthReason::TokenHeader(refused));
            }
        }
        let key_id = text_member(&header, "kid")?;
        if key_id.is_some_and(|key_id| key_id.len() > KEY_ID_LEN_MAX) {
            return Err(AuthReason::TokenHeader("kid"));
        }
        let key_id = key_id.map(str::to_owned);
        Ok(Self { algorithm, key_id, claims })
    }

    /// Returns the name of the issuer, which determines the key set.
    pub(super) fn issuer(&self) -> Result<&str, AuthReason> {
        self.claims.get("iss").and_then(Value::as_str).ok_or(AuthReason::TokenClaim("iss"))
    }
}

fn object(part: &str) -> Result<Map<String, Value>, AuthReason> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthReason::TokenMalformed)?;
    match unique_json::parse(&bytes) {
        Some(Value::Object(object)) => Ok(object),
        Some(_) | None => Err(AuthReason::TokenMalformed),
    }
}

fn text_member<'h>(
    header: &'h Map<String, Value>,
    name: &'static str,
) -> Result<Option<&'h str>, AuthReason> {
    match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(AuthReason::TokenHeader(name)),
    }
}
