//! Tests of access control over HTTP: credentials, the right that each route needs, settings and
//! files, the audit log, web pages of other origins, and that no secret is shown.

mod audit;
mod caller_rights;
mod canaries;
mod catalog_keys;
mod cors;
mod credentials;
mod doctor;
mod fair;
mod files;
mod guarded;
mod limits;
mod matrix;
mod modes;
mod quotas;
mod replacing;
mod session;
mod settings;
mod tokens;
