//! Draft: what is known about a request so far, for its event in the audit log.
//!
//! The draft is attached to the request. If the client disconnects, the framework drops the
//! request, but the draft still becomes an event, because the request may have been carried out.
//!
//! **Invariant:** a request has at most one event. Values from a client are truncated before they
//! are kept. If a path contains a whole API key, only the id of the key is kept, except in
//! `/api/kv/{key}`, whose key is not an API key. Where a path should contain the id of an API key,
//! only a valid id is kept.
//! **Not here:** the decision about a request (`gate`).

use std::net::IpAddr;
use std::sync::Arc;

use actix_web::HttpMessage;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderValue};
use actix_web::http::{Method, StatusCode};
use shard_manager::access::audit::AuditLevel;
use shard_manager::access::audit::event::{AuditCaller, AuditEvent, AuditOutcome};
use shard_manager::access::caller::Caller;
use shard_manager::access::key::{ApiKey, KeyId};

use super::AuditLog;
use super::writer::unix_ms;
use crate::access::credentials::{self, Credentials};
use crate::access::scopes::{self, NO_ROUTE, ROWS, RouteNeed};
use crate::data_route::KV;
use crate::problem::Code;

/// Maximum number of bytes of a value that are kept. The line shortens it further, and marks that.
const TEXT_MAX: usize = 512;
/// Prefix of the routes about one API key, whose paths contain its id.
const KEYS: &str = "/api/access/keys/";
/// Recorded instead of a path segment that should be the id of an API key but is not: it may be
/// part of a key.
const NO_KEY_ID: &str = "not an id";

/// Event of a request whose response is not sent yet.
pub struct AuditDraft {
    log: Arc<AuditLog>,
    /// Index of the request's route in [`ROWS`]; `None` if it has no route.
    row: Option<usize>,
    method: Method,
    request: Option<HeaderValue>,
    trace: Option<[u8; 16]>,
    address: Option<IpAddr>,
    caller: Option<Arc<Caller>>,
    /// Code with which access control refused the request, or would have refused it in the mode
    /// `observe`.
    refused_by: Option<Code>,
    is_observed: bool,
    target: Option<Box<str>>,
    table: Option<Box<str>>,
    key: Option<Box<str>>,
    refused_rows: u64,
    is_finished: bool,
}

/// Parts of a response that the log records.
#[derive(Clone, Copy, Debug)]
struct AuditedAnswer {
    status: StatusCode,
    code: Option<Code>,
}

impl AuditDraft {
    fn new(log: &Arc<AuditLog>, request: &ServiceRequest, trace: Option<[u8; 16]>) -> Self {
        let path = request.match_info().as_str();
        let row = scopes::find(path, request.method());
        Self {
            log: Arc::clone(log),
            row,
            method: request.method().clone(),
            request: None,
            trace,
            address: request.peer_addr().map(|address| address.ip()),
            caller: None,
            refused_by: None,
            is_observed: false,
            target: row.and_then(|row| target(ROWS[row].path, path)),
            table: None,
            key: None,
            refused_rows: 0,
            is_finished: false,
        }
    }

    /// Records the address of the client, and the code with which access control refuses the
    /// request or, if `is_observed` is true, would refuse it.
    pub fn refuse(request: &impl HttpMessage, address: IpAddr, code: Code, is_observed: bool) {
        if let Some(draft) = request.extensions_mut().get_mut::<Self>() {
            draft.address = Some(address);
            (draft.refused_by, draft.is_observed) = (Some(code), is_observed);
        }
    }

    /// Returns the lowest level at which a log records the request; `None` if no level records it.
    fn level(&self, is_refused: bool) -> Option<AuditLevel> {
        let need = self.row.map_or(RouteNeed::Open, |row| ROWS[row].need);
        let is_read = self.method == Method::GET;
        // This includes changes through a route that needs no right.
        if !is_read && self.row.is_some() && need != RouteNeed::Rows {
            return Some(AuditLevel::Admin);
        }
        if is_refused {
            return Some(AuditLevel::Denied);
        }
        match need {
            RouteNeed::Rows if !is_read => Some(AuditLevel::Writes),
            RouteNeed::Rows | RouteNeed::Scope(_) => Some(AuditLevel::All),
            RouteNeed::Open => None,
        }
    }

    /// Creates the event and adds it to the log's queue, if the log records events of its level.
    fn send(&mut self, answer: Option<AuditedAnswer>, headers: Option<&HeaderMap>) {
        self.is_finished = true;
        let code = answer.and_then(|answer| answer.code);
        let is_refused = self.refused_by.is_some() || code.is_some_and(is_denial);
        let has_denial = is_refused || self.refused_rows > 0;
        let Some(level) = self.level(has_denial).filter(|level| self.log.has(*level)) else {
            return;
        };
        let outcome = match answer {
            None => AuditOutcome::Abandoned,
            Some(_) if self.is_observed => AuditOutcome::WouldRefuse,
            Some(_) if is_refused => AuditOutcome::Refused,
            Some(_) if self.refused_rows > 0 => AuditOutcome::PartlyRefused,
            Some(_) if code.is_some() => AuditOutcome::Failed,
            Some(_) => AuditOutcome::Served,
        };
        let code = if self.is_observed { self.refused_by } else { code };
        let request = self.request.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default();
        self.log.record(AuditEvent {
            time_ms: unix_ms(),
            level,
            outcome,
            request: request.into(),
            trace: self.trace,
            caller: self.audited_caller(headers),
            address: self.address,
            method: cut(self.method.as_str()),
            route: self.row.map_or(NO_ROUTE, |row| ROWS[row].path),
            target: self.target.take(),
            table: self.table.take(),
            key: self.key.take(),
            status: answer.map(|answer| answer.status.as_u16()),
            code: code.map(Code::name),
            refused_rows: self.refused_rows,
            count: 1,
        });
    }

    /// Returns the caller for the log. If its credentials were refused, only the id of the API key
    /// that they contain, if any, is returned.
    fn audited_caller(&self, headers: Option<&HeaderMap>) -> AuditCaller {
        if let Some(caller) = &self.caller {
            return AuditCaller::of(caller);
        }
        let found = headers.and_then(|headers| credentials::find(headers, "").ok());
        match found {
            Some(Credentials::Bearer(text)) => {
                let key = ApiKey::parse(text);
                key.map_or(AuditCaller::Unknown, |key| AuditCaller::ClaimedKey(key.id()))
            }
            Some(Credentials::Session(_) | Credentials::Absent | Credentials::Unreadable)
            | None => AuditCaller::Unknown,
        }
    }
}

impl Drop for AuditDraft {
    fn drop(&mut self) {
        if !self.is_finished {
            self.send(None, None);
        }
    }
}

/// Attaches a draft to a new request. Without an audit log, it does nothing.
#[inline]
pub fn begin(log: Option<&Arc<AuditLog>>, request: &ServiceRequest, trace: Option<[u8; 16]>) {
    if let Some(log) = log {
        let draft = AuditDraft::new(log, request, trace);
        request.extensions_mut().insert(draft);
    }
}

/// Adds the request id to the draft of a request. Without an audit log, it does nothing.
#[inline]
pub fn name(log: Option<&Arc<AuditLog>>, request: &ServiceRequest, id: &HeaderValue) {
    if log.is_some()
        && let Some(draft) = request.extensions_mut().get_mut::<AuditDraft>()
    {
        draft.request = Some(id.clone());
    }
}

/// Turns the draft of a request into an event once its response is known. Without an audit log, it
/// does nothing.
#[inline]
pub fn finish<B>(log: Option<&Arc<AuditLog>>, response: &ServiceResponse<B>, code: Option<Code>) {
    if log.is_none() {
        return;
    }
    let request = response.request();
    let draft = request.extensions_mut().remove::<AuditDraft>();
    if let Some(mut draft) = draft {
        let answer = AuditedAnswer { status: response.status(), code };
        draft.send(Some(answer), Some(request.headers()));
    }
}

/// Adds the caller to the draft of a request, if it has one.
pub fn identify(request: &impl HttpMessage, address: IpAddr, caller: &Arc<Caller>) {
    if let Some(draft) = request.extensions_mut().get_mut::<AuditDraft>() {
        (draft.address, draft.caller) = (Some(address), Some(Arc::clone(caller)));
    }
}

/// Adds the table and the shard key to the draft of a request. Without an audit log, it does
/// nothing.
#[inline]
pub fn note_row(
    log: Option<&Arc<AuditLog>>,
    request: &impl HttpMessage,
    table: &str,
    key: Option<&str>,
) {
    if log.is_some() {
        add_row(request, table, key);
    }
}

fn add_row(request: &impl HttpMessage, table: &str, key: Option<&str>) {
    if let Some(draft) = request.extensions_mut().get_mut::<AuditDraft>() {
        draft.table = Some(cut(table));
        if let Some(key) = key {
            draft.key = Some(cut(key));
        }
    }
}

/// Adds the number of rows that were refused for lack of rights to the draft of a request, if it
/// has one.
pub fn note_rows_refused(request: &impl HttpMessage, rows: u64) {
    if let Some(draft) = request.extensions_mut().get_mut::<AuditDraft>() {
        draft.refused_rows = rows;
    }
}

/// Returns true if a request was refused for its credentials, rights or limits.
fn is_denial(code: Code) -> bool {
    [Code::TSR401, Code::TSR403, Code::TSR429, Code::TSR006].contains(&code)
}

/// Returns the object that a path names, such as the id of an API key. If a client sends a whole
/// API key instead of its id, only the id is returned. The key in `/api/kv/{key}` is not returned
/// here: its route records it.
fn target(template: &str, path: &str) -> Option<Box<str>> {
    if template == KV {
        return None;
    }
    let parts = template.split('/').zip(path.split('/'));
    let mut named = parts.filter(|(part, _)| part.starts_with('{'));
    named.next().map(|(_, text)| match ApiKey::parse(text) {
        Some(key) => cut(key.id().as_str()),
        None if template.starts_with(KEYS) && KeyId::parse(text).is_none() => cut(NO_KEY_ID),
        None => cut(text),
    })
}

/// Truncates a value from a client, so that an event stays small.
fn cut(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(TEXT_MAX)].into()
}

#[cfg(test)]
mod tests {
    use shard_manager::access::key::NewApiKey;

    use super::*;

    #[test]
    fn a_whole_key_in_a_path_is_recorded_as_its_id() {
        let key = NewApiKey::from_random(&[7; NewApiKey::RANDOM_LEN]);
        let (whole, id) = (key.reveal(), key.id().to_string());
        let found = |template: &str, path: &str| target(template, path).map(String::from);
        let one = "/api/access/keys/{id}";
        for named in [whole, &*id] {
            assert_eq!(found(one, &format!("/api/access/keys/{named}")), Some(id.clone()));
            let path = format!("/api/access/keys/{named}/rotate");
            assert_eq!(found("/api/access/keys/{id}/rotate", &path), Some(id.clone()));
            let path = format!("/api/access/roles/{named}");
            assert_eq!(found("/api/access/roles/{name}", &path), Some(id.clone()));
        }
        // Parts of a key, and keys with a typo, contain most of the secret.
        for part in [&whole[1..], &whole[16..], &whole[..whole.len() - 1]] {
            let path = format!("/api/access/keys/{part}");
            assert_eq!(found(one, &path).as_deref(), Some(NO_KEY_ID));
        }
        let table = found("/api/tables/{name}", "/api/tables/tsr_users");
        assert_eq!(table.as_deref(), Some("tsr_users"));
    }
}
