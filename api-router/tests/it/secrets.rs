//! Secrets: checks, in every test of the suite, that no response, no header and no log line of a
//! router contains one of its passwords.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStderr, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memchr::memmem;

use crate::backend::{self, servers_only};
use crate::harness::Router;

/// The passwords of one router.
pub(crate) struct Secrets {
    passwords: Arc<Vec<String>>,
    logged: Arc<AtomicBool>,
}

impl Secrets {
    /// Collects the secrets in the addresses of a command.
    pub(crate) fn of(command: &Command) -> Self {
        let values = command.get_envs().filter_map(|(_, value)| value?.to_str());
        let addresses = values.flat_map(|value| value.split(',')).filter_map(|one| {
            let (_, rest) = one.split_once("://")?;
            let (user, _) = rest.split_once('@')?;
            Some(user.split_once(':')?.1.to_owned())
        });
        let mut passwords: Vec<String> =
            addresses.filter(|password| !password.is_empty()).collect();
        passwords.sort_unstable();
        passwords.dedup();
        Self { passwords: Arc::new(passwords), logged: Arc::default() }
    }

    /// Fails if this output or the log contains one of them.
    pub(crate) fn look(&self, said: &[u8]) {
        assert!(
            !contains_any(&self.passwords, said),
            "a password was printed: {}",
            said.escape_ascii()
        );
        assert!(!self.logged.load(Ordering::Relaxed), "a password stands in the log above");
    }

    /// Prints a log, and records if it contains one of them.
    pub(crate) fn watch(&self, log: BufReader<ChildStderr>) {
        let (passwords, logged) = (self.passwords.clone(), self.logged.clone());
        std::thread::spawn(move || {
            for line in log.split(b'\n').map_while(Result::ok) {
                if contains_any(&passwords, &line) {
                    logged.store(true, Ordering::Relaxed);
                }
                let _ = std::io::stderr().write_all(&[&line[..], b"\n"].concat());
            }
        });
    }
}

fn contains_any(passwords: &[String], said: &[u8]) -> bool {
    passwords.iter().any(|password| memmem::find(said, password.as_bytes()).is_some())
}

#[test]
fn a_leaked_password_would_be_noticed() {
    let mut command = Command::new("true");
    command.env("SHARD_URLS", "postgres://u:s3cret@h:1/a,postgres://u:0ther@[::1]:2/b");
    command.env("REPLICA_URLS", "postgres://u@h/c");
    let secrets = Secrets::of(&command);
    assert_eq!(*secrets.passwords, ["0ther", "s3cret"]);
    secrets.look(b"postgres://u@h:1/a");
    for leak in [&b"password s3cret"[..], b"{\"url\":\"u:0ther@h\"}"] {
        assert!(contains_any(&secrets.passwords, leak));
    }
}

#[test]
fn settings_and_findings_are_printed_without_passwords() {
    servers_only!("files have no passwords");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, &[]);
    for path in
        ["/", "/api/health", "/metrics", "/api/shards", "/api/analytics/errors", "/api/nowhere"]
    {
        router.get(path); // The harness checks the response.
    }
    for flag in ["--print-config", "--doctor"] {
        let mut command = backend::command(&data, &[flag]);
        let secrets = Secrets::of(&command);
        // Databases that a test creates have a password; a coordinator from the environment may
        // have none.
        let has_password = !secrets.passwords.is_empty() || backend::is_citus();
        assert!(has_password, "the servers ask for a password");
        let output = command.output().unwrap();
        secrets.look(&output.stdout);
        secrets.look(&output.stderr);
        // Also if one of the addresses is refused.
        command.env("MAINDB_URL", "postgres://nobody:canary-7291@127.0.0.1:1/nowhere");
        let secrets = Secrets::of(&command);
        let output = command.output().unwrap();
        assert!(!output.stdout.is_empty());
        secrets.look(&output.stdout);
        secrets.look(&output.stderr);
    }
}
