//! Tests of the addresses of PostgreSQL servers: their sources, the output of `--print-config`,
//! refused addresses, and that a password is never shown. No server is used.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::config::{documented, folder, refusal, said, shown, write};
use crate::harness::bare_command;

const ONE: &str = "postgres://u@127.0.0.1:5432/s1";
const TWO: &str = "postgres://u@127.0.0.1:5434/s2";
const THREE: &str = "postgres://u@127.0.0.1:5433/s1";

fn with(folder: &Path, variables: &[(&str, &str)], flags: &[&str]) -> Command {
    let mut command = bare_command(folder);
    command.envs(variables.iter().copied()).args(flags);
    command
}

fn both() -> String {
    format!("{ONE},{TWO}")
}

/// Returns the URL as the router shows it, with the defaults.
fn full(url: &str) -> String {
    format!("{url}?sslmode=prefer")
}

/// Returns the settings in force with this `tessera.toml`.
fn of_file(text: &str) -> BTreeMap<String, (String, String)> {
    let folder = folder();
    write(folder.path(), "tessera.toml", text);
    shown(bare_command(folder.path()))
}

fn refused_file(text: &str) -> String {
    let folder = folder();
    write(folder.path(), "tessera.toml", text);
    refusal(bare_command(folder.path()))
}

#[test]
fn servers_can_be_named_in_every_source() {
    let list = format!("{},{}", full(ONE), full(TWO));
    for source in ["flag", "environment", ".env", "tessera.toml"] {
        let folder = folder();
        let settings = [
            ("SHARD_URLS", both()),
            ("REPLICA_URLS", THREE.to_owned()),
            ("MAINDB_URL", ONE.into()),
        ];
        let mut command = bare_command(folder.path());
        let mut file = String::new();
        for (name, value) in &settings {
            let lower = name.to_lowercase();
            match source {
                "flag" => drop(command.arg(format!("--{}={value}", lower.replace('_', "-")))),
                "environment" => drop(command.env(name, value)),
                ".env" => file += &format!("{name}={value}\n"),
                _ => file += &format!("{lower} = \"{value}\"\n"),
            }
        }
        if !file.is_empty() {
            write(folder.path(), source, &file);
        }
        let shown = shown(command);
        assert_eq!(shown["shard_urls"], said(&list, source));
        assert_eq!(shown["replica_urls"], said(&full(THREE), source));
        assert_eq!(shown["maindb_url"], said(&full(ONE), source));
        assert_eq!(shown["engine"], said("postgres", "default"));
        assert_eq!(shown["shards"].0, "2");
        assert!(!shown.contains_key("data_dir"), "no file is used");
    }
}

#[test]
fn the_first_source_that_names_servers_wins() {
    let folder = folder();
    write(folder.path(), "tessera.toml", &format!("shard_urls = [\"{ONE}\", \"{TWO}\"]\n"));
    let two = shown(bare_command(folder.path()));
    assert_eq!(two["shard_urls"].1, "tessera.toml");
    write(folder.path(), ".env", &format!("SHARD_URLS={TWO}\n"));
    assert_eq!(shown(bare_command(folder.path()))["shard_urls"], said(&full(TWO), ".env"));
    let environment = || with(folder.path(), &[("SHARD_URLS", ONE)], &[]);
    assert_eq!(shown(environment())["shard_urls"], said(&full(ONE), "environment"));
    let mut flag = environment();
    flag.args(["--shard-urls", TWO]);
    assert_eq!(shown(flag)["shard_urls"], said(&full(TWO), "flag"));
}

#[test]
fn a_comma_may_stand_between_addresses_and_between_the_hosts_of_one() {
    let folder = folder();
    let list = "postgres://u@127.0.0.1:1,localhost:2/a, postgresql://u@127.0.0.1:3/b ,postgres://u@[::1]:4/c";
    let shown = shown(with(folder.path(), &[("SHARD_URLS", list)], &[]));
    let wanted = [
        full("postgres://u@127.0.0.1:1,localhost:2/a"),
        full("postgres://u@127.0.0.1:3/b"),
        full("postgres://u@[::1]:4/c"),
    ];
    assert_eq!(shown["shard_urls"].0, wanted.join(","));
    assert_eq!(shown["shards"].0, "3");
}

#[test]
fn the_file_names_shards_with_what_holds_for_all_of_them() {
    let shown = of_file(
        r#"
        workers = 3
        engine = "postgres"
        [postgres]
        connect_timeout_ms = 1500
        user = "tessera"
        sslmode = "require"
        sslrootcert = "/ca.pem"
        [postgres.catalog]
        url = "postgres://db1/maindb"
        [[shard]]
        name = "north"
        weight = 2
        primary = "postgres://db1,db1b/t"
        replicas = ["postgres://db1b/t", "postgres://other@db1c/t?sslmode=verify-ca&sslrootcert=system"]
        [[shard]]
        primary = "postgres://db2/t"
        "#,
    );
    let rest = "sslmode=require&sslrootcert=/ca.pem";
    for (name, value) in [
        ("workers", "3".to_owned()),
        ("engine", "postgres".to_owned()),
        ("postgres.connect_timeout_ms", "1500".to_owned()),
        ("postgres.user", "tessera".to_owned()),
        ("postgres.sslmode", "require".to_owned()),
        ("maindb_url", format!("postgres://tessera@db1:5432/maindb?{rest}")),
        ("shard[1].name", "north".to_owned()),
        ("shard[1].weight", "2".to_owned()),
        ("shard[1].primary", format!("postgres://tessera@db1:5432,db1b:5432/t?{rest}")),
        (
            "shard[1].replicas",
            format!(
                "postgres://tessera@db1b:5432/t?{rest},postgres://other@db1c:5432/t?sslmode=verify-ca"
            ),
        ),
        ("shard[2].primary", format!("postgres://tessera@db2:5432/t?{rest}")),
    ] {
        assert_eq!(shown[name], said(&value, "tessera.toml"), "{name}");
    }
    assert_eq!(shown["shard[2].name"], said("shard2", "default"));
    assert_eq!(shown["shard[2].weight"], said("1", "default"));
    assert_eq!(shown["shards"], said("2", "default"));
}

#[test]
fn sslrootcert_system_verifies_servers_on_this_machine_too() {
    let shown = of_file(
        r#"
        [postgres]
        sslrootcert = "system"
        [[shard]]
        primary = "postgres://u@127.0.0.1/t"
        "#,
    );
    assert_eq!(shown["postgres.sslmode"], said("verify-full", "default"));
    assert_eq!(shown["postgres.sslrootcert"], said("system", "tessera.toml"));
    let primary = "postgres://u@127.0.0.1:5432/t?sslmode=verify-full";
    assert_eq!(shown["shard[1].primary"], said(primary, "tessera.toml"));
}

#[test]
fn connections_to_other_machines_verify_certificates_by_default() {
    let folder = folder();
    let list = "postgres://u@db1/a,postgres://u@db2/b?sslmode=disable";
    let shown = shown(with(folder.path(), &[("SHARD_URLS", list)], &[]));
    let wanted =
        "postgres://u@db1:5432/a?sslmode=verify-full,postgres://u@db2:5432/b?sslmode=disable";
    assert_eq!(shown["shard_urls"].0, wanted);
}

#[test]
fn what_contradicts_the_addresses_is_refused() {
    let folder = folder();
    let list = both();
    let refused = |flags: &[&str]| refusal(with(folder.path(), &[("SHARD_URLS", &list)], flags));
    let said = refused(&["--data-dir", "./data"]);
    assert!(
        said.contains("data_dir (from flag)") && said.contains("SHARD_URLS (from environment)")
    );
    let said = refused(&["--engine", "sqlite"]);
    assert!(said.contains("engine (from flag) is sqlite, but SHARD_URLS"), "{said}");
    let said = refused(&["--shards", "3"]);
    assert!(said.contains("shards (from flag) says 3, but 2 shards are named"), "{said}");
    let said = refused(&["--replicas", "1"]);
    assert!(said.contains("replicas (from flag) says 1, but 0 replicas are named"), "{said}");
    let said = refused(&["--weights", "1,2,3"]);
    assert!(said.contains("weights names 3 shards"), "{said}");

    let agreed = ["--shards", "2", "--replicas", "0", "--weights", "1,2", "--placement", "ring"];
    shown(with(folder.path(), &[("SHARD_URLS", &list)], &agreed));
}

#[test]
fn the_disk_space_of_shards_can_be_set_in_every_source() {
    let bytes = "5000000000";
    for source in ["flag", "environment", ".env", "tessera.toml"] {
        let folder = folder();
        let list = both();
        let mut command = with(folder.path(), &[("SHARD_URLS", &list)], &[]);
        match source {
            "flag" => drop(command.args(["--shard-disk-bytes", bytes])),
            "environment" => drop(command.env("TESSERA_SHARD_DISK_BYTES", bytes)),
            ".env" => {
                write(folder.path(), ".env", &format!("TESSERA_SHARD_DISK_BYTES={bytes}\n"));
            }
            _ => {
                write(folder.path(), "tessera.toml", &format!("shard_disk_bytes = {bytes}\n"));
            }
        }
        assert_eq!(shown(command)["shard_disk_bytes"], said(bytes, source));
    }
    let shown = of_file(&format!("[[shard]]\nprimary = \"{ONE}\"\n"));
    assert_eq!(shown["shard_disk_bytes"], said("none", "default"));
}

#[test]
fn disk_space_out_of_bounds_or_of_shards_that_are_not_on_postgresql_is_refused() {
    let folder = folder();
    let list = both();
    let allowed = "it must be a number from 1073741824 to 1125899906842624, or none";
    for bad in ["0", "-1", "500", "1073741823", "1125899906842625", "500GB", "5e9", "all"] {
        let flag = format!("--shard-disk-bytes={bad}");
        let said = refusal(with(folder.path(), &[("SHARD_URLS", &list)], &[&flag]));
        let text = format!("shard_disk_bytes (from flag) is `{bad}`; {allowed}");
        assert!(said.contains(&text), "{said}");
    }
    let files = refusal(with(folder.path(), &[], &["--shard-disk-bytes=5000000000"]));
    let text = "shard_disk_bytes (from flag) is about servers of PostgreSQL, but no shard is named";
    assert!(files.contains(text), "{files}");
    let flags = ["--engine=citus", "--shard-disk-bytes=5000000000"];
    let citus = refusal(with(folder.path(), &[("SHARD_URLS", ONE)], &flags));
    let text = "engine is citus, and shard_disk_bytes (from flag) is set: leave it out";
    assert!(citus.contains(text), "{citus}");
}

#[test]
fn settings_of_servers_without_a_shard_are_refused() {
    let folder = folder();
    for name in ["REPLICA_URLS", "MAINDB_URL"] {
        let said = refusal(with(folder.path(), &[(name, ONE)], &[]));
        assert!(said.contains(&format!("{name} (from environment)")) && said.contains("[[shard]]"));
    }
    let said = refusal(with(folder.path(), &[("TESSERA_ENGINE", "postgres")], &[]));
    assert!(said.contains("engine (from environment) is postgres, but no shard"), "{said}");
    let said = refusal(with(folder.path(), &[("TESSERA_ENGINE", "mysql")], &[]));
    assert!(said.contains("it must be sqlite, postgres or citus"), "{said}");
    let said = refusal(with(folder.path(), &[("SHARD_URLS", "")], &[]));
    assert!(said.contains("SHARD_URLS (from environment) names 0 shards"), "{said}");
    assert!(refused_file("[postgres]\nuser = \"u\"\n").contains("[postgres] (from tessera.toml)"));
}

#[test]
fn a_name_that_is_nearly_one_of_ours_is_refused() {
    let folder = folder();
    for (name, meant) in [
        ("SHARD_URL", "SHARD_URLS"),
        ("TESSERA_SHARD_URLS", "SHARD_URLS"),
        ("MAINDB_URLS", "MAINDB_URL"),
    ] {
        let said = refusal(with(folder.path(), &[(name, ONE)], &[]));
        let text = format!("{name} (from environment) is not a setting; did you mean {meant}?");
        assert!(said.contains(&text), "{said}");
    }
}

#[test]
fn no_server_is_two_nodes_and_no_two_shards_have_one_name() {
    let folder = folder();
    let refused = |shards: &str, replicas: &str| {
        let variables = [("SHARD_URLS", shards), ("REPLICA_URLS", replicas)];
        refusal(with(folder.path(), &variables, &[]))
    };
    let twice = "127.0.0.1:5432/s1 and 127.0.0.1:5432/s1 are one server";
    assert!(refused(&format!("{ONE},{ONE}"), "").contains(twice));
    assert!(refused(&both(), ONE).contains(twice));
    assert!(refused(&both(), &format!("{THREE},{THREE}")).contains("named twice"));

    let shard = |name: &str, url: &str| format!("[[shard]]\n{name}\nprimary = \"{url}\"\n");
    let said = refused_file(&(shard("", ONE) + &shard("name = \"shard1\"", TWO)));
    assert!(said.contains("two shards are called shard1"), "{said}");
    let said = refused_file(&(shard("weight = 1", ONE) + &shard("", ONE)));
    assert!(said.contains(twice), "{said}");
    let text = format!("weights = [1]\n{}", shard("weight = 1", ONE));
    assert!(refused_file(&text).contains("leave one of them out"));
    let folder = self::folder();
    write(folder.path(), "tessera.toml", &shard("", ONE));
    let said = refusal(with(folder.path(), &[("SHARD_URLS", TWO)], &[]));
    assert!(said.contains("SHARD_URLS (from environment) and [[shard]] (from tessera.toml)"));
}

#[test]
fn what_is_wrong_in_the_file_is_named_with_its_path() {
    let good = "primary = \"postgres://u@h/d\"\n";
    for (text, reported) in [
        ("[postgress]\n", "postgress (from tessera.toml) is not a setting; did you mean postgres?"),
        (
            "[postgres]\nuzer = 1\n",
            "postgres.uzer (from tessera.toml) is not a setting; did you mean user?",
        ),
        ("[postgres]\nuser = 1\n", "postgres.user (from tessera.toml) must be a text"),
        (
            "[postgres]\nsslmode = \"on\"\n[[shard]]\nG",
            "postgres.sslmode (from tessera.toml) must be one of",
        ),
        (
            "[postgres]\nsslmode = \"require\"\nsslrootcert = \"system\"\n[[shard]]\nG",
            "postgres.sslmode (from tessera.toml) must be verify-ca or verify-full where postgres.",
        ),
        (
            "[postgres]\nsslrootcert = \"system\"\n[[shard]]\n\
             primary = \"postgres://u@h/d?sslmode=require\"\n",
            "shard[1].primary (from tessera.toml): sslmode must be verify-ca or verify-full where",
        ),
        ("[postgres]\nconnect_timeout_ms = 1\n", "must be a number from 100 to 600000"),
        (
            "[postgres.catalog]\nuri = 1\n",
            "postgres.catalog.uri (from tessera.toml) is not a setting; did you",
        ),
        ("[postgres]\ncatalog = 1\n", "postgres.catalog (from tessera.toml) must be a section"),
        ("[shard]\nG", "shard (from tessera.toml) must be a list: write [[shard]]"),
        (
            "[[shard]]\nG[[shard]]\nweight = \"2\"\nG",
            "shard[2].weight (from tessera.toml) must be a number from 1",
        ),
        (
            "[[shard]]\nwieght = 2\nG",
            "shard[1].wieght (from tessera.toml) is not a setting; did you mean weight?",
        ),
        (
            "[[shard]]\nname = \"A b\"\nG",
            "shard[1].name (from tessera.toml) must be a lower-case letter",
        ),
        ("[[shard]]\nreplicas = \"x\"\nG", "shard[1].replicas (from tessera.toml) must be a list"),
        (
            "[[shard]]\nreplicas = [\"postgres://h:canary@\"]\nG",
            "shard[1].replicas[1] (from tessera.toml): an address",
        ),
        ("[[shard]]\nname = \"a\"\n", "shard[1] (from tessera.toml) names no primary"),
        (
            "[postgres]\npassword_env = \"NO_SUCH\"\n[[shard]]\nG",
            "`NO_SUCH`, a variable that is not set",
        ),
        (
            "[postgres]\npassword_file = \"/no/such\"\n[[shard]]\nG",
            "postgres.password_file (from tessera.toml)",
        ),
    ] {
        let said = refused_file(&text.replace('G', good));
        assert!(said.contains(reported) && !said.contains("canary"), "{text}: {said}");
    }
}

/// Returns all output of a router that shows its configuration, and of one that fails to start.
fn printed(command: impl Fn() -> Command) -> String {
    let mut all = String::new();
    for flag in ["--print-config", "--bind=127.0.0.1:0"] {
        let output = command().arg(flag).output().unwrap();
        all += &String::from_utf8_lossy(&output.stdout);
        all += &String::from_utf8_lossy(&output.stderr);
    }
    all
}

#[test]
fn no_output_ever_shows_a_password() {
    let folder = folder();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "canary\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let url = "postgres://u:canary@127.0.0.1:1/d";
    let said = printed(|| with(folder.path(), &[("SHARD_URLS", url), ("MAINDB_URL", url)], &[]));
    assert!(said.contains("u:***@127.0.0.1:1/d") && !said.contains("canary"), "{said}");
    let said = printed(|| with(folder.path(), &[], &["--shard-urls", url, "--log", "trace"]));
    assert!(said.contains("***") && !said.contains("canary"), "{said}");
    let bare = "postgres://u@127.0.0.1:1/d";
    let said =
        printed(|| with(folder.path(), &[("SHARD_URLS", bare), ("PGPASSWORD", "canary")], &[]));
    assert!(said.contains("PGPASSWORD (set)") && !said.contains("canary"), "{said}");

    let files = [
        format!(
            "[postgres]\npassword_file = \"{}\"\n[[shard]]\nprimary = \"{bare}\"\n",
            secret.display()
        ),
        format!("[[shard]]\nprimary = \"{url}\"\nreplicas = [\"{}\"]\n", url.replace(":1/", ":2/")),
        format!("[[shard]]\nprimary = \"{url}\nreplicas = 1\n"),
        format!("[[shard]]\nprimary = [\"{url}\"]\n"),
        format!("shard_urls = {{ a = \"{url}\" }}\n"),
        format!("shards = \"{url}\"\n"),
        format!("data_dir = \"{url}\"\n"),
        format!("placement = \"{url}\"\n"),
        format!("shard_urls = \"{}\"\n", url.replace("canary", "can/canary")),
        format!("[[shard]]\nprimary = \"{}\"\n", url.replace("canary", "1/canary")),
        format!("[[shard]]\nprimary = \"{}\"\n", url.replace("canary", "1?canary")),
    ];
    for text in &files {
        write(folder.path(), "tessera.toml", text);
        let said = printed(|| bare_command(folder.path()));
        assert!(!said.is_empty() && !said.contains("canary"), "{text}: {said}");
    }
    std::fs::remove_file(folder.path().join("tessera.toml")).unwrap();
    for line in [
        format!("SHARD_URLS=\"{url}"),
        format!("SHARD_URLS {url}"),
        format!("SHARD_URLS={url} {url}"),
    ] {
        write(folder.path(), ".env", &format!("TESSERA_LOG=info\n{line}\n"));
        let said = printed(|| bare_command(folder.path()));
        assert!(said.contains(".env cannot be read: line 2") && !said.contains("canary"), "{said}");
    }
}

#[test]
fn the_example_of_dot_env_names_servers_that_are_accepted() {
    let folder = folder();
    let about = ["shard_urls", "replica_urls", "maindb_url"];
    let lines = documented().into_iter().filter(|(name, _)| about.contains(&&**name));
    let lines: String =
        lines.map(|(name, value)| format!("{}={value}\n", name.to_uppercase())).collect();
    assert_eq!(lines.lines().count(), about.len());
    write(folder.path(), ".env", &lines);
    let shown = shown(bare_command(folder.path()));
    assert!(about.iter().all(|name| shown[*name].1 == ".env"), "{shown:?}");
}

/// The book's example needs a password file, which is left out here.
#[test]
fn the_example_of_the_book_is_accepted() {
    let chapter = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/src/postgresql.md");
    let chapter = std::fs::read_to_string(chapter).unwrap();
    let (_, rest) = chapter.split_once("```toml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let text = text.replace("password_file = \"/run/secrets/pg\"", "");
    assert_eq!(of_file(&text)["shard[1].name"], said("shard1", "tessera.toml"));
}
