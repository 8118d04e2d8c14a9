//! Tests of the files that a run writes: the page, the report to compare with, and the comparison.

use std::path::Path;
use std::process::Output;

use super::fake::{Behaviour, Fake};
use super::{loadtest, text, until_enough};

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Repeats a run until its report contains both operations, because on a busy machine a run of one
/// second may send nothing.
fn until_measured(report: &str, run: impl Fn() -> Output) -> Output {
    until_enough(
        |_| run(),
        |_| {
            let operations = json(report.as_ref())["operations"].to_string();
            ["\"write\"", "\"read\""].iter().all(|name| operations.contains(name))
        },
    )
}

#[test]
fn a_run_writes_a_page_and_a_report_for_comparison() {
    let fake = Fake::start(Behaviour::Honest);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (page, first, second) = (path("run.html"), path("first.json"), path("second.json"));
    let output =
        until_measured(&first, || loadtest(&fake.host(), &["--html", &page, "--save", &first]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).ends_with("PASS: every request was answered as promised\n"));
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"), "{page}");
    assert!(page.contains("<strong>PASS</strong>") && page.contains("shard1"), "{page}");
    assert_eq!(page.matches("://").count(), page.matches(&fake.host()).count());
    assert_eq!(json(first.as_ref())["passed"], true);

    let output = until_measured(&second, || {
        loadtest(&fake.host(), &["--save", &second, "--compare", &first, "--keys", "60"])
    });
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(stdout.contains("  compared with ") && stdout.contains("before"), "{stdout}");
    assert!(stdout.contains("different options: keys 50 before, 60 now"), "{stdout}");
    assert!(stdout.contains(" the same"), "{stdout}");
    let comparison = &json(second.as_ref())["comparison"];
    let metrics = comparison["metrics"].as_array().unwrap();
    let of = |name: &str| metrics.iter().filter(|metric| metric["of"] == name).count();
    assert_eq!([of("all"), of("write"), of("read")], [6, 6, 6], "{comparison}");

    // A run can also be compared with an output of `--json`, and a report may replace the one with
    // which it is compared.
    let args = ["--json", "--save", &second, "--compare", &second];
    let stdout: serde_json::Value =
        serde_json::from_slice(&loadtest(&fake.host(), &args).stdout).unwrap();
    assert_eq!(stdout["comparison"]["with"], second.as_str());
    assert_eq!(json(second.as_ref())["ended_at"], stdout["ended_at"]);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn a_file_that_cannot_be_used_is_reported_before_anything_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let write = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        path(name)
    };
    let directory = dir.path().to_str().unwrap().to_owned();
    let nowhere = path("no/such/place.html");
    let scenario = write("scenario.json", "about = 'x'");
    let newer = write("newer.json", r#"{"format":99,"more":[]}"#);
    let cut = write("cut.json", r#"{"format":2,"told":"x"}"#);
    let twice = path("twice");
    for (args, reason) in [
        (&["--html", &nowhere][..], "cannot be written: No such file or directory"),
        (&["--save", &directory], "cannot be written: not a file"),
        (&["--save", "/dev/null"], "cannot be written: not a file"),
        (&["--html", &twice, "--save", &twice], "name the same file"),
        (&["--compare", &nowhere], "cannot be read: No such file or directory"),
        (&["--compare", &directory], "cannot be read"),
        (&["--compare", &scenario], "not a report of this program"),
        (&["--compare", &newer], "a report of format 99; this program reads and writes 2"),
        (&["--compare", &cut], "a report that was changed or cut: missing field"),
    ] {
        // No program listens on this address, so a request would be the first to fail.
        let output = loadtest("http://127.0.0.1:9", args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(reason), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 3, "a draft was left behind");
}

#[test]
fn a_run_that_does_not_start_keeps_the_previous_report() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("last.json");
    std::fs::write(&path, "the last report").unwrap();
    let output = loadtest(&super::fake::closed_host(), &["--save", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "the last report");
}

#[test]
fn a_report_that_replaces_another_keeps_the_link_to_it() {
    let fake = Fake::start(Behaviour::Honest);
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real.json"), dir.path().join("link.json"));
    std::fs::write(&real, "").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let output = loadtest(&fake.host(), &["--save", link.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(json(&real)["format"], 2);
}
