//! Tests of configuration: the precedence of sources, the values that are shown, and the values
//! that are refused.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use crate::harness::{Router, bare_command, refused_start};

/// Each setting, a value that is not its default, and another one.
const SETTINGS: [(&str, &str, &str); 22] = [
    ("bind", "127.0.0.1:4001", "127.0.0.1:4002"),
    ("data_dir", "./one", "./two"),
    ("shards", "5", "6"),
    ("weights", "1,2,3", "3,2,1"),
    ("placement", "partitions:A=30>shard1,B=20>shard1,C=15>shard3", "ring:100"),
    ("keyspace", "list:A=30,B=20,C=15", "range-text:g,n"),
    ("replicas", "2", "0"),
    ("workers", "7", "8"),
    ("log", "warn", "debug"),
    ("behind_tls", "true", "false"),
    ("insecure", "true", "false"),
    ("lab", "true", "false"),
    ("operate", "true", "false"),
    ("backup_dir", "./one", "./two"),
    ("analytics", "off", "on"),
    ("analytics_store", "./figures.db", "none"),
    ("access", "observe", "off"),
    ("access_stale_max_s", "600", "0"),
    ("limit_routers", "2", "3"),
    ("audit", "writes", "all"),
    ("audit_keys", "plain", "none"),
    ("trusted_proxies", "10.0.0.0/8,::1", "192.168.1.1"),
];

/// Settings that are refused while access control is off.
const OF_ACCESS: [&str; 5] =
    ["access_stale_max_s", "limit_routers", "audit", "audit_keys", "trusted_proxies"];

/// Settings that are true when their flag is given, and take no value there.
const SWITCHES: [&str; 4] = ["behind_tls", "insecure", "lab", "operate"];

/// Settings about servers, certificates, traces, the files of access control and the cache; they
/// have tests of their own.
const ELSEWHERE: [&str; 23] = [
    "engine",
    "shard_urls",
    "replica_urls",
    "maindb_url",
    "shard_disk_bytes",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "tls_client_crl",
    "tls_client_required",
    "otlp_endpoint",
    "access_keys_file",
    "access_roles_file",
    "cors_origins",
    "audit_log",
    "redis_url",
    "cache_password_file",
    "cache_bound_ms",
    "cache_ttl_ms",
    "cache_patience_ms",
    "cache_entry_bytes_max",
    "cache_near_bytes",
    "cache_min_uses",
];

/// Returns the settings in force: each value and its origin.
pub(crate) fn shown(mut command: Command) -> BTreeMap<String, (String, String)> {
    let output = command.arg("--print-config").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = text.lines().map(|line| {
        let (setting, origin) = line.split_once(" # ").unwrap();
        let (name, value) = setting.split_once('=').unwrap();
        (name.trim().to_owned(), (value.trim().to_owned(), origin.trim().to_owned()))
    });
    lines.collect()
}

pub(crate) fn said(value: &str, origin: &str) -> (String, String) {
    (value.to_owned(), origin.to_owned())
}

fn variable(name: &str) -> String {
    format!("TESSERA_{}", name.to_ascii_uppercase())
}

fn flag(name: &str, value: &str) -> Vec<String> {
    let flag = format!("--{}", name.replace('_', "-"));
    if SWITCHES.contains(&name) { vec![flag] } else { vec![flag, value.to_owned()] }
}

/// Returns a line of a TOML file: numbers and booleans are written without quotes.
fn toml(name: &str, value: &str) -> String {
    match name {
        "shards" | "replicas" | "workers" | "behind_tls" | "insecure" | "lab" | "operate" => {
            format!("{name} = {value}\n")
        }
        "weights" => format!("{name} = [{value}]\n"),
        _ => format!("{name} = \"{value}\"\n"),
    }
}

/// Returns the folder of a test, as its working directory.
pub(crate) fn folder() -> tempfile::TempDir {
    crate::folders::temporary()
}

pub(crate) fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

/// Returns the error that a refused configuration prints.
pub(crate) fn refusal(command: Command) -> String {
    let (code, said) = refused_start(command);
    assert_eq!(code, Some(2), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn the_defaults_apply_without_settings() {
    let folder = folder();
    let shown = shown(bare_command(folder.path()));
    assert_eq!(shown.len(), SETTINGS.len() + ELSEWHERE.len(), "{shown:?}");
    for name in SETTINGS.map(|(name, ..)| name).into_iter().chain(ELSEWHERE) {
        assert_eq!(shown[name].1, "default", "{name}");
    }
    for (name, value) in [
        ("bind", "127.0.0.1:3000"),
        ("data_dir", "./data"),
        ("engine", "sqlite"),
        ("shard_urls", "none"),
        ("replica_urls", "none"),
        ("maindb_url", "none"),
        ("shard_disk_bytes", "none"),
        ("log", "info"),
        ("behind_tls", "false"),
        ("insecure", "false"),
        ("lab", "false"),
        ("operate", "false"),
        ("backup_dir", "none"),
        ("analytics", "on"),
        ("analytics_store", "./data/analytics.db"),
        ("otlp_endpoint", "none"),
        ("access", "off"),
        ("access_keys_file", "none"),
        ("access_stale_max_s", "86400"),
        ("cors_origins", "none"),
        ("audit_log", "none"),
        ("audit", "denied"),
        ("audit_keys", "hash"),
        ("trusted_proxies", "none"),
        ("redis_url", "none"),
        ("shards", "what the data directory has, else 3"),
        ("replicas", "what the data directory has, else 1"),
    ] {
        assert_eq!(shown[name].0, value);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "showing makes no file");
}

#[test]
fn every_setting_can_come_from_every_source() {
    let from = |source: &str, (name, value): (&str, &str)| {
        let folder = folder();
        let mut command = bare_command(folder.path());
        if OF_ACCESS.contains(&name) {
            command.env("TESSERA_ACCESS", "observe");
        }
        match source {
            "flag" => drop(command.args(flag(name, value))),
            "environment" => drop(command.env(variable(name), value)),
            ".env" => {
                write(folder.path(), ".env", &format!("{}={value}\n", variable(name)));
            }
            _ => {
                write(folder.path(), "settings.toml", &toml(name, value));
                command.args(["--config", "settings.toml"]);
            }
        }
        shown(command)
    };
    for source in ["flag", "environment", ".env", "settings.toml"] {
        for (name, value, _) in SETTINGS {
            let shown = from(source, (name, value));
            assert_eq!(shown[name], said(value, source), "{name} from {source}");
            let is_needed = |other: &str| other == "access" && OF_ACCESS.contains(&name);
            let others = shown.iter().filter(|(other, _)| *other != name && !is_needed(other));
            for (other, (_, origin)) in others {
                assert_eq!(origin, "default", "{other} beside {name} from {source}");
            }
        }
    }
}

#[test]
fn a_flag_wins_over_the_environment_that_over_dot_env_and_that_over_the_file() {
    for (name, value, other) in SETTINGS {
        let folder = folder();
        write(folder.path(), "settings.toml", &toml(name, other));
        let file = || {
            let mut command = bare_command(folder.path());
            if OF_ACCESS.contains(&name) {
                command.env("TESSERA_ACCESS", "observe");
            }
            command.args(["--config", "settings.toml"]);
            command
        };
        assert_eq!(shown(file())[name], said(other, "settings.toml"));

        write(folder.path(), ".env", &format!("{}={value}\n", variable(name)));
        assert_eq!(shown(file())[name], said(value, ".env"));

        let mut command = file();
        command.env(variable(name), other);
        assert_eq!(shown(command)[name], said(other, "environment"));

        let mut command = file();
        command.env(variable(name), other).args(flag(name, value));
        assert_eq!(shown(command)[name], said(value, "flag"));
    }
}

#[test]
fn the_file_may_be_named_by_flag_environment_or_dot_env() {
    let folder = folder();
    for (file, workers) in [("a.toml", "4"), ("b.toml", "5"), ("c.toml", "6")] {
        write(folder.path(), file, &toml("workers", workers));
    }
    write(folder.path(), ".env", "TESSERA_CONFIG=c.toml\n");
    let command = || bare_command(folder.path());
    assert_eq!(shown(command())["workers"], said("6", "c.toml"));
    let mut environment = command();
    environment.env("TESSERA_CONFIG", "b.toml");
    assert_eq!(shown(environment)["workers"], said("5", "b.toml"));
    let mut flag = command();
    flag.env("TESSERA_CONFIG", "b.toml").args(["--config", "a.toml"]);
    assert_eq!(shown(flag)["workers"], said("4", "a.toml"));
}

#[test]
fn the_printed_settings_are_those_in_force() {
    let folder = folder();
    write(folder.path(), "settings.toml", "shards = 2\ndata_dir = \"rows\"\n");
    write(folder.path(), ".env", "TESSERA_BIND=127.0.0.1:0\nTESSERA_CONFIG=settings.toml\n");
    let router = Router::start_command(bare_command(folder.path()));
    let shards = router.get("/api/shards").json()["shards"].as_array().unwrap().len();
    assert_eq!(shards, 2);
    assert!(folder.path().join("rows/catalog.db").exists());
}

#[test]
fn an_unknown_name_is_refused_in_every_source() {
    let dir = folder();
    let command = || bare_command(dir.path());
    let mut environment = command();
    environment.env("TESSERA_SHARD", "5");
    let said = refusal(environment);
    assert!(said.contains("TESSERA_SHARD (from environment)"), "{said}");
    assert!(said.contains("did you mean TESSERA_SHARDS?"), "{said}");

    write(dir.path(), ".env", "TESSERA_DATADIR=x\n");
    let said = refusal(command());
    assert!(said.contains("TESSERA_DATADIR (from .env)"), "{said}");
    assert!(said.contains("did you mean TESSERA_DATA_DIR?"), "{said}");

    write(dir.path(), ".env", "TESSERA_SHARD_URL=x\n");
    let said = refusal(command());
    assert!(said.contains("did you mean SHARD_URLS?"), "{said}");

    let dir = folder();
    let command = || bare_command(dir.path());
    write(dir.path(), "settings.toml", "wokers = 3\n");
    let mut file = command();
    file.args(["--config", "settings.toml"]);
    let said = refusal(file);
    assert!(said.contains("wokers (from settings.toml)"), "{said}");
    assert!(said.contains("did you mean workers?"), "{said}");

    let mut flag = command();
    flag.args(["--shard", "3"]);
    let said = refusal(flag);
    assert!(said.contains("'--shard'") && said.contains("'--shards'"), "{said}");

    let mut far = command();
    far.env("TESSERA_XYZZY", "5");
    let said = refusal(far);
    assert!(said.contains("there are: TESSERA_BIND, TESSERA_DATA_DIR"), "{said}");

    let mut word = command();
    word.arg("serve");
    assert!(refusal(word).contains("'serve'"));
}

#[test]
fn variables_of_others_are_nobodys_business() {
    let folder = folder();
    write(folder.path(), ".env", "DATABASE_URL=x\nTESSERA_LOADTEST_HOST=http://127.0.0.1:1\n");
    let mut command = bare_command(folder.path());
    command.env("TESSERA_LOADTEST_HOST", "x").env("TESSERA_PG_BIN", "x");
    command.env("TESSERA_ANALYTICS_BIND", "x").env("TESSERA_ANALYTICS_ROUTERS", "x");
    command.env("TESSERAE", "x").env("MY_TESSERA_BIND", "x");
    assert!(shown(command).values().all(|(_, origin)| origin == "default"));
}

#[test]
fn a_value_that_does_not_fit_is_refused_with_its_origin_and_what_is_allowed() {
    let bad = [
        ("bind", "localhost", "an address and a port, such as 127.0.0.1:3000"),
        ("bind", "127.0.0.1:70000", "an address and a port"),
        ("bind", "", "an address and a port"),
        ("data_dir", "", "a folder, and not be empty"),
        ("shards", "0", "a number from 1 to 256"),
        ("shards", "257", "a number from 1 to 256"),
        ("shards", "-1", "a number from 1 to 256"),
        ("shards", "three", "a number from 1 to 256"),
        ("weights", "1,0", "1 to 256 numbers from 1 to"),
        ("weights", "1;2", "1 to 256 numbers from 1 to"),
        ("weights", "", "1 to 256 numbers from 1 to"),
        ("placement", "random", "even, weighted, modulo, ring or ring:VNODES"),
        ("placement", "ring:0", "1 to 10000 virtual nodes, not 0"),
        ("placement", "partitions:A=1", "`A=1` is not NAME=WEIGHT>SHARD"),
        ("placement", "manual:0-99=shard1", "no shard owns the slots 100 to 16383"),
        ("analytics", "maybe", "on or off"),
        ("keyspace", "geo", "hash, modulo, range:10,20"),
        ("keyspace", "range", "is not an integer"),
        ("keyspace", "range:2,1", "split points must ascend"),
        ("keyspace", "list:A", "`A` is not NAME=WEIGHT"),
        ("keyspace", "matrix:room", "neither id nor server"),
        ("workers", "0", "a number from 1 to 256"),
        ("workers", "1e9", "a number from 1 to 256"),
        ("log", "loud", "error, warn, info, debug or trace"),
        ("replicas", "6", "a number from 0 to 5"),
        ("replicas", "-1", "a number from 0 to 5"),
        ("replicas", "", "a number from 0 to 5"),
        ("insecure", "yes", "true or false"),
        ("lab", "yes", "true or false"),
    ];
    for (name, value, allowed) in bad {
        let folder = folder();
        let mut environment = bare_command(folder.path());
        environment.env(variable(name), value);
        let mut sources = vec![("environment", environment)];
        if !SWITCHES.contains(&name) {
            let mut flags = bare_command(folder.path());
            flags.arg(format!("--{}={value}", name.replace('_', "-")));
            sources.push(("flag", flags));
        }
        for (origin, command) in sources {
            let reported = refusal(command);
            let subject = format!("{name} (from {origin}) is `{value}`");
            assert!(reported.contains(&subject) && reported.contains(allowed), "{reported}");
        }
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let folder = folder();
    let with = |flags: &[&str]| {
        let mut command = bare_command(folder.path());
        command.args(flags);
        refusal(command)
    };
    let said = with(&["--placement", "even", "--weights", "1,2"]);
    assert!(said.contains("placement even ignores weights"), "{said}");
    let said = with(&["--placement", "jump", "--weights", "1,2"]);
    assert!(said.contains("placement jump ignores weights"), "{said}");
    let said = with(&["--placement", "manual:0-16383=shard4", "--bind", "127.0.0.1:0"]);
    assert!(said.contains("shard4, which is none of the 3 shards"), "{said}");
    let said = with(&["--shards", "3", "--weights", "1,2"]);
    assert!(said.contains("weights names 2 shards, shards says 3"), "{said}");
    let said = with(&["--analytics", "off", "--analytics-store", "./figures.db"]);
    assert!(said.contains("analytics_store (from flag) is ignored while analytics"), "{said}");
}

/// A value that is not UTF-8 must not silently mean the default.
#[test]
fn a_variable_that_is_not_utf_8_is_refused() {
    let folder = folder();
    let mut command = bare_command(folder.path());
    command.env("TESSERA_DATA_DIR", OsStr::from_bytes(b"/tmp/\xff")).arg("--print-config");
    let said = refusal(command);
    assert!(said.contains("TESSERA_DATA_DIR"), "{said}");
}

#[test]
fn a_file_that_cannot_be_read_is_refused_by_name() {
    let folder = folder();
    let with = |file: &str| {
        let mut command = bare_command(folder.path());
        command.args(["--config", file]);
        refusal(command)
    };
    assert!(with("missing.toml").contains("missing.toml"));
    write(folder.path(), "broken.toml", "bind = \n");
    assert!(with("broken.toml").contains("broken.toml"));
    write(folder.path(), "nested.toml", "[bind]\naddress = \"127.0.0.1\"\n");
    let said = with("nested.toml");
    assert!(said.contains("nested.toml") && said.contains("bind"), "{said}");
    write(folder.path(), ".env", "TESSERA_BIND='127.0.0.1:1\n");
    assert!(refusal(bare_command(folder.path())).contains(".env"));
}

fn example() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../.env.example");
    std::fs::read_to_string(path).unwrap()
}

/// Returns the settings of `.env.example`, in their order; those about servers have no prefix.
pub(crate) fn documented() -> Vec<(String, String)> {
    let text = example();
    let lines = text.lines().filter_map(|line| line.strip_prefix('#')?.split_once('='));
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    lines
        .filter(|(name, _)| is_name(name))
        .map(|(name, value)| (name.strip_prefix("TESSERA_").unwrap_or(name), value))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect()
}

#[test]
fn the_example_of_dot_env_documents_every_setting() {
    let folder = folder();
    let documented: Vec<String> = documented().into_iter().map(|(name, _)| name).collect();
    for name in shown(bare_command(folder.path())).keys() {
        assert!(documented.contains(name), "{name} is not in .env.example");
    }
}

/// Weights and a placement exclude each other, and those in `ELSEWHERE` need files or servers: all
/// other settings can be in force at once.
#[test]
fn the_example_of_dot_env_is_accepted_with_every_line_in_force() {
    for skip in ["weights", "placement"] {
        let folder = folder();
        write(folder.path(), "tessera.toml", "");
        let out = |name: &str| name == skip || ELSEWHERE.contains(&name) || name == "pgpassword";
        let kept = documented().into_iter().filter(|(name, _)| !out(name));
        let lines: String =
            kept.map(|(name, value)| format!("{}={value}\n", variable(&name))).collect();
        write(folder.path(), ".env", &lines);
        let shown = shown(bare_command(folder.path()));
        for (name, (_, origin)) in shown.iter().filter(|(name, _)| !out(name)) {
            assert_eq!(origin, ".env", "{name}");
        }
    }
}

#[test]
fn the_example_of_dot_env_shows_the_defaults() {
    let folder = folder();
    let shown = shown(bare_command(folder.path()));
    for (name, value) in documented() {
        // According to the file, these have another default, or none.
        let other = ["weights", "workers", "config", "loadtest_host", "pg_bin", "pgpassword"];
        let service = name.starts_with("analytics_") && name != "analytics_store";
        if service || other.contains(&&*name) || (ELSEWHERE.contains(&&*name) && name != "engine") {
            continue;
        }
        let (default, _) = &shown[&name];
        let default = default.trim_start_matches("what the data directory has, else ");
        assert_eq!(value, default, "{name}");
    }
}

#[test]
fn help_lists_every_setting_and_its_sources() {
    let folder = folder();
    let output = bare_command(folder.path()).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for name in SETTINGS.map(|(name, ..)| name).into_iter().chain(ELSEWHERE) {
        let flag = format!("--{}", name.replace('_', "-"));
        assert!(help.contains(&flag), "{flag} is not in\n{help}");
    }
    for word in ["--config", "--print-config", "--version", "TESSERA_BIND", "SHARD_URLS", ".env"] {
        assert!(help.contains(word), "{word} is not in\n{help}");
    }
}
