//! Standby settings: ensures that a standby can start after certain settings were lowered, such as
//! `max_connections`.
//!
//! PostgreSQL starts a standby only if these settings are not lower than the values of its primary
//! that the standby has last replayed from the WAL, which are in the control file of the standby.
//! Therefore a standby keeps a higher value until it has replayed WAL of a primary that was started
//! with the lower value; the next start of the standby then uses the lower value too. Because a
//! replica that still has the higher value may be promoted, a standby also has at least the values
//! with which its source is running.
//!
//! **Not here:** the other settings (`settings`).

use crate::error::LocalError;
use crate::node_dir::NodeDir;
use crate::setting_check::number;
use crate::settings::value_of;
use crate::shared_env::{Peer, SharedEnv};

/// Settings that must not be lower on a standby than on its primary: the name, the name in the
/// output of `pg_controldata`, and the default of PostgreSQL.
const BOUND: [(&str, &str, u64); 5] = [
    ("max_connections", "max_connections setting", 100),
    ("max_worker_processes", "max_worker_processes setting", 8),
    ("max_wal_senders", "max_wal_senders setting", 10),
    ("max_prepared_transactions", "max_prepared_xacts setting", 0),
    ("max_locks_per_transaction", "max_locks_per_xact setting", 64),
];
/// Query for the current values of all settings of a server, in the format of `pg_controldata`.
const RUNNING_VALUES: &str = "SELECT name || ': ' || setting FROM pg_settings";
/// Time limit for a connection to the source, in seconds.
const CONNECT_SECONDS: &str = "2";

/// Returns the chosen settings, raised to the values that the data of the standby and its source
/// require.
pub(super) fn settings_of_standby(
    env: &SharedEnv,
    node: &str,
    dir: &NodeDir,
    source: Option<&Peer>,
) -> Result<Vec<(String, String)>, LocalError> {
    let mut command = env.command("pg_controldata");
    let listed = env.text(node, command.arg("-D").arg(dir.data()))?;
    // If the source does not answer, it is expected to start later, with the chosen settings.
    let of_source = source.and_then(|source| running_values(env, node, source));
    Ok(raised(&with_plain_numbers(env)?, &listed, &of_source.unwrap_or_default()))
}

/// Returns the current values of a server's settings, in lines such as `max_connections: 100`;
/// `None` if the server does not answer.
fn running_values(env: &SharedEnv, node: &str, server: &Peer) -> Option<String> {
    let mut command = env.client("psql", server);
    command.args(["-X", "-q", "-A", "-t", "-d", "postgres", "-c", RUNNING_VALUES]);
    env.text(node, command.env("PGCONNECT_TIMEOUT", CONNECT_SECONDS)).ok()
}

/// Returns the chosen settings, with the values of those in [`BOUND`] as decimal numbers, because
/// PostgreSQL also reads `0x28` and `4e1` as 40.
fn with_plain_numbers(env: &SharedEnv) -> Result<Vec<(String, String)>, LocalError> {
    let mut chosen = env.settings.clone();
    for (name, value) in &mut chosen {
        let is_bound = BOUND.iter().any(|(bound, ..)| bound.eq_ignore_ascii_case(name));
        if is_bound && let Some(plain) = number(env, name)? {
            *value = plain.to_string();
        }
    }
    Ok(chosen)
}

/// Adds to the chosen settings the values that the output of `pg_controldata` and the current
/// values of the source require.
fn raised(chosen: &[(String, String)], listed: &str, of_source: &str) -> Vec<(String, String)> {
    let mut settings = chosen.to_vec();
    for (name, label, default) in BOUND {
        let both = [listed_number(listed, label), listed_number(of_source, name)];
        let Some(least) = both.into_iter().flatten().max() else { continue };
        let is_lower = match value_of(name, chosen) {
            Some(value) => value.parse::<u64>().is_ok_and(|value| value < least),
            None => default < least,
        };
        if is_lower {
            settings.push((name.to_owned(), least.to_string()));
        }
    }
    settings
}

/// Returns the number in a line such as `max_connections setting:              100`.
fn listed_number(listed: &str, label: &str) -> Option<u64> {
    let number = |line: &str| line.strip_prefix(label)?.strip_prefix(':')?.trim().parse().ok();
    listed.lines().find_map(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "\
Database cluster state:               shut down in recovery
wal_level setting:                    logical
max_connections setting:              100
max_worker_processes setting:         8
max_wal_senders setting:              20
max_prepared_xacts setting:           5
max_locks_per_xact setting:           64
";

    fn set(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn a_standby_keeps_the_values_that_its_data_needs() {
        let chosen = [
            set("fsync", "off"),
            set("Max_Connections", "40"),
            set("max_wal_senders", "30"),
            set("max_locks_per_transaction", "32"),
        ];
        let added = [
            set("max_connections", "100"),
            set("max_prepared_transactions", "5"),
            set("max_locks_per_transaction", "64"),
        ];
        assert_eq!(raised(&chosen, LISTED, ""), [&chosen[..], &added].concat());
    }

    #[test]
    fn a_standby_has_at_least_the_values_with_which_its_source_runs() {
        let of_data = |value: u64| format!("max_connections setting:              {value}\n");
        let of_source = |value: u64| format!("max_wal_senders: 10\nmax_connections: {value}\n");
        let chosen = [set("max_connections", "40")];
        let needed = [set("max_connections", "40"), set("max_connections", "100")];
        for (data, source) in [(40, 100), (100, 40), (100, 60)] {
            assert_eq!(raised(&chosen, &of_data(data), &of_source(source)), needed);
        }
        assert_eq!(raised(&chosen, &of_data(40), &of_source(40)), chosen);
    }

    #[test]
    fn a_standby_that_needs_no_more_has_the_chosen_settings() {
        let chosen = [set("max_connections", "100"), set("max_prepared_transactions", "9")];
        assert_eq!(raised(&chosen, LISTED, ""), chosen);
        assert_eq!(raised(&chosen, "nothing that is known", "nor here"), chosen);
    }
}
