//! Audit: the lines of an audit log, the hash chain that links them, and the verification of that
//! chain.
//!
//! Each line is a JSON object. Its last two members are the hash of the line before it (`prev`) and
//! its own hash (`hash`):
//!
//! ```text
//! {"seq":7,"time":"2026-11-23T12:00:00.123Z","event":"request", … ,"prev":"…","hash":"…"}
//! ```
//! A line that is changed, removed or moved therefore breaks the chain. The hashes use no secret,
//! so a process that can write the files can change a line and recompute all hashes after it. To
//! reveal this, the catalog also keeps the number and the hash of the last line.
//!
//! **Invariant:** strings from a client are cut to a fixed length and escaped, so that a client can
//! neither forge a line nor make a line arbitrarily long. A line never contains a secret of a
//! caller, such as an API key.
//! **Not here:** the files of a log, and the selection of the requests that it records
//! (`api-router`).

pub mod chain;
pub mod check;
pub mod event;
mod line;
pub mod merging;

use std::path::{Path, PathBuf};

use ring::hmac;

/// Level of an audit log: selects the requests that the log records. Each level also records the
/// requests of all levels listed before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuditLevel {
    /// Requests that may change something other than rows, such as API keys, roles, denials, tables
    /// or shards, even if they were refused.
    Admin,
    /// Requests that were refused because of their credentials, rights or limits.
    #[default]
    Denied,
    /// Writes of rows.
    Writes,
    /// All requests that need a right.
    All,
}

impl AuditLevel {
    /// All levels, in ascending order.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Denied, Self::Writes, Self::All];

    /// Returns the name used in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Denied => "denied",
            Self::Writes => "writes",
            Self::All => "all",
        }
    }
}

/// Form in which a log records the shard keys of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuditKeyForm {
    /// HMAC-SHA256 of the key under a secret, truncated to 128 bits: equal keys have equal hashes,
    /// but without the secret a key cannot be found from its hash.
    #[default]
    Hash,
    /// The key in plain text.
    Plain,
    /// Keys are not recorded.
    None,
}

impl AuditKeyForm {
    /// All forms.
    pub const ALL: [Self; 3] = [Self::Hash, Self::Plain, Self::None];

    /// Returns the name used in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Plain => "plain",
            Self::None => "none",
        }
    }
}

/// Secret key of the HMAC that hashes shard keys. With a plain hash, shard keys that have few
/// possible values could be found by hashing every value.
#[derive(Clone)]
pub struct AuditSecret(hmac::Key);

impl AuditSecret {
    /// Number of bytes of a secret.
    pub const LEN: usize = 32;
    /// Prefix of each hashed message. No other use of the secret has this prefix, so that a hash
    /// made for another purpose never equals the hash of a shard key.
    const PURPOSE: &'static [u8] = b"tessera audit key 1\0";
    /// Number of bytes to which a hash is truncated.
    const HASH_LEN: usize = 16;

    /// Creates a secret from bytes that must be random.
    pub fn new(bytes: &[u8; Self::LEN]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Returns the hash of a shard key, in hexadecimal digits.
    pub fn hash(&self, key: &str) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(Self::PURPOSE);
        context.update(key.as_bytes());
        let mut text = String::with_capacity(2 * Self::HASH_LEN);
        line::push_hex(&mut text, &context.sign().as_ref()[..Self::HASH_LEN]);
        text
    }
}

impl std::fmt::Debug for AuditSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Maximum number of files of a log, including the file that is being written.
pub const FILES_MAX: usize = 8;
/// Maximum length of a line in bytes, including its newline. Every event fits, because each of its
/// strings is cut to a fixed length before it is escaped.
pub const LINE_MAX: usize = 64 << 10;

/// Returns the path of one file of a log. Number 0 is the file that is being written; files with
/// higher numbers are older.
pub fn file_path(log: &Path, number: usize) -> PathBuf {
    match number {
        0 => log.to_owned(),
        number => {
            let mut name = log.as_os_str().to_owned();
            name.push(format!(".{number}"));
            name.into()
        }
    }
}
