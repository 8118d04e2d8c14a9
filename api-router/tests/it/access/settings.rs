//! Tests of the settings of access control: wrong ones are refused at the start, and the refusal
//! names the member.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::guarded::{admin, line, write_private};
use crate::config::{folder, refusal, shown};
use crate::harness::bare_command;

const ISSUER: &str = "[[access.issuer]]\nissuer = \"https://i.example\"\naudience = \"tessera\"\n\
                      algorithms = [\"HS256\"]\nsecret_file = \"secret\"\nrole_claim = \"/role\"\n";

fn with(folder: &Path, flags: &[&str]) -> Command {
    let mut command = bare_command(folder);
    command.args(["--bind", "127.0.0.1:0", "--access", "on"]).args(flags);
    command
}

fn refused_toml(text: &str) -> String {
    let folder = folder();
    write_private(&folder.path().join("secret"), "0123456789abcdef0123456789abcdef\n");
    write_private(&folder.path().join("tessera.toml"), text);
    refusal(with(folder.path(), &[]))
}

#[test]
fn a_wrong_setting_is_refused_by_name() {
    let folder = folder();
    for (flags, words) in [
        (&["--access", "yes"][..], "access (from flag)"),
        (&["--access", "on", "--cors-origins", "*"], "cors_origins"),
        (&["--access", "on", "--cors-origins", "null"], "cors_origins"),
        (&["--access", "on", "--cors-origins", "https://a.example/"], "cors_origins"),
        (&["--access", "on", "--cors-origins", "https://a.example:443"], "cors_origins"),
        (&["--access", "on", "--cors-origins", "https://A.example"], "cors_origins"),
        (&["--cors-origins", "https://a.example"], "cors_origins"),
        (&["--access", "observe", "--cors-origins", "https://a.example"], "cors_origins"),
        (&["--access", "on", "--limit-routers", "0"], "limit_routers"),
        (&["--audit-log", "audit.log"], "audit_log"),
        (&["--access", "on", "--audit-log", ""], "audit_log"),
        (&["--access", "on", "--audit-log", "."], "audit_log (.): is not a regular file"),
        (&["--access", "on", "--audit", "reads"], "admin, denied, writes or all"),
        (&["--access", "on", "--audit-keys", "sha"], "hash, plain or none"),
        (&["--trusted-proxies", "10.0.0.0/33"], "trusted_proxies (from flag) has `10.0.0.0/33`"),
        (&["--trusted-proxies", "::1,10.0.0.1/8"], "trusted_proxies (from flag) has `10.0.0.1/8`"),
        (&["--trusted-proxies", "0.0.0.0/0"], "each client could then choose its address"),
        (&["--trusted-proxies", "::/0"], "each client could then choose its address"),
        (&["--trusted-proxies", "proxy.example"], "has `proxy.example`"),
        (&["--trusted-proxies", "10.0.0.0/+8"], "has `10.0.0.0/+8`"),
        (&["--trusted-proxies", "10.0.0.0/8,"], "has ``"),
        (&["--trusted-proxy", "10.0.0.1"], "--trusted-proxies"),
        (&["--access", "on", "--access-stale-max-s", "5"], "access_stale_max_s"),
        (&["--access", "on", "--access-keys-file", "missing"], "access_keys_file (missing)"),
        (&["--access", "on", "--access-roles-file", "."], "access_roles_file"),
    ] {
        let mut command = bare_command(folder.path());
        command.args(["--bind", "127.0.0.1:0"]).args(flags);
        let said = refusal(command);
        assert!(said.contains(words), "{flags:?}: {said}");
    }
}

#[test]
fn a_setting_that_has_no_effect_while_access_control_is_off_is_refused() {
    let folder = folder();
    let without_access = |flags: &[&str]| {
        let mut command = bare_command(folder.path());
        command.args(["--bind", "127.0.0.1:0"]).args(flags);
        command
    };
    for (flag, value) in [
        ("--access-keys-file", "keys"),
        ("--access-roles-file", "roles.json"),
        ("--access-stale-max-s", "600"),
        ("--limit-routers", "2"),
        ("--audit", "writes"),
        ("--audit-keys", "plain"),
        ("--trusted-proxies", "10.0.0.0/8"),
    ] {
        let name = flag.trim_start_matches('-').replace('-', "_");
        for mode in [&[][..], &["--access", "off"]] {
            let said = refusal(without_access(&[mode, &[flag, value]].concat()));
            assert!(said.contains(&format!("{name} (from flag) is ignored while")), "{said}");
            assert!(said.contains("set access = on, or remove the setting"), "{said}");
        }
    }
    // A setting with its default value changes nothing.
    shown(without_access(&["--limit-routers", "1", "--trusted-proxies", "none"]));
    write_private(&folder.path().join("tessera.toml"), ISSUER);
    let said = refusal(without_access(&[]));
    assert!(said.contains("access.issuer[1] (from tessera.toml) is ignored while"), "{said}");
}

#[test]
fn a_wrong_key_or_role_is_refused_with_its_line_or_member() {
    let folder = folder();
    let path = folder.path().join("roles.json");
    for (text, words) in [
        (r#"{"role":"r","grants":[],"scopes":["analytic"]}"#, "scopes[0]"),
        (r#"{"role":"r","grants":[{"tables":["*"],"may":["read"]}]}"#, "grants[0].keys"),
        (
            r#"{"role":"r","grants":[{"tables":["*"],"may":["read"],"keys":"$tenant*"}]}"#,
            "separator",
        ),
        (r#"{"role":"r","grants":[],"scope":[]}"#, "scope"),
        (r#"{"role":"admin","grants":[]}"#, "built-in"),
        (r#"[{"role":"r","grants":[]},{"role":"r","grants":[]}]"#, "[1].role comes twice"),
        ("[", "the list of roles"),
    ] {
        write_private(&path, text);
        let said = refusal(with(folder.path(), &["--access-roles-file", "roles.json"]));
        assert!(said.contains("access_roles_file") && said.contains(words), "{text}: {said}");
    }
    let keys = folder.path().join("keys");
    write_private(&keys, format!("# comment\n{}\nshort\n", line(&admin(), "admin", &[], None)));
    let said = refusal(with(folder.path(), &["--access-keys-file", "keys"]));
    assert!(said.contains("access_keys_file (keys): line 3: id"), "{said}");
    write_private(&keys, line(&admin(), "admin", &[], None));
    std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o666)).unwrap();
    let said = refusal(with(folder.path(), &["--access-keys-file", "keys"]));
    assert!(said.contains("everyone may write"), "{said}");
}

#[test]
fn a_wrong_issuer_is_refused_by_its_member() {
    let without = |member: &str| {
        let lines = ISSUER.lines().filter(|line| !line.starts_with(member));
        lines.collect::<Vec<_>>().join("\n")
    };
    let by_url = |url: &str| {
        let source = format!("jwks_url = \"{url}\"");
        ISSUER.replace("secret_file = \"secret\"", &source)
    };
    for (text, words) in [
        (without("audience"), "access.issuer[1] (from tessera.toml) names no audience"),
        (without("issuer"), "names no issuer"),
        (without("role_claim"), "names no role_claim"),
        (without("secret_file"), "one of jwks_file"),
        (format!("{ISSUER}jwks_url = \"https://i.example/keys\"\n"), "one of jwks_file"),
        (by_url("https://i.example/keys"), "HS256 needs secret_file"),
        (by_url("http://i.example/keys"), "access.issuer[1].jwks_url"),
        (by_url("http://127.0.0.1.example/keys"), "access.issuer[1].jwks_url"),
        (by_url("ftp://127.0.0.1/keys"), "access.issuer[1].jwks_url"),
        (by_url("file:///etc/keys"), "access.issuer[1].jwks_url"),
        (by_url("https://user:canary@i.example/keys"), "access.issuer[1].jwks_url"),
        (by_url("https://i.example/keys#part"), "access.issuer[1].jwks_url"),
        (by_url("i.example/keys"), "access.issuer[1].jwks_url"),
        (by_url(""), "access.issuer[1].jwks_url"),
        (ISSUER.replace("HS256", "HS512"), "access.issuer[1].algorithms[1]"),
        (ISSUER.replace("[\"HS256\"]", "[\"HS256\", \"RS256\"]"), "HS256 beside others"),
        (ISSUER.replace("[\"HS256\"]", "[\"RS256\"]"), "HS256 needs secret_file"),
        (ISSUER.replace("/role", "role"), "role_claim"),
        (ISSUER.replace("role_claim", "rol_claim"), "rol_claim"),
        (ISSUER.replace("secret_file = \"secret\"", "secret_file = \"no\""), "secret_file (no)"),
        (format!("{ISSUER}{ISSUER}"), "same name"),
        (format!("[access]\nmod = \"on\"\n{ISSUER}"), "access.mod"),
        ("[access]\nissuer = 1\n".to_owned(), "[[access.issuer]]"),
    ] {
        let said = refused_toml(&text);
        assert!(said.contains(words) && !said.contains("canary"), "{text}: {said}");
    }
}

#[test]
fn a_weak_or_public_secret_is_refused() {
    let folder = folder();
    let secret = folder.path().join("secret");
    write_private(&folder.path().join("tessera.toml"), ISSUER);
    write_private(&secret, "canary-of-31-bytes-is-too-short\n");
    let said = refusal(with(folder.path(), &[]));
    assert!(said.contains("access.issuer[1].secret_file (secret)"), "{said}");
    assert!(said.contains("32") && !said.contains("canary"), "{said}");
    write_private(&secret, "canary-of-more-than-thirty-two-bytes");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = refusal(with(folder.path(), &[]));
    assert!(said.contains("others may read") && !said.contains("canary"), "{said}");
}

#[test]
fn the_section_shows_its_members_and_no_secret() {
    let folder = folder();
    write_private(&folder.path().join("secret"), "canary-of-more-than-thirty-two-bytes");
    let text = format!("[access]\nmode = \"on\"\nstale_max_s = 60\nkeys_file = \"keys\"\n{ISSUER}");
    write_private(&folder.path().join("tessera.toml"), text);
    let shown = shown(bare_command(folder.path()));
    for (name, value) in [
        ("access", "on"),
        ("access_stale_max_s", "60"),
        ("access_keys_file", "keys"),
        ("access.issuer[1].issuer", "https://i.example"),
        ("access.issuer[1].audience", "tessera"),
        ("access.issuer[1].algorithms", "HS256"),
        ("access.issuer[1].secret_file", "secret"),
        ("access.issuer[1].role_claim", "/role"),
        ("access.issuer[1].lifetime_max_s", "86400"),
    ] {
        assert_eq!(shown[name], (value.to_owned(), "tessera.toml".to_owned()), "{name}");
    }
    assert!(!format!("{shown:?}").contains("canary"));
}

#[test]
fn the_doctor_reads_the_files_as_a_start_does() {
    let folder = folder();
    let examined = |flags: &[&str]| {
        let output = with(folder.path(), flags).arg("--doctor").output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let found = |lines: &str, verdict: &str, words: &str| {
        lines.lines().any(|line| line.starts_with(verdict) && line.contains(words))
    };
    let (code, lines) = examined(&[]);
    assert_eq!(code, Some(0), "{lines}");
    assert!(found(&lines, "warning", "make a first key"), "{lines}");
    assert!(found(&lines, "good", "callers with a key"), "{lines}");
    write_private(&folder.path().join("keys"), line(&admin(), "admin", &[], None));
    let (code, lines) = examined(&["--access-keys-file", "keys"]);
    assert!(code == Some(0) && found(&lines, "good", "on: 1 key(s) in files"), "{lines}");
    write_private(&folder.path().join("keys"), "broken");
    let (code, lines) = examined(&["--access-keys-file", "keys"]);
    assert!(code == Some(1) && found(&lines, "fault", "access_keys_file (keys)"), "{lines}");
}
