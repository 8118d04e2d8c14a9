//! Key sets: the keys of an issuer, from a JWKS document (RFC 7517) or a secret.
//!
//! **Invariant:** a key set from a document contains only public keys. If one key of a document is
//! private or symmetric, the whole document is refused, because the issuer has published a secret.
//! Each key has exactly one algorithm.
//! **Not here:** reading the file or fetching the document.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};

use super::{TokenAlgorithm, unique_json};

/// Members of a JSON Web Key that only private or symmetric keys have.
const SECRET_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
/// Length in bytes of a coordinate on P-256, and of a public key of Ed25519.
const COORDINATE_LEN: usize = 32;
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

type Jwk = Map<String, Value>;

/// Key that verifies tokens.
pub(super) struct VerifyingKey {
    pub(super) id: Option<Box<str>>,
    pub(super) algorithm: TokenAlgorithm,
    pub(super) key: DecodingKey,
}

/// Keys of an issuer.
pub struct KeySet {
    pub(super) keys: Vec<VerifyingKey>,
    /// True if the set consists of one secret. Tokens then need no `kid`.
    pub(super) is_secret: bool,
    skipped: Vec<SkippedKey>,
}

/// Key in a document that is not used to verify tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedKey {
    /// Index in the document's list of keys.
    pub index: usize,
    /// Reason why it is not used.
    pub reason: &'static str,
}

impl KeySet {
    /// Maximum number of keys in a document.
    pub const KEYS_MAX: usize = 64;
    /// Maximum length of a document in bytes.
    pub const DOCUMENT_LEN_MAX: usize = 256 << 10;
    /// Minimum length of a secret in bytes: the length of a SHA-256 hash, as RFC 7518 requires in
    /// section 3.2.
    pub const SECRET_LEN_MIN: usize = 32;

    /// Creates a set that consists of one secret for HS256.
    ///
    /// # Errors
    /// [`KeySetError::SecretTooShort`] if the secret is shorter than [`KeySet::SECRET_LEN_MIN`].
    pub fn from_secret(secret: &[u8]) -> Result<Self, KeySetError> {
        if secret.len() < Self::SECRET_LEN_MIN {
            return Err(KeySetError::SecretTooShort { len: secret.len() });
        }
        let key = DecodingKey::from_secret(secret);
        let key = VerifyingKey { id: None, algorithm: TokenAlgorithm::Hs256, key };
        Ok(Self { keys: vec![key], is_secret: true, skipped: Vec::new() })
    }

    /// Parses a JWKS document. Keys for other purposes or algorithms are skipped.
    ///
    /// # Errors
    /// [`KeySetError`] if the document is too long, is malformed, has too many keys, contains a
    /// private or symmetric key, or has no key that can verify tokens.
    pub fn from_jwks(document: &[u8]) -> Result<Self, KeySetError> {
        if document.len() > Self::DOCUMENT_LEN_MAX {
            return Err(KeySetError::TooLong);
        }
        let Some(Value::Object(mut document)) = unique_json::parse(document) else {
            return Err(KeySetError::Malformed);
        };
        let Some(Value::Array(list)) = document.remove("keys") else {
            return Err(KeySetError::Malformed);
        };
        if list.len() > Self::KEYS_MAX {
            return Err(KeySetError::TooMany { count: list.len() });
        }
        let mut set = Self { keys: Vec::new(), is_secret: false, skipped: Vec::new() };
        for (index, jwk) in list.iter().enumerate() {
            let Value::Object(jwk) = jwk else { return Err(KeySetError::Malformed) };
            let is_symmetric = jwk.get("kty").and_then(Value::as_str) == Some("oct");
            if is_symmetric || SECRET_MEMBERS.iter().any(|member| jwk.contains_key(*member)) {
                return Err(KeySetError::Secret { index });
            }
            match key(jwk) {
                Ok(key) => set.keys.push(key),
                Err(reason) => set.skipped.push(SkippedKey { index, reason }),
            }
        }
        if set.keys.is_empty() {
            let reason = set.skipped.first().map_or("it is empty", |skipped| skipped.reason);
            return Err(KeySetError::NoneFits { reason });
        }
        Ok(set)
    }

    /// Returns the keys of the document that are not used, so that a warning can list them.
    pub fn skipped(&self) -> &[SkippedKey] {
        &self.skipped
    }

    /// Returns the number of keys that verify tokens.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns true if the set has no keys. The constructors never return such a set.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.keys.len())
    }
}

fn key(jwk: &Jwk) -> Result<VerifyingKey, &'static str> {
    let text = |member: &str| jwk.get(member).and_then(Value::as_str);
    let is_absent_or = |member: &str, values: &[&str]| match jwk.get(member) {
        None => true,
        Some(value) => value.as_str().is_some_and(|value| values.contains(&value)),
    };
    if !is_absent_or("use", &["sig"]) {
        return Err("its use is not sig");
    }
    if let Some(operations) = jwk.get("key_ops") {
        let verifies =
            |list: &Vec<Value>| list.iter().any(|value| value.as_str() == Some("verify"));
        if !operations.as_array().is_some_and(verifies) {
            return Err("its key_ops do not have verify");
        }
    }
    let curve = text("crv").unwrap_or_default();
    let (algorithm, names, key): (_, &[&str], _) = match (text("kty").unwrap_or_default(), curve) {
        ("RSA", _) => (TokenAlgorithm::Rs256, &["RS256"][..], rsa(jwk)),
        ("EC", "P-256") => (TokenAlgorithm::Es256, &["ES256"][..], p256(jwk)),
        ("OKP", "Ed25519") => (TokenAlgorithm::EdDsa, &["EdDSA", "Ed25519"][..], ed25519(jwk)),
        _ => return Err("its kty and crv are none of RSA, EC with P-256, OKP with Ed25519"),
    };
    if !is_absent_or("alg", names) {
        return Err("its alg is none of RS256, ES256, EdDSA");
    }
    let id = match jwk.get("kid") {
        None => None,
        Some(Value::String(id)) => Some(id.as_str().into()),
        Some(_) => return Err("its kid is not a text"),
    };
    Ok(VerifyingKey { id, algorithm, key: key? })
}

fn bytes(jwk: &Jwk, member: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(jwk.get(member)?.as_str()?).ok()
}

fn rsa(jwk: &Jwk) -> Result<DecodingKey, &'static str> {
    let without_zeros = |mut number: Vec<u8>| {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        number.drain(..zeros);
        number
    };
    let number = |member: &str| bytes(jwk, member).map(without_zeros);
    let (Some(modulus), Some(exponent)) = (number("n"), number("e")) else {
        return Err("its n or e is not base64url");
    };
    let first = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !RSA_BITS.contains(&(modulus.len() * 8).saturating_sub(first)) {
        return Err("its n does not have 2048 to 8192 bits");
    }
    let is_odd = exponent.last().is_some_and(|byte| byte % 2 == 1);
    if !is_odd || exponent.len() > 4 || exponent == [1] {
        return Err("its e is not an odd number above 1 of 32 bits");
    }
    Ok(DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

fn p256(jwk: &Jwk) -> Result<DecodingKey, &'static str> {
    /// First byte of a point in uncompressed form, in which both coordinates follow.
    const UNCOMPRESSED: u8 = 4;
    match (bytes(jwk, "x"), bytes(jwk, "y")) {
        (Some(x), Some(y)) if x.len() == COORDINATE_LEN && y.len() == COORDINATE_LEN => {
            let point = [&[UNCOMPRESSED][..], &x, &y].concat();
            Ok(DecodingKey::from_ec_der(&point))
        }
        _ => Err("its x or y is not base64url of 32 bytes"),
    }
}

fn ed25519(jwk: &Jwk) -> Result<DecodingKey, &'static str> {
    match bytes(jwk, "x") {
        Some(x) if x.len() == COORDINATE_LEN => Ok(DecodingKey::from_ed_der(&x)),
        Some(_) | None => Err("its x is not base64url of 32 bytes"),
    }
}

/// Reason why keys are refused. Its message never contains a key or a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// The secret is shorter than [`KeySet::SECRET_LEN_MIN`].
    #[error(
        "the secret has {len} bytes, and HS256 needs at least {}: make a longer one",
        KeySet::SECRET_LEN_MIN
    )]
    SecretTooShort {
        /// Length in bytes.
        len: usize,
    },
    /// The document is longer than [`KeySet::DOCUMENT_LEN_MAX`].
    #[error("a JWKS document has at most {} bytes", KeySet::DOCUMENT_LEN_MAX)]
    TooLong,
    /// The document is not a JWKS document, or one of its objects has a member twice.
    #[error(
        "this is not a JWKS document: it must be an object with a list `keys` and no member twice"
    )]
    Malformed,
    /// There are more keys than [`KeySet::KEYS_MAX`].
    #[error("a JWKS document has at most {} keys, this one has {count}", KeySet::KEYS_MAX)]
    TooMany {
        /// Number of keys.
        count: usize,
    },
    /// A key is private or symmetric.
    #[error(
        "keys[{index}] is private or symmetric: publish public keys only, and replace this one"
    )]
    Secret {
        /// Index of the key.
        index: usize,
    },
    /// No key of the document can verify tokens.
    #[error("no key of the document verifies tokens; of the first, {reason}")]
    NoneFits {
        /// Reason why the first key is not used.
        reason: &'static str,
    },
}
