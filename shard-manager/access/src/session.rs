//! Sessions: proofs that a browser has shown an API key, valid for an hour.
//!
//! ```text
//! 4fKq0ZxY81Ab.1800003600.7.HMAC-SHA256 in base64url
//! ```
//! A page cannot keep a key safely, so a key is exchanged for a cookie that scripts cannot read.
//! The cookie names the key and has no rights of its own: it is good only while the key is.
//!
//! **Invariant:** a session is accepted only if its code was made with the secret, which is used
//! for nothing else, and codes are compared in constant time. "Expired" is reported only for a
//! session whose code is right. A session authorises no change, so another site has nothing to
//! forge.
//! **Not here:** the key behind the session (`snapshot`), the route that begins one.

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

/// Session of a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrowserSession {
    /// Key that was shown.
    pub key: KeyId,
    /// Time from which the session is refused.
    pub expires_at: UnixTime,
}

impl BrowserSession {
    /// Seconds from the beginning of a session to its end.
    pub const LIFETIME: u64 = 3_600;

    /// Begins a session of a key. It ends no later than the key.
    pub fn begin(key: KeyId, key_expires_at: Option<UnixTime>, now: UnixTime) -> Self {
        let end = now.plus(Self::LIFETIME);
        Self { key, expires_at: key_expires_at.map_or(end, |expires_at| expires_at.min(end)) }
    }

    /// Returns true if a session may authorise a request with this method. Methods are
    /// case-sensitive.
    pub fn permits(method: &str) -> bool {
        matches!(method, "GET" | "HEAD")
    }
}

/// Stored form of a session secret, which the catalog keeps for all routers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionSeed {
    bytes: [u8; SessionSecret::LEN],
    generation: u64,
}

impl SessionSeed {
    /// Creates a seed of bytes that must come from the system's source of randomness.
    pub fn from_random(bytes: [u8; SessionSecret::LEN]) -> Self {
        Self { bytes, generation: 0 }
    }

    /// Returns the seed with another generation: sessions of any other generation are refused.
    #[must_use]
    pub fn of_generation(self, generation: u64) -> Self {
        Self { generation, ..self }
    }

    /// Returns the generation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Parses the bytes, 64 hexadecimal digits in lower case.
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
    /// Number of bytes.
    pub const LEN: usize = 32;
    /// Longest text of a session: an id, two numbers, a code and three dots.
    const TEXT_LEN_MAX: usize = KeyId::LEN + 20 + 20 + 43 + 3;
    /// Prefix of each signed message: no other use of the secret has it.
    const PURPOSE: &'static [u8] = b"tessera session 1\0";

    /// Creates a secret of random bytes. A session of another generation is refused, so that all
    /// sessions end when the number is raised.
    pub fn new(bytes: &[u8; Self::LEN], generation: u64) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, bytes), generation }
    }

    /// Creates the secret of a seed.
    pub fn of_seed(seed: &SessionSeed) -> Self {
        Self::new(&seed.bytes, seed.generation)
    }

    /// Returns the text of a session, which [`SessionSecret::open`] reads.
    pub fn seal(&self, session: &BrowserSession) -> String {
        self.seal_as(session, self.generation)
    }

    /// Reads a session.
    ///
    /// # Errors
    /// [`AuthReason`] if it was not made with this secret, has ended or is of another generation.
    pub fn open(&self, text: &str, now: UnixTime) -> Result<BrowserSession, AuthReason> {
        let (session, generation) = parse(text).ok_or(AuthReason::SessionMalformed)?;
        // The text is rebuilt and compared as a whole, so that a session has only one spelling.
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

/// Reads the parts of a text, without checking the code.
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
