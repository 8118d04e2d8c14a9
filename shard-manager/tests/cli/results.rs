//! Tests of output: the help, and results that cannot be written.

use std::fs::File;
use std::process::{Output, Stdio};

use crate::cluster::{Cluster, program, run};

/// Every read-only command, with its arguments.
const LOOKS: [&[&str]; 7] = [
    &["status"],
    &["route", "user_1"],
    &["route", "user_1", "-", "--json"],
    &["placement", "show"],
    &["placement", "simulate", "--shards", "2"],
    &["check", "--json"],
    &["completions", "bash"],
];

fn run_into(dir: &Cluster, args: &[&str], out: impl Into<Stdio>) -> Output {
    let mut command = program(args);
    command.env("TESSERA_DATA_DIR", dir.path()).stdout(out).stderr(Stdio::piped());
    command.spawn().expect("the program starts").wait_with_output().expect("it ends")
}

#[test]
fn help_lists_the_commands_and_each_command_has_its_own() {
    let listed = run(&["help"]).expect(0).out;
    for command in ["status", "route", "generate", "backup", "restore", "lab", "cluster"] {
        assert!(listed.lines().any(|line| line.trim_start().starts_with(command)), "{listed}");
        let own = run(&[command, "--help"]).expect(0).out;
        assert!(own.contains("Usage: shard-manager"), "{own}");
    }
}

#[test]
fn results_that_could_not_be_written_are_no_success() {
    let cluster = Cluster::new(1, 0);
    for args in LOOKS.iter().chain(&[&["--help"][..]]) {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let ended = run_into(&cluster, args, full);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains("No space left on device"), "{args:?}: {said}");
    }
}

#[test]
fn a_reader_that_is_gone_ends_every_command_quietly() {
    let cluster = Cluster::new(1, 0);
    for args in LOOKS {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = run_into(&cluster, args, writer);
        assert_eq!(ended.status.code(), Some(1), "{args:?}: {ended:?}");
        // The duration of a check is not part of its result.
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(said.is_empty() || args[0] == "check", "{args:?}: {said}");
    }
}

#[test]
fn a_closed_standard_error_does_not_end_a_command() {
    let cluster = Cluster::new(1, 0);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = program(&["export", "--table", "users"]);
    let ended = command.env("TESSERA_DATA_DIR", cluster.path()).stderr(writer).output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

#[test]
fn a_wrong_command_line_is_refused_in_one_line_that_names_the_help_of_the_command() {
    for (args, said, help) in [
        (&["backup", "there"][..], "unexpected argument 'there'", "`shard-manager backup --help`"),
        (&["placement", "show", "--sharts"], "'--sharts'", "`shard-manager placement show --help`"),
        (&["doctor"], "unrecognized subcommand 'doctor'", "`shard-manager --help`"),
        (
            &["statuss"],
            "'statuss'; a similar subcommand exists: 'status'",
            "`shard-manager --help`",
        ),
        (&["generate", "--users", "x"], "it is not a number", "`shard-manager generate --help`"),
        (&["check", "--threads", "0"], "0 is not in 1..", "`shard-manager check --help`"),
        (&["restore"], "--from <DIR>", "`shard-manager restore --help`"),
    ] {
        let ended = program(args).output().unwrap();
        let reported = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(
            (ended.status.code(), reported.lines().count()),
            (Some(2), 1),
            "{args:?}: {reported}"
        );
        assert!(reported.contains(said) && reported.contains(help), "{args:?}: {reported}");
    }
}
