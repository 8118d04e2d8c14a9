//! Doctor: checks whether the router would start with this configuration, and reports conditions
//! that may cause problems later.
//!
//! **Invariant:** checks change nothing.
//! **Not here:** the shards, which the shard manager checks.

mod access;
mod audit;

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};

use rustix::process::{Resource, getrlimit};
use shard_manager::doctor::{Finding, Severity, cache, files, servers};
use shard_manager::engine::backup_folder::BackupFolder;
use shard_manager::node_address::ServerEngine;

use crate::config::{AccessMode, Config, Engine};
use crate::server::CONNECTIONS_MAX;
use crate::tls::{Identity, Validity};

/// Number of files that a router has open in addition to the connections of clients.
const FILES_BESIDE: usize = 256;
/// Remaining validity of a certificate below which it should have been renewed: programs renew
/// certificates when a third of their time is left.
const RENEWED_BEFORE: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Runs all checks.
pub async fn examine(config: &Config) -> Vec<Finding> {
    let mut found = vec![port(config), exposure(config), open_files(config)];
    found.extend(certificate(config));
    found.extend(access::examine(config).await);
    found.extend(audit::examine(config).await);
    found.extend(backup_dir(config));
    found.extend(match &config.engine {
        Engine::Embedded { data_dir } => files(data_dir),
        Engine::Postgres(cluster) => servers(cluster).await,
    });
    if let Some(settings) = &config.cache {
        found.extend(cache(&settings.address).await);
    }
    found
}

/// Returns true if the findings contain no fault, so that a router would start with these settings.
pub fn is_fit(found: &[Finding]) -> bool {
    found.iter().all(|finding| finding.severity < Severity::Fault)
}

/// Formats the findings, one per line, and then the numbers of faults and warnings.
pub fn report(found: &[Finding]) -> String {
    let width = found.iter().map(|finding| finding.about.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { severity, about, text: sentence } in found {
        let _ = writeln!(text, "{:<7}  {about:<width$}  {sentence}", severity.name());
    }
    let count = |wanted| found.iter().filter(|finding| finding.severity == wanted).count();
    let (faults, warnings) = (count(Severity::Fault), count(Severity::Warning));
    let verdict = match (faults, warnings) {
        (0, 0) => "all is well".to_owned(),
        (0, warnings) => format!("a router starts; {}", number_of(warnings, "warning")),
        (faults, warnings) => {
            format!("{}, {}", number_of(faults, "fault"), number_of(warnings, "warning"))
        }
    };
    let _ = writeln!(text, "{verdict}");
    text
}

fn number_of(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn port(config: &Config) -> Finding {
    let about = config.bind.to_string();
    match TcpListener::bind(config.bind) {
        Ok(_) => Finding::good(about, "is free"),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Finding::warning(
            about,
            "is taken: by this router, if it runs already; a start is refused",
        ),
        Err(error) => Finding::fault(about, format!("cannot be served on: {error}")),
    }
}

fn exposure(config: &Config) -> Finding {
    let about = "access";
    match config.check_exposure() {
        Err(error) => Finding::fault(about, error),
        Ok(()) if config.access.mode == AccessMode::On && is_unencrypted(config) => {
            Finding::warning(
                about,
                "callers with a key or a token; their keys travel unencrypted from the proxy to this address: let only \
                 the proxy reach it, or add --tls-cert and --tls-key",
            )
        }
        Ok(()) if config.access.mode == AccessMode::On => {
            Finding::good(about, "callers with a key or a token, each as far as its role permits")
        }
        Ok(()) if config.bind.ip().to_canonical().is_loopback() => {
            Finding::good(about, "programs on this machine")
        }
        Ok(()) if config.tls.is_none() => Finding::warning(
            about,
            "everybody who reaches the address, and all of it can be read on the way: add --tls-cert and --tls-key, and \
             let only those reach it who may",
        ),
        Ok(()) => Finding::warning(
            about,
            "everybody who reaches the address, because no request needs a key: turn access control on by --access on, \
             or let only those reach it who may",
        ),
    }
}

/// Returns true if other machines can reach the router, and the router does not use TLS itself.
fn is_unencrypted(config: &Config) -> bool {
    config.tls.is_none() && !config.bind.ip().to_canonical().is_loopback()
}

fn certificate(config: &Config) -> Option<Finding> {
    let files = config.tls.clone()?;
    let about = files.certificate.display().to_string();
    Some(match Identity::read(files) {
        Ok(identity) => lifetime(about, identity.validity(), SystemTime::now()),
        Err(error) => Finding::fault(about, error),
    })
}

fn lifetime(about: String, validity: Option<Validity>, now: SystemTime) -> Finding {
    let fits = "is a certificate, and its key fits";
    let at = |time: SystemTime| DateTime::<Utc>::from(time).format("%Y-%m-%d %H:%M UTC");
    let Some(Validity { begins, ends }) = validity else {
        return Finding::warning(about, format!("{fits}; how long it is valid cannot be read"));
    };
    if now < begins {
        let sentence = format!(
            "is valid from {} on: no client accepts it before; or is the clock of this machine wrong?",
            at(begins)
        );
        return Finding::warning(about, sentence);
    }
    match ends.duration_since(now) {
        Err(_over) => {
            Finding::fault(about, format!("ended on {}: no client accepts it; renew it", at(ends)))
        }
        Ok(left) if left < RENEWED_BEFORE => {
            let days = left.as_secs() / (24 * 3_600);
            Finding::warning(
                about,
                format!(
                    "ends in {days} days, on {}: renew it; a running router takes the new one by itself",
                    at(ends)
                ),
            )
        }
        Ok(_) => Finding::good(about, format!("{fits}; it ends on {}", at(ends))),
    }
}

/// Checks the folder for backups, if one is set.
fn backup_dir(config: &Config) -> Option<Finding> {
    let dir = config.backup_dir.as_deref()?;
    let about = dir.display().to_string();
    Some(match (BackupFolder::check(dir, config.data_dir()), &config.engine) {
        (Err(error), _) => Finding::fault("backup_dir", error),
        (Ok(_), Engine::Postgres(cluster)) if cluster.engine == ServerEngine::Citus => {
            let text = "has no effect: routers do not back up Citus clusters; leave backup_dir out";
            Finding::warning(about, text)
        }
        (Ok(true), _) => Finding::good(about, "can store backups"),
        (Ok(false), _) => {
            Finding::good(about, "does not exist yet: the router creates it for backups")
        }
    })
}

fn open_files(config: &Config) -> Finding {
    let about = "open files";
    let wanted = config.workers * CONNECTIONS_MAX + FILES_BESIDE;
    match getrlimit(Resource::Nofile).current {
        Some(limit) if usize::try_from(limit).is_ok_and(|limit| limit < wanted) => {
            let clients = usize::try_from(limit).unwrap_or(0).saturating_sub(FILES_BESIDE);
            Finding::warning(
                about,
                format!(
                    "this user may open {limit}, enough for {clients} connections of clients; {wanted} allow all that \
                     {} workers take: ulimit -n, or LimitNOFILE= of systemd",
                    config.workers
                ),
            )
        }
        Some(limit) => Finding::good(about, format!("{limit} may be open")),
        None => Finding::good(about, "as many as are needed may be open"),
    }
}
