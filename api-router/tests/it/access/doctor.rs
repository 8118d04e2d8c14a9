//! Tests of `--doctor` about access control.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::guarded::{admin, key, line, write_private};
use super::key_server::{KeyServer, Served};
use crate::backend::files_only;
use crate::harness::{Router, bare_command};

/// Returns a command for a router in a folder, with access control on.
fn guarded(folder: &Path) -> Command {
    let mut command = bare_command(folder);
    command.args(["--bind", "127.0.0.1:0", "--data-dir", "data", "--access", "on"]);
    command
}

/// Returns the exit code and the output.
fn examined(mut command: Command) -> (Option<i32>, String) {
    let output = command.arg("--doctor").output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn reports(lines: &str, verdict: &str, words: &str) -> bool {
    lines.lines().any(|line| line.starts_with(verdict) && line.contains(words))
}

#[test]
fn keys_without_end_and_wide_roles_are_warnings() {
    files_only!("it is about a folder of files");
    let folder = crate::folders::temporary();
    let files = ["--access-keys-file", "keys", "--access-roles-file", "roles.json"];
    let examine = |lines: &str, roles: &str| {
        write_private(&folder.path().join("keys"), lines);
        write_private(&folder.path().join("roles.json"), roles);
        let mut command = guarded(folder.path());
        command.args(files);
        let (code, lines) = examined(command);
        assert_eq!(code, Some(0), "{lines}");
        lines
    };
    let all = r#"[{"role":"anonymous","grants":[{"tables":["*"],"may":["insert"],"keys":"*"}]},
        {"role":"wide","grants":[{"tables":["*"],"may":["read"],"keys":"$tenant"}]}]"#;
    let lines = examine(&line(&admin(), "admin", &[], None), all);
    let id = admin().id();
    for words in [
        &*format!("keys of administrators that never expire: {id}; "),
        "the role anonymous has a grant to insert",
        "that are made later: wide;",
    ] {
        assert!(reports(&lines, "warning", words), "{words}: {lines}");
    }
    let none = r#"[{"role":"anonymous","grants":[{"tables":["*"],"may":["read"],"keys":"*"}]},
        {"role":"narrow","grants":[{"tables":["users"],"may":["read"],"keys":"$tenant"}]}]"#;
    let keys =
        [line(&admin(), "admin", &[], Some(4_000_000_000)), line(&key(50), "reader", &[], None)];
    let lines = examine(&keys.join("\n"), none);
    let about_access = |line: &&str| line.starts_with("warning") && line.contains("access");
    assert_eq!(lines.lines().filter(about_access).count(), 0, "{lines}");
    assert!(reports(&lines, "good", "on: 2 key(s) in files, 0 in the catalog"), "{lines}");
}

#[test]
fn secrets_and_public_keys_of_issuers_are_checked() {
    files_only!("it is about a folder of files");
    let folder = crate::folders::temporary();
    let section = |algorithm: &str, file: &str| {
        let text = format!(
            "[[access.issuer]]\nissuer = \"https://issuer.example\"\naudience = \"tessera\"\n\
             algorithms = [\"{algorithm}\"]\n{file}\nrole_claim = \"/role\"\n"
        );
        fs::write(folder.path().join("tessera.toml"), text).unwrap();
        examined(guarded(folder.path()))
    };
    let secret = folder.path().join("secret");
    write_private(&secret, "a secret of less than 32 bytes");
    let (code, lines) = section("HS256", "secret_file = \"secret\"");
    assert_eq!(code, Some(1), "{lines}");
    assert!(reports(&lines, "fault", "secret_file"), "{lines}");
    write_private(&secret, "canary".repeat(8));
    fs::set_permissions(&secret, Permissions::from_mode(0o644)).unwrap();
    let (code, lines) = section("HS256", "secret_file = \"secret\"");
    assert_eq!(code, Some(1), "{lines}");
    assert!(reports(&lines, "fault", "mode 644"), "{lines}");

    let open = folder.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    let document = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA",
        "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},{"kty":"RSA"}]}"#;
    let path = open.join("jwks.json");
    write_private(&path, document);
    let future = std::time::SystemTime::now() + std::time::Duration::from_secs(86_400);
    fs::File::options().write(true).open(&path).unwrap().set_modified(future).unwrap();
    let (code, lines) = section("EdDSA", "jwks_file = \"open/jwks.json\"");
    assert_eq!(code, Some(0), "{lines}");
    for words in ["every user may replace it", "keys[1] is not used", "was changed in the future"] {
        assert!(reports(&lines, "warning", words), "{words}: {lines}");
    }
    assert!(!lines.contains("canary"), "{lines}");
}

#[test]
fn keys_of_issuers_with_an_address_are_fetched_and_clocks_are_compared() {
    files_only!("it is about a folder of files");
    let folder = crate::folders::temporary();
    let server = KeyServer::start();
    let document = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA",
        "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},{"kty":"RSA"}]}"#;
    let text = format!(
        "[[access.issuer]]\nissuer = \"https://issuer.example\"\naudience = \"tessera\"\n\
         algorithms = [\"EdDSA\"]\njwks_url = \"{}\"\nrole_claim = \"/role\"\n",
        server.url("/keys")
    );
    fs::write(folder.path().join("tessera.toml"), text).unwrap();
    let (code, lines) = examined(guarded(folder.path()));
    assert_eq!(code, Some(0), "{lines}");
    assert!(reports(&lines, "warning", "has the status 404"), "{lines}");
    server.serve("/keys", Served::Dated(document.to_owned(), "Sat, 01 Jan 2000 00:00:00 GMT"));
    let (code, lines) = examined(guarded(folder.path()));
    assert_eq!(code, Some(0), "{lines}");
    assert!(reports(&lines, "good", "1 key(s) of an issuer"), "{lines}");
    for words in ["keys[1] is not used", "the clocks differ by"] {
        assert!(reports(&lines, "warning", words), "{words}: {lines}");
    }
}

#[test]
fn keys_of_the_catalog_and_its_mode_are_checked() {
    files_only!("it is about a folder of files");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let with_mode = |mode: &str| {
        let mut command = bare_command(folder.path());
        command.args(["--bind", "127.0.0.1:0", "--access", mode, "--data-dir"]).arg(&data);
        command
    };
    Router::start_command(with_mode("on")).end();
    for mode in ["off", "observe"] {
        let (code, lines) = examined(with_mode(mode));
        assert_eq!(code, Some(1), "{lines}");
        assert!(reports(&lines, "fault", "run `shard-manager access off` first"), "{lines}");
    }
    let (code, lines) = examined(with_mode("on"));
    assert_eq!(code, Some(0), "{lines}");
    assert!(reports(&lines, "warning", "0 in the catalog, 0 issuer(s)"), "{lines}");
    assert!(reports(&lines, "warning", "make a first key"), "{lines}");
}

#[test]
fn the_audit_log_is_compared_with_the_catalog() {
    files_only!("it is about a folder of files");
    let folder = crate::folders::temporary();
    let audited = || {
        let mut command = guarded(folder.path());
        command.args(["--audit-log", "audit.log", "--audit", "all"]);
        command
    };
    let doctor = || examined(audited());
    let (code, lines) = doctor();
    assert_eq!(code, Some(0), "{lines}");
    assert!(reports(&lines, "good", "does not exist yet"), "{lines}");
    Router::start_command(audited()).end();
    let (code, lines) = doctor();
    assert_eq!(code, Some(0), "{lines}");
    assert!(reports(&lines, "good", "none that the catalog knows is missing"), "{lines}");

    let path = folder.path().join("audit.log");
    let whole = fs::read_to_string(&path).unwrap();
    let (before_last, _) = whole.trim_end().rsplit_once('\n').unwrap();
    fs::write(&path, format!("{before_last}\n")).unwrap();
    let (code, lines) = doctor();
    assert_eq!(code, Some(0), "{lines}");
    assert!(reports(&lines, "warning", "the end of the log was cut off"), "{lines}");
    fs::write(&path, whole.replacen("\"event\":\"", "\"event\":\"x", 1)).unwrap();
    let (_, lines) = doctor();
    assert!(reports(&lines, "warning", "line 1 of audit.log was changed"), "{lines}");

    fs::write(&path, &whole).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let (code, lines) = doctor();
    assert_eq!(code, Some(1), "{lines}");
    assert!(reports(&lines, "fault", "mode 644"), "{lines}");
}
