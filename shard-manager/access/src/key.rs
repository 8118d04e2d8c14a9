//! API keys: strings that consist of `tsr_`, an id, `_`, a secret and a checksum.
//!
//! ```text
//! tsr_4fKq0ZxY81Ab_ 43 characters of secret, 6 of CRC-32
//! ```
//! The prefix lets secret scanners find keys in source code, and the checksum reveals a mistyped
//! key without a lookup. Only the SHA-256 of the secret is stored. A slow password hash would not
//! be safer, because the secret has 256 random bits.
//!
//! **Invariant:** each key has exactly one valid spelling. No implementation of `Debug` prints a
//! secret, and no type that contains a secret implements `Display`.
//! **Not here:** the source of random bytes; the set of keys (`snapshot`).

mod base62;

use std::fmt;

use ring::digest;
use subtle::ConstantTimeEq as _;

use crate::hex;

/// Public id of an API key. It is not a secret and may be logged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; KeyId::LEN]);

impl KeyId {
    /// Number of characters of an id.
    pub const LEN: usize = 12;

    /// Parses an id: [`KeyId::LEN`] letters and digits.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; Self::LEN] = text.as_bytes().try_into().ok()?;
        base62::is_text(&bytes).then_some(Self(bytes))
    }

    /// Returns the id as a string.
    #[inline]
    pub fn as_str(&self) -> &str {
        // The bytes were checked when the id was created.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// SHA-256 of a key's secret: the only form in which the secret is stored.
#[derive(Clone, Copy)]
pub struct SecretDigest([u8; SecretDigest::LEN]);

impl SecretDigest {
    /// Number of bytes of a digest.
    pub const LEN: usize = 32;
    /// Digest with which a secret is compared if its key id is unknown, so that the comparison
    /// takes place for unknown ids as well. No secret with this digest is known.
    pub const DUMMY: Self = Self([0xa5; Self::LEN]);

    /// Returns the digest of a secret.
    #[inline]
    fn of(secret: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, secret.as_bytes());
        let mut bytes = [0; Self::LEN];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    /// Creates a digest from its bytes.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Parses 64 hexadecimal digits in lower case.
    pub fn parse_hex(text: &str) -> Option<Self> {
        hex::parse(text).map(Self)
    }

    /// Returns 64 hexadecimal digits in lower case.
    pub fn to_hex(&self) -> String {
        hex::format(&self.0)
    }
}

impl PartialEq for SecretDigest {
    /// Compares in constant time: the time does not reveal where the digests differ.
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretDigest {}

impl fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// API key that a client has sent: well-formed, but not yet known to exist.
#[derive(Clone, Copy)]
pub struct ApiKey<'k> {
    id: KeyId,
    secret: &'k str,
}

impl<'k> ApiKey<'k> {
    /// Prefix of every key.
    pub const PREFIX: &'static str = "tsr_";
    const SECRET_LEN: usize = 43;
    const CHECKSUM_LEN: usize = 6;
    /// Number of characters of a key.
    pub const LEN: usize =
        Self::PREFIX.len() + KeyId::LEN + 1 + Self::SECRET_LEN + Self::CHECKSUM_LEN;

    /// Returns true if a credential has the prefix of an API key. Such a credential is always
    /// treated as a key, even if it is malformed, and never as a token.
    #[inline]
    pub fn is_like(text: &str) -> bool {
        text.starts_with(Self::PREFIX)
    }

    /// Parses a key. Returns `None` if the length, a character or the checksum is wrong.
    #[inline]
    pub fn parse(text: &'k str) -> Option<Self> {
        if text.len() != Self::LEN || !text.is_ascii() {
            return None;
        }
        let (body, checksum) = text.split_at(Self::LEN - Self::CHECKSUM_LEN);
        let (id, secret) = body.strip_prefix(Self::PREFIX)?.split_at(KeyId::LEN);
        let secret = secret.strip_prefix('_')?;
        let id = KeyId::parse(id)?;
        let is_whole = base62::is_text(secret.as_bytes())
            && base62::parse_u32(checksum.as_bytes()) == Some(crc32fast::hash(body.as_bytes()));
        is_whole.then_some(Self { id, secret })
    }

    /// Returns the id.
    #[inline]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Returns the digest of the secret.
    #[inline]
    pub fn digest(&self) -> SecretDigest {
        SecretDigest::of(self.secret)
    }
}

impl fmt::Debug for ApiKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// New API key, shown to its owner once.
#[derive(Clone)]
pub struct NewApiKey {
    id: KeyId,
    text: String,
}

impl NewApiKey {
    /// Number of random bytes from which a key is made: 16 for the id, the rest for the secret.
    pub const RANDOM_LEN: usize = 48;

    /// Creates a key from bytes that must come from the random number generator of the operating
    /// system.
    pub fn from_random(bytes: &[u8; Self::RANDOM_LEN]) -> Self {
        let (for_id, for_secret) = bytes.split_at(16);
        let mut id = [0; KeyId::LEN];
        base62::write(for_id, &mut id);
        let mut secret = [0; ApiKey::SECRET_LEN];
        base62::write(for_secret, &mut secret);
        let mut text = String::with_capacity(ApiKey::LEN);
        text.push_str(ApiKey::PREFIX);
        text.extend(id.map(char::from));
        text.push('_');
        text.extend(secret.map(char::from));
        let mut checksum = [0; ApiKey::CHECKSUM_LEN];
        base62::write(&crc32fast::hash(text.as_bytes()).to_be_bytes(), &mut checksum);
        text.extend(checksum.map(char::from));
        Self { id: KeyId(id), text }
    }

    /// Returns the id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Returns the digest of the secret, which is stored instead of the secret.
    pub fn digest(&self) -> SecretDigest {
        let secret = KeyId::LEN + 1 + ApiKey::PREFIX.len();
        SecretDigest::of(&self.text[secret..secret + ApiKey::SECRET_LEN])
    }

    /// Returns the key itself, which must be shown to its owner only.
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for NewApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
