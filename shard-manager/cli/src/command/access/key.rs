//! `key`: creates, lists, revokes, rotates, suspends and resumes API keys.
//!
//! **Invariant:** a new key is printed once, on standard output, after it was stored; with
//! `--offline` it is printed and not stored. No key is accepted as an argument, because other users
//! of this machine can see command lines.
//! **Not here:** the rules of changes (`engine::access_store`).

use access::key::{ApiKey, KeyId, NewApiKey};
use access::key_record::{KeyRecord, KeyState};
use access::keys_file;
use access::role::AccessRole;
use access::tenant::Tenants;
use access::unix_time::UnixTime;
use clap::{Args, Subcommand, ValueEnum};
use engine::access_store::{AccessChange, NewKey, make_key, now};
use serde::Serialize;
use serde_json::json;

use super::super::CommandError;
use super::catalog_place::CatalogArgs;
use super::expiry::{duration, expiry};
use crate::terminal::{Terminal, say};

const CREATE_EXAMPLES: &str = "\
The key is printed once, on standard output; only its SHA-256 is stored. Everything else goes to
standard error. With --offline nothing is stored: the line for the file `access_keys_file` of a
router is printed to standard error.

Examples:
  shard-manager key create --role admin --expires 90d > admin.key
  shard-manager key create --role shop --tenant acme --tenant acme-test --name 'Web shop'
  shard-manager key create --role reader --offline > reader.key 2>> access.keys";

const ROTATE_EXAMPLES: &str = "\
The new key has the role, the tenants and the name of the old one, and is printed once. Both work
until the overlap is over.

Example:
  shard-manager key rotate 4fKq0ZxY81Ab --overlap 24h > shop.key";

const SUSPEND_EXAMPLES: &str = "\
For a catalog on PostgreSQL that was restored from a backup or to an earlier time: a key that was
revoked since would live again. `restore` does this by itself for embedded shards. Resume the
keys that are known to be good, one by one.

Example:
  shard-manager key suspend --all";

/// Operation on keys.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Creates a key and prints it once
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateOptions),
    /// Lists the keys, without their secrets
    List {
        #[command(flatten)]
        catalog: CatalogArgs,
        /// Form of the list; json is the same as --json
        #[arg(long, value_name = "FORM", default_value = "table")]
        format: ListFormat,
    },
    /// Revokes a key for ever
    Revoke(Named),
    /// Replaces a key by a new one, and prints that once
    #[command(after_help = ROTATE_EXAMPLES)]
    Rotate {
        #[command(flatten)]
        named: Named,
        /// Time for which the old key remains usable, such as 24h; 0s ends it at once
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        overlap: u64,
    },
    /// Makes a suspended key usable again
    Resume(Named),
    /// Suspends every key until it is resumed
    #[command(after_help = SUSPEND_EXAMPLES)]
    Suspend {
        #[command(flatten)]
        catalog: CatalogArgs,
        /// Confirm that every key is meant
        #[arg(long, required = true)]
        all: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    /// Aligned columns
    Table,
    /// One JSON array
    Json,
}

#[derive(Args, Debug)]
struct CreateOptions {
    #[command(flatten)]
    catalog: CatalogArgs,
    /// Role of the key; `role list` shows the existing ones
    #[arg(long, value_name = "ROLE")]
    role: String,
    /// Tenant that `$tenant` in the role stands for; may be repeated
    #[arg(long = "tenant", value_name = "TENANT")]
    tenants: Vec<String>,
    /// Purpose of the key [default: the role]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// End of the key: a duration such as 90d, or a time such as 2027-01-31T12:00:00Z [default:
    /// never]
    #[arg(long, value_name = "TIME", value_parser = |text: &str| expiry(text, now()))]
    expires: Option<UnixTime>,
    /// Print the line for a keys file, and touch no catalog
    #[arg(long, conflicts_with = "data_dir")]
    offline: bool,
}

/// Key of an operation.
#[derive(Args, Clone, Debug)]
struct Named {
    /// Id of the key: the 12 characters after tsr_
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    catalog: CatalogArgs,
}

impl Named {
    /// Parses the id. No error message repeats the argument, because it may be a complete key with
    /// its secret.
    fn id(&self) -> Result<KeyId, CommandError> {
        if ApiKey::is_like(&self.id) {
            let line = "ID: this is a key, not its id: give the 12 characters after tsr_. Other users of this machine \
                        may have seen the key: rotate it";
            return Err(CommandError::Refused(line.to_owned()));
        }
        let malformed =
            || CommandError::Refused(format!("ID: an id has {} letters and digits", KeyId::LEN));
        KeyId::parse(&self.id).ok_or_else(malformed)
    }

    fn change(&self, change: &AccessChange) -> Result<(), CommandError> {
        self.catalog.place()?.change(change, flag)
    }
}

/// Returns the command-line flag or argument that sets a member of a key; empty if there is none.
fn flag(member: &str) -> &'static str {
    match member {
        "id" => "ID",
        "role" => "--role",
        "tenants" => "--tenant",
        "name" => "--name",
        "expires_at" => "--expires",
        _ => "",
    }
}

/// Key as `key list` shows it, without its secret.
#[derive(Serialize)]
struct Listed<'k> {
    id: &'k str,
    state: &'static str,
    role: &'k str,
    tenants: &'k [Box<str>],
    name: &'k str,
    made_by: &'k str,
    made_at: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    used_on: Option<String>,
}

impl<'k> Listed<'k> {
    fn of(key: &'k KeyRecord, now: UnixTime) -> Self {
        Self {
            id: key.id.as_str(),
            state: match key.state(now) {
                KeyState::Usable => "usable",
                KeyState::Expired => "expired",
                KeyState::Revoked => "revoked",
                KeyState::Suspended => "suspended",
            },
            role: &key.role,
            tenants: key.tenants.as_slice(),
            name: &key.name,
            made_by: &key.made_by,
            made_at: key.made_at.format(),
            expires_at: key.expires_at.map(UnixTime::format),
            revoked_at: key.revoked_at.map(UnixTime::format),
            used_on: key.used_on.map(UnixTime::format_day),
        }
    }

    fn cells(&self) -> Vec<String> {
        let maybe = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let tenants = if self.tenants.is_empty() { "-".to_owned() } else { self.tenants.join(",") };
        let texts = [self.id, self.state, self.role].map(str::to_owned);
        let times = [self.made_at.clone(), maybe(&self.expires_at), maybe(&self.used_on)];
        let about = [tenants, self.name.to_owned(), self.made_by.to_owned()];
        texts.into_iter().chain(about).chain(times).collect()
    }
}

const HEADS: [&str; 9] =
    ["id", "state", "role", "tenants", "name", "made by", "made at", "expires", "used on"];

/// Runs the operation.
pub(crate) fn run(options: &Options, terminal: &Terminal) -> Result<(), CommandError> {
    match &options.verb {
        Verb::Create(options) => create(options, terminal),
        Verb::List { catalog, format } => list(catalog, *format, terminal),
        Verb::Revoke(named) => {
            named.change(&AccessChange::RevokeKey(named.id()?))?;
            done(named, "revoked", terminal)
        }
        Verb::Rotate { named, overlap } => rotate(named, *overlap, terminal),
        Verb::Resume(named) => {
            named.change(&AccessChange::ResumeKey(named.id()?))?;
            done(named, "resumed", terminal)
        }
        Verb::Suspend { catalog, all: _ } => {
            catalog.place()?.change(&AccessChange::SuspendAllKeys, flag)?;
            let shown = terminal.show(&json!({"suspended": "all"}), |_| {
                "every key is suspended; `key resume ID` makes one usable again".to_owned()
            });
            Ok(shown?)
        }
    }
}

fn done(named: &Named, verb: &str, terminal: &Terminal) -> Result<(), CommandError> {
    let shown =
        terminal.show(&json!({"id": named.id, verb: true}), |_| format!("{} is {verb}", named.id));
    Ok(shown?)
}

fn make() -> Result<NewApiKey, CommandError> {
    make_key().map_err(|_| CommandError::Refused("the system has no random bytes".to_owned()))
}

/// Prints a new key: alone on standard output or, with `--json`, as the member `key` of `document`.
fn reveal(
    made: &NewApiKey,
    mut document: serde_json::Value,
    terminal: &Terminal,
) -> Result<(), CommandError> {
    document["key"] = made.reveal().into();
    Ok(terminal.show(&document, |_| made.reveal().to_owned())?)
}

fn create(options: &CreateOptions, terminal: &Terminal) -> Result<(), CommandError> {
    let refused = |flag: &str, reason: &dyn std::fmt::Display| {
        CommandError::Refused(format!("{flag}: {reason}"))
    };
    let tenants = Tenants::parse(options.tenants.iter().map(String::as_str));
    let tenants = tenants.map_err(|error| refused("--tenant", &error))?;
    let name = options.name.as_deref().unwrap_or(&options.role);
    if !KeyRecord::is_name(name) {
        let (flag, most) =
            (if options.name.is_some() { "--name" } else { "--role" }, KeyRecord::NAME_LEN_MAX);
        let rule = format_args!("must have 1 to {most} bytes and no control characters");
        return Err(refused(flag, &rule));
    }
    let made = make()?;
    let key = NewKey {
        id: made.id(),
        digest: made.digest(),
        role: options.role.as_str().into(),
        tenants,
        name: name.into(),
        expires_at: options.expires,
    };
    let document = json!({
        "id": made.id().as_str(),
        "role": options.role,
        "tenants": options.tenants,
        "name": name,
        "expires_at": options.expires.map(UnixTime::format),
    });
    if options.offline {
        return print_line(&made, key, document, terminal);
    }
    options.catalog.place()?.change(&AccessChange::CreateKey(key), flag)?;
    let ends = options.expires.map_or_else(
        || "it never expires".to_owned(),
        |time| format!("it expires {}", time.format()),
    );
    say(format_args!(
        "created {} of the role {}; {ends}. The key is shown only now:",
        made.id(),
        options.role
    ));
    reveal(&made, document, terminal)
}

/// Prints a new key, and the line for a router's keys file that accepts it. Nothing is stored.
fn print_line(
    made: &NewApiKey,
    key: NewKey,
    mut document: serde_json::Value,
    terminal: &Terminal,
) -> Result<(), CommandError> {
    if !AccessRole::is_name(&key.role) {
        let line = "--role: must be the name of a role: a lower-case letter, then lower-case letters, digits, _ or -";
        return Err(CommandError::Refused(line.to_owned()));
    }
    let record = KeyRecord {
        id: key.id,
        digest: key.digest,
        role: key.role,
        tenants: key.tenants,
        name: key.name,
        made_by: "".into(),
        made_at: now(),
        expires_at: key.expires_at,
        revoked_at: None,
        is_suspended: false,
        used_on: None,
    };
    let line = keys_file::format(&record);
    if !terminal.is_json() {
        say(&line);
    }
    document["line"] = line.into();
    reveal(made, document, terminal)
}

fn rotate(named: &Named, overlap_s: u64, terminal: &Terminal) -> Result<(), CommandError> {
    let (id, made) = (named.id()?, make()?);
    let (successor, digest) = (made.id(), made.digest());
    named.change(&AccessChange::RotateKey { id, successor, digest, overlap_s })?;
    let ends = now().plus(overlap_s).format();
    say(format_args!(
        "created {successor} in place of {id}, which ends {ends} at the latest. The key is shown only now:"
    ));
    let document = json!({"id": successor.as_str(), "replaces": id.as_str()});
    reveal(&made, document, terminal)
}

fn list(
    catalog: &CatalogArgs,
    format: ListFormat,
    terminal: &Terminal,
) -> Result<(), CommandError> {
    let (state, now) = (catalog.place()?.load()?, now());
    let keys: Vec<Listed<'_>> = state.keys.iter().map(|key| Listed::of(key, now)).collect();
    let as_json = Terminal::new(true);
    let terminal = if format == ListFormat::Json { &as_json } else { terminal };
    let shown = terminal.show(&keys, |terminal| {
        let rows: Vec<Vec<String>> = keys.iter().map(Listed::cells).collect();
        terminal.table(&HEADS, &rows)
    });
    Ok(shown?)
}
