//! Setting check: lets the program `postgres` check the user's settings before they are stored.
//!
//! The program reads an empty configuration, prints one setting and ends: no server starts.
//!
//! **Not here:** settings that the cluster decides (`settings`); the files that settings name,
//! such as libraries and certificates, which a server reads when it starts.

use std::process::Output;

use crate::error::LocalError;
use crate::settings::value_of;
use crate::shared_env::{SharedEnv, error_output};

/// Levels of the lines in which the program states why it refuses a setting.
const LEVELS: [&str; 4] = ["FATAL:", "ERROR:", "DETAIL:", "HINT:"];
/// Settings of which a server refuses some combinations when it starts.
const COMBINED: [&str; 8] = [
    "max_connections",
    "superuser_reserved_connections",
    "reserved_connections",
    "wal_level",
    "max_wal_senders",
    "archive_mode",
    "summarize_wal",
    "max_replication_slots",
];

/// Checks that the servers accept the settings that the user has chosen, with all others in `env`,
/// if each primary has this number of replicas. An empty value removes a setting, so it is not
/// checked itself.
pub(super) fn check_accepted(
    env: &SharedEnv,
    chosen: &[(String, String)],
    replicas: usize,
) -> Result<(), LocalError> {
    for (name, value) in chosen.iter().filter(|(_, value)| !value.is_empty()) {
        let ended = print(env, name, Some(value.as_str()))?;
        if !ended.status.success() {
            let stated = stated_reason(&String::from_utf8_lossy(&ended.stderr));
            let reason = stated.unwrap_or_else(|| error_output(&ended));
            return Err(LocalError::RefusedSetting { name: name.clone(), reason });
        }
    }
    let is_combined = |name: &str| COMBINED.iter().any(|known| known.eq_ignore_ascii_case(name));
    // A setting that was accepted may become invalid when replicas are added or another one is
    // removed.
    if chosen.iter().chain(&env.settings).any(|(name, _)| is_combined(name)) {
        return check_combinations(env, replicas);
    }
    Ok(())
}

/// Checks the settings in `env` for combinations with which a server refuses to start.
fn check_combinations(env: &SharedEnv, replicas: usize) -> Result<(), LocalError> {
    let refused =
        |name: &str, reason| Err(LocalError::RefusedSetting { name: name.to_owned(), reason });
    let most = number(env, "max_connections")?;
    let for_superusers = number(env, "superuser_reserved_connections")?.unwrap_or(0);
    let reserved = for_superusers + number(env, "reserved_connections")?.unwrap_or(0);
    if most.is_some_and(|most| most <= reserved) {
        let reason = format!(
            "it must be more than the {reserved} connections that are reserved \
             (superuser_reserved_connections + reserved_connections)"
        );
        return refused("max_connections", reason);
    }
    let slots = number(env, "max_replication_slots")?;
    if slots.is_some_and(|slots| slots < replicas as u64) {
        let reason = format!("it must be at least {replicas}: each replica has a slot");
        return refused("max_replication_slots", reason);
    }
    if value(env, "wal_level")?.as_deref() == Some("minimal") {
        if replicas > 0 {
            let reason = "servers with replicas need replica or logical".to_owned();
            return refused("wal_level", reason);
        }
        let sends = number(env, "max_wal_senders")? != Some(0);
        if sends || value(env, "archive_mode")?.as_deref() != Some("off") {
            let reason = "minimal needs max_wal_senders=0 and archive_mode=off".to_owned();
            return refused("wal_level", reason);
        }
        // Servers before version 17 do not know this setting.
        if value(env, "summarize_wal")?.as_deref() == Some("on") {
            return refused("wal_level", "minimal needs summarize_wal=off".to_owned());
        }
    }
    Ok(())
}

/// Returns the number that a setting has in a server with the settings in `env`; `None` if the
/// servers do not know the setting.
pub(super) fn number(env: &SharedEnv, name: &str) -> Result<Option<u64>, LocalError> {
    Ok(value(env, name)?.and_then(|value| value.parse().ok()))
}

/// Returns the value that a setting has in a server with the settings in `env`; `None` if the
/// servers do not know the setting.
fn value(env: &SharedEnv, name: &str) -> Result<Option<String>, LocalError> {
    let ended = print(env, name, value_of(name, &env.settings))?;
    let printed = String::from_utf8_lossy(&ended.stdout).trim().to_owned();
    Ok(ended.status.success().then_some(printed))
}

/// Runs `postgres` so that it prints a setting: with this value, or without one with its default.
fn print(env: &SharedEnv, name: &str, value: Option<&str>) -> Result<Output, LocalError> {
    let mut command = env.command("postgres");
    command.args(["-c", "config_file=/dev/null"]);
    if let Some(value) = value {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    command.args(["-C", name, "-D"]);
    env.output(command.arg(&env.cluster_dir.path))
}

/// Returns why the program refused a setting, from its output without timestamps and levels; `None`
/// if it gave no reason.
fn stated_reason(output: &str) -> Option<String> {
    let message = |line: &str| {
        let (_, text) = LEVELS.iter().find_map(|level| line.split_once(*level))?;
        Some(text.trim().trim_end_matches('.').to_owned())
    };
    let messages: Vec<String> = output.lines().filter_map(message).collect();
    (!messages.is_empty()).then(|| messages.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_refusal_has_the_hint_and_no_times() {
        let output = "2026-11-26 15:04 GMT [7] LOG:  skipping missing configuration file \"a\"\n\
                      2026-11-26 15:04 GMT [7] FATAL:  invalid value for parameter \"wal_level\": \"x\"\n\
                      2026-11-26 15:04 GMT [7] HINT:  Available values: minimal, replica, logical.\n";
        let reason = "invalid value for parameter \"wal_level\": \"x\"; Available values: minimal, replica, logical";
        assert_eq!(stated_reason(output).as_deref(), Some(reason));
        assert_eq!(stated_reason("Segmentation fault\n"), None);
    }
}
