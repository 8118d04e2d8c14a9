//! File: parses the configuration file into settings and sections.
//!
//! **Invariant:** an unknown name is an error, and the error about a member of the wrong type
//! contains the path of the member; no error repeats content of the file, because the file may
//! contain a password.
//! **Not here:** the meaning of addresses (`config/postgres`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use analytics::settings::{ConfigFile, unknown};
use issuers::config::IssuerConfig;
use shard_manager::access::role::AccessRole;
use shard_manager::access::tenant::Tenants;
use shard_manager::keyspace::Keyspace;
use shard_manager::placement::Placement;
use shard_manager::table_group::{GroupSpec, check_specs};
use shard_manager::topology::Topology;
use toml::{Table, Value};

use super::ConfigError;
use super::certificate::{CertificateConfig, NameKind, SubjectName};
use super::sources::NAMES;

/// Names of the top-level sections.
const SECTIONS: [&str; 6] = ["access", "analytics", "cache", "groups", "postgres", "shard"];

/// Members of `[analytics]`, and the settings that they set.
const ANALYTICS: [(&str, &str); 2] = [("record", "analytics"), ("store", "analytics_store")];

/// Members of `[access]`, and the settings that they set.
const ACCESS: [(&str, &str); 10] = [
    ("mode", "access"),
    ("keys_file", "access_keys_file"),
    ("roles_file", "access_roles_file"),
    ("stale_max_s", "access_stale_max_s"),
    ("limit_routers", "limit_routers"),
    ("cors_origins", "cors_origins"),
    ("audit_log", "audit_log"),
    ("audit", "audit"),
    ("audit_keys", "audit_keys"),
    ("trusted_proxies", "trusted_proxies"),
];
/// Name of the list of token issuers in `[access]`.
const ISSUERS: &str = "issuer";
/// Name of the list of clients with certificates in `[access]`.
const CERTIFICATES: &str = "certificate";
const CERTIFICATE: [&str; 6] = ["dns", "uri", "email", "ip", "role", "tenant"];

/// Members of `[cache]`, and the settings that they set.
const CACHE_TEXTS: [(&str, &str); 2] =
    [("url", "redis_url"), ("password_file", "cache_password_file")];
const CACHE_NUMBERS: [(&str, &str); 6] = [
    ("bound_ms", "cache_bound_ms"),
    ("ttl_ms", "cache_ttl_ms"),
    ("patience_ms", "cache_patience_ms"),
    ("entry_bytes_max", "cache_entry_bytes_max"),
    ("near_bytes", "cache_near_bytes"),
    ("min_uses", "cache_min_uses"),
];

const POSTGRES: [&str; 7] = [
    "connect_timeout_ms",
    "user",
    "password_file",
    "password_env",
    "sslmode",
    "sslrootcert",
    "catalog",
];
const CATALOG: [&str; 1] = ["url"];
/// Members of `[groups.NAME]`.
const GROUP: [&str; 4] = ["tables", "keyspace", "placement", "shards"];
const SHARD: [&str; 4] = ["name", "weight", "primary", "replicas"];

/// Maximum length of the name of a shard.
const NAME_LENGTH_MAX: usize = 40;

/// Range of the timeout for connecting to a node, in milliseconds.
const CONNECT_TIMEOUT_MS: std::ops::RangeInclusive<i64> = 100..=600_000;

/// Parsed content of the sections.
#[derive(Default)]
pub(super) struct Sections {
    /// Path of the file; empty without a file.
    pub(super) path: PathBuf,
    /// `[postgres]`, if the file has this section.
    pub(super) postgres: Option<PostgresSection>,
    /// Each `[[shard]]`.
    pub(super) shards: Vec<ShardSection>,
    /// Each `[groups.NAME]`, by name.
    pub(super) groups: Vec<GroupSpec>,
    /// Each `[[access.issuer]]`.
    pub(super) issuers: Vec<IssuerConfig>,
    /// Each `[[access.certificate]]`.
    pub(super) certificates: Vec<CertificateConfig>,
}

/// Settings that apply to all nodes, from the section `[postgres]`.
#[derive(Default)]
pub(super) struct PostgresSection {
    pub(super) connect_timeout_ms: Option<u64>,
    /// Members whose values are strings, by name.
    pub(super) texts: BTreeMap<&'static str, String>,
    pub(super) catalog: Option<String>,
}

/// Section `[[shard]]` of one shard, whose addresses are not parsed yet.
pub(super) struct ShardSection {
    pub(super) name: Option<String>,
    pub(super) weight: Option<u32>,
    pub(super) primary: String,
    pub(super) replicas: Vec<String>,
}

/// Returns the settings and the sections of a file.
pub(super) fn read(path: &Path) -> Result<(BTreeMap<String, String>, Sections), ConfigError> {
    let (file, table) = ConfigFile::read(path)?;
    let file = File(file);
    let mut values = BTreeMap::new();
    let mut sections = Sections { path: path.to_owned(), ..Sections::default() };
    for (name, value) in &table {
        match &**name {
            "postgres" => sections.postgres = Some(file.postgres(value)?),
            "shard" => sections.shards = file.shards(value)?,
            "groups" => sections.groups = file.groups(value)?,
            "analytics" if value.is_table() => {
                let at = "analytics";
                let table = file.0.members(at, value, &ANALYTICS.map(|(member, _)| member))?;
                for (member, setting) in ANALYTICS {
                    if let Some(text) = file.text(at, table, member)? {
                        file.put(&mut values, (setting, text))?;
                    }
                }
            }
            "access" if value.is_table() => {
                (sections.issuers, sections.certificates) = file.access(value, &mut values)?;
            }
            "cache" => file.cache(value, &mut values)?,
            name if NAMES.contains(&name) => {
                file.put(&mut values, (name, file.0.setting(name, value)?))?;
            }
            name => {
                let known = NAMES.into_iter().chain(SECTIONS);
                return Err(unknown(&file.0.named(name), name, known));
            }
        }
    }
    Ok((values, sections))
}

struct File(ConfigFile);

impl File {
    fn text(&self, at: &str, table: &Table, name: &str) -> Result<Option<String>, ConfigError> {
        let wrong = || self.0.wrong(&format!("{at}.{name}"), "a text");
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(wrong);
        table.get(name).map(text).transpose()
    }

    fn number(
        &self,
        at: &str,
        table: &Table,
        name: &str,
        allowed: std::ops::RangeInclusive<i64>,
    ) -> Result<Option<u64>, ConfigError> {
        let Some(value) = table.get(name) else { return Ok(None) };
        let number = value.as_integer().filter(|number| allowed.contains(number));
        let words = format!("a number from {} to {}", allowed.start(), allowed.end());
        let wrong = || self.0.wrong(&format!("{at}.{name}"), &words);
        number.map(|number| Some(number.cast_unsigned())).ok_or_else(wrong)
    }

    /// Reads the members of `[access]` into the settings that they set, and returns its token
    /// issuers and its clients with certificates.
    fn access(
        &self,
        value: &Value,
        values: &mut BTreeMap<String, String>,
    ) -> Result<(Vec<IssuerConfig>, Vec<CertificateConfig>), ConfigError> {
        let at = "access";
        let lists = [ISSUERS, CERTIFICATES];
        let known: Vec<_> = ACCESS.iter().map(|(member, _)| *member).chain(lists).collect();
        let table = self.0.members(at, value, &known)?;
        for (member, setting) in ACCESS {
            if let Some(value) = table.get(member) {
                let text = self.0.setting(&format!("{at}.{member}"), value)?;
                self.put(values, (setting, text))?;
            }
        }
        let list = |member: &str| match table.get(member) {
            None => Ok(&[][..]),
            Some(value) => value.as_array().map(Vec::as_slice).ok_or_else(|| {
                self.0.wrong(
                    &format!("access.{member}"),
                    &format!("a list: write [[access.{member}]]"),
                )
            }),
        };
        let issuers = (1..).zip(list(ISSUERS)?);
        let issuers = issuers.map(|(number, value)| self.issuer(number, value));
        let issuers = issuers.collect::<Result<_, _>>()?;
        let mut certificates: Vec<CertificateConfig> = Vec::new();
        for (number, value) in (1..).zip(list(CERTIFICATES)?) {
            let client = self.certificate(number, value)?;
            if certificates.iter().any(|other| other.name == client.name) {
                let member = format!("access.certificate[{number}].{}", client.name.kind.member());
                return Err(self.0.wrong(&member, "a name that no other entry has"));
            }
            certificates.push(client);
        }
        Ok((issuers, certificates))
    }

    fn certificate(&self, number: usize, value: &Value) -> Result<CertificateConfig, ConfigError> {
        let at = &*format!("access.certificate[{number}]");
        let table = self.0.members(at, value, &CERTIFICATE)?;
        let mut names = Vec::new();
        for kind in NameKind::ALL {
            let member = kind.member();
            if let Some(text) = self.text(at, table, member)? {
                let wrong = |allowed| self.0.wrong(&format!("{at}.{member}"), allowed);
                names.push(SubjectName::parse(kind, &text).map_err(wrong)?);
            }
        }
        let (Some(name), None) = (names.pop(), names.pop()) else {
            let one = "one of dns, uri, email and ip: the name in the certificate";
            return Err(ConfigError(format!("{} needs {one}", self.0.named(at))));
        };
        let role = self.text(at, table, "role")?;
        let role = role.filter(|role| AccessRole::is_name(role));
        let role = role.ok_or_else(|| self.0.wrong(&format!("{at}.role"), "the name of a role"))?;
        // A single tenant may be given as a string instead of a list.
        let tenants = match table.get("tenant").and_then(Value::as_str) {
            Some(tenant) => vec![tenant.to_owned()],
            None => self.texts(&format!("{at}.tenant"), table.get("tenant"))?,
        };
        let tenants = Tenants::parse(tenants.iter().map(String::as_str)).map_err(|error| {
            ConfigError(format!("{}: {error}", self.0.named(&format!("{at}.tenant"))))
        })?;
        Ok(CertificateConfig { name, role, tenants })
    }

    fn issuer(&self, number: usize, value: &Value) -> Result<IssuerConfig, ConfigError> {
        let at = format!("access.issuer[{number}]");
        let table = self.0.members(&at, value, &issuers::config::MEMBERS)?;
        IssuerConfig::read(&self.0, &at, table)
    }

    /// Reads the members of `[cache]` into the settings that they set.
    fn cache(
        &self,
        value: &Value,
        values: &mut BTreeMap<String, String>,
    ) -> Result<(), ConfigError> {
        let at = "cache";
        let known = CACHE_TEXTS.map(|(member, _)| member).into_iter();
        let known: Vec<_> = known.chain(CACHE_NUMBERS.map(|(member, _)| member)).collect();
        let table = self.0.members(at, value, &known)?;
        for (member, setting) in CACHE_TEXTS {
            if let Some(text) = self.text(at, table, member)? {
                self.put(values, (setting, text))?;
            }
        }
        for (member, setting) in CACHE_NUMBERS {
            let Some(value) = table.get(member) else { continue };
            let number = value.as_integer();
            let wrong = || self.0.wrong(&format!("{at}.{member}"), "a number");
            self.put(values, (setting, number.ok_or_else(wrong)?.to_string()))?;
        }
        Ok(())
    }

    /// Stores a setting, which may be in a section or at the top level, but not in both.
    fn put(
        &self,
        values: &mut BTreeMap<String, String>,
        (setting, text): (&str, String),
    ) -> Result<(), ConfigError> {
        match values.insert(setting.to_owned(), text) {
            Some(_) => Err(ConfigError(format!(
                "{} stands in a section too: leave one of them out",
                self.0.named(setting)
            ))),
            None => Ok(()),
        }
    }

    fn postgres(&self, value: &Value) -> Result<PostgresSection, ConfigError> {
        let at = "postgres";
        let table = self.0.members(at, value, &POSTGRES)?;
        let mut section = PostgresSection {
            connect_timeout_ms: self.number(at, table, "connect_timeout_ms", CONNECT_TIMEOUT_MS)?,
            ..PostgresSection::default()
        };
        for name in ["user", "password_file", "password_env", "sslmode", "sslrootcert"] {
            if let Some(text) = self.text(at, table, name)? {
                section.texts.insert(name, text);
            }
        }
        if let Some(catalog) = table.get("catalog") {
            let at = "postgres.catalog";
            let table = self.0.members(at, catalog, &CATALOG)?;
            let url = self.text(at, table, "url")?;
            let none = || ConfigError(format!("{} names no url", self.0.named(at)));
            section.catalog = Some(url.ok_or_else(none)?);
        }
        Ok(section)
    }

    fn groups(&self, value: &Value) -> Result<Vec<GroupSpec>, ConfigError> {
        let wrong = || self.0.wrong("groups", "sections: write [groups.NAME]");
        let sections = value.as_table().ok_or_else(wrong)?;
        let groups = sections.iter().map(|(name, value)| self.group(name, value));
        let groups: Vec<GroupSpec> = groups.collect::<Result<_, _>>()?;
        let checked = check_specs(&groups);
        checked.map_err(|fault| ConfigError(format!("{}: {fault}", self.0.named("groups"))))?;
        Ok(groups)
    }

    fn group(&self, name: &str, value: &Value) -> Result<GroupSpec, ConfigError> {
        let at = &*format!("groups.{name}");
        let table = self.0.members(at, value, &GROUP)?;
        let wrong =
            |member: &str, allowed: String| self.0.wrong(&format!("{at}.{member}"), &allowed);
        let keyspace = self.text(at, table, "keyspace")?.map(|text| {
            text.parse::<Keyspace>()
                .map_err(|error| wrong("keyspace", format!("{} ({error})", Keyspace::FORMS)))
        });
        let placement = self.text(at, table, "placement")?.map(|text| {
            text.parse::<Placement>()
                .map_err(|error| wrong("placement", format!("{} ({error})", Placement::FORMS)))
        });
        let texts = |member: &str| self.texts(&format!("{at}.{member}"), table.get(member));
        Ok(GroupSpec {
            name: name.to_owned(),
            keyspace: keyspace.transpose()?,
            placement: placement.transpose()?,
            shards: table.get("shards").map(|_| texts("shards")).transpose()?,
            tables: texts("tables")?,
        })
    }

    fn shards(&self, value: &Value) -> Result<Vec<ShardSection>, ConfigError> {
        let list =
            value.as_array().ok_or_else(|| self.0.wrong("shard", "a list: write [[shard]]"))?;
        (1..).zip(list).map(|(number, value)| self.shard(number, value)).collect()
    }

    fn shard(&self, number: usize, value: &Value) -> Result<ShardSection, ConfigError> {
        let at = &*format!("shard[{number}]");
        let table = self.0.members(at, value, &SHARD)?;
        let name = self.text(at, table, "name")?;
        if !name.as_deref().is_none_or(is_name) {
            let allowed = "a lower-case letter, followed by at most 39 letters, digits, _ and -";
            return Err(self.0.wrong(&format!("{at}.name"), allowed));
        }
        let weight = self.number(at, table, "weight", 1..=i64::from(Topology::WEIGHT_MAX))?;
        let primary = self.text(at, table, "primary")?;
        let none = || ConfigError(format!("{} names no primary", self.0.named(at)));
        let primary = primary.ok_or_else(none)?;
        Ok(ShardSection {
            name,
            weight: weight.and_then(|weight| u32::try_from(weight).ok()),
            primary,
            replicas: self.texts(&format!("{at}.replicas"), table.get("replicas"))?,
        })
    }

    fn texts(&self, at: &str, value: Option<&Value>) -> Result<Vec<String>, ConfigError> {
        let Some(value) = value else { return Ok(Vec::new()) };
        let list = value.as_array().ok_or_else(|| self.0.wrong(at, "a list of texts"))?;
        let text = |(number, value): (usize, &Value)| {
            let wrong = || self.0.wrong(&format!("{at}[{number}]"), "a text");
            value.as_str().map(str::to_owned).ok_or_else(wrong)
        };
        (1..).zip(list).map(text).collect()
    }
}

fn is_name(name: &str) -> bool {
    let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    name.len() <= NAME_LENGTH_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(rest)
}
