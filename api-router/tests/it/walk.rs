//! Tests of the walk in the book, "Add a shard under load": the commands of the page are run, and
//! their output has the same shape as the output on the page.
//!
//! A shape is the text with each number as `#`, each id as `ID` and each unit of bytes as `B`. A
//! line `…` of the page stands for any lines.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use serde_json::json;

use crate::backend::files_only;
use crate::commands;
use crate::harness::{Router, eventually, isolated};
use crate::other_program::program;
use crate::rebalances::post;

const PAGE: &str = include_str!("../../docs/src/growing.md");
/// Address of the router in the book.
const ADDRESS: &str = "http://127.0.0.1:3000";
/// Script in the place of `cargo`, which runs the programs that the tests have built.
const CARGO: &str = r#"#!/bin/sh
name=api-router
while [ "$1" != "--" ]; do
    [ "$1" = "-p" ] && name=$2
    shift
done
shift
[ "$name" = api-router ] && exec "$PROGRAMS/$name" "$@" --bind 127.0.0.1:0
exec "$PROGRAMS/$name" "$@"
"#;

static LOADTEST: LazyLock<std::path::PathBuf> =
    LazyLock::new(|| program(env!("CARGO_BIN_EXE_api-router"), "loadtest"));

/// A command of the page, and the lines that follow it there.
struct Step<'p> {
    command: &'p str,
    shown: Vec<&'p str>,
}

/// Returns the commands of the page, in order.
fn steps() -> Vec<Step<'static>> {
    let mut steps = Vec::new();
    let mut is_console = false;
    for line in PAGE.lines() {
        match (line, steps.last_mut()) {
            ("```console", _) => is_console = true,
            ("```", _) => is_console = false,
            (line, _) if is_console && line.starts_with("$ ") => {
                steps.push(Step { command: &line[2..], shown: Vec::new() });
            }
            (line, Some(step)) if is_console => step.shown.push(line),
            _ => {}
        }
    }
    steps
}

/// Returns the lines of the report at the end of the page.
fn text_block() -> Vec<&'static str> {
    let (_, block) = PAGE.split_once("```text\n").unwrap();
    block.lines().take_while(|line| *line != "```").collect()
}

/// Returns a line as its shape.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    for word in line.split_whitespace() {
        let is_id = |part: &str| part.len() == 36 && part.matches('-').count() == 4;
        let core = word.trim_matches(|letter: char| "`:,".contains(letter));
        let word = if is_id(core) { word.replace(core, "ID") } else { word.to_owned() };
        let mut last = ' ';
        let mut short = String::new();
        for letter in word.chars() {
            let next = if letter.is_ascii_digit() || (".,".contains(letter) && last == '#') {
                '#'
            } else {
                letter
            };
            if !(next == '#' && last == '#') {
                short.push(next);
            }
            last = next;
        }
        let short = match short.as_str() {
            "KiB" | "MiB" | "GiB" => "B".to_owned(),
            _ => short,
        };
        shape.push_str(&short);
        shape.push(' ');
    }
    shape.trim_end().to_owned()
}

/// Returns the first line of the page that is missing in the output.
fn missing<'p>(shown: &[&'p str], output: &str) -> Option<&'p str> {
    let lines: Vec<String> = output.lines().map(shape).collect();
    let (mut at, mut skips) = (0, false);
    for line in shown.iter().filter(|line| !line.is_empty()) {
        if *line == "…" {
            skips = true;
            continue;
        }
        let wanted = shape(line);
        let found = lines[at..].iter().position(|line| *line == wanted);
        match found {
            Some(offset) if skips || offset == 0 => at += offset + 1,
            _ => return Some(line),
        }
        skips = false;
    }
    None
}

/// Folder in which the commands of the page run.
struct WalkFolder<'f> {
    folder: &'f Path,
    url: String,
}

impl WalkFolder<'_> {
    fn command(&self, step: &Step<'_>) -> Command {
        let text = step.command.replace(ADDRESS, &self.url);
        let mut shell = isolated(Command::new("sh"), self.folder);
        let path = std::env::var("PATH").unwrap();
        shell.env("PATH", format!("{}:{path}", self.folder.join("bin").display()));
        shell.env("PROGRAMS", commands::PROGRAM.parent().unwrap());
        // The shell is replaced, so signals reach the program.
        shell.args(["-c", &format!("exec {text} 2>&1")]);
        shell.stdin(Stdio::null()).stdout(Stdio::piped());
        shell
    }

    /// Runs a command of the page, and checks its output.
    fn run(&self, step: &Step<'_>) {
        let output = self.command(step).output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        println!("$ {}\n{output}", step.command);
        assert_eq!(missing(&step.shown, &output), None, "{}: {output}", step.command);
    }
}

/// A load that runs until it is interrupted.
struct Load(Child);

impl Load {
    /// Ends the load as Ctrl-C does, and returns its report.
    fn end(mut self) -> String {
        let sent = Command::new("kill").args(["-s", "INT", &self.0.id().to_string()]).status();
        assert!(sent.unwrap().success());
        let mut report = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut report).unwrap();
        assert_eq!(self.0.wait().unwrap().code(), Some(0), "{report}");
        report
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_walk_in_the_book_adds_a_shard_under_load_and_takes_it_away_again() {
    files_only!("the walk is on files");
    LazyLock::force(&LOADTEST);
    let folder = crate::folders::temporary();
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(bin.join("cargo"), CARGO).unwrap();
    std::fs::set_permissions(bin.join("cargo"), PermissionsExt::from_mode(0o755)).unwrap();
    let steps = steps();
    let (start, load, rest) = (&steps[0], &steps[1], &steps[2..]);
    let mut place = WalkFolder { folder: folder.path(), url: ADDRESS.to_owned() };
    let router = Router::start_command(place.command(start));
    place.url = router.url("").trim_end_matches('/').to_owned();
    let load_child = Load(place.command(load).spawn().unwrap());
    for step in rest {
        place.run(step);
        // The new shard's replica must follow before its plan can begin.
        eventually("the replicas follow", || {
            let plan = post(&router, "/api/rebalance", &json!({"dry_run": true})).json();
            (plan["refusals"] == json!([])).then_some(())
        });
    }
    let report = load_child.end();
    println!("$ {}\n{report}", load.command);
    assert_eq!(missing(&load.shown, &report), None, "{report}");
    for shown in text_block().iter().filter(|line| line.contains("failed 0")) {
        assert!(report.lines().any(|line| shape(line) == shape(shown)), "{shown}: {report}");
    }
    assert!(report.contains("failed 0   asked for 100/s"), "{report}");
    assert!(report.contains("PASS: every request was answered as promised"), "{report}");
}

#[test]
fn a_line_that_the_output_lacks_is_noticed() {
    let output = "id: running 3 of 64 slots, 1.5 KiB\nshard1\tserving\t12\n";
    for (shown, lacks) in [
        (&["id: running 7 of 9 slots, 12 MiB", "shard1  serving 1"][..], None),
        (&["…", "shard2 serving 1"], None),
        (&["shard1 serving 1"], Some("shard1 serving 1")),
        (&["…", "shard1 draining 1"], Some("shard1 draining 1")),
    ] {
        assert_eq!(missing(shown, output), lacks, "{shown:?}");
    }
}
