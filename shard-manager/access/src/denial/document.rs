//! Denial document: the JSON of a denial.
//!
//! **Invariant:** a denial has exactly one of `jti`, `sub`, `tenant` and `issued_before`. With two
//! of them, it would be unclear whether it refuses tokens that match both or either.
//! **Not here:** the application of a denial (`denial`).

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Denial, DenialSubject};
use crate::json_member::{MemberError, present, raw, read_object, read_optional};
use crate::tenant::Tenants;
use crate::unix_time::UnixTime;

/// Maximum length of a string in bytes: that of a whole token, which no claim can exceed.
const TEXT_LEN_MAX: usize = 8_192;

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DenialDocument {
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    issuer: Option<Box<RawValue>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    jti: Option<Box<RawValue>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    sub: Option<Box<RawValue>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    tenant: Option<Box<RawValue>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    issued_before: Option<Box<RawValue>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    until: Option<Box<RawValue>>,
}

pub(super) fn parse(json: &str) -> Result<Denial, MemberError> {
    let document: DenialDocument = read_object(json)
        .map_err(|fault| MemberError::new("the denial", format!("cannot be read: {fault}")))?;
    let text = |member, json: &Option<Box<RawValue>>| text(member, json.as_deref());
    let issuer = text("issuer", &document.issuer)?;
    let tenant = text("tenant", &document.tenant)?;
    let objects = (
        text("jti", &document.jti)?,
        text("sub", &document.sub)?,
        &tenant,
        time("issued_before", document.issued_before.as_deref())?,
    );
    let needed = |issuer: Option<Box<str>>| {
        issuer.ok_or_else(|| MemberError::new("issuer", "is missing: give the value of `iss`"))
    };
    let subject = match objects {
        (Some(id), None, None, None) => DenialSubject::TokenId { issuer: needed(issuer)?, id },
        (None, Some(subject), None, None) => {
            DenialSubject::Subject { issuer: needed(issuer)?, subject }
        }
        (None, None, Some(tenant), None) => {
            if issuer.is_some() {
                let fault = "is of no use: a denial of a tenant is for all its keys and tokens";
                return Err(MemberError::new("issuer", fault));
            }
            let checked = Tenants::parse([&**tenant]);
            checked.map_err(|error| MemberError::new("tenant", format!("is refused: {error}")))?;
            DenialSubject::Tenant(tenant.clone())
        }
        (None, None, None, Some(time)) => {
            DenialSubject::IssuedBefore { issuer: needed(issuer)?, time }
        }
        _ => {
            let fault = "must have exactly one of jti, sub, tenant and issued_before";
            return Err(MemberError::new("the denial", fault));
        }
    };
    Ok(Denial { subject, until: time("until", document.until.as_deref())? })
}

fn text(member: &str, json: Option<&RawValue>) -> Result<Option<Box<str>>, MemberError> {
    let text: Option<Box<str>> = read_optional(member, json)?;
    if text.as_ref().is_some_and(|text| text.is_empty() || text.len() > TEXT_LEN_MAX) {
        let fault = format!("must have 1 to {TEXT_LEN_MAX} bytes");
        return Err(MemberError::new(member, fault));
    }
    Ok(text)
}

fn time(member: &str, json: Option<&RawValue>) -> Result<Option<UnixTime>, MemberError> {
    let Some(text) = text(member, json)? else { return Ok(None) };
    let time = UnixTime::parse(&text);
    let refused = || MemberError::new(member, "must be a time such as 2027-01-31T12:00:00Z");
    time.ok_or_else(refused).map(Some)
}

pub(super) fn format(denial: &Denial) -> String {
    let mut document = DenialDocument {
        until: denial.until.map(|until| raw(&until.format())),
        ..DenialDocument::default()
    };
    match &denial.subject {
        DenialSubject::TokenId { issuer, id } => {
            (document.issuer, document.jti) = (Some(raw(issuer)), Some(raw(id)));
        }
        DenialSubject::Subject { issuer, subject } => {
            (document.issuer, document.sub) = (Some(raw(issuer)), Some(raw(subject)));
        }
        DenialSubject::Tenant(tenant) => document.tenant = Some(raw(tenant)),
        DenialSubject::IssuedBefore { issuer, time } => {
            let time = raw(&time.format());
            (document.issuer, document.issued_before) = (Some(raw(issuer)), Some(time));
        }
    }
    raw(&document).get().to_owned()
}
