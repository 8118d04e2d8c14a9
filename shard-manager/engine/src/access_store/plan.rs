//! Plan: checks a change against the rules, and returns the statements that carry it out.
//!
//! **Invariant:** a plan ends with log entries for everything that it changes, and with a new
//! generation. A change of several keys at once has a single log entry. Only a change from the
//! command line may remove the last usable key of an administrator, because without such a key no
//! key can be created over HTTP.
//! **Not here:** the rights of the author.

use std::collections::BTreeMap;

use access::denial::{Denial, DenialSubject, Denials};
use access::key::{KeyId, SecretDigest};
use access::key_record::{KeyRecord, KeyState};
use access::role::AccessRole;
use access::snapshot::Snapshot;
use access::tenant::Tenants;
use access::unix_time::UnixTime;

use super::change::{AccessChange, ChangeAuthor, NewKey};
use super::dead_keys::dead_before;
use super::mode::AccessMode;
use super::refusal::AccessRefusal;
use super::sql::{self, AccessRow, AccessStatement, LogLine};
use super::state::{number, read_control, read_denials, read_key, text};

/// Maximum number of denials that have not ended. A denial that has ended stays stored until
/// another denial is added.
pub(super) const DENIALS_MAX: usize = 10_000;
/// Maximum length in bytes of the issuer, the subject or the token id of a denial. The length is
/// limited because PostgreSQL indexes them together.
pub(super) const DENIAL_TEXT_MAX: usize = 1_000;
/// Maximum number of characters of a name that a message repeats.
const SHOWN_MAX: usize = 80;

/// Facts about a catalog that are needed to check a change, read while the catalog is locked.
#[derive(Debug)]
pub struct AccessFacts {
    mode: AccessMode,
    generation: u64,
    key_count: u64,
    /// Key that the change names.
    named: Option<KeyRecord>,
    /// Keys of administrators that are neither revoked nor suspended.
    admins: Vec<KeyRecord>,
    /// Number of keys that are not revoked and have the role that the change removes.
    keys_of_role: u64,
    /// Defined roles by name; `None` for a role that this program cannot read.
    roles: BTreeMap<String, Option<AccessRole>>,
    denials: Vec<Denial>,
    /// Number of keys to delete, because they were revoked or have expired long ago.
    dead_keys: u64,
}

impl AccessFacts {
    /// Reads facts from the results of [`sql::facts`].
    ///
    /// # Errors
    /// A message that describes the damage.
    pub fn read(results: [Vec<AccessRow>; 8]) -> Result<Self, String> {
        let [control, key_count, named, admins, keys_of_role, roles, denials, dead_keys] = results;
        let (mode, generation) = read_control(&control)?;
        let count = |rows: &[AccessRow]| {
            let counted = rows.first().and_then(|row| number(row, 0));
            counted.and_then(|count| u64::try_from(count).ok()).unwrap_or_default()
        };
        let named = match named.first() {
            Some(row) => {
                Some(read_key(row).ok_or_else(|| "the row of the key cannot be read".to_owned())?)
            }
            None => None,
        };
        let role =
            |row: &AccessRow| (text(row, 0).to_owned(), AccessRole::parse(text(row, 1)).ok());
        Ok(Self {
            mode,
            generation,
            key_count: count(&key_count),
            named,
            admins: admins.iter().filter_map(read_key).collect(),
            keys_of_role: count(&keys_of_role),
            roles: roles.iter().map(role).collect(),
            denials: read_denials(&denials)?,
            dead_keys: count(&dead_keys),
        })
    }

    fn named(&self, id: KeyId) -> Result<&KeyRecord, AccessRefusal> {
        self.named.as_ref().filter(|key| key.id == id).ok_or(AccessRefusal::NoSuchKey(id))
    }

    fn check_room_for_key(&self) -> Result<(), AccessRefusal> {
        if self.key_count >= Snapshot::KEYS_MAX as u64 {
            return Err(AccessRefusal::TooManyKeys { count: self.key_count });
        }
        Ok(())
    }

    /// Checks that a role exists and accepts these tenants.
    fn check_role(&self, name: &str, tenants: &Tenants) -> Result<(), AccessRefusal> {
        let built_in = || AccessRole::built_in().into_iter().find(|role| role.name() == name);
        let role = match self.roles.get(name) {
            Some(Some(role)) => role.clone(),
            Some(None) => return Err(AccessRefusal::UnreadableRole(shown(name))),
            None => built_in().ok_or_else(|| self.no_such_role(name))?,
        };
        Ok(tenants.check_separators(role.separators())?)
    }

    fn no_such_role(&self, name: &str) -> AccessRefusal {
        let built_in = AccessRole::built_in();
        let built_in = built_in.iter().map(AccessRole::name);
        let mut known: Vec<&str> = built_in.chain(self.roles.keys().map(String::as_str)).collect();
        known.dedup();
        AccessRefusal::NoSuchRole { role: shown(name), known: known.join(", ") }
    }

    /// Returns true if an administrator has a usable key that these denials do not block and for
    /// which `remains` returns true.
    fn has_admin(
        &self,
        denials: &[Denial],
        now: UnixTime,
        remains: impl Fn(&KeyRecord) -> bool,
    ) -> bool {
        let denials = Denials::new(denials.iter().cloned());
        let is_usable = |key: &&KeyRecord| {
            let denied_until = denials.tenants_denied_until(&key.tenants);
            key.state(now) == KeyState::Usable && denied_until.is_none_or(|until| until <= now)
        };
        self.admins.iter().filter(is_usable).any(remains)
    }

    /// Fails if no administrator would have a usable key after the change, although an
    /// administrator has one now. Changes from the command line are always allowed.
    fn check_last_admin(
        &self,
        change: &AccessChange,
        author: &ChangeAuthor,
        now: UnixTime,
    ) -> Result<(), AccessRefusal> {
        if *author == ChangeAuthor::CommandLine || !self.has_admin(&self.denials, now, |_| true) {
            return Ok(());
        }
        let remains = match change {
            AccessChange::RevokeKey(id) => self.has_admin(&self.denials, now, |key| key.id != *id),
            AccessChange::SuspendAllKeys => false,
            AccessChange::PutDenial(denial) => {
                let denials = [self.denials.as_slice(), std::slice::from_ref(denial)].concat();
                self.has_admin(&denials, now, |_| true)
            }
            AccessChange::CreateKey(_)
            | AccessChange::RotateKey { .. }
            | AccessChange::ResumeKey(_)
            | AccessChange::PutRoles(_)
            | AccessChange::RemoveRole(_)
            | AccessChange::RemoveDenial(_)
            | AccessChange::SetMode(_)
            | AccessChange::ReplaceSessionSecret(_) => true,
        };
        if remains { Ok(()) } else { Err(AccessRefusal::LastAdmin) }
    }
}

/// Statements that carry out a change that no rule forbids.
pub struct ChangePlan {
    /// The statements, in their order.
    pub statements: Vec<AccessStatement>,
    /// The generation that the statements begin.
    pub generation: u64,
}

/// Checks a change, and returns the statements that carry it out.
///
/// # Errors
/// [`AccessRefusal`] if a rule forbids the change.
pub fn plan(
    change: &AccessChange,
    facts: &AccessFacts,
    author: &ChangeAuthor,
    now: UnixTime,
) -> Result<ChangePlan, AccessRefusal> {
    facts.check_last_admin(change, author, now)?;
    let mut steps = Steps { statements: Vec::new(), lines: Vec::new(), mode: facts.mode };
    steps.remove_dead_keys(facts, now);
    match change {
        AccessChange::CreateKey(key) => steps.create_key(key, facts, author, now)?,
        AccessChange::RevokeKey(id) => steps.revoke_key(facts.named(*id)?, now)?,
        AccessChange::RotateKey { id, successor, digest, overlap_s } => {
            let new = (*successor, *digest);
            facts.check_room_for_key()?;
            steps.rotate_key(facts.named(*id)?, new, *overlap_s, (author, now))?;
        }
        AccessChange::ResumeKey(id) => steps.resume_key(facts.named(*id)?)?,
        AccessChange::SuspendAllKeys => {
            steps.statements.push(sql::suspend_keys());
            steps.line("key", "*", "all were suspended");
        }
        AccessChange::PutRoles(roles) => steps.put_roles(roles, facts)?,
        AccessChange::RemoveRole(name) => steps.remove_role(name, facts)?,
        AccessChange::PutDenial(denial) => steps.put_denial(denial, facts, now)?,
        AccessChange::RemoveDenial(subject) => steps.remove_denial(subject, facts)?,
        AccessChange::SetMode(mode) => steps.set_mode(*mode, author)?,
        AccessChange::ReplaceSessionSecret(seed) => {
            let seed = seed.of_generation(facts.generation + 1);
            steps.statements.push(sql::put_session_secret(&seed));
            steps.line("key", "*", "all sessions of browsers were ended");
        }
    }
    let generation = facts.generation + 1;
    let Steps { mut statements, lines, mode } = steps;
    let author = author.to_string();
    statements.extend(lines.into_iter().map(|line| sql::log(line, &author, now)));
    statements.push(sql::remove_old_lines());
    statements.push(sql::set_control(mode.name(), generation));
    Ok(ChangePlan { statements, generation })
}

/// Parts of a plan under construction.
struct Steps {
    statements: Vec<AccessStatement>,
    lines: Vec<LogLine>,
    mode: AccessMode,
}

impl Steps {
    fn line(&mut self, kind: &'static str, id: impl ToString, what: impl ToString) {
        self.lines.push(LogLine { kind, id: id.to_string(), what: what.to_string() });
    }

    fn remove_dead_keys(&mut self, facts: &AccessFacts, now: UnixTime) {
        if facts.dead_keys == 0 {
            return;
        }
        let before = dead_before(now);
        self.statements.push(sql::remove_dead_keys(before));
        let (count, before) = (facts.dead_keys, before.format());
        let what = format!("removed: {count} that were revoked or had expired before {before}");
        self.line("key", "*", what);
    }

    fn create_key(
        &mut self,
        key: &NewKey,
        facts: &AccessFacts,
        author: &ChangeAuthor,
        now: UnixTime,
    ) -> Result<(), AccessRefusal> {
        if facts.named.is_some() {
            return Err(AccessRefusal::KeyExists(key.id));
        }
        if !KeyRecord::is_name(&key.name) {
            return Err(AccessRefusal::Name);
        }
        if key.expires_at.is_some_and(|expires_at| expires_at <= now) {
            return Err(AccessRefusal::Expired);
        }
        facts.check_role(&key.role, &key.tenants)?;
        facts.check_room_for_key()?;
        let record = KeyRecord {
            id: key.id,
            digest: key.digest,
            role: key.role.clone(),
            tenants: key.tenants.clone(),
            name: key.name.clone(),
            made_by: author.to_string().into(),
            made_at: now,
            expires_at: key.expires_at,
            revoked_at: None,
            is_suspended: false,
            used_on: None,
        };
        self.statements.push(sql::insert_key(&record));
        self.line("key", key.id, format!("created: {}", description(&record)));
        Ok(())
    }

    fn revoke_key(&mut self, key: &KeyRecord, now: UnixTime) -> Result<(), AccessRefusal> {
        if key.revoked_at.is_some() {
            return Err(AccessRefusal::KeyState { id: key.id, state: "is revoked already" });
        }
        self.statements.push(sql::update_key(&KeyRecord { revoked_at: Some(now), ..key.clone() }));
        self.line("key", key.id, "revoked");
        Ok(())
    }

    fn rotate_key(
        &mut self,
        key: &KeyRecord,
        (successor, digest): (KeyId, SecretDigest),
        overlap_s: u64,
        (author, now): (&ChangeAuthor, UnixTime),
    ) -> Result<(), AccessRefusal> {
        let state = match key.state(now) {
            KeyState::Usable => None,
            KeyState::Expired => Some("has expired: create another one"),
            KeyState::Revoked => Some("is revoked: create another one"),
            KeyState::Suspended => Some("is suspended: resume it first"),
        };
        if let Some(state) = state {
            return Err(AccessRefusal::KeyState { id: key.id, state });
        }
        let end = now.plus(overlap_s);
        let old_end = key.expires_at.map_or(end, |expires_at| expires_at.min(end));
        let new = KeyRecord {
            id: successor,
            digest,
            made_by: author.to_string().into(),
            made_at: now,
            expires_at: key.expires_at.map(|end| now.plus(end.since(key.made_at))),
            used_on: None,
            ..key.clone()
        };
        self.statements.push(sql::insert_key(&new));
        self.statements
            .push(sql::update_key(&KeyRecord { expires_at: Some(old_end), ..key.clone() }));
        let ends = old_end.format();
        self.line("key", key.id, format!("rotated: {successor} follows; expires {ends}"));
        self.line(
            "key",
            successor,
            format!("created in place of {}: {}", key.id, description(&new)),
        );
        Ok(())
    }

    fn resume_key(&mut self, key: &KeyRecord) -> Result<(), AccessRefusal> {
        let state = match key {
            KeyRecord { revoked_at: Some(_), .. } => Some("is revoked"),
            KeyRecord { is_suspended: false, .. } => Some("is not suspended"),
            _ => None,
        };
        if let Some(state) = state {
            return Err(AccessRefusal::KeyState { id: key.id, state });
        }
        self.statements.push(sql::update_key(&KeyRecord { is_suspended: false, ..key.clone() }));
        self.line("key", key.id, "resumed");
        Ok(())
    }

    fn put_roles(
        &mut self,
        roles: &[AccessRole],
        facts: &AccessFacts,
    ) -> Result<(), AccessRefusal> {
        let is_new = |role: &&AccessRole| !facts.roles.contains_key(role.name());
        let count = facts.roles.len() + roles.iter().filter(is_new).count();
        if count > Snapshot::ROLES_MAX {
            return Err(AccessRefusal::TooManyRoles { count });
        }
        for role in roles {
            if AccessRole::is_reserved(role.name()) {
                return Err(AccessRefusal::ReservedRole(role.name().to_owned()));
            }
            let document = role.to_json();
            let verb = if is_new(&role) { "defined" } else { "replaced" };
            self.line("role", role.name(), format!("{verb}: {document}"));
            self.statements.push(sql::put_role(role.name(), document));
        }
        Ok(())
    }

    fn remove_role(&mut self, name: &str, facts: &AccessFacts) -> Result<(), AccessRefusal> {
        if AccessRole::is_reserved(name) {
            return Err(AccessRefusal::ReservedRole(name.to_owned()));
        }
        if !facts.roles.contains_key(name) {
            return Err(facts.no_such_role(name));
        }
        // The role for requests without credentials falls back to its built-in meaning if its
        // definition is removed.
        if facts.keys_of_role > 0 && name != AccessRole::ANONYMOUS {
            let (role, keys) = (name.to_owned(), facts.keys_of_role);
            return Err(AccessRefusal::RoleInUse { role, keys });
        }
        self.statements.push(sql::remove_role(name));
        self.line("role", name, "removed");
        Ok(())
    }

    /// Stores a denial, and deletes the denials that have ended.
    fn put_denial(
        &mut self,
        denial: &Denial,
        facts: &AccessFacts,
        now: UnixTime,
    ) -> Result<(), AccessRefusal> {
        let is_good =
            |text: &String| text.len() <= DENIAL_TEXT_MAX && !text.chars().any(char::is_control);
        if !sql::denial_columns(&denial.subject).iter().all(is_good) {
            return Err(AccessRefusal::DenialText);
        }
        let (ended, lasting): (Vec<_>, Vec<_>) =
            facts.denials.iter().partition(|known| known.has_ended(now));
        let is_known = lasting.iter().any(|known| known.subject == denial.subject);
        if !is_known && lasting.len() >= DENIALS_MAX {
            return Err(AccessRefusal::TooManyDenials);
        }
        if !ended.is_empty() {
            self.statements.push(sql::remove_ended_denials(now));
            self.line("denial", "*", format!("removed: {} that had ended", ended.len()));
        }
        self.statements.push(sql::put_denial(denial));
        let until = denial.until.map_or_else(|| "ever".to_owned(), UnixTime::format);
        self.line("denial", denial_name(&denial.subject), format!("denied until {until}"));
        Ok(())
    }

    fn remove_denial(
        &mut self,
        subject: &DenialSubject,
        facts: &AccessFacts,
    ) -> Result<(), AccessRefusal> {
        if !facts.denials.iter().any(|known| known.subject == *subject) {
            return Err(AccessRefusal::NoSuchDenial);
        }
        self.statements.push(sql::remove_denial(subject));
        self.line("denial", denial_name(subject), "removed");
        Ok(())
    }

    fn set_mode(&mut self, mode: AccessMode, author: &ChangeAuthor) -> Result<(), AccessRefusal> {
        if mode == AccessMode::Off && *author != ChangeAuthor::CommandLine {
            return Err(AccessRefusal::CommandLineOnly);
        }
        self.line("mode", mode.name(), format!("was {}", self.mode.name()));
        self.mode = mode;
        Ok(())
    }
}

/// Describes a key for the log.
fn description(key: &KeyRecord) -> String {
    let tenants: Vec<&str> = key.tenants.as_slice().iter().map(|tenant| &**tenant).collect();
    let tenants = serde_json::to_string(&tenants).expect("texts always serialise");
    let expires = key.expires_at.map_or_else(|| "never".to_owned(), UnixTime::format);
    format!("role {}, tenants {tenants}, name {}, expires {expires}", key.role, key.name)
}

fn denial_name(subject: &DenialSubject) -> String {
    serde_json::to_string(&sql::denial_columns(subject)).expect("texts always serialise")
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect()
}
