//! Tests of runs against a router with access control, with one key and with a key for each tenant.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::router::{MANAGER, PROGRAM, bare_command, tester};
use crate::served_router::ServedRouter;
use crate::{for_each, loadtest, report, sabotage, text, until_enough};

/// Router with access control, whose API keys are in a file.
struct Guarded(ServedRouter);

/// Creates an API key with a role, and adds its line to the router's file of keys.
fn create_key(folder: &Path, role: &str) {
    let key = folder.join(format!("{role}.key"));
    let keys = File::options().create(true).append(true).open(folder.join("keys")).unwrap();
    let mut command = bare_command(&*MANAGER);
    command.args(["key", "create", "--offline", "--role", role]).current_dir(folder);
    let ended = command.stdout(File::create(&key).unwrap()).stderr(keys).status().unwrap();
    assert!(ended.success(), "{role}");
    fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
}

impl Guarded {
    /// Starts a router, with a mutation if `switch` is not empty.
    fn start(program: &Path, keyspace: &str, switch: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        create_key(folder.path(), "admin");
        create_key(folder.path(), "reader");
        let mut command = bare_command(program);
        if !switch.is_empty() {
            command.env("TESSERA_SABOTAGE", switch);
        }
        command.args(["--log", "warn", "--replicas", "0", "--keyspace", keyspace]);
        command.args(["--access", "on", "--access-keys-file", "keys"]);
        Self(ServedRouter::start(folder, command))
    }

    fn url(&self) -> String {
        self.0.url()
    }

    fn key(&self, role: &str) -> PathBuf {
        self.0.folder().join(format!("{role}.key"))
    }

    /// Runs the load tester with the key of a role.
    fn run(&self, role: &str, more: &[&str]) -> Output {
        let key = self.key(role);
        loadtest(&self.url(), &[&["--key-file", key.to_str().unwrap()], more].concat())
    }

    /// Returns the keys or the roles of the catalog.
    fn list(&self, kind: &str) -> Vec<Value> {
        let mut command = bare_command(&*MANAGER);
        command.args([kind, "list", "--json", "--data-dir", "data"]);
        let ended = command.current_dir(self.0.folder()).output().unwrap();
        let list: Value = serde_json::from_slice(&ended.stdout).expect("a list");
        list.as_array().unwrap().clone()
    }

    /// Asserts that a run has left no valid API key, no role and no row.
    fn assert_clean(&self) {
        let keys = self.list("key");
        assert!(!keys.is_empty() && keys.iter().all(|key| key["state"] == "revoked"), "{keys:?}");
        let roles = json!(self.list("role")).to_string();
        assert!(!roles.contains("loadtest_"), "{roles}");
        let cleaned = said(&self.run("admin", &["--clean"]));
        for table in ["loadtest_users", "loadtest_transactions", "kv"] {
            assert!(cleaned.contains(&format!("0 rows removed from {table}")), "{cleaned}");
        }
        assert!(!cleaned.contains("keys revoked"), "{cleaned}");
    }
}

/// Returns the number with this name for each tenant in a report.
fn numbers(report: &Value, name: &str) -> Vec<u64> {
    let tenants = report["tenants"].as_array().unwrap().iter();
    tenants.map(|tenant| tenant[name].as_u64().unwrap()).collect()
}

fn said(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn a_router_with_access_control_needs_a_key_with_enough_rights() {
    let router = Guarded::start(&PROGRAM, "hash", "");
    let refused = loadtest(&router.url(), &[]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    let words =
        "has access control, and the load tester has no key: name a file with one by --key-file";
    assert!(said(&refused).contains(words), "{}", said(&refused));

    let refused = router.run("reader", &[]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    let reported = said(&refused);
    let words =
        ["was refused by the router", "the scope operate", "needs the scopes operate and tables"];
    assert!(words.iter().all(|words| reported.contains(words)), "{reported}");

    let mut command = tester();
    command.env("TESSERA_KEY", "tsr_canary").args(["--host", &router.url()]);
    let refused = command.output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("refuses the load tester's key"), "{}", said(&refused));
    assert!(!said(&refused).contains("canary"), "{}", said(&refused));

    for mode in [&["--mix", "a"][..], &["--verify"]] {
        let output = router.run("admin", mode);
        assert_eq!(output.status.code(), Some(0), "{mode:?}: {}", said(&output));
    }
}

#[test]
fn a_key_is_not_sent_to_another_machine_without_tls() {
    // 192.0.2.0/24 is reserved for documentation, so the address belongs to no host.
    let mut command = tester();
    command.args(["--host", "http://192.0.2.1:3000", "--allow-remote"]).env("TESSERA_KEY", "tsr_a");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let words = "http://192.0.2.1:3000: a key is sent only by https or to this machine";
    assert!(said(&output).contains(words), "{}", said(&output));
}

#[test]
fn tenants_see_their_own_rows_only_and_leave_nothing_behind() {
    let mixes = [&["--mix", "a"][..], &["--mix", "e"], &["--mix", "kv"], &["--verify"]];
    let cases = ["modulo", "list:A=30,B=20,D=25", "range-text:g,n", "matrix:id"];
    let cases = cases.map(|keyspace| (keyspace, &mixes[..1]));
    for_each(cases.into_iter().chain([("hash", &mixes[..])]), |(keyspace, mixes)| {
        let router = Guarded::start(&PROGRAM, keyspace, "");
        for mix in mixes {
            let more = [mix, &["--tenants", "3", "--json"][..]].concat();
            let run = |_| {
                let output = router.run("admin", &more);
                let report = report(&output);
                let context = || format!("{keyspace} {mix:?}: {report:#}{}", text(&output.stderr));
                assert_eq!(output.status.code(), Some(0), "{}", context());
                assert_eq!(numbers(&report, "requests").len(), 3, "{}", context());
                for name in ["failed", "foreign_rows"] {
                    assert_eq!(numbers(&report, name), [0; 3], "{name}: {}", context());
                }
                report
            };
            until_enough(run, |report| {
                let probes: u64 = numbers(report, "probes").iter().sum();
                probes > 0 && !numbers(report, "requests").contains(&0)
            });
        }
        router.assert_clean();
    });
}

#[test]
fn integers_have_no_tenants_and_a_failed_start_leaves_nothing_behind() {
    let router = Guarded::start(&PROGRAM, "range:1000,2000", "");
    let refused = router.run("admin", &["--tenants", "2"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("keys that are integers"), "{}", said(&refused));
    let roles = json!(router.list("role")).to_string();
    assert!(!roles.contains("loadtest_"), "{roles}");
}

#[test]
fn a_run_that_is_ended_revokes_its_keys_first() {
    let router = Guarded::start(&PROGRAM, "hash", "");
    for (name, code) in [("-INT", 0), ("-TERM", 2)] {
        let mut command = tester();
        command.args(["--host", &router.url(), "--key-file"]).arg(router.key("admin"));
        command.args(["--tenants", "2", "--users", "2", "--keys", "50", "--run-time", "600"]);
        let mut run = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(run.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("requests") {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "the run ends before it began");
        }
        // The output is read to its end, because writing to a pipe without a reader would end the
        // program.
        std::thread::spawn(move || stderr.lines().count());
        let keys = router.list("key");
        let usable = keys.iter().filter(|key| key["state"] == "usable");
        assert_eq!(usable.count(), 2, "{name}: {keys:?}");
        let sent = Command::new("kill").args([name, &run.id().to_string()]).status();
        assert!(sent.unwrap().success());
        assert_eq!(run.wait().unwrap().code(), Some(code), "{name}");
        router.assert_clean();
    }
}

#[test]
fn reads_that_are_not_bound_to_a_tenant_are_found() {
    let router = Guarded::start(&sabotage::PROGRAM, "hash", "unbound_reads");
    for mode in [&["--mix", "a"][..], &["--mix", "kv"], &["--verify"]] {
        // A short run on a busy machine may end before its first probe.
        let run = |seed: u32| {
            let seed = seed.to_string();
            let more = ["--tenants", "3", "--json", "--run-time", "2", "--seed", &seed];
            let output = router.run("admin", &[mode, &more].concat());
            (output.status.code(), report(&output))
        };
        let foreign = |report: &Value| {
            let failures = report["failures"].as_array().unwrap();
            failures.iter().find(|failure| failure["code"] == "foreign row").cloned()
        };
        let mut runs = (1..=20).map(run);
        let found = runs.find_map(|(code, report)| Some((code, foreign(&report)?, report)));
        let (code, failure, report) =
            found.unwrap_or_else(|| panic!("{mode:?}: nothing was found"));
        assert_eq!(code, Some(1), "{mode:?}: {report:#}");
        let tenants = report["tenants"].as_array().unwrap();
        let found = tenants.iter().map(|tenant| tenant["foreign_rows"].as_u64().unwrap());
        assert!(found.sum::<u64>() > 0, "{mode:?}: {report:#}");
        let example = failure["example"].as_str().unwrap_or_default();
        assert!(example.contains("in the answer to GET /api/"), "{mode:?}: {report:#}");
        assert!(example.starts_with("loadtest-v"), "{mode:?}: {report:#}");
    }
}
