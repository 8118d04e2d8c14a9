//! Check document: the JSON of checks and of their results.
//!
//! **Invariant:** a check with an unknown or repeated member is refused. Otherwise a misspelled
//! member would be ignored, and the result would be that of another check.
//! **Not here:** the decision (`check`).

use model::keyspace::ShardKey;
use model::table::is_name;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{CheckAnswer, CheckRequest};
use crate::grant::ColumnSet;
use crate::json_member::{MemberError, present, raw, read_member, read_object, read_optional};
use crate::operation::RowOperations;
use crate::rights::Denied;
use crate::role::AccessRole;
use crate::tenant::Tenants;

/// Name of the operation that is both an insert and an update.
const UPSERT: &str = "upsert";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestDocument {
    #[serde(default, deserialize_with = "present")]
    role: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "present")]
    tenant: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "present")]
    operation: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "present")]
    table: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "present")]
    key: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "present")]
    columns: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts")]
enum TenantDocument {
    One(String),
    Several(Vec<String>),
}

#[derive(Serialize)]
struct AnswerDocument {
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    columns: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lacks: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

pub(super) fn parse(json: &str) -> Result<CheckRequest, MemberError> {
    let document: RequestDocument = read_object(json)
        .map_err(|fault| MemberError::new("the check", format!("cannot be read: {fault}")))?;
    let role = text("role", document.role, AccessRole::is_name, "must be the name of a role")?;
    let table = text("table", document.table, is_name, "must be the name of a table")?;
    let names = format!("must be one of {}, {UPSERT}", RowOperations::NAMES);
    let is_operation = |name: &str| find_operation(name).is_some();
    let operation = text("operation", document.operation, is_operation, &names)?;
    let key: Option<Box<str>> = read_optional("key", document.key.as_deref())?;
    if let Some(Err(error)) = key.as_deref().map(ShardKey::parse) {
        return Err(MemberError::new("key", format!("is no shard key: {error}")));
    }
    Ok(CheckRequest {
        role,
        tenants: tenants(document.tenant.as_deref())?,
        operations: find_operation(&operation).unwrap_or(RowOperations::ALL),
        table,
        key,
        columns: columns(document.columns.as_deref())?,
    })
}

fn find_operation(name: &str) -> Option<RowOperations> {
    if name == UPSERT { Some(RowOperations::UPSERT) } else { RowOperations::find(name) }
}

fn text(
    member: &str,
    json: Option<Box<RawValue>>,
    is_good: impl Fn(&str) -> bool,
    rule: &str,
) -> Result<Box<str>, MemberError> {
    let text: Option<Box<str>> = read_optional(member, json.as_deref())?;
    text.filter(|text| is_good(text)).ok_or_else(|| MemberError::new(member, rule))
}

fn tenants(json: Option<&RawValue>) -> Result<Tenants, MemberError> {
    let tenants = match read_optional("tenant", json)? {
        None => return Ok(Tenants::none()),
        Some(TenantDocument::One(tenant)) => vec![tenant],
        Some(TenantDocument::Several(tenants)) => tenants,
    };
    Tenants::parse(tenants.iter().map(String::as_str))
        .map_err(|error| MemberError::new("tenant", format!("is refused: {error}")))
}

fn columns(json: Option<&RawValue>) -> Result<Vec<Box<str>>, MemberError> {
    let Some(json) = json else { return Ok(Vec::new()) };
    let columns: Vec<Box<str>> = read_member("columns", json.get())?;
    let max = CheckRequest::COLUMNS_MAX;
    if columns.len() > max || !columns.iter().all(|column| is_name(column)) {
        return Err(MemberError::new("columns", format!("must be at most {max} names of columns")));
    }
    Ok(columns)
}

pub(super) fn format(answer: &CheckAnswer) -> String {
    let document = match answer {
        CheckAnswer::Allowed { grant, keys, columns } => AnswerDocument {
            allowed: true,
            grant: Some(*grant),
            keys: Some(keys.to_raw()),
            columns: Some(match columns {
                ColumnSet::All => raw("*"),
                ColumnSet::Named(names) => raw(&**names),
            }),
            lacks: None,
            detail: None,
        },
        CheckAnswer::Denied(Denied::Rows { lack, .. }) => denied(lack.name(), lack.to_string()),
        CheckAnswer::Denied(Denied::Scope(scope)) => denied("scope", scope.name().to_owned()),
        CheckAnswer::Tenant(error) => denied("tenant", error.to_string()),
        CheckAnswer::NoRole => denied("role", "there is no such role".to_owned()),
    };
    raw(&document).get().to_owned()
}

fn denied(lacks: &'static str, detail: String) -> AnswerDocument {
    AnswerDocument {
        allowed: false,
        grant: None,
        keys: None,
        columns: None,
        lacks: Some(lacks),
        detail: Some(detail),
    }
}
