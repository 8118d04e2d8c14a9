//! Settings: configuration of the servers of a local cluster.
//!
//! The settings are in a separate file beside the data directory of a node, which its
//! `postgresql.conf` includes, so that data copied from another node never contains that node's
//! port.
//!
//! **Invariant:** a server listens on no Unix-domain socket, and only on loopback addresses unless
//! it is a standalone node.
//! **Not here:** settings of a running server (`ALTER SYSTEM`, which overrides these).

use crate::error::LocalError;

/// Settings for replication, for `pg_rewind`, and for machines that also do other work.
const COMMON: [(&str, &str); 19] = [
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    ("max_connections", "100"),
    ("shared_buffers", "64MB"),
    ("wal_level", "logical"),
    ("wal_log_hints", "on"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    // WAL is retained even without a slot, because a newly promoted node has no replication slots
    // for the other nodes yet, and `pg_rewind` needs the former primary's own WAL.
    ("wal_keep_size", "128MB"),
    ("wal_retrieve_retry_interval", "200ms"),
    ("hot_standby", "on"),
    ("hot_standby_feedback", "on"),
    ("jit", "off"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("log_min_messages", "warning"),
    ("log_checkpoints", "off"),
    ("log_line_prefix", "%m [%p] "),
    ("logging_collector", "off"),
];
/// Settings that the cluster itself determines, so that the user cannot choose them.
const OWN: [&str; 15] = [
    "port",
    "listen_addresses",
    "unix_socket_directories",
    "data_directory",
    "config_file",
    "hba_file",
    "ident_file",
    "external_pid_file",
    "cluster_name",
    "primary_conninfo",
    "primary_slot_name",
    "logging_collector",
    // Directives that the parser accepts on any line. An included file could set any of the
    // settings above.
    "include",
    "include_dir",
    "include_if_exists",
];

/// Checks that the user may choose these settings.
pub(super) fn check(settings: &[(String, String)]) -> Result<(), LocalError> {
    for (name, value) in settings {
        let refused = |cause| Err(LocalError::Setting { name: name.clone(), cause });
        if !is_name(name) {
            return refused("this is not a name of a setting");
        }
        if OWN.contains(&name.to_ascii_lowercase().as_str()) {
            return refused("the cluster decides it");
        }
        if value.contains(|c: char| c.is_control()) {
            return refused("its value holds a control character");
        }
    }
    Ok(())
}

/// Returns true if a configuration file can contain a setting of this name: an identifier, or two
/// identifiers separated by a dot for a setting of an extension.
fn is_name(name: &str) -> bool {
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    match name.split_once('.') {
        Some((extension, setting)) => is_word(extension) && is_word(setting),
        None => is_word(name),
    }
}

/// Returns the value of a setting in a server's settings file: the last value that was chosen, or
/// else the value that all servers get; `None` if there is neither.
pub(super) fn value_of<'s>(name: &str, chosen: &'s [(String, String)]) -> Option<&'s str> {
    let set = chosen.iter().rfind(|(chosen, _)| chosen.eq_ignore_ascii_case(name));
    let common = || COMMON.iter().find(|(common, _)| *common == name).map(|(_, value)| *value);
    set.map(|(_, value)| value.as_str()).or_else(common)
}

/// Returns the configuration lines of one server. If a setting occurs twice, the last line takes
/// effect.
pub(super) fn lines(own: &[(&str, String)], chosen: &[(String, String)]) -> String {
    let common = COMMON.iter().map(|(name, value)| (*name, *value));
    let own = own.iter().map(|(name, value)| (*name, value.as_str()));
    let chosen = chosen.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let line = |(name, value): (&str, &str)| format!("{name} = {}\n", quoted(value));
    let head = "# Written at each start of this node. `cluster up --set NAME=VALUE` adds to it.\n";
    std::iter::once(head.to_owned()).chain(common.chain(own).chain(chosen).map(line)).collect()
}

/// Returns true if commits wait until they are on disk.
pub(super) fn is_synced(chosen: &[(String, String)]) -> bool {
    let set = value_of("fsync", chosen);
    !set.is_some_and(|value| ["off", "false", "no", "0"].contains(&value))
}

/// Quotes a value for a configuration file or a connection string.
pub(super) fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), value.to_owned())]
    }

    #[test]
    fn settings_that_the_cluster_decides_cannot_be_set() {
        for (name, value) in
            [("port", "1"), ("PORT", "1"), ("a b", "1"), ("", "1"), ("jit", "a\nb")]
        {
            assert!(check(&set(name, value)).is_err(), "{name}");
        }
        for directive in ["include", "Include_Dir", "include_if_exists"] {
            assert!(check(&set(directive, "/tmp/more.conf")).is_err(), "{directive}");
        }
        check(&set("shared_buffers", "1GB")).unwrap();
    }

    #[test]
    fn a_name_that_no_configuration_file_can_contain_is_refused() {
        for name in ["1st", "a.1", "a.", ".a", "a..b", "a.b.c", "max-connections"] {
            assert!(check(&set(name, "1")).is_err(), "{name}");
        }
        for name in ["jit", "_x", "auto_explain.log_min_duration", "MAX_connections"] {
            check(&set(name, "1")).unwrap();
        }
    }

    #[test]
    fn a_chosen_value_replaces_that_of_every_server() {
        assert_eq!(value_of("max_connections", &set("Max_Connections", "7")), Some("7"));
        assert_eq!(value_of("max_connections", &set("jit", "on")), Some("100"));
        assert_eq!(value_of("max_worker_processes", &[]), None);
    }

    #[test]
    fn chosen_settings_come_last_and_in_quotes() {
        let text = lines(&[("port", "5".to_owned())], &set("search_path", r"it's \ here"));
        assert!(text.ends_with("port = '5'\nsearch_path = 'it\\'s \\\\ here'\n"), "{text}");
    }

    #[test]
    fn a_cluster_without_syncs_is_made_without_them() {
        assert!(is_synced(&[]));
        assert!(!is_synced(&set("fsync", "off")));
        assert!(is_synced(&set("fsync", "on")));
    }
}
