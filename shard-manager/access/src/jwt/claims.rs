//! Claims: checks the claims of a token whose signature was verified.
//!
//! A token that names no role is refused like invalid credentials. If it made its bearer a caller
//! without rights, a wrong `role_claim` in the settings would look as if every user lacked rights.
//! If it made its bearer anonymous, a client could obtain the rights of the role `anonymous` with a
//! token that lacks the claim.
//!
//! **Invariant:** a token is refused if a claim that is read has the wrong type; such a claim is
//! never treated as missing. An `iat` in the future is accepted, because the clocks of issuers are
//! sometimes fast, and because `nbf`, not `iat`, states from when a token is valid.
//! **Not here:** the verification of the signature; the rights of the role.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::issuer::Issuer;
use super::{SKEW_SECONDS, VerifiedToken};
use crate::auth_error::{AuthError, AuthReason};
use crate::tenant::Tenants;
use crate::unix_time::UnixTime;

type Claims = Map<String, Value>;

pub(super) fn check(
    claims: &Claims,
    issuer: &Arc<Issuer>,
    now: UnixTime,
) -> Result<VerifiedToken, AuthError> {
    if text(claims, "iss")? != Some(issuer.name()) {
        return Err(AuthReason::TokenIssuer.into());
    }
    if !is_for(claims, issuer.audiences())? {
        return Err(AuthReason::TokenAudience.into());
    }
    let (issued_at, expires_at) = times(claims, issuer, now)?;
    let (role, tenants) = permissions(claims, issuer)?;
    Ok(VerifiedToken {
        issuer: Arc::clone(issuer),
        subject: text(claims, "sub")?.map(Into::into),
        id: text(claims, "jti")?.map(Into::into),
        issued_at,
        expires_at,
        usable_until: issuer.keys_usable_until().min(expires_at.plus(SKEW_SECONDS)),
        role,
        tenants,
    })
}

fn text<'c>(claims: &'c Claims, name: &'static str) -> Result<Option<&'c str>, AuthReason> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(AuthReason::TokenClaim(name)),
    }
}

/// Returns true if `aud` is one of the audiences, or a list of strings that contains one of them.
fn is_for(claims: &Claims, audiences: &[String]) -> Result<bool, AuthReason> {
    let is_known = |audience: &str| audiences.iter().any(|known| known == audience);
    match claims.get("aud") {
        Some(Value::String(audience)) => Ok(is_known(audience)),
        Some(Value::Array(list)) => {
            let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            let texts = texts.ok_or(AuthReason::TokenClaim("aud"))?;
            Ok(texts.into_iter().any(is_known))
        }
        Some(_) | None => Err(AuthReason::TokenClaim("aud")),
    }
}

/// Checks the times of a token, and returns `iat` and `exp`.
fn times(
    claims: &Claims,
    issuer: &Issuer,
    now: UnixTime,
) -> Result<(Option<UnixTime>, UnixTime), AuthReason> {
    let expires_at = time(claims, "exp")?.ok_or(AuthReason::TokenClaim("exp"))?;
    let not_before = time(claims, "nbf")?;
    let issued_at = time(claims, "iat")?;
    if expires_at.plus(SKEW_SECONDS) <= now {
        return Err(AuthReason::TokenExpired);
    }
    if not_before.is_some_and(|not_before| now.plus(SKEW_SECONDS) < not_before) {
        return Err(AuthReason::TokenNotYet);
    }
    // If `iat` is in the future, the lifetime counts from now. Otherwise an issuer whose clock is
    // fast could give tokens longer lifetimes than `lifetime_max` permits.
    let begin = issued_at.map_or(now, |issued_at| issued_at.min(now));
    if expires_at.since(begin) > issuer.lifetime_max().saturating_add(SKEW_SECONDS) {
        return Err(AuthReason::TokenLifetime);
    }
    Ok((issued_at, expires_at))
}

/// Reads a time in seconds since 1970. Fractions of a second, which some issuers write, are
/// accepted and dropped.
fn time(claims: &Claims, name: &'static str) -> Result<Option<UnixTime>, AuthReason> {
    let refused = AuthReason::TokenClaim(name);
    let number = match claims.get(name) {
        None => return Ok(None),
        Some(Value::Number(number)) => number,
        Some(_) => return Err(refused),
    };
    let max = UnixTime::MAX.seconds();
    let seconds = match (number.as_u64(), number.as_f64()) {
        (Some(seconds), _) if seconds <= max => seconds,
        (None, Some(seconds)) if seconds >= 0.0 && seconds <= max as f64 => seconds as u64,
        _ => return Err(refused),
    };
    Ok(Some(UnixTime::from_seconds(seconds)))
}

/// Reads the role and the tenants from the claims to which the issuer's settings point.
fn permissions(claims: &Claims, issuer: &Issuer) -> Result<(Box<str>, Tenants), AuthReason> {
    let role = match pointed(claims, issuer.role_claim()) {
        Some(Value::String(role)) => role,
        Some(_) | None => return Err(AuthReason::TokenRole),
    };
    if !issuer.may_name(role) {
        return Err(AuthReason::TokenRole);
    }
    let tenants = issuer.tenant_claim().and_then(|pointer| pointed(claims, pointer));
    Ok((role.as_str().into(), tenants.map_or(Ok(Tenants::none()), self::tenants)?))
}

/// Reads a claim that is one tenant or a list of tenants. A claim that is an empty string stands
/// for no tenant.
fn tenants(claim: &Value) -> Result<Tenants, AuthReason> {
    let texts = match claim {
        Value::String(text) if text.is_empty() => Vec::new(),
        Value::String(text) => vec![text.as_str()],
        Value::Array(list) => {
            let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            texts.ok_or(AuthReason::Tenant)?
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            return Err(AuthReason::Tenant);
        }
    };
    Tenants::parse(texts).map_err(|_| AuthReason::Tenant)
}

/// Returns the value to which a JSON Pointer points. The pointer begins with `/`, as was checked
/// when the issuer was created.
fn pointed<'c>(claims: &'c Claims, pointer: &str) -> Option<&'c Value> {
    let (first, rest) = pointer.strip_prefix('/')?.split_once('/').map_or_else(
        || (pointer.strip_prefix('/').unwrap_or_default(), None),
        |(first, rest)| (first, Some(rest)),
    );
    let member = claims.get(&first.replace("~1", "/").replace("~0", "~"))?;
    match rest {
        None => Some(member),
        Some(rest) => member.pointer(&format!("/{rest}")),
    }
}
