//! Place flags: the flags that name a cluster, as text for follow-up commands that messages
//! suggest.
//!
//! **Invariant:** a shell that runs the suggested command passes on the flags as the operator gave
//! them.
//! **Not here:** parsing these flags (`ClusterSource`).

use std::fmt;
use std::path::Path;

use super::http_agent::RouterAddress;

/// Flags that name a cluster, each after a space; empty if the operator gave none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlaceFlags(String);

impl PlaceFlags {
    /// Returns the flag of a data directory.
    pub(super) fn of_dir(data_dir: &Path) -> Self {
        Self(flag("--data-dir", &data_dir.display()))
    }

    /// Returns the flags that name a router and, if there is one, the file with the key for it.
    pub(super) fn of_router(address: &RouterAddress) -> Self {
        let key_file = address.key_file.as_deref();
        let key_file = key_file.map(|file| flag("--key-file", &file.display()));
        Self(flag("--url", &address.url) + &key_file.unwrap_or_default())
    }
}

impl fmt::Display for PlaceFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns a space and a flag with its value, which is quoted for a shell if necessary.
fn flag(name: &str, value: &dyn fmt::Display) -> String {
    let value = value.to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    if !value.is_empty() && value.chars().all(is_plain) {
        return format!(" {name} {value}");
    }
    format!(" {name} '{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::ClusterSource;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        source: ClusterSource,
    }

    #[test]
    fn a_command_is_continued_at_the_cluster_that_its_flags_name() {
        for (given, flags) in [
            (&[][..], ""),
            (&["--data-dir", "./data"], " --data-dir ./data"),
            (&["--data-dir", "it's a folder"], r" --data-dir 'it'\''s a folder'"),
            (&["--url", "http://[::1]:3000/"], " --url 'http://[::1]:3000/'"),
            (
                &["--key-file", "ops.key", "--url", "https://tessera:3000"],
                " --url https://tessera:3000 --key-file ops.key",
            ),
        ] {
            let line = Line::try_parse_from([&["program"], given].concat());
            let source = line.unwrap_or_else(|error| panic!("{given:?}: {error}")).source;
            assert_eq!(source.flags().to_string(), flags, "{given:?}");
        }
    }
}
