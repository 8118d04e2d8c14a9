//! Tests of the settings of the cache: their sources, the output of `--print-config`, refused
//! values, and that the password is never shown. No Redis is used.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::config::{documented, folder, refusal, said, shown, write};
use crate::harness::bare_command;

const URL: &str = "redis://127.0.0.1:6379";

/// Each setting except the address: its member in `[cache]`, a value that is not its default, and
/// its default.
const SETTINGS: [(&str, &str, &str, &str); 6] = [
    ("cache_bound_ms", "bound_ms", "250", "1000"),
    ("cache_ttl_ms", "ttl_ms", "5000", "30000"),
    ("cache_patience_ms", "patience_ms", "7", "20"),
    ("cache_entry_bytes_max", "entry_bytes_max", "4096", "65536"),
    ("cache_near_bytes", "near_bytes", "1048576", "0"),
    ("cache_min_uses", "min_uses", "5", "2"),
];

fn with(folder: &Path, variables: &[(&str, &str)], flags: &[&str]) -> Command {
    let mut command = bare_command(folder);
    command.envs(variables.iter().copied()).args(flags);
    command
}

fn variable(name: &str) -> String {
    format!("TESSERA_{}", name.to_ascii_uppercase())
}

#[test]
fn a_cache_can_be_named_and_set_in_every_source() {
    for source in ["flag", "environment", ".env", "tessera.toml"] {
        let folder = folder();
        let mut command = bare_command(folder.path());
        let (mut lines, mut section) = (format!("REDIS_URL={URL}\n"), format!("url = \"{URL}\"\n"));
        for (name, member, value, _) in SETTINGS {
            lines += &format!("{}={value}\n", variable(name));
            section += &format!("{member} = {value}\n");
        }
        match source {
            "flag" => {
                command.args(["--redis-url", URL]);
                for (name, _, value, _) in SETTINGS {
                    command.arg(format!("--{}={value}", name.replace('_', "-")));
                }
            }
            "environment" => {
                for (name, value) in lines.lines().map(|line| line.split_once('=').unwrap()) {
                    command.env(name, value);
                }
            }
            ".env" => write(folder.path(), ".env", &lines),
            _ => write(folder.path(), "tessera.toml", &format!("[cache]\n{section}")),
        }
        let shown = shown(command);
        assert!(shown["redis_url"].0.starts_with(URL), "{shown:?}");
        assert_eq!(shown["redis_url"].1, source);
        for (name, _, value, _) in SETTINGS {
            assert_eq!(shown[name], said(value, source), "{name}");
        }
    }
}

#[test]
fn without_an_address_there_is_none_and_the_defaults_are_shown() {
    let folder = folder();
    let shown = shown(bare_command(folder.path()));
    assert_eq!(shown["redis_url"], said("none", "default"));
    let documented = documented();
    for (name, _, _, default) in SETTINGS {
        assert_eq!(shown[name], said(default, "default"));
        let line = documented.iter().find(|(known, _)| known == name);
        assert_eq!(line.map(|(_, value)| &**value), Some(default), "{name} in .env.example");
    }
    let named = documented.iter().find(|(name, _)| name == "redis_url").unwrap();
    assert_eq!(named.1, URL);
}

#[test]
fn two_variables_with_different_addresses_are_refused() {
    let folder = folder();
    let variables = [("REDIS_URL", "redis://theirs:1"), ("TESSERA_REDIS_URL", "redis://ours:2")];
    let refused = refusal(with(folder.path(), &variables, &[]));
    assert!(
        refused.contains("REDIS_URL and TESSERA_REDIS_URL (from environment) name"),
        "{refused}"
    );
    let same = [("REDIS_URL", URL), ("TESSERA_REDIS_URL", URL)];
    assert!(shown(with(folder.path(), &same, &[]))["redis_url"].0.starts_with(URL));
    // The environment wins over .env, whatever the names of the variables are.
    write(folder.path(), ".env", "REDIS_URL=redis://theirs:1\n");
    let own = [("TESSERA_REDIS_URL", "redis://ours:2")];
    let own = shown(with(folder.path(), &own, &[]));
    assert!(own["redis_url"].0.contains("ours"), "{own:?}");
    write(folder.path(), ".env", "");
    let off = [("REDIS_URL", URL), ("TESSERA_REDIS_URL", "none")];
    let off = shown(with(folder.path(), &off, &["--cache-bound-ms", "9"]));
    assert_eq!(off["redis_url"], said("none", "environment"));
    let empty = shown(with(folder.path(), &[("REDIS_URL", "")], &[]));
    assert_eq!(empty["redis_url"].0, "none");
    // Variables with a similar name belong to other programs.
    for other in ["REDIS_URI", "REDIS_URLS", "REDIS_HOST"] {
        assert_eq!(shown(with(folder.path(), &[(other, URL)], &[]))["redis_url"].1, "default");
    }
}

#[test]
fn a_value_that_does_not_fit_is_refused_with_its_name_and_the_allowed_ones() {
    let dir = folder();
    for (name, value, allowed) in [
        ("cache_bound_ms", "0", "a number from 1 to 30000"),
        ("cache_bound_ms", "30001", "a number from 1 to 30000"),
        ("cache_bound_ms", "1s", "a number from 1 to 30000"),
        ("cache_ttl_ms", "0", "a number from 1 to 30000"),
        ("cache_patience_ms", "1001", "a number from 1 to 1000"),
        ("cache_entry_bytes_max", "1023", "a number from 1024 to 1048576"),
        ("cache_near_bytes", "-1", "a number from 0 to 1073741824"),
        ("cache_min_uses", "0", "a number from 1 to 1000"),
        ("cache_min_uses", "1001", "a number from 1 to 1000"),
    ] {
        let variables = [("REDIS_URL", URL), (&*variable(name), value)];
        let reported = refusal(with(dir.path(), &variables, &[]));
        let subject = format!("{name} (from environment) is `{value}`; it must be {allowed}");
        assert!(reported.contains(&subject), "{reported}");
    }
    for (url, allowed) in [
        ("http://127.0.0.1:6379", "begins with redis:// or rediss://"),
        ("127.0.0.1:6379", "begins with redis:// or rediss://"),
        ("redis://127.0.0.1:6379/none", "a number from 0"),
        ("redis://127.0.0.1:6379?ca=/x", "rediss://"),
        ("redis://127.0.0.1:6379?tls=1", "only parameter"),
        ("redis://127.0.0.1:x", "a cache address is"),
    ] {
        let reported = refusal(with(dir.path(), &[("REDIS_URL", url)], &[]));
        assert!(reported.contains("REDIS_URL (from environment): "), "{reported}");
        assert!(reported.contains(allowed), "{url}: {reported}");
        let reported = refusal(with(dir.path(), &[("TESSERA_REDIS_URL", url)], &[]));
        assert!(reported.contains("TESSERA_REDIS_URL (from environment): "), "{reported}");
    }
    let reported = refusal(with(dir.path(), &[("TESSERA_CACHE_BOUND_MS", "9")], &[]));
    assert!(reported.contains("is about a cache, but none is named: set REDIS_URL"), "{reported}");
}

#[test]
fn a_section_with_an_unknown_member_or_of_the_wrong_type_is_refused_by_its_path() {
    for (text, reported) in [
        ("[cache]\nurl = 1\n", "cache.url (from tessera.toml) must be a text"),
        (
            "[cache]\nurll = \"x\"\n",
            "cache.urll (from tessera.toml) is not a setting; did you mean url?",
        ),
        ("[cache]\nbound_ms = \"9\"\n", "cache.bound_ms (from tessera.toml) must be a number"),
        ("cache = 1\n", "cache (from tessera.toml) must be a section"),
        ("[cahce]\n", "cahce (from tessera.toml) is not a setting; did you mean cache?"),
        (
            "redis_url = \"redis://a\"\n[cache]\nurl = \"redis://b\"\n",
            "redis_url (from tessera.toml) stands in a section too",
        ),
        ("[cache]\nbound_ms = 9\n", "cache_bound_ms (from tessera.toml) is about a cache"),
    ] {
        let dir = folder();
        write(dir.path(), "tessera.toml", text);
        let said = refusal(bare_command(dir.path()));
        assert!(said.contains(reported), "{text}: {said}");
    }
}

#[test]
fn a_password_may_be_in_a_file_and_is_never_shown() {
    let dir = folder();
    let secret = dir.path().join("secret");
    write(dir.path(), "secret", "can@ry/7291\n");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = secret.to_str().unwrap();
    let of_file =
        [("REDIS_URL", "redis://me@127.0.0.1:1/2"), ("TESSERA_CACHE_PASSWORD_FILE", file)];
    let shown = shown(with(dir.path(), &of_file, &[]));
    assert_eq!(shown["redis_url"].0, "redis://me:***@127.0.0.1:1/2");
    assert_eq!(shown["cache_password_file"], said(file, "environment"));

    let both = [("REDIS_URL", "redis://:canary@h"), ("TESSERA_CACHE_PASSWORD_FILE", file)];
    let reported = refusal(with(dir.path(), &both, &[]));
    assert!(
        reported.contains("leave one of them out") && !reported.contains("canary"),
        "{reported}"
    );
    let missing = [("REDIS_URL", URL), ("TESSERA_CACHE_PASSWORD_FILE", "/no/such")];
    let reported = refusal(with(dir.path(), &missing, &[]));
    assert!(reported.contains("cache_password_file (from environment)"), "{reported}");

    // An error about an address contains no part of it.
    for url in [
        "redis://me:canary@127.0.0.1:1/2",
        "redis://me:canary@127.0.0.1:1/x",
        "redis://me:canary@:1",
        "redis://me:can/canary@127.0.0.1:1",
        "redis://me:canary@127.0.0.1:99999",
        "redis://me:1?canary@127.0.0.1:1",
        "redis:/me:canary@127.0.0.1:1",
        "rediss://me:canary@127.0.0.1:1?canary=1",
    ] {
        for flag in ["--print-config", "--doctor", "--cache-near-bytes=x"] {
            let mut command = with(dir.path(), &[("REDIS_URL", url)], &[flag]);
            let output = command.output().unwrap();
            let reported = [output.stdout, output.stderr].concat();
            let reported = String::from_utf8_lossy(&reported);
            assert!(
                !reported.is_empty() && !reported.contains("canary"),
                "{url} {flag}: {reported}"
            );
        }
    }
    let misplaced =
        refusal(with(dir.path(), &[("TESSERA_CACHE_BOUND_MS", "redis://:canary@h")], &[]));
    assert!(!misplaced.contains("canary"), "{misplaced}");
}
