//! State: all keys, roles and denials of a catalog in one snapshot, read from its rows.
//!
//! **Invariant:** a key or a role that this program cannot read is left out, so that it gives no
//! rights. A denial that cannot be read is an error, because leaving it out would allow more.
//! **Not here:** the statements (`sql`).

use std::collections::BTreeSet;

use access::denial::{Denial, DenialSubject};
use access::key::{KeyId, SecretDigest};
use access::key_record::KeyRecord;
use access::role::AccessRole;
use access::session::SessionSeed;
use access::snapshot::SnapshotContents;
use access::tenant::Tenants;
use access::unix_time::UnixTime;

use super::mode::AccessMode;
use super::sql::{AccessRow, AccessValue};

/// Keys, roles, denials, mode and session secret of a catalog in one snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessState {
    /// The mode.
    pub mode: AccessMode,
    /// The keys, by id.
    pub keys: Vec<KeyRecord>,
    /// The defined roles, by name, without those that are built in.
    pub roles: Vec<AccessRole>,
    /// The denials.
    pub denials: Vec<Denial>,
    /// Secret of browser sessions, once a router with access control has created it.
    pub sessions: Option<SessionSeed>,
    /// Number that increases with each change; 0 if no state was read yet.
    pub generation: u64,
}

impl AccessState {
    /// Reads a state from the results of [`sql::state`](super::sql::state).
    ///
    /// # Errors
    /// A message that describes the damage.
    pub fn read(results: [Vec<AccessRow>; 5]) -> Result<Self, String> {
        let [control, keys, roles, denials, sessions] = results;
        let mut keys: Vec<KeyRecord> = keys.iter().filter_map(readable_key).collect();
        // A database may sort strings by the rules of a language.
        keys.sort_unstable_by_key(|key| key.id);
        Self::with_keys(keys, [&control, &roles, &denials, &sessions])
    }

    /// Returns this state with the changes since its generation, from the results of
    /// [`sql::changes`](super::sql::changes). Returns `None` if the number of keys would then
    /// differ from that in the catalog, so that all keys must be read again.
    ///
    /// # Errors
    /// A message that describes the damage.
    pub fn with_changes(&self, results: [Vec<AccessRow>; 7]) -> Result<Option<Self>, String> {
        let [control, count, changed, removed, roles, denials, sessions] = results;
        // A changed key that cannot be read loses its rights as well, so its old record is dropped.
        let replaced: BTreeSet<&str> =
            removed.iter().chain(&changed).map(|row| text(row, 0)).collect();
        let kept = self.keys.iter().filter(|key| !replaced.contains(key.id.as_str())).cloned();
        let mut keys: Vec<KeyRecord> =
            kept.chain(changed.iter().filter_map(readable_key)).collect();
        keys.sort_unstable_by_key(|key| key.id);
        let count = count.first().and_then(|row| number(row, 0));
        if count != i64::try_from(keys.len()).ok() {
            return Ok(None);
        }
        Self::with_keys(keys, [&control, &roles, &denials, &sessions]).map(Some)
    }

    fn with_keys(
        keys: Vec<KeyRecord>,
        [control, roles, denials, sessions]: [&[AccessRow]; 4],
    ) -> Result<Self, String> {
        let (mode, generation) = read_control(control)?;
        let parsed = |role: &AccessRow| {
            let parsed = AccessRole::parse(text(role, 1));
            let warn = |error: &access::role::RoleError| {
                tracing::warn!(role = text(role, 0), %error, "a role cannot be read, and gives no rights");
            };
            parsed.inspect_err(warn).ok()
        };
        Ok(Self {
            mode,
            keys,
            roles: roles.iter().filter_map(parsed).collect(),
            denials: read_denials(denials)?,
            sessions: sessions.first().and_then(read_sessions),
            generation,
        })
    }

    /// Returns the contents for a snapshot that is current at the time `read_at`.
    pub fn contents(&self, read_at: UnixTime) -> SnapshotContents {
        SnapshotContents {
            keys: self.keys.clone(),
            roles: self.roles.clone(),
            denials: self.denials.clone(),
            generation: self.generation,
            read_at,
        }
    }
}

/// Reads the result of [`sql::control`](super::sql::control).
pub(super) fn read_control(rows: &[AccessRow]) -> Result<(AccessMode, u64), String> {
    let damaged = || "the row of tessera_access is missing or damaged".to_owned();
    let row = rows.first().ok_or_else(damaged)?;
    let mode = AccessMode::find(text(row, 0)).ok_or_else(damaged)?;
    let generation = number(row, 1).and_then(|number| u64::try_from(number).ok());
    Ok((mode, generation.ok_or_else(damaged)?))
}

/// Reads the session secret; `None` if none is stored.
fn read_sessions(row: &AccessRow) -> Option<SessionSeed> {
    let generation = number(row, 1).and_then(|number| u64::try_from(number).ok())?;
    SessionSeed::parse_hex(text(row, 0), generation)
}

/// Reads the row of a key, and logs a warning if this program cannot read it.
fn readable_key(row: &AccessRow) -> Option<KeyRecord> {
    let record = read_key(row);
    if record.is_none() {
        tracing::warn!(key = text(row, 0), "a key cannot be read, and is refused");
    }
    record
}

/// Reads the row of a key; `None` if this program cannot read it.
pub(super) fn read_key(row: &AccessRow) -> Option<KeyRecord> {
    let tenants: Vec<String> = serde_json::from_str(text(row, 3)).ok()?;
    Some(KeyRecord {
        id: KeyId::parse(text(row, 0))?,
        digest: SecretDigest::parse_hex(text(row, 1))?,
        role: text(row, 2).into(),
        tenants: Tenants::parse(tenants.iter().map(String::as_str)).ok()?,
        name: text(row, 4).into(),
        made_by: text(row, 5).into(),
        made_at: time(row, 6)?,
        expires_at: optional_time(row, 7)?,
        revoked_at: optional_time(row, 8)?,
        is_suspended: number(row, 9) != Some(0),
        used_on: number(row, 10).and_then(|day| u32::try_from(day).ok()),
    })
}

/// Reads the rows of all denials.
pub(super) fn read_denials(rows: &[AccessRow]) -> Result<Vec<Denial>, String> {
    let read = |row: &AccessRow| {
        let (issuer, subject) = (text(row, 1), text(row, 2));
        let subject = match text(row, 0) {
            "token" => DenialSubject::TokenId { issuer: issuer.into(), id: subject.into() },
            "subject" => DenialSubject::Subject { issuer: issuer.into(), subject: subject.into() },
            "tenant" => DenialSubject::Tenant(subject.into()),
            "issued_before" => DenialSubject::IssuedBefore {
                issuer: issuer.into(),
                time: UnixTime::from_seconds(subject.parse().ok()?),
            },
            _ => return None,
        };
        Some(Denial { subject, until: time(row, 3) })
    };
    let all: Option<Vec<Denial>> = rows.iter().map(read).collect();
    all.ok_or_else(|| "a row of tessera_access_denials cannot be read".to_owned())
}

pub(super) fn text(row: &AccessRow, column: usize) -> &str {
    match row.get(column) {
        Some(AccessValue::Text(text)) => text,
        Some(AccessValue::Number(_) | AccessValue::NoNumber) | None => "",
    }
}

pub(super) fn number(row: &AccessRow, column: usize) -> Option<i64> {
    match row.get(column) {
        Some(AccessValue::Number(number)) => Some(*number),
        Some(AccessValue::Text(_) | AccessValue::NoNumber) | None => None,
    }
}

/// Returns the time of a column that may be NULL; `None` if the column holds neither a time nor
/// NULL.
fn optional_time(row: &AccessRow, column: usize) -> Option<Option<UnixTime>> {
    match row.get(column) {
        Some(AccessValue::NoNumber) => Some(None),
        Some(AccessValue::Number(_) | AccessValue::Text(_)) | None => time(row, column).map(Some),
    }
}

fn time(row: &AccessRow, column: usize) -> Option<UnixTime> {
    let seconds = u64::try_from(number(row, column)?).ok()?;
    Some(UnixTime::from_seconds(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> AccessRow {
        words.iter().map(|word| AccessValue::Text((*word).to_owned())).collect()
    }

    /// Returns the row of a key with these tenants, in JSON.
    fn key(tenants: &str) -> AccessRow {
        let digest = "0".repeat(64);
        let mut row = words(&["4fKq0ZxY81Ab", &digest, "shop", tenants, "name", "admin"]);
        row.extend([AccessValue::Number(1), AccessValue::NoNumber, AccessValue::NoNumber]);
        row.extend([AccessValue::Number(0), AccessValue::NoNumber]);
        row
    }

    fn control(generation: i64) -> Vec<AccessRow> {
        let mut row = words(&["on"]);
        row.push(AccessValue::Number(generation));
        vec![row]
    }

    /// Returns the state after the change of one key, of which there is one in the catalog.
    fn changed(base: &AccessState, tenants: &str) -> Option<AccessState> {
        let count = vec![vec![AccessValue::Number(1)]];
        let [removed, roles, denials, sessions] = [const { Vec::new() }; 4];
        let results = [control(2), count, vec![key(tenants)], removed, roles, denials, sessions];
        base.with_changes(results).expect("the other rows are readable")
    }

    #[test]
    fn a_changed_key_that_cannot_be_read_does_not_keep_its_old_rights() {
        let [roles, denials, sessions] = [const { Vec::new() }; 3];
        let base = [control(1), vec![key(r#"["acme"]"#)], roles, denials, sessions];
        let base = AccessState::read(base).expect("a state");
        assert_eq!(base.keys.len(), 1);
        let readable = changed(&base, r#"["zeta"]"#).expect("the key is readable");
        assert_eq!((readable.keys.len(), readable.generation), (1, 2));
        assert_ne!(readable.keys, base.keys);
        assert_eq!(changed(&base, "?"), None, "all keys are read again");
    }
}
