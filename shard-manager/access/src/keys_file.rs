//! File of keys: a text file that defines one API key on each line, as `id sha256 role [tenant]
//! [expires]`.
//!
//! Fields are separated by spaces. A tenant may contain spaces, so it is percent-encoded; several
//! tenants are separated by `,`, and `-` stands for none. Empty lines and lines that begin with `#`
//! are ignored.
//!
//! **Invariant:** if one line is faulty, the whole file is refused: a skipped line might be the one
//! that restricts a key. An error never quotes the contents of a field.
//! **Not here:** reading the file, and the check of its permissions.

use std::collections::HashSet;

use crate::key::{KeyId, SecretDigest};
use crate::key_record::KeyRecord;
use crate::role::AccessRole;
use crate::tenant::{TenantError, Tenants};
use crate::unix_time::UnixTime;

/// Value of the field `tenant` that stands for no tenants.
const NO_TENANT: &str = "-";
/// Creator and name in the records of keys from a file.
const MADE_BY: &str = "access_keys_file";

/// Parses a file of keys.
///
/// # Errors
/// [`KeysFileError`] names the line and the field, and states the value that is expected there.
pub fn parse(text: &str) -> Result<Vec<KeyRecord>, KeysFileError> {
    let mut records = Vec::new();
    let mut ids = HashSet::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at_line = |(member, fault)| KeysFileError { line: index + 1, member, fault };
        let record = parse_line(line).map_err(at_line)?;
        if !ids.insert(record.id) {
            return Err(at_line(("id", KeysFileFault::Twice)));
        }
        records.push(record);
    }
    Ok(records)
}

fn parse_line(line: &str) -> Result<KeyRecord, (&'static str, KeysFileFault)> {
    let mut fields = line.split_ascii_whitespace();
    let id = fields.next().and_then(KeyId::parse).ok_or(("id", KeysFileFault::Id))?;
    let digest = fields.next().and_then(SecretDigest::parse_hex);
    let digest = digest.ok_or(("sha256", KeysFileFault::Digest))?;
    let role = fields.next().filter(|role| AccessRole::is_name(role));
    let role = role.ok_or(("role", KeysFileFault::Role))?;
    let tenants = fields.next().map_or(Ok(Tenants::none()), parse_tenants);
    let tenants = tenants.map_err(|fault| ("tenant", fault))?;
    let expires_at = fields.next().map(|text| UnixTime::parse(text).ok_or(KeysFileFault::Time));
    let expires_at = expires_at.transpose().map_err(|fault| ("expires", fault))?;
    if fields.next().is_some() {
        return Err(("the line", KeysFileFault::TooManyFields));
    }
    Ok(KeyRecord {
        id,
        digest,
        role: role.into(),
        tenants,
        name: MADE_BY.into(),
        made_by: MADE_BY.into(),
        made_at: UnixTime::default(),
        expires_at,
        revoked_at: None,
        is_suspended: false,
        used_on: None,
    })
}

fn parse_tenants(text: &str) -> Result<Tenants, KeysFileFault> {
    if text == NO_TENANT {
        return Ok(Tenants::none());
    }
    let decoded: Option<Vec<String>> = text.split(',').map(decode).collect();
    let decoded = decoded.ok_or(KeysFileFault::Encoding)?;
    Tenants::parse(decoded.iter().map(String::as_str)).map_err(KeysFileFault::Tenant)
}

/// Returns the line that defines a key, without a newline.
pub fn format(record: &KeyRecord) -> String {
    let mut line = format!("{} {} {}", record.id, record.digest.to_hex(), record.role);
    if !record.tenants.is_empty() || record.expires_at.is_some() {
        let tenants = record.tenants.as_slice();
        let encoded: Vec<String> = tenants.iter().map(|tenant| encode(tenant)).collect();
        let encoded = if encoded.is_empty() { NO_TENANT.to_owned() } else { encoded.join(",") };
        line.push(' ');
        line.push_str(&encoded);
    }
    if let Some(expires_at) = record.expires_at {
        line.push(' ');
        line.push_str(&expires_at.format());
    }
    line
}

/// Percent-encodes every byte except ASCII letters, digits, `_`, `.`, `:` and `-`. The tenant `-`
/// is encoded as well, because a plain `-` stands for no tenants.
fn encode(tenant: &str) -> String {
    let mut encoded = String::with_capacity(tenant.len());
    for byte in tenant.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
        if is_plain && tenant != NO_TENANT {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16).map(|digit| digit as u8);
        let high = digit()?;
        bytes.push(high << 4 | digit()?);
    }
    String::from_utf8(bytes).ok()
}

/// Reason why a file of keys is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {member} {fault}")]
pub struct KeysFileError {
    /// Number of the line, from 1.
    pub line: usize,
    /// Name of the faulty field.
    pub member: &'static str,
    /// Fault of the field.
    pub fault: KeysFileFault,
}

/// Fault of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysFileFault {
    /// The id is malformed or missing.
    #[error("must be {} letters and digits", KeyId::LEN)]
    Id,
    /// The id occurs on an earlier line.
    #[error("stands on an earlier line, too")]
    Twice,
    /// The digest is malformed or missing.
    #[error("must be 64 hexadecimal digits in lower case, as `key create --offline` prints them")]
    Digest,
    /// The role is malformed or missing.
    #[error("must be the name of a role")]
    Role,
    /// A tenant is not percent-encoded UTF-8.
    #[error("must be percent-encoded UTF-8, as `key create --offline` prints it, or - for none")]
    Encoding,
    /// A tenant violates a rule for tenants.
    #[error("is refused: {0}")]
    Tenant(TenantError),
    /// The expiry time is malformed.
    #[error("must be a time such as 2027-01-31T12:00:00Z")]
    Time,
    /// There is text after the last field.
    #[error("has more than five fields: encode a space in a tenant as %20")]
    TooManyFields,
}
