//! Events: requests as an audit log describes them.
//!
//! **Invariant:** an event has no body and no credentials.
//! **Not here:** the text of a line (`line`).

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
    /// Some of its rows were refused for lack of rights.
    PartlyRefused,
    /// The request was refused for its credentials, rights or limits.
    Refused,
    /// The request was served, and would have been refused if access control had not only observed.
    WouldRefuse,
    /// The request failed for another reason.
    Failed,
    /// The client disconnected before the response. The request may have been carried out.
    Abandoned,
}

impl AuditOutcome {
    /// Returns the name in a line.
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

/// Identity of a caller, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AuditCaller {
    /// Good credentials, or none.
    Known {
        /// The identity.
        principal: Principal,
        /// Name of the role.
        role: Box<str>,
        /// The tenants.
        tenants: Vec<Box<str>>,
    },
    /// Refused API key, by the id that it contains; the id is not verified.
    ClaimedKey(KeyId),
    /// Other credentials, or credentials that were not examined.
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

/// Request as the log records it, after its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// Time of the response, in milliseconds since 1970.
    pub time_ms: u64,
    /// Lowest level of a log that records the event.
    pub level: AuditLevel,
    /// Outcome of the request.
    pub outcome: AuditOutcome,
    /// `x-request-id` of the response.
    pub request: Box<str>,
    /// Id of its trace.
    pub trace: Option<[u8; 16]>,
    /// The caller.
    pub caller: AuditCaller,
    /// Address of the client.
    pub address: Option<IpAddr>,
    /// The method.
    pub method: Box<str>,
    /// Path of the route, as the OpenAPI document spells it.
    pub route: &'static str,
    /// Object that the path names: the id of a key, the name of a role, table or node.
    pub target: Option<Box<str>>,
    /// The table.
    pub table: Option<Box<str>>,
    /// The shard key.
    pub key: Option<Box<str>>,
    /// Status of the response, if there was one.
    pub status: Option<u16>,
    /// Code of the problem, if the request was refused or has failed.
    pub code: Option<&'static str>,
    /// Number of rows that were refused for lack of rights, while others may have been stored.
    pub refused_rows: u64,
    /// Number of equal requests that this line stands for; the members are those of the last one.
    pub count: u64,
}

/// Form of the shard keys in a log, with the secret if it needs one.
#[derive(Clone, Debug)]
pub enum AuditKeys {
    /// Their hashes under a secret.
    Hash(AuditSecret),
    /// The keys.
    Plain,
    /// Nothing.
    None,
}

impl AuditKeys {
    /// Returns the form with its secret.
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
