//! Tests of `--doctor`: it reports conditions that prevent a start or may cause problems later, and
//! changes nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use chrono::Datelike;

use crate::backend::{self, files_only, servers_only};
use crate::faults::meddle;
use crate::harness::{Router, bare_command, command};

/// Returns the exit code and the lines of the output.
fn examined(mut command: Command) -> (Option<i32>, Vec<String>) {
    let output = command.arg("--doctor").output().unwrap();
    let (reported, said) = (String::from_utf8(output.stdout).unwrap(), output.stderr);
    assert!(!reported.is_empty(), "{}", String::from_utf8_lossy(&said));
    (output.status.code(), reported.lines().map(str::to_owned).collect())
}

/// Returns true if a line has this verdict and these words.
fn reports(lines: &[String], verdict: &str, words: &str) -> bool {
    lines.iter().any(|line| line.starts_with(verdict) && line.contains(words))
}

fn primary_file(data: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(data).unwrap().map(|file| file.unwrap().path());
    let mut of_shard = files.filter(|file| {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("shard2") && !name.contains("replica") && name.ends_with(".db")
    });
    of_shard.next().unwrap()
}

#[test]
fn a_new_folder_is_good_and_nothing_is_made() {
    files_only!("it is about a folder of files");
    let folder = crate::folders::temporary();
    let data = folder.path().join("not/yet");
    let mut first = bare_command(folder.path());
    first.args(["--bind", "127.0.0.1:0"]).arg("--data-dir").arg(&data);
    let (code, lines) = examined(first);
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(reports(&lines, "good", "holds no cluster yet"), "{lines:#?}");
    assert!(reports(&lines, "good", "programs on this machine"), "{lines:#?}");
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is made");
}

#[test]
fn what_a_running_router_holds_is_a_warning_and_not_a_fault() {
    files_only!("it is about a folder of files");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, &[]);
    let mut second = bare_command(folder.path());
    second.arg("--data-dir").arg(&data).args(["--bind", &router.address().to_string()]);
    let (code, lines) = examined(second);
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(reports(&lines, "warning", "is taken"), "{lines:#?}");
    assert!(
        reports(&lines, "warning", &format!("process {} serves it", router.pid())),
        "{lines:#?}"
    );
    assert!(reports(&lines, "good", "3 shards, 1 replicas each"), "{lines:#?}");
}

#[test]
fn a_lost_file_of_a_primary_is_a_fault_and_a_foreign_one_as_well() {
    files_only!("it is about a folder of files");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    Router::start_in(&data, &[]).end();
    let (code, lines) = examined(command(&data));
    assert_eq!(code, Some(0), "{lines:#?}");
    let file = primary_file(&data);
    let kept = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let (code, lines) = examined(command(&data));
    assert_eq!(code, Some(1), "{lines:#?}");
    assert!(reports(&lines, "fault", "put the file back, or restore a backup"), "{lines:#?}");
    assert!(lines.last().unwrap().starts_with("1 fault, "), "{lines:#?}");
    fs::write(&file, "this is not a database, and was never one of any kind").unwrap();
    let (code, lines) = examined(command(&data));
    assert_eq!(code, Some(1), "{lines:#?}");
    assert!(reports(&lines, "fault", "shard2-primary"), "{lines:#?}");
    fs::write(&file, kept).unwrap();
    assert_eq!(examined(command(&data)).0, Some(0), "all is as before");
}

/// Returns the first shard's primary to the schema of the version before.
const OLDER_SCHEMA: &str = concat!(
    include_str!("../../../migrations/sqlite/shard/2026-11-25-000006_groups/down.sql"),
    "DELETE FROM __diesel_schema_migrations WHERE version='20261125000006'"
);

#[test]
fn an_older_schema_is_a_warning_because_the_next_start_upgrades_it() {
    files_only!("it is about a folder of files");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    Router::start_in(&data, &[]).end();
    meddle(&data, OLDER_SCHEMA);
    let older = "shard1-primary.db has an older schema: the next start upgrades it";
    let (code, lines) = examined(command(&data));
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(reports(&lines, "warning", older), "{lines:#?}");
    Router::start_in(&data, &[]).end();
    let (code, lines) = examined(command(&data));
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(!reports(&lines, "warning", older), "{lines:#?}");
}

#[test]
fn a_file_in_the_place_of_the_folder_is_reported_as_a_file() {
    files_only!("it is about a folder of files");
    let folder = crate::folders::temporary();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for data in [file.clone(), file.join("data")] {
        let mut command = bare_command(folder.path());
        command.args(["--bind", "127.0.0.1:0"]).arg("--data-dir").arg(&data);
        let (code, lines) = examined(command);
        assert_eq!(code, Some(1), "{lines:#?}");
        let words = format!("{} is a file, where a folder is expected", file.display());
        assert!(reports(&lines, "fault", &words), "{lines:#?}");
    }
}

#[test]
fn a_public_address_and_a_broken_certificate_are_reported() {
    files_only!("it is about a folder of files");
    let folder = crate::folders::temporary();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    fs::write(&certificate, "nothing").unwrap();
    fs::write(&key, "nothing").unwrap();
    let mut open = bare_command(folder.path());
    open.args(["--bind", "0.0.0.0:0", "--tls-cert"]).arg(&certificate).arg("--tls-key").arg(&key);
    let (code, lines) = examined(open);
    assert_eq!(code, Some(1), "{lines:#?}");
    assert!(reports(&lines, "fault", "requests need no key: bind to 127.0.0.1"), "{lines:#?}");
    assert!(reports(&lines, "fault", "there is no certificate in it"), "{lines:#?}");
}

/// Returns the findings about a certificate that is valid from one day to another, relative to
/// today.
fn of_certificate(begins: i64, ends: i64) -> (Option<i32>, Vec<String>) {
    let folder = crate::folders::temporary();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let day = |days: i64| {
        let day = chrono::Utc::now() + chrono::TimeDelta::days(days);
        rcgen::date_time_ymd(day.year(), day.month() as u8, day.day() as u8)
    };
    let pair = rcgen::KeyPair::generate().unwrap();
    let mut wanted = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    (wanted.not_before, wanted.not_after) = (day(begins), day(ends));
    fs::write(&certificate, wanted.self_signed(&pair).unwrap().pem()).unwrap();
    fs::write(&key, pair.serialize_pem()).unwrap();
    let mut router = bare_command(folder.path());
    router.args(["--bind", "127.0.0.1:0", "--tls-cert"]).arg(&certificate);
    router.arg("--tls-key").arg(&key);
    examined(router)
}

#[test]
fn a_certificate_that_expires_soon_or_is_not_yet_valid_is_reported() {
    files_only!("it is about a file");
    let (code, lines) = of_certificate(-10, 80);
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(reports(&lines, "good", "its key fits; it ends on 2"), "{lines:#?}");
    let (code, lines) = of_certificate(-10, 20);
    assert_eq!(code, Some(0), "{lines:#?}");
    let ends = |days: u8| reports(&lines, "warning", &format!("ends in {days} days, on 2"));
    // A midnight may have passed since the certificate was made.
    assert!(ends(19) || ends(18), "{lines:#?}");
    let (code, lines) = of_certificate(3, 80);
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(reports(&lines, "warning", "is valid from 2"), "{lines:#?}");
    let (code, lines) = of_certificate(-90, -3);
    assert_eq!(code, Some(1), "{lines:#?}");
    assert!(reports(&lines, "fault", "no client accepts it; renew it"), "{lines:#?}");
}

#[test]
fn every_server_is_examined_although_one_is_unreachable() {
    servers_only!("it is about servers");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &[]);
    router.end();
    let (code, lines) = examined(backend::command(&data, &[]));
    assert_eq!(code, Some(0), "{lines:#?}");
    assert!(reports(&lines, "good", "each has one primary"), "{lines:#?}");
    let nodes = lines.iter().filter(|line| line.contains(" on timeline ")).count();
    // For Citus, only the coordinator is checked.
    assert!(nodes >= if backend::is_citus() { 1 } else { 2 }, "{lines:#?}");
    if backend::is_citus() {
        assert!(reports(&lines, "good", "worker(s), and all reach each other"), "{lines:#?}");
    }
    backend::not_on_citus!("its coordinator is the only server that is named");
    let mut broken = backend::command(&data, &[]);
    let urls = |broken: &Command| {
        let mut all = broken.get_envs();
        let (_, urls) = all.find(|(name, _)| *name == "SHARD_URLS").unwrap();
        urls.unwrap().to_str().unwrap().to_owned()
    };
    let one_more = format!("{},postgres://nobody@127.0.0.1:1/nowhere", urls(&broken));
    broken.env("SHARD_URLS", one_more);
    let (code, lines) = examined(broken);
    assert_eq!(code, Some(1), "{lines:#?}");
    assert!(reports(&lines, "fault", "127.0.0.1:1/nowhere"), "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| line.contains(" on timeline ")).count(), nodes);
}

#[test]
fn files_that_every_user_may_read_are_a_warning() {
    files_only!("it is about a folder of files");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    Router::start_in(&data, &[]).end();
    let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let catalog = data.join("catalog.db");
    let examine = || {
        let (code, lines) = examined(command(&data));
        assert_eq!(code, Some(0), "{lines:#?}");
        lines
    };
    assert!(!reports(&examine(), "warning", "every user"), "a new folder is closed");
    // Earlier versions created these modes.
    set(&data, 0o755);
    set(&catalog, 0o644);
    let lines = examine();
    assert!(reports(&lines, "warning", "every user may read catalog.db"), "{lines:#?}");
    assert!(reports(&lines, "warning", "chmod -R o-rwx"), "{lines:#?}");
    set(&data, 0o757);
    assert!(reports(&examine(), "warning", "every user may replace its files"));
    // Other users cannot enter the folder.
    set(&data, 0o750);
    assert!(!reports(&examine(), "warning", "every user"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    Router::start_in(&data, &[]).end();
    assert_eq!((mode(&data), mode(&catalog)), (0o750, 0o644), "a start changes no modes");
}
