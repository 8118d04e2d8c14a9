//! Events: requests as an audit log records them.
//!
//! **Invariant:** an event contains neither the body nor the credentials of a request.
//! **Not here:** the JSON text of a line (`line`).

use std::net::IpAddr;

use super::line::LineWriter;
use super::{AuditKeyForm, AuditLevel, AuditSecret};
use crate::caller::{Caller, Principal};
use crate::key::KeyId;

/// Outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuditOutcome {
    /// The request was served.
    Served,
    /// Some rows of the request were refused because the caller lacks rights to them.
    PartlyRefused,
    /// The request was refused because of its credentials, rights or limits.
    Refused,
    /// Access control was set to observe only. It did not refuse the request, but would have
    /// refused it if it had been enforced.
    WouldRefuse,
    /// The request failed for another reason.
    Failed,
    /// The client disconnected before the response. The request may have been carried out.
    Abandoned,
}

impl AuditOutcome {
    /// Returns the name used in a line of the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::PartlyRefused => "partly_refused",
            Self::Refused => "refused",
            Self::WouldRefuse => "would_refuse",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Identity of a caller, as far as it was established.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AuditCaller {
    /// Caller with valid credentials, or anonymous caller.
    Known {
        /// The identity.
        principal: Principal,
        /// Name of the role.
        role: Box<str>,
        /// The tenants of the caller.
        tenants: Vec<Box<str>>,
    },
    /// Caller whose API key was refused, with the id in that key. The id is not verified.
    ClaimedKey(KeyId),
    /// Caller with other refused credentials, or with credentials that were not checked.
    Unknown,
}

impl AuditCaller {
    /// Returns the identity of a caller.
    pub fn of(caller: &Caller) -> Self {
        Self::Known {
            principal: caller.principal.clone(),
            role: caller.role.clone(),
            tenants: caller.rights.tenants().iter().map(|tenant| Box::from(&**tenant)).collect(),
        }
    }

    fn write(&self, line: &mut LineWriter<'_>) {
        let (principal, role, tenants) = match self {
            Self::Known { principal, role, tenants } => (principal, role, tenants),
            Self::ClaimedKey(id) => {
                line.text("caller", "unknown");
                line.text("claimed_key", id.as_str());
                return;
            }
            Self::Unknown => {
                line.text("caller", "unknown");
                return;
            }
        };
        line.text("caller", principal.kind());
        match principal {
            Principal::Anonymous => {}
            Principal::Key(id) => line.text("id", id.as_str()),
            Principal::Token { issuer, subject, id } => {
                line.maybe("id", id.as_deref());
                line.text("issuer", issuer);
                line.maybe("subject", subject.as_deref());
            }
            Principal::Certificate { name } => line.text("id", name),
        }
        line.text("role", role);
        if !tenants.is_empty() {
            line.texts("tenants", tenants.iter().map(|tenant| &**tenant));
        }
    }
}

/// Request as the log records it, once it has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// Time at which the request ended, in milliseconds since 1970.
    pub time_ms: u64,
    /// Lowest level at which a log records the event.
    pub level: AuditLevel,
    /// Outcome of the request.
    pub outcome: AuditOutcome,
    /// Value of the header `x-request-id` of the response.
    pub request: Box<str>,
    /// Id of the distributed trace to which the request belongs.
    pub trace: Option<[u8; 16]>,
    /// The caller.
    pub caller: AuditCaller,
    /// Address of the client.
    pub address: Option<IpAddr>,
    /// The HTTP method.
    pub method: Box<str>,
    /// Path of the route, as written in the OpenAPI document.
    pub route: &'static str,
    /// Object that the path names, such as the id of an API key or the name of a role, table or
    /// node.
    pub target: Option<Box<str>>,
    /// Name of the table.
    pub table: Option<Box<str>>,
    /// The shard key.
    pub key: Option<Box<str>>,
    /// HTTP status of the response; `None` if there was no response.
    pub status: Option<u16>,
    /// Problem code, such as `TSR403`, if the request was refused or failed.
    pub code: Option<&'static str>,
    /// Number of rows that were refused for lack of rights, while others may have been stored.
    pub refused_rows: u64,
    /// Number of equal requests for which this line stands. The other members are those of the
    /// latest of these requests.
    pub count: u64,
}

/// Form in which a log records shard keys, with the secret if the form needs one.
#[derive(Clone, Debug)]
pub enum AuditKeys {
    /// HMACs of the keys under this secret.
    Hash(AuditSecret),
    /// The keys in plain text.
    Plain,
    /// Keys are not recorded.
    None,
}

impl AuditKeys {
    /// Combines a form with the secret that it may need.
    pub fn new(form: AuditKeyForm, secret: AuditSecret) -> Self {
        match form {
            AuditKeyForm::Hash => Self::Hash(secret),
            AuditKeyForm::Plain => Self::Plain,
            AuditKeyForm::None => Self::None,
        }
    }

    fn write(&self, line: &mut LineWriter<'_>, key: Option<&str>) {
        let Some(key) = key else { return };
        match self {
            Self::Hash(secret) => line.text("key_hash", &secret.hash(key)),
            Self::Plain => line.text("key", key),
            Self::None => {}
        }
    }
}

impl AuditEvent {
    pub(super) fn write(&self, line: &mut LineWriter<'_>, keys: &AuditKeys) {
        line.text("request", &self.request);
        if let Some(trace) = &self.trace {
            line.hex("trace", trace);
        }
        self.caller.write(line);
        if let Some(address) = self.address {
            line.text("address", &address.to_string());
        }
        line.text("method", &self.method);
        line.text("route", self.route);
        line.maybe("target", self.target.as_deref());
        line.maybe("table", self.table.as_deref());
        keys.write(line, self.key.as_deref());
        if let Some(status) = self.status {
            line.number("status", status.into());
        }
        line.maybe("code", self.code);
        line.text("outcome", self.outcome.name());
        if self.refused_rows > 0 {
            line.number("refused_rows", self.refused_rows);
        }
        if self.count > 1 {
            line.number("count", self.count);
        }
    }
}
