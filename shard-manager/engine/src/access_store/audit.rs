//! Audit: the secret of audit logs, and the last known line of each log, in the tables of a
//! catalog.
//!
//! **Invariant:** the secret of a catalog never changes once it has been read. The stored last line
//! of a log is never replaced by an earlier line.
//! **Not here:** the logs themselves (`access::audit`), running a statement (the engines).

use access::audit::AuditSecret;
use access::audit::chain::{AuditChain, AuditHead, ChainHash, ChainPoint};
use access::key::SecretDigest;
use access::unix_time::UnixTime;
use model::error::Error;

use super::random;
use super::sql::AccessColumn::{Number, Text};
use super::sql::{AccessRow, AccessStatement, AccessValue};
use super::state::{number, text};

fn query(sql: &'static str, columns: &'static [super::sql::AccessColumn]) -> AccessStatement {
    AccessStatement { sql, values: Vec::new(), columns }
}

/// Returns the statement that creates the secret, unless there is one already.
///
/// # Errors
/// [`Error::Internal`] if the system has no random bytes.
pub fn make_secret() -> Result<AccessStatement, Error> {
    let secret = SecretDigest::from_bytes(random()?).to_hex();
    Ok(AccessStatement {
        sql: "INSERT INTO tessera_audit (id, secret) VALUES (1, $1) ON CONFLICT (id) DO NOTHING",
        values: vec![AccessValue::Text(secret)],
        columns: &[],
    })
}

/// Returns the statement that reads the secret.
pub fn secret() -> AccessStatement {
    query("SELECT secret FROM tessera_audit", &[Text])
}

/// Reads the secret.
///
/// # Errors
/// A message that describes the damage.
pub fn read_secret(rows: &[AccessRow]) -> Result<AuditSecret, String> {
    let secret = rows.first().and_then(|row| SecretDigest::parse_hex(text(row, 0)));
    let secret = secret.ok_or("the row of tessera_audit is missing or damaged")?;
    Ok(AuditSecret::new(secret.as_bytes()))
}

/// Returns the statements that store the last line of a log, and delete the stored lines of all
/// logs except the 1,000 that were written last.
pub fn keep_head(head: &AuditHead, now: UnixTime) -> [AccessStatement; 2] {
    let ChainPoint { number, hash } = head.point;
    let keep = AccessStatement {
        sql: "INSERT INTO tessera_audit_heads (log, seq, hash, at) VALUES ($1, $2, $3, $4)
              ON CONFLICT (log) DO UPDATE
              SET seq = excluded.seq, hash = excluded.hash, at = excluded.at
              WHERE tessera_audit_heads.seq <= excluded.seq",
        values: vec![
            AccessValue::Text(head.log.to_string()),
            AccessValue::Number(number.cast_signed()),
            AccessValue::Text(hash.to_string()),
            AccessValue::Text(now.format()),
        ],
        columns: &[],
    };
    // A router without persistent storage begins a new log at each start, so logs accumulate.
    let forget = "DELETE FROM tessera_audit_heads WHERE log NOT IN
                  (SELECT log FROM tessera_audit_heads ORDER BY at DESC, log LIMIT 1000)";
    [keep, query(forget, &[])]
}

/// Returns the statement that reads the last line of every log.
pub fn heads() -> AccessStatement {
    query("SELECT log, seq, hash FROM tessera_audit_heads ORDER BY log", &[Text, Number, Text])
}

/// Reads the last lines.
///
/// # Errors
/// A message that describes the damage.
pub fn read_heads(rows: &[AccessRow]) -> Result<Vec<AuditHead>, String> {
    let head = |row: &AccessRow| {
        let number = u64::try_from(number(row, 1)?).ok()?;
        let point = ChainPoint { number, hash: ChainHash::parse(text(row, 2))? };
        Some(AuditHead { log: text(row, 0).into(), point })
    };
    let damage = || "a row of tessera_audit_heads is damaged".to_owned();
    rows.iter().map(|row| head(row).ok_or_else(damage)).collect()
}

/// Begins a log with a new name.
///
/// # Errors
/// [`Error::Internal`] if the system has no random bytes.
pub fn begin_log() -> Result<AuditChain, Error> {
    Ok(AuditChain::begin(&random()?))
}
