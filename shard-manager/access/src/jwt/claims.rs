//! Claims: the checks of a token whose signature holds.
//!
//! A token without a role is refused, like bad credentials. It could become anonymous or a caller
//! without rights, but then a wrong `role_claim` in the settings would look as if every user lacked
//! rights, and a client could choose the rights of `anonymous` by a token without the claim.
//!
//! **Invariant:** a claim of a wrong type refuses the token; it is never taken as missing. A future
//! `iat` is accepted: the clocks of issuers are sometimes fast, and `nbf` states from when a token
//! is valid.
//! **Not here:** the signature; the rights of the role.

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

/// Returns true if `aud` is one of the audiences, or a list of texts with one of them.
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
    // An issuer whose clock is fast must not give longer lifetimes than others.
    let begin = issued_at.map_or(now, |issued_at| issued_at.min(now));
    if expires_at.since(begin) > issuer.lifetime_max().saturating_add(SKEW_SECONDS) {
        return Err(AuthReason::TokenLifetime);
    }
    Ok((issued_at, expires_at))
}

/// Reads seconds since 1970. Fractions are accepted, because some issuers write them, and dropped.
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

/// Reads role and tenants from the places that the issuer's settings name.
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

/// Reads one tenant or a list of them. An empty text alone stands for no tenant.
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

/// Follows a JSON Pointer, which was checked to begin with `/`.
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
