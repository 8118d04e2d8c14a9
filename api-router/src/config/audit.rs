//! Audit: the settings of the audit log.
//!
//! **Not here:** the log itself (`access::audit`).

use std::path::PathBuf;

use analytics::settings::Settings;
use clap::Args;
use shard_manager::access::audit::{AuditKeyForm, AuditLevel};

use super::ConfigError;
use super::access::AccessMode;
use super::sources::name_with_origin;

const LOG: &str = "audit_log";
pub(super) const LEVEL: &str = "audit";
pub(super) const KEYS: &str = "audit_keys";

/// Destination of the audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AuditTarget {
    /// There is no log.
    #[default]
    None,
    /// Standard error, between the lines of the router's own log.
    Stderr,
    /// A file, which is renamed when it is full.
    File(PathBuf),
}

/// Settings of the audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditConfig {
    /// Destination of the log.
    pub target: AuditTarget,
    /// Requests that the log records.
    pub level: AuditLevel,
    /// Form in which shard keys are logged.
    pub keys: AuditKeyForm,
}

impl AuditConfig {
    /// Returns true if there is a log.
    pub fn is_on(&self) -> bool {
        self.target != AuditTarget::None
    }
}

/// Flags of the audit log.
#[derive(Default, Args)]
pub(super) struct AuditFlags {
    /// Audit log of requests: a file, stderr or none [default: none]
    #[arg(long, value_name = "FILE|stderr|none")]
    audit_log: Option<String>,
    /// Requests in the audit log: admin (changes of keys, roles, tables and shards), denied (those
    /// and refused requests), writes (those and writes) or all [default: denied]
    #[arg(long, value_name = "admin|denied|writes|all")]
    audit: Option<String>,
    /// Form of shard keys in the audit log: hash, plain or none [default: hash]
    #[arg(long, value_name = "hash|plain|none")]
    audit_keys: Option<String>,
}

impl AuditFlags {
    /// Returns the values of the flags, each with the name of its setting.
    pub(super) fn texts(&self) -> [(&'static str, &Option<String>); 3] {
        [(LOG, &self.audit_log), (LEVEL, &self.audit), (KEYS, &self.audit_keys)]
    }
}

/// Returns the settings of the audit log, which needs access control.
///
/// # Errors
/// [`ConfigError`] names the setting, its origin and the allowed values.
pub(super) fn audit(
    settings: &mut Settings<'_>,
    mode: AccessMode,
) -> Result<AuditConfig, ConfigError> {
    let target = settings.parse(LOG, "none", |text| match text {
        "" => Err("a file, stderr or none".to_owned()),
        "none" => Ok(AuditTarget::None),
        "stderr" => Ok(AuditTarget::Stderr),
        path => Ok(AuditTarget::File(PathBuf::from(path))),
    })?;
    let level = settings.parse(LEVEL, AuditLevel::default().name(), |text| {
        let found = AuditLevel::ALL.into_iter().find(|level| level.name() == text);
        found.ok_or_else(|| "admin, denied, writes or all".to_owned())
    })?;
    let keys = settings.parse(KEYS, AuditKeyForm::default().name(), |text| {
        let found = AuditKeyForm::ALL.into_iter().find(|form| form.name() == text);
        found.ok_or_else(|| "hash, plain or none".to_owned())
    })?;
    if mode == AccessMode::Off && target != AuditTarget::None {
        let given = name_with_origin(settings, LOG).unwrap_or_default();
        return Err(ConfigError(format!(
            "{given} needs access to be on or observe: without access control no caller is known"
        )));
    }
    Ok(AuditConfig { target, level, keys })
}
