//! Audit: the lines of an audit log, the chain that joins them, and the check of a chain.
//!
//! A line is a JSON object. It ends with the hash of the line before it and with its own:
//!
//! ```text
//! {"seq":7,"time":"2026-11-23T12:00:00.123Z","event":"request", … ,"prev":"…","hash":"…"}
//! ```
//! A line that is changed, removed or moved therefore breaks the chain. The chain uses no secret,
//! so a process that may write the files can compute all of it again. Therefore the catalog also
//! keeps its last line.
//!
//! **Invariant:** text from a client is cut and escaped, so that it can neither forge a line nor
//! make one long. A line contains no secret of a caller.
//! **Not here:** the files of a log, and the requests that it records (`api-router`).

pub mod chain;
pub mod check;
pub mod event;
mod line;
pub mod merging;

use std::path::{Path, PathBuf};

use ring::hmac;

/// Level of a log: the requests that it records. A level includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuditLevel {
    /// Changes to API keys, roles, denials of tokens, tables and nodes.
    Admin,
    /// Requests that were refused for their credentials, rights or limits.
    #[default]
    Denied,
    /// Writes of rows.
    Writes,
    /// All requests that need a right.
    All,
}

impl AuditLevel {
    /// All levels, in their order.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Denied, Self::Writes, Self::All];

    /// Returns the name in settings.
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
    /// HMAC-SHA256 under a secret, cut to 128 bits: equal keys can be recognised, but no key can be
    /// guessed from its hash.
    #[default]
    Hash,
    /// The key itself.
    Plain,
    /// No key.
    None,
}

impl AuditKeyForm {
    /// All forms.
    pub const ALL: [Self; 3] = [Self::Hash, Self::Plain, Self::None];

    /// Returns the name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Plain => "plain",
            Self::None => "none",
        }
    }
}

/// Secret under which shard keys are hashed. Without it, keys of few possible values could be
/// guessed from their hashes.
#[derive(Clone)]
pub struct AuditSecret(hmac::Key);

impl AuditSecret {
    /// Number of bytes.
    pub const LEN: usize = 32;
    /// Prefix of each hashed message: no other use of the secret has it.
    const PURPOSE: &'static [u8] = b"tessera audit key 1\0";
    /// Number of bytes of a hash.
    const HASH_LEN: usize = 16;

    /// Creates a secret from these bytes, which must be random.
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

/// Maximum number of files of a log, including the one that is being written.
pub const FILES_MAX: usize = 8;
/// Maximum length of a line in bytes, including its newline. All texts of an event fit in it,
/// because each is cut and then escaped.
pub const LINE_MAX: usize = 64 << 10;

/// Returns the path of a file of a log: 0 is the one that is being written, higher numbers are
/// older.
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
