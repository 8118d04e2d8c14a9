//! Sessions: signed proofs, valid for up to one hour, that a browser has presented an API key.
//!
//! ```text
//! 4fKq0ZxY81Ab.1800003600.7.HMAC-SHA256 in base64url
//! ```
//! A web page cannot store a key safely, so the key is exchanged for a cookie that scripts cannot
//! read. The cookie contains the id of the key, the time at which the session expires, a generation
//! and an HMAC of these three (the code). It has no rights of its own: it is valid only as long as
//! the key is.
//!
//! **Invariant:** a session is accepted only if its code was computed with the session secret,
//! which is used for nothing else. Codes are compared in constant time. "Expired" is reported only
//! for a session whose code is correct. A session authorises only reads, so another site that makes
//! the browser send requests cannot change anything.
//! **Not here:** the key of a session (`snapshot`), the route that begins a session.

pub mod cookie;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use subtle::ConstantTimeEq as _;

use crate::auth_error::AuthReason;
use crate::hex;
use crate::key::KeyId;
use crate::unix_time::UnixTime;

/// Session of a browser, as read from its cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrowserSession {
    /// Id of the key that the browser has presented.
    pub key: KeyId,
    /// Time from which the session is refused.
    pub expires_at: UnixTime,
}

impl BrowserSession {
    /// Maximum lifetime of a session in seconds.
    pub const LIFETIME: u64 = 3_600;

    /// Begins a session for a key. The session expires no later than the key.
    pub fn begin(key: KeyId, key_expires_at: Option<UnixTime>, now: UnixTime) -> Self {
        let end = now.plus(Self::LIFETIME);
        Self { key, expires_at: key_expires_at.map_or(end, |expires_at| expires_at.min(end)) }
    }

    /// Returns true if a session may authorise a request with this HTTP method. Names of methods
    /// are case-sensitive.
    pub fn permits(method: &str) -> bool {
        matches!(method, "GET" | "HEAD")
    }
}

/// Session secret as the catalog stores it for all routers, with the current generation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionSeed {
    bytes: [u8; SessionSecret::LEN],
    generation: u64,
}

impl SessionSeed {
    /// Creates a seed from bytes that must come from the random number generator of the operating
    /// system.
    pub fn from_random(bytes: [u8; SessionSecret::LEN]) -> Self {
        Self { bytes, generation: 0 }
    }

    /// Returns the seed with this generation. Sessions of all other generations are refused.
    #[must_use]
    pub fn of_generation(self, generation: u64) -> Self {
        Self { generation, ..self }
    }

    /// Returns the generation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Creates a seed from its bytes, given as 64 hexadecimal digits in lower case.
    pub fn parse_hex(text: &str, generation: u64) -> Option<Self> {
        Some(Self { bytes: hex::parse(text)?, generation })
    }

    /// Returns the bytes as 64 hexadecimal digits in lower case, for storage only.
    pub fn to_hex(&self) -> String {
        hex::format(&self.bytes)
    }
}

impl fmt::Debug for SessionSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Secret that signs sessions and verifies them.
#[derive(Clone)]
pub struct SessionSecret {
    key: hmac::Key,
    generation: u64,
}

impl SessionSecret {
    /// Number of bytes of a secret.
    pub const LEN: usize = 32;
    /// Maximum length of a session in bytes: an id, two numbers, a code and three dots.
    const TEXT_LEN_MAX: usize = KeyId::LEN + 20 + 20 + 43 + 3;
    /// Prefix of each signed message. No other use of the secret has this prefix, so that a code
    /// made for another purpose is never valid for a session.
    const PURPOSE: &'static [u8] = b"tessera session 1\0";

    /// Creates a secret from random bytes. Sessions of another generation are refused, so raising
    /// the generation ends all sessions.
    pub fn new(bytes: &[u8; Self::LEN], generation: u64) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, bytes), generation }
    }

    /// Creates the secret from a seed.
    pub fn of_seed(seed: &SessionSeed) -> Self {
        Self::new(&seed.bytes, seed.generation)
    }

    /// Returns the signed text of a session, which is the value of the cookie and which
    /// [`SessionSecret::open`] reads.
    pub fn seal(&self, session: &BrowserSession) -> String {
        self.seal_as(session, self.generation)
    }

    /// Verifies the text of a session and reads it.
    ///
    /// # Errors
    /// [`AuthReason`] if the text is malformed, its code was not computed with this secret, or the
    /// session has expired or is of another generation.
    pub fn open(&self, text: &str, now: UnixTime) -> Result<BrowserSession, AuthReason> {
        let (session, generation) = parse(text).ok_or(AuthReason::SessionMalformed)?;
        // The expected text is built and compared with the whole `text`, so that each session has
        // only one valid spelling.
        let made = self.seal_as(&session, generation);
        let is_made_here: bool = made.as_bytes().ct_eq(text.as_bytes()).into();
        if !is_made_here {
            return Err(AuthReason::SessionForged);
        }
        if generation != self.generation {
            return Err(AuthReason::SessionEnded);
        }
        if session.expires_at <= now {
            return Err(AuthReason::SessionExpired);
        }
        Ok(session)
    }

    fn seal_as(&self, session: &BrowserSession, generation: u64) -> String {
        let BrowserSession { key, expires_at } = session;
        let message = format!("{key}.{}.{generation}", expires_at.seconds());
        let mut context = hmac::Context::with_key(&self.key);
        context.update(Self::PURPOSE);
        context.update(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(context.sign()))
    }
}

/// Parses the parts of a session's text, without verifying its code.
fn parse(text: &str) -> Option<(BrowserSession, u64)> {
    if text.len() > SessionSecret::TEXT_LEN_MAX {
        return None;
    }
    let mut parts = text.split('.');
    let key = KeyId::parse(parts.next()?)?;
    let expires_at = UnixTime::from_seconds(parts.next()?.parse().ok()?);
    let generation = parts.next()?.parse().ok()?;
    let _code = parts.next()?;
    parts.next().is_none().then_some((BrowserSession { key, expires_at }, generation))
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
