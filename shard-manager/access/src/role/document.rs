//! Role document: the JSON of a role.
//!
//! **Invariant:** a role with an unknown, repeated or `null` member is refused. Otherwise a
//! misspelled `columns` would be ignored, and the grant would permit all columns.
//! **Not here:** the meaning of grants (`grant`).

use std::sync::Arc;

use model::keyspace::ShardKey;
use model::table::{Registry, Table, is_name};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{AccessRole, RoleError, RoleFault};
use crate::grant::{ColumnSet, Grant, KeyRule, TableSet};
use crate::json_member::{self, present, raw};
use crate::limit::{Rate, RoleLimits};
use crate::operation::RowOperations;
use crate::scope::{AccessScope, ScopeSet};

/// Maximum number of columns in a grant: the columns that a table may define, and the five columns
/// that every table has.
const COLUMNS_MAX: usize = Table::COLUMNS_MAX + 5;
/// Maximum rate of a limit, per second: one unit per nanosecond.
const RATE_MAX: u64 = 1_000_000_000;
const ROWS_PER_DAY_MAX: u64 = 1_000_000_000_000;
const CONCURRENT_MAX: u64 = 1_000_000;

/// Name that stands for the whole document in an error.
pub(super) const WHOLE: &str = "the role";

/// Only value of the member `scatter` of a grant, which permits reads without a shard key to be
/// sent to all shards.
const SCATTER: &str = "filter";

const TABLES_HINT: &str = "[\"*\"] or the names of tables";
const MAY_HINT: &str = "one or more of read, insert, update, delete";
const KEYS_HINT: &str =
    "\"*\" for all keys, \"$tenant\", \"$tenant:*\" or a list; there is no default";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleDocument {
    role: Box<RawValue>,
    grants: Box<RawValue>,
    #[serde(default, deserialize_with = "present")]
    scopes: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "present")]
    weight: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    limits: Option<Box<RawValue>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantDocument {
    #[serde(default, deserialize_with = "present")]
    tables: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "present")]
    may: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "present")]
    keys: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    columns: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    scatter: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts")]
enum KeysDocument {
    Pattern(String),
    Literals(Vec<String>),
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsDocument {
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    requests_per_s: Option<Box<RawValue>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    burst: Option<Box<RawValue>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    rows_per_s: Option<Box<RawValue>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    concurrent: Option<Box<RawValue>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    rows_per_day: Option<Box<RawValue>>,
}

fn fault(member: impl Into<String>, fault: RoleFault) -> RoleError {
    RoleError { member: member.into(), fault }
}

fn read<T: DeserializeOwned>(member: &str, json: &str) -> Result<T, RoleError> {
    json_member::read(json).map_err(|text| fault(member, RoleFault::Json(text)))
}

fn read_object<T: DeserializeOwned>(member: &str, json: &str) -> Result<T, RoleError> {
    json_member::read_object(json).map_err(|text| fault(member, RoleFault::Json(text)))
}

fn read_optional<T: DeserializeOwned>(
    member: &str,
    json: Option<&RawValue>,
) -> Result<Option<T>, RoleError> {
    json.map(|json| read(member, json.get())).transpose()
}

pub(super) fn parse(json: &str) -> Result<AccessRole, RoleError> {
    let document: RoleDocument = read_object(WHOLE, json)?;
    let name: String = read("role", document.role.get())?;
    if !AccessRole::is_name(&name) {
        return Err(fault("role", RoleFault::RoleName));
    }
    if AccessRole::is_reserved(&name) {
        return Err(fault("role", RoleFault::Reserved));
    }
    let max = AccessRole::GRANTS_MAX;
    let grants: Vec<Box<RawValue>> = read("grants", document.grants.get())?;
    if grants.len() > max {
        return Err(fault("grants", RoleFault::Count { count: grants.len(), max }));
    }
    let grants = grants.iter().enumerate();
    let grants: Vec<Grant> =
        grants.map(|(index, json)| grant(index, json.get())).collect::<Result<_, _>>()?;
    let limits = match &document.limits {
        Some(json) => limits(read_object("limits", json.get())?)?,
        None => RoleLimits::default(),
    };
    let weight = read_optional("weight", document.weight.as_deref())?.unwrap_or(1);
    if weight == 0 || weight > AccessRole::WEIGHT_MAX {
        return Err(fault("weight", RoleFault::Range { max: AccessRole::WEIGHT_MAX.into() }));
    }
    let scope_names: Vec<String> =
        read_optional("scopes", document.scopes.as_deref())?.unwrap_or_default();
    let role =
        AccessRole { name: name.into(), grants, scopes: scopes(&scope_names)?, weight, limits };
    if role.is_bound() && role.scopes.has(AccessScope::Analytics) {
        return Err(fault("scopes", RoleFault::AnalyticsOfBoundRole));
    }
    Ok(role)
}

fn scopes(names: &[String]) -> Result<ScopeSet, RoleError> {
    let mut scopes = ScopeSet::NONE;
    for (index, name) in names.iter().enumerate() {
        let member = || format!("scopes[{index}]");
        let scope = AccessScope::find(name).ok_or_else(|| fault(member(), RoleFault::Scope))?;
        if scopes.has(scope) {
            return Err(fault(member(), RoleFault::Twice));
        }
        scopes = scopes.with(scope);
    }
    Ok(scopes)
}

fn grant(index: usize, json: &str) -> Result<Grant, RoleError> {
    let path = format!("grants[{index}]");
    let document: GrantDocument = read_object(&path, json)?;
    let [tables, may, keys, columns, scatter] =
        ["tables", "may", "keys", "columns", "scatter"].map(|member| format!("{path}.{member}"));
    let grant = Grant {
        tables: table_set(&tables, required(&tables, document.tables, TABLES_HINT)?)?,
        operations: operations(&may, &required::<Vec<String>>(&may, document.may, MAY_HINT)?)?,
        keys: key_rule(&keys, required(&keys, document.keys, KEYS_HINT)?)?,
        columns: column_set(&columns, read_optional(&columns, document.columns.as_deref())?)?,
        scatters: document.scatter.is_some(),
    };
    let value: Option<String> = read_optional(&scatter, document.scatter.as_deref())?;
    if value.is_some_and(|value| value != SCATTER || grant.keys.separator().is_none()) {
        return Err(fault(scatter, RoleFault::Scatter));
    }
    Ok(grant)
}

fn required<T: DeserializeOwned>(
    member: &str,
    json: Option<Box<RawValue>>,
    hint: &'static str,
) -> Result<T, RoleError> {
    let json = json.ok_or_else(|| fault(member, RoleFault::Missing { hint }))?;
    read(member, json.get())
}

fn table_set(path: &str, names: Vec<String>) -> Result<TableSet, RoleError> {
    if names.iter().any(|name| name == "*") {
        let is_alone = names.len() == 1;
        return if is_alone {
            Ok(TableSet::All)
        } else {
            Err(fault(path, RoleFault::WildcardAmongNames))
        };
    }
    let names = sorted(path, names, Registry::TABLES_MAX, check_name)?;
    Ok(TableSet::Named(names))
}

fn column_set(path: &str, names: Option<Vec<String>>) -> Result<ColumnSet, RoleError> {
    let Some(names) = names else { return Ok(ColumnSet::All) };
    let check = |name: &str| {
        if name == "*" { Err(RoleFault::WildcardColumn) } else { check_name(name) }
    };
    Ok(ColumnSet::Named(sorted(path, names, COLUMNS_MAX, check)?))
}

fn check_name(name: &str) -> Result<(), RoleFault> {
    if is_name(name) { Ok(()) } else { Err(RoleFault::Name) }
}

fn operations(path: &str, names: &[String]) -> Result<RowOperations, RoleError> {
    let mut operations = RowOperations::NONE;
    for (index, name) in names.iter().enumerate() {
        let member = || format!("{path}[{index}]");
        let found = RowOperations::find(name);
        let operation = found.ok_or_else(|| fault(member(), RoleFault::Operation))?;
        if operations.contains(operation) {
            return Err(fault(member(), RoleFault::Twice));
        }
        operations = operations.union(operation);
    }
    if operations.is_empty() {
        return Err(fault(path, RoleFault::Count { count: 0, max: 4 }));
    }
    Ok(operations)
}

fn key_rule(path: &str, keys: KeysDocument) -> Result<KeyRule, RoleError> {
    match keys {
        KeysDocument::Pattern(text) => pattern(&text).map_err(|reason| fault(path, reason)),
        KeysDocument::Literals(keys) => {
            sorted(path, keys, KeyRule::LITERALS_MAX, check_literal).map(KeyRule::Literals)
        }
    }
}

fn pattern(text: &str) -> Result<KeyRule, RoleFault> {
    if text == "*" {
        return Ok(KeyRule::All);
    }
    let rest = text.strip_prefix("$tenant").ok_or(RoleFault::KeyPattern)?;
    if rest.is_empty() {
        return Ok(KeyRule::Tenant);
    }
    let separator = rest.strip_suffix('*').ok_or(RoleFault::KeyPattern)?;
    let mut chars = separator.chars();
    match (chars.next(), chars.next()) {
        (None, _) => Err(RoleFault::NoSeparator),
        (Some(c), None) if c.is_ascii_punctuation() && c != '*' && c != '$' => {
            Ok(KeyRule::TenantPrefix { separator: c })
        }
        (Some(_), _) => Err(RoleFault::Separator),
    }
}

fn check_literal(key: &str) -> Result<(), RoleFault> {
    if key == "*" || key.starts_with("$tenant") {
        return Err(RoleFault::PatternAmongKeys);
    }
    ShardKey::parse(key).map(|_| ()).map_err(|error| RoleFault::Key(error.to_string()))
}

/// Checks the entries of a list and sorts them.
fn sorted(
    path: &str,
    entries: Vec<String>,
    max: usize,
    check: impl Fn(&str) -> Result<(), RoleFault>,
) -> Result<Arc<[Box<str>]>, RoleError> {
    if entries.is_empty() || entries.len() > max {
        return Err(fault(path, RoleFault::Count { count: entries.len(), max }));
    }
    for (index, entry) in entries.iter().enumerate() {
        let checked =
            if entries[..index].contains(entry) { Err(RoleFault::Twice) } else { check(entry) };
        checked.map_err(|reason| fault(format!("{path}[{index}]"), reason))?;
    }
    let mut entries: Vec<Box<str>> = entries.into_iter().map(String::into_boxed_str).collect();
    entries.sort_unstable();
    Ok(entries.into())
}

fn limits(document: LimitsDocument) -> Result<RoleLimits, RoleError> {
    let within = |member: &str, json: Option<Box<RawValue>>, max: u64| {
        let member = format!("limits.{member}");
        let value: Option<u64> = read_optional(&member, json.as_deref())?;
        if value.is_some_and(|value| value == 0 || value > max) {
            return Err(fault(member, RoleFault::Range { max }));
        }
        Ok(value)
    };
    let per_second = within("requests_per_s", document.requests_per_s, RATE_MAX)?;
    let burst = within("burst", document.burst, RATE_MAX)?;
    if burst.is_some() && per_second.is_none() {
        return Err(fault("limits.burst", RoleFault::BurstWithoutRate));
    }
    let rows = within("rows_per_s", document.rows_per_s, RATE_MAX)?;
    let concurrent = within("concurrent", document.concurrent, CONCURRENT_MAX)?;
    Ok(RoleLimits {
        requests: per_second.and_then(|rate| Rate::new(rate, burst.unwrap_or(rate))),
        rows: rows.and_then(|rate| Rate::new(rate, rate)),
        concurrent: concurrent.and_then(|most| u32::try_from(most).ok()),
        rows_per_day: within("rows_per_day", document.rows_per_day, ROWS_PER_DAY_MAX)?,
    })
}

pub(super) fn format(role: &AccessRole) -> String {
    let limits = LimitsDocument {
        requests_per_s: role.limits.requests.map(|rate| raw(&rate.per_second())),
        burst: role.limits.requests.map(|rate| raw(&rate.burst())),
        rows_per_s: role.limits.rows.map(|rate| raw(&rate.per_second())),
        concurrent: role.limits.concurrent.map(|most| raw(&most)),
        rows_per_day: role.limits.rows_per_day.map(|most| raw(&most)),
    };
    let has_limits = role.limits != RoleLimits::default();
    let document = RoleDocument {
        role: raw(&role.name),
        grants: raw(&role.grants.iter().map(grant_document).collect::<Vec<_>>()),
        scopes: Some(raw(&role.scopes.iter().map(AccessScope::name).collect::<Vec<_>>())),
        weight: Some(raw(&role.weight)),
        limits: has_limits.then(|| raw(&limits)),
    };
    serde_json::to_string(&document).expect("texts and numbers always serialise")
}

fn grant_document(grant: &Grant) -> GrantDocument {
    GrantDocument {
        tables: Some(match &grant.tables {
            TableSet::All => raw(&["*"]),
            TableSet::Named(names) => raw(&**names),
        }),
        may: Some(raw(&grant.operations.names().collect::<Vec<_>>())),
        keys: Some(grant.keys.to_raw()),
        columns: match &grant.columns {
            ColumnSet::All => None,
            ColumnSet::Named(names) => Some(raw(&**names)),
        },
        scatter: grant.scatters.then(|| raw(SCATTER)),
    }
}
