//! Commands of the operator, run on the servers of a test.

use std::process::{Command, Output};

use crate::cluster::Databases;

/// Result of a command.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// Returns the result if the command has ended with this code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Checks that the command was refused with one line that has this part.
    #[track_caller]
    pub(crate) fn refused(self, part: &str) {
        let ended = self.expect(2);
        let is_one_line = ended.err.lines().count() == 1 && ended.err.starts_with("error: ");
        assert!(is_one_line && ended.err.contains(part), "{ended:#?}");
    }

    /// Returns the JSON document that the command has printed.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// Returns the addresses of databases, as `SHARD_URLS` has them.
pub(crate) fn urls(databases: &Databases) -> String {
    let places = databases.nodes.iter().zip(&databases.names);
    places.map(|(node, name)| node.url(name)).collect::<Vec<_>>().join(",")
}

/// Returns the program with these arguments, and with these variables alone.
pub(crate) fn program(variables: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shard-manager"));
    for name in ["SHARD_URLS", "REPLICA_URLS", "MAINDB_URL", "TESSERA_DATA_DIR"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied()).args(arguments);
    command
}

/// Runs a command with these variables. Blocks.
pub(crate) fn run_with(variables: &[(&str, &str)], arguments: &[&str]) -> Ended {
    let Output { status, stdout, stderr } = program(variables, arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: status.code(), out: text(stdout), err: text(stderr) }
}

/// Runs a command on databases. Blocks.
pub(crate) fn run_on(databases: &Databases, arguments: &[&str]) -> Ended {
    run_with(&[("SHARD_URLS", &urls(databases))], arguments)
}
