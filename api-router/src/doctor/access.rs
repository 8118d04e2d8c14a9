//! Access: checks the files, keys and roles of access control.
//!
//! **Invariant:** no finding repeats a key, a secret or the content of a file; ids of keys are
//! public.
//! **Not here:** TLS (`doctor`).

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use issuers::config::{IssuerKeys, shown_url};
use issuers::jwks_client::{self, FetchedDocument};
use shard_manager::access::grant::TableSet;
use shard_manager::access::jwt::key_set::{KeySet, SkippedKey};
use shard_manager::access::key_record::{KeyRecord, KeyState};
use shard_manager::access::operation::RowOperations;
use shard_manager::access::role::AccessRole;
use shard_manager::access::unix_time::UnixTime;
use shard_manager::doctor::{Finding, access_of_files, access_of_servers};
use shard_manager::engine::access_store::{self, AccessState};

use crate::access::clock::unix_now;
use crate::access::files::{AccessFiles, FileRecords};
use crate::access::mode_check::ModeError;
use crate::access::watcher::AccessWatcher;
use crate::config::{AccessMode, AuditTarget, Config, Engine};

const ABOUT: &str = "access";
/// Number of days without use after which a key should be revoked.
const UNUSED_DAYS: u32 = 90;
/// Maximum difference between the clocks of this machine and of an issuer that the check of tokens
/// tolerates.
const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(30);
/// Maximum number of names in a finding.
const NAMES_MAX: usize = 5;

/// Runs the checks. Without access control, checks only that the catalog permits a start without
/// it.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let catalog = match &config.engine {
        Engine::Embedded { data_dir } => access_of_files(data_dir),
        Engine::Postgres(cluster) => access_of_servers(cluster).await.map(Some),
    };
    let mode = config.access.mode;
    let known = catalog.as_ref().ok().and_then(Option::as_ref);
    let mut found: Vec<Finding> =
        known.and_then(|state| remembered(mode, state)).into_iter().collect();
    if mode == AccessMode::Off {
        return found;
    }
    let records = match open(config) {
        Ok(records) => records,
        Err(fault) => {
            found.push(fault);
            return found;
        }
    };
    found.push(summary(config, &records, known));
    if let Err(error) = &catalog {
        found
            .push(Finding::warning(ABOUT, format!("the keys of the catalog are unknown: {error}")));
    }
    found.extend(places(config));
    found.extend(issuers(config));
    found.extend(remote_issuers(config).await);
    let keys = known.map_or(&[][..], |state| &state.keys);
    found.extend(examine_keys(records.keys.iter().chain(keys), unix_now()));
    found.extend(examine_roles(&records.roles, known.map_or(&[][..], |state| &state.roles)));
    found
}

/// Returns a fault if a start without access control would be refused, because access control is on
/// according to the catalog.
fn remembered(mode: AccessMode, catalog: &AccessState) -> Option<Finding> {
    let is_refused = mode != AccessMode::On && catalog.mode == access_store::AccessMode::On;
    is_refused.then(|| Finding::fault(ABOUT, ModeError::Remembered(mode)))
}

/// Opens the files of access control as a starting router does.
fn open(config: &Config) -> Result<FileRecords, Finding> {
    AccessWatcher::open(&config.access).map_err(|error| Finding::fault(ABOUT, error))?;
    let files = AccessFiles::read(&config.access);
    let records = files.and_then(|files| files.records(&config.access));
    records.map_err(|error| Finding::fault(ABOUT, error))
}

fn summary(config: &Config, files: &FileRecords, catalog: Option<&AccessState>) -> Finding {
    let (mode, issuers) = (config.access.mode, config.access.issuers.len());
    let (in_files, in_catalog) = (files.keys.len(), catalog.map_or(0, |state| state.keys.len()));
    let found = format!(
        "{}: {in_files} key(s) in files, {in_catalog} in the catalog, {issuers} issuer(s) of tokens",
        mode.name()
    );
    match mode {
        AccessMode::On if in_files + in_catalog + issuers == 0 => Finding::warning(
            ABOUT,
            format!("{found}: all requests that need a right are refused: make a first key"),
        ),
        AccessMode::Observe => Finding::warning(
            ABOUT,
            format!("{found}; nothing is refused: set it to on once the log names no refusals"),
        ),
        AccessMode::On | AccessMode::Off => Finding::good(ABOUT, found),
    }
}

/// Warns of folders in which other users can replace a file of keys, roles, secrets or audit lines.
fn places(config: &Config) -> Vec<Finding> {
    let access = &config.access;
    let of_issuers = access.issuers.iter().filter_map(|issuer| match &issuer.keys {
        IssuerKeys::Jwks(path) | IssuerKeys::Secret(path) => Some(path),
        IssuerKeys::Url(_) => None,
    });
    let audit = match &access.audit.target {
        AuditTarget::File(path) => Some(path),
        AuditTarget::None | AuditTarget::Stderr => None,
    };
    let files = access.keys_file.iter().chain(&access.roles_file).chain(of_issuers).chain(audit);
    let is_open = |folder: &Path| {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        // In a folder with the sticky bit, such as /tmp, users can replace only their own files.
        std::fs::metadata(folder).is_ok_and(|found| found.mode() & 0o1002 == 0o002)
    };
    let warning = |path: &Path| {
        Finding::warning(
            path.display().to_string(),
            "every user may replace it: remove the right of others to write to its folder (chmod o-w)",
        )
    };
    let open = files.filter(|path| path.parent().is_some_and(is_open));
    open.map(|path| warning(path)).collect()
}

/// Checks the JWKS files for keys that cannot be used, and for a modification time in the future.
fn issuers(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    for issuer in &config.access.issuers {
        let IssuerKeys::Jwks(path) = &issuer.keys else { continue };
        let about = path.display().to_string();
        let changed = std::fs::metadata(path).and_then(|file| file.modified());
        if changed.is_ok_and(|changed| changed > SystemTime::now()) {
            found.push(Finding::warning(
                &about,
                "was changed in the future: if the clock of this machine is slow, expired tokens are accepted",
            ));
        }
        let set = std::fs::read(path).ok().and_then(|bytes| KeySet::from_jwks(&bytes).ok());
        found.extend(set.iter().flat_map(|set| skipped_keys(&about, set)));
    }
    found
}

/// Fetches the keys of the issuers that publish them at a URL, and compares the clocks of the
/// issuers with that of this machine.
async fn remote_issuers(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    for issuer in &config.access.issuers {
        let IssuerKeys::Url(url) = &issuer.keys else { continue };
        let asked = url.clone();
        let fetched = tokio::task::spawn_blocking(move || jwks_client::fetch(&asked)).await;
        let fetched = fetched.unwrap_or_else(|error| Err(error.to_string()));
        found.extend(examine_document(shown_url(url), fetched, SystemTime::now()));
    }
    found
}

fn examine_document(
    url: &str,
    fetched: Result<FetchedDocument, String>,
    now: SystemTime,
) -> Vec<Finding> {
    let unusable = |cause: &str| {
        let found = format!("the keys cannot be used, and tokens are refused meanwhile: {cause}");
        vec![Finding::warning(url, found)]
    };
    let document = match fetched {
        Ok(document) => document,
        Err(cause) => return unusable(&cause),
    };
    let set = match KeySet::from_jwks(&document.bytes) {
        Ok(set) => set,
        Err(error) => return unusable(&error.to_string()),
    };
    let mut found = vec![Finding::good(url, format!("{} key(s) of an issuer", set.len()))];
    found.extend(skipped_keys(url, &set));
    let difference = document.date.map(|date| {
        date.duration_since(now).or_else(|_| now.duration_since(date)).unwrap_or_default()
    });
    if let Some(difference) = difference.filter(|difference| *difference > CLOCK_DIFFERENCE_MAX) {
        let seconds = difference.as_secs();
        found.push(Finding::warning(
            url,
            format!("the clocks differ by {seconds} s: tokens are refused too early or accepted too long"),
        ));
    }
    found
}

fn skipped_keys(about: &str, set: &KeySet) -> Vec<Finding> {
    let warning = |key: &SkippedKey| {
        Finding::warning(about, format!("keys[{}] is not used: {}", key.index, key.reason))
    };
    set.skipped().iter().map(warning).collect()
}

/// Warns of usable keys that should be replaced or revoked.
fn examine_keys<'k>(keys: impl Iterator<Item = &'k KeyRecord>, now: UnixTime) -> Vec<Finding> {
    let usable: Vec<&KeyRecord> = keys.filter(|key| key.state(now) == KeyState::Usable).collect();
    let mut found = Vec::new();
    let endless = |key: &&&KeyRecord| &*key.role == AccessRole::ADMIN && key.expires_at.is_none();
    let endless: Vec<&str> = usable.iter().filter(endless).map(|key| key.id.as_str()).collect();
    if !endless.is_empty() {
        let names = list(&endless);
        found.push(Finding::warning(
            ABOUT,
            format!("keys of administrators that never expire: {names}; replace them by keys with --expires"),
        ));
    }
    // A key whose last use is not recorded may be in use.
    let is_unused = |key: &&&KeyRecord| {
        key.used_on.is_some_and(|day| day.saturating_add(UNUSED_DAYS) < now.day())
    };
    let unused: Vec<&str> = usable.iter().filter(is_unused).map(|key| key.id.as_str()).collect();
    if !unused.is_empty() {
        let names = list(&unused);
        found.push(Finding::warning(
            ABOUT,
            format!(
                "keys that were not used for {UNUSED_DAYS} days: {names}; revoke those that are not needed"
            ),
        ));
    }
    found
}

/// Warns of roles that give more than is usually intended. A role in the files replaces the role
/// with the same name in the catalog.
fn examine_roles(of_files: &[AccessRole], of_catalog: &[AccessRole]) -> Vec<Finding> {
    let all = of_catalog.iter().chain(of_files);
    let roles: BTreeMap<&str, &AccessRole> = all.map(|role| (role.name(), role)).collect();
    let mut found = Vec::new();
    let may_write = |role: &&AccessRole| {
        let mut grants = role.grants().iter();
        grants.any(|grant| !grant.operations().without(RowOperations::READ).is_empty())
    };
    if roles.get(AccessRole::ANONYMOUS).is_some_and(may_write) {
        found.push(Finding::warning(
            ABOUT,
            "requests without a key may write: the role anonymous has a grant to insert, update or delete",
        ));
    }
    let has_all_tables = |role: &&&AccessRole| {
        role.is_bound() && role.grants().iter().any(|grant| *grant.tables() == TableSet::All)
    };
    let wide = roles.values().filter(has_all_tables).map(|role| role.name());
    let wide: Vec<&str> = wide.collect();
    if !wide.is_empty() {
        let names = list(&wide);
        found.push(Finding::warning(
            ABOUT,
            format!(
                "roles that are bound to keys and have a grant on every table, also on tables that are made later: \
                 {names}; name the tables"
            ),
        ));
    }
    found
}

/// Joins the first names, and appends the number of the others.
fn list(names: &[&str]) -> String {
    let shown = names[..names.len().min(NAMES_MAX)].join(", ");
    match names.len().checked_sub(NAMES_MAX).filter(|more| *more > 0) {
        Some(more) => format!("{shown} and {more} more"),
        None => shown,
    }
}

#[cfg(test)]
mod tests {
    use shard_manager::access::key::{KeyId, SecretDigest};
    use shard_manager::access::tenant::Tenants;

    use super::*;

    fn key(id: &str, used_on: Option<u32>) -> KeyRecord {
        KeyRecord {
            id: KeyId::parse(id).unwrap(),
            digest: SecretDigest::DUMMY,
            role: "shop".into(),
            tenants: Tenants::default(),
            name: "test".into(),
            made_by: "test".into(),
            made_at: UnixTime::default(),
            expires_at: None,
            revoked_at: None,
            is_suspended: false,
            used_on,
        }
    }

    #[test]
    fn only_usable_keys_with_a_known_last_use_are_unused() {
        let now = UnixTime::from_seconds(200 * 86_400);
        let revoked = KeyRecord { revoked_at: Some(now), ..key("revoked00000", Some(1)) };
        let keys = [
            key("unknown00000", None),
            key("recent000000", Some(110)),
            key("old000000000", Some(109)),
            revoked,
        ];
        let found = examine_keys(keys.iter(), now);
        let texts: Vec<&str> = found.iter().map(|finding| &*finding.text).collect();
        let words = "keys that were not used for 90 days: old000000000; ";
        assert!(matches!(&texts[..], [text] if text.starts_with(words)), "{texts:?}");
    }

    #[test]
    fn a_list_of_names_is_short() {
        assert_eq!(list(&["a", "b"]), "a, b");
        assert_eq!(list(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
    }
}
