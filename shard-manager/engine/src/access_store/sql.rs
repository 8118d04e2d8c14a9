//! SQL of the access tables, which SQLite and PostgreSQL both understand.
//!
//! **Invariant:** parameters are numbered in the order in which they first appear, as SQLite
//! numbers them. Values are always bound.
//! **Not here:** running a statement (the engines), transactions and locks.

use access::denial::{Denial, DenialSubject};
use access::key::KeyId;
use access::key_record::KeyRecord;
use access::session::SessionSeed;
use access::unix_time::UnixTime;

use super::change::AccessChange;
use super::dead_keys::dead_before;
use AccessColumn::{Number, Text};

/// Maximum number of lines of the change log that stay stored.
const LOG_LINES_MAX: i64 = 100_000;

/// Value of a parameter of a statement, or of a column of a result.
#[derive(Clone, PartialEq, Eq)]
pub enum AccessValue {
    /// Text.
    Text(String),
    /// Number of 64 bits.
    Number(i64),
    /// NULL in a column of numbers.
    NoNumber,
}

/// Type of a column of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessColumn {
    /// Text, never NULL.
    Text,
    /// Number of 64 bits, or NULL.
    Number,
}

/// Row of a result.
pub type AccessRow = Vec<AccessValue>;

/// Statement with its values. The type does not implement `Debug`, because the digest of a key or
/// the session secret may be among the values.
pub struct AccessStatement {
    /// SQL text of the statement.
    pub sql: &'static str,
    /// Values of its parameters, in their order.
    pub values: Vec<AccessValue>,
    /// Columns of its result.
    pub columns: &'static [AccessColumn],
}

impl AccessStatement {
    fn query(sql: &'static str, columns: &'static [AccessColumn]) -> Self {
        Self { sql, values: Vec::new(), columns }
    }

    fn with(self, values: impl IntoIterator<Item = AccessValue>) -> Self {
        Self { values: values.into_iter().collect(), ..self }
    }

    fn work(sql: &'static str, values: impl IntoIterator<Item = AccessValue>) -> Self {
        Self { sql, values: values.into_iter().collect(), columns: &[] }
    }
}

/// Columns of a key.
macro_rules! key_columns {
    () => {
        "SELECT id, digest, role, tenants, name, made_by, made_at, expires_at, revoked_at, \
         suspended, used_on FROM tessera_access_keys"
    };
}

const KEY_COLUMNS: &[AccessColumn] =
    &[Text, Text, Text, Text, Text, Text, Number, Number, Number, Number, Number];

/// Returns the statement that reads the mode and the generation.
pub fn control() -> AccessStatement {
    AccessStatement::query("SELECT mode, generation FROM tessera_access", &[Text, Number])
}

/// Returns the statement that reads the session secret, which is empty until one is stored.
fn sessions() -> AccessStatement {
    let sql = "SELECT session_secret, session_generation FROM tessera_access";
    AccessStatement::query(sql, &[Text, Number])
}

fn roles() -> AccessStatement {
    let sql = "SELECT name, document FROM tessera_access_roles ORDER BY name";
    AccessStatement::query(sql, &[Text, Text])
}

fn denials() -> AccessStatement {
    let sql = "SELECT kind, issuer, subject, void_at FROM tessera_access_denials
        ORDER BY kind, issuer, subject";
    AccessStatement::query(sql, &[Text, Text, Text, Number])
}

/// Returns the statements that read the complete state, in the order that
/// [`AccessState::read`](super::AccessState::read) expects.
pub fn state() -> [AccessStatement; 5] {
    let keys = AccessStatement::query(concat!(key_columns!(), " ORDER BY id"), KEY_COLUMNS);
    [control(), keys, roles(), denials(), sessions()]
}

/// Returns the statements that read what has changed since a generation, in the order that
/// [`AccessState::with_changes`](super::AccessState::with_changes) expects. Only a catalog that
/// keeps the generation of each key can run them.
pub fn changes(since: u64) -> [AccessStatement; 7] {
    let since = || [AccessValue::Number(since.cast_signed())];
    let count = "SELECT count(*) FROM tessera_access_keys";
    let changed = concat!(key_columns!(), " WHERE changed > $1 ORDER BY id");
    let removed = "SELECT id FROM tessera_access_removed_keys WHERE changed > $1 ORDER BY id";
    [
        control(),
        AccessStatement::query(count, &[Number]),
        AccessStatement::query(changed, KEY_COLUMNS).with(since()),
        AccessStatement::query(removed, &[Text]).with(since()),
        roles(),
        denials(),
        sessions(),
    ]
}

/// Returns the statements that read the facts about a change, in the order that
/// [`AccessFacts::read`](super::AccessFacts::read) expects. Keys that the change deletes because
/// they were revoked or have expired long ago are only counted.
pub fn facts(change: &AccessChange, now: UnixTime) -> [AccessStatement; 8] {
    let (id, role) = match change {
        AccessChange::CreateKey(key) => (key.id.to_string(), ""),
        AccessChange::RevokeKey(id)
        | AccessChange::ResumeKey(id)
        | AccessChange::RotateKey { id, .. } => (id.to_string(), ""),
        AccessChange::RemoveRole(name) => (String::new(), &**name),
        AccessChange::SuspendAllKeys
        | AccessChange::PutRoles(_)
        | AccessChange::PutDenial(_)
        | AccessChange::RemoveDenial(_)
        | AccessChange::SetMode(_)
        | AccessChange::ReplaceSessionSecret(_) => (String::new(), ""),
    };
    let dead_before = || time(dead_before(now));
    let count = "SELECT count(*) FROM tessera_access_keys
        WHERE (revoked_at IS NULL OR revoked_at >= $1) AND (expires_at IS NULL OR expires_at >= $1)";
    let of_role = "SELECT count(*) FROM tessera_access_keys
        WHERE role = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at >= $2)";
    let named = concat!(
        key_columns!(),
        " WHERE id = $1 AND (revoked_at IS NULL OR revoked_at >= $2)
            AND (expires_at IS NULL OR expires_at >= $2)"
    );
    let dead = "SELECT count(*) FROM tessera_access_keys WHERE revoked_at < $1 OR expires_at < $1";
    let admins =
        concat!(key_columns!(), " WHERE role = 'admin' AND revoked_at IS NULL AND suspended = 0");
    [
        control(),
        AccessStatement::query(count, &[Number]).with([dead_before()]),
        AccessStatement::query(named, KEY_COLUMNS).with([AccessValue::Text(id), dead_before()]),
        AccessStatement::query(admins, KEY_COLUMNS),
        AccessStatement::query(of_role, &[Number]).with([text(role), dead_before()]),
        roles(),
        denials(),
        AccessStatement::query(dead, &[Number]).with([dead_before()]),
    ]
}

/// Returns the statement that removes the keys that were revoked or have expired before a time.
pub(super) fn remove_dead_keys(before: UnixTime) -> AccessStatement {
    let sql = "DELETE FROM tessera_access_keys WHERE revoked_at < $1 OR expires_at < $1";
    AccessStatement::work(sql, [time(before)])
}

fn text(value: &str) -> AccessValue {
    AccessValue::Text(value.to_owned())
}

fn time(value: UnixTime) -> AccessValue {
    AccessValue::Number(value.seconds().cast_signed())
}

fn maybe(value: Option<UnixTime>) -> AccessValue {
    value.map_or(AccessValue::NoNumber, time)
}

/// Returns the statement that stores a key.
pub(super) fn insert_key(key: &KeyRecord) -> AccessStatement {
    let tenants: Vec<&str> = key.tenants.as_slice().iter().map(|tenant| &**tenant).collect();
    let tenants = serde_json::to_string(&tenants).expect("texts always serialise");
    AccessStatement::work(
        "INSERT INTO tessera_access_keys (id, digest, role, tenants, name, made_by, made_at,
            expires_at, revoked_at, suspended, used_on)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, NULL, 0, NULL)",
        [
            text(key.id.as_str()),
            AccessValue::Text(key.digest.to_hex()),
            text(&key.role),
            AccessValue::Text(tenants),
            text(&key.name),
            text(&key.made_by),
            time(key.made_at),
            maybe(key.expires_at),
        ],
    )
}

/// Returns the statement that stores the state of a key.
pub(super) fn update_key(key: &KeyRecord) -> AccessStatement {
    AccessStatement::work(
        "UPDATE tessera_access_keys SET expires_at = $1, revoked_at = $2, suspended = $3
         WHERE id = $4",
        [
            maybe(key.expires_at),
            maybe(key.revoked_at),
            AccessValue::Number(key.is_suspended.into()),
            text(key.id.as_str()),
        ],
    )
}

/// Returns the statement that suspends every key.
pub fn suspend_keys() -> AccessStatement {
    AccessStatement::work("UPDATE tessera_access_keys SET suspended = 1 WHERE suspended = 0", [])
}

pub(super) fn put_role(name: &str, document: String) -> AccessStatement {
    AccessStatement::work(
        "INSERT INTO tessera_access_roles (name, document) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET document = excluded.document",
        [text(name), AccessValue::Text(document)],
    )
}

pub(super) fn remove_role(name: &str) -> AccessStatement {
    AccessStatement::work("DELETE FROM tessera_access_roles WHERE name = $1", [text(name)])
}

/// Returns the columns `kind`, `issuer` and `subject` of a denial.
pub(super) fn denial_columns(subject: &DenialSubject) -> [String; 3] {
    match subject {
        DenialSubject::TokenId { issuer, id } => ["token", issuer, id].map(str::to_owned),
        DenialSubject::Subject { issuer, subject } => {
            ["subject", issuer, subject].map(str::to_owned)
        }
        DenialSubject::Tenant(tenant) => ["tenant", "", tenant].map(str::to_owned),
        DenialSubject::IssuedBefore { issuer, time } => {
            ["issued_before".to_owned(), issuer.to_string(), time.seconds().to_string()]
        }
    }
}

pub(super) fn put_denial(denial: &Denial) -> AccessStatement {
    let columns = denial_columns(&denial.subject).map(AccessValue::Text);
    AccessStatement::work(
        "INSERT INTO tessera_access_denials (kind, issuer, subject, void_at)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT (kind, issuer, subject) DO UPDATE SET void_at = excluded.void_at",
        columns.into_iter().chain([maybe(denial.until)]),
    )
}

pub(super) fn remove_denial(subject: &DenialSubject) -> AccessStatement {
    AccessStatement::work(
        "DELETE FROM tessera_access_denials WHERE kind = $1 AND issuer = $2 AND subject = $3",
        denial_columns(subject).map(AccessValue::Text),
    )
}

/// Returns the statement that deletes the denials that have ended by this time.
pub(super) fn remove_ended_denials(now: UnixTime) -> AccessStatement {
    let sql = "DELETE FROM tessera_access_denials WHERE void_at <= $1";
    AccessStatement::work(sql, [time(now)])
}

pub(super) fn set_control(mode: &str, generation: u64) -> AccessStatement {
    let generation = AccessValue::Number(generation.cast_signed());
    AccessStatement::work(
        "UPDATE tessera_access SET mode = $1, generation = $2",
        [text(mode), generation],
    )
}

/// Returns the statement that stores the number of a flush of usage counts. The statement returns a
/// row unless this flush or a later one is already stored.
pub(super) fn begin_flush(day: u32, process: String, number: u64) -> AccessStatement {
    let sql = "INSERT INTO tessera_access_usage (day, caller, rows) VALUES ($1, $2, $3)
         ON CONFLICT (day, caller) DO UPDATE SET rows = excluded.rows
         WHERE tessera_access_usage.rows < excluded.rows RETURNING rows";
    AccessStatement::query(sql, &[Number]).with([
        AccessValue::Number(day.into()),
        AccessValue::Text(process),
        AccessValue::Number(number.cast_signed()),
    ])
}

/// Returns the statement that adds to the number of rows of an API client.
pub(super) fn add_rows(day: u32, caller: &str, rows: u64) -> AccessStatement {
    let sql = "INSERT INTO tessera_access_usage (day, caller, rows) VALUES ($1, $2, $3)
         ON CONFLICT (day, caller)
         DO UPDATE SET rows = tessera_access_usage.rows + excluded.rows";
    let rows = AccessValue::Number(rows.cast_signed());
    AccessStatement::work(sql, [AccessValue::Number(day.into()), text(caller), rows])
}

/// Returns the statement that reads the highest sums of a day. Their number is limited to the
/// maximum number of keys.
pub fn usage(day: u32) -> AccessStatement {
    let sql = "SELECT caller, rows FROM tessera_access_usage WHERE day = $1
        ORDER BY rows DESC LIMIT 100000";
    AccessStatement::query(sql, &[Text, Number]).with([AccessValue::Number(day.into())])
}

/// Returns the statement that removes the sums of days before this one.
pub(super) fn remove_rows_before(day: u32) -> AccessStatement {
    let sql = "DELETE FROM tessera_access_usage WHERE day < $1";
    AccessStatement::work(sql, [AccessValue::Number(day.into())])
}

/// Returns the statement that stores the last day on which a key was used.
pub(super) fn mark_key(id: KeyId, day: u32) -> AccessStatement {
    AccessStatement::work(
        "UPDATE tessera_access_keys SET used_on = $1
         WHERE id = $2 AND (used_on IS NULL OR used_on < $1)",
        [AccessValue::Number(day.into()), text(id.as_str())],
    )
}

pub(super) fn put_session_secret(seed: &SessionSeed) -> AccessStatement {
    let generation = AccessValue::Number(seed.generation().cast_signed());
    AccessStatement::work(
        "UPDATE tessera_access SET session_secret = $1, session_generation = $2",
        [AccessValue::Text(seed.to_hex()), generation],
    )
}

/// Returns the statement that removes all but the last [`LOG_LINES_MAX`] lines of the log.
pub(super) fn remove_old_lines() -> AccessStatement {
    let sql = "DELETE FROM tessera_access_log
        WHERE number <= (SELECT max(number) FROM tessera_access_log) - $1";
    AccessStatement::work(sql, [AccessValue::Number(LOG_LINES_MAX)])
}

/// Line of the log of changes.
pub(super) struct LogLine {
    pub(super) kind: &'static str,
    pub(super) id: String,
    pub(super) what: String,
}

pub(super) fn log(line: LogLine, author: &str, now: UnixTime) -> AccessStatement {
    AccessStatement::work(
        "INSERT INTO tessera_access_log (at, author, kind, id, what)
         VALUES ($1, $2, $3, $4, $5)",
        [
            AccessValue::Text(now.format()),
            text(author),
            text(line.kind),
            AccessValue::Text(line.id),
            AccessValue::Text(line.what),
        ],
    )
}
