//! Tests of the HTML report: it is complete, its size is bounded, and text from other sources is
//! escaped.

use super::*;
use crate::report::tests::report_of;
use crate::report::{Checked, FailureLine, Fault, Finding, Share, Verified, compare};

/// Hostile text from a server, a file or a command line.
const HOSTILE: &str =
    "</title></style><script>alert(1)</script><img src=x onerror='alert(\"1\")'>&amp;\u{0}\u{202e}";
/// Maximum number of bytes of the report of an hour or of a day. A report full of hostile text may
/// have twice as many.
const BYTES_MAX: usize = 300_000;

/// Elements that HTML never closes.
const VOID: [&str; 1] = ["meta"];

/// Parses a page with the strict rules of XML: every tag is closed in order, every attribute is in
/// double quotes, and every `&` begins a reference. Returns the names of all elements, and all
/// texts.
fn parse(page: &str) -> (Vec<String>, String) {
    let mut rest = page.strip_prefix("<!DOCTYPE html>\n").unwrap();
    let (mut open, mut names, mut texts): (Vec<&str>, Vec<String>, String) = Default::default();
    while let Some(at) = rest.find('<') {
        texts.push_str(&text(&rest[..at]));
        let end = at + rest[at..].find('>').unwrap();
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
            continue;
        }
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{tag}");
        check_attributes(attributes);
        names.push(name.to_owned());
        if name == "style" {
            rest = rest.split_once("</style>").unwrap().1;
        } else if !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert_eq!((open, rest.trim()), (Vec::new(), ""));
    (names, texts)
}

fn check_attributes(mut attributes: &str) {
    while !attributes.is_empty() {
        let (name, after) = attributes.split_once("=\"").unwrap();
        assert!(name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-'), "{name}");
        assert!(!name.starts_with("on") && !["href", "src", "style"].contains(&name), "{name}");
        let (value, rest) = after.split_once('"').unwrap();
        text(value);
        attributes = rest.strip_prefix(' ').unwrap_or(rest);
    }
}

/// Replaces the character references in a string.
fn text(escaped: &str) -> String {
    // A single quote is allowed, because it cannot end an attribute in double quotes.
    assert!(!escaped.contains(['<', '>', '"', '\u{0}', '\u{202e}']), "{escaped}");
    let mut plain = escaped.to_owned();
    for (name, letter) in [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'")] {
        plain = plain.replace(name, letter);
    }
    assert_eq!(plain.matches('&').count(), plain.matches("&amp;").count(), "{escaped}");
    plain.replace("&amp;", "&")
}

/// Returns a report in which every part is as long as it can be.
fn full(seconds: usize, elapsed_s: f64) -> Report {
    let mut report = report_of(seconds, elapsed_s);
    let mut state = 1_u32;
    for second in &mut report.series {
        for class in &mut second.classes {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *class = 1 + (1 << (state >> 27)) / 7;
        }
        second.requests = second.classes.iter().map(|&count| u64::from(count)).sum();
    }
    report.target_per_s = Some(1e6);
    report.response_ms.max = 74_000.0;
    let hostile = || HOSTILE.to_owned();
    report.description = hostile();
    report.hosts = vec!["http://127.0.0.1:3000".to_owned(), hostile()];
    let share = |_| Share { name: hostile(), answers: 1, percent: 0.1, p50_ms: 1.0, p99_ms: 2.0 };
    report.shards = (0..1_024).map(share).collect();
    let failure = |_| FailureLine {
        operation: "read".to_owned(),
        status: None,
        code: hostile(),
        count: 1,
        example: hostile(),
    };
    report.failures = (0..100).map(failure).collect();
    report.faults = (0..1_000).map(|n| Fault { at_s: f64::from(n), what: hostile() }).collect();
    let finding = Finding { check: hostile(), promise: hostile(), lines: vec![hostile(); 50] };
    report.verified = Some(Verified {
        operations: 5,
        checks: vec![Checked { check: hostile(), violations: 5 }; 10],
        findings: vec![finding; 90],
        lost: 0,
        losses: Vec::new(),
        notes: vec![hostile(); 200],
    });
    report.thresholds_failed = vec![hostile(); 200];
    report.warnings = vec![hostile(); 200];
    report.comparison = Some(compare::Comparison::new(HOSTILE, &report_of(16, 16.0), &report));
    report
}

#[test]
fn a_page_is_whole_and_no_text_becomes_markup() {
    let page = full(30, 30.0).html();
    let (names, texts) = parse(&page);
    assert!(names.iter().all(|name| name != "script" && name != "img" && name != "link"));
    assert!(texts.contains("</title></style><script>alert(1)</script>"), "{texts}");
    assert!(texts.contains("and 100 more") && texts.contains("and 824 more"), "{texts}");
    assert_eq!(names.iter().filter(|name| *name == "figure").count(), 3);
    // The only URL in the page is that of the tested host, so a browser fetches nothing.
    assert_eq!(page.matches("://").count(), page.matches("http://127.0.0.1:3000").count());
    for part in ["url(", "@import", "javascript:", "NaN", "inf"] {
        assert!(!page.contains(part), "{part}");
    }
}

#[test]
fn a_page_is_bounded_however_long_the_run() {
    for (seconds, elapsed_s) in [(3_601, 3_600.5), (86_400, 86_400.0), (86_400, 1e7)] {
        let plain = Report { comparison: None, ..full(seconds, elapsed_s) }.html();
        parse(&plain);
        assert!(plain.len() < 2 * BYTES_MAX, "{seconds}: {}", plain.len());
        let mut usual = full(seconds, elapsed_s);
        usual.shards.truncate(64);
        usual.faults.truncate(20);
        (usual.verified, usual.failures) = (None, Vec::new());
        (usual.warnings, usual.thresholds_failed) = (Vec::new(), Vec::new());
        let page = usual.html();
        assert!(page.len() < BYTES_MAX, "{seconds}: {}", page.len());
    }
}

#[test]
fn a_run_without_a_request_is_a_page_without_graphs() {
    let mut report = report_of(0, 0.0);
    report.passed = false;
    let (names, texts) = parse(&report.html());
    assert!(texts.contains("FAIL no request was made"), "{texts}");
    assert!(names.iter().all(|name| name != "svg"));
}

#[test]
fn a_page_shows_the_verdict_and_the_numbers() {
    let mut report = report_of(16, 15.02);
    report.faults.push(Fault { at_s: 5.0, what: "kill -9".to_owned() });
    let (_, texts) = parse(&report.html());
    for part in [
        "FAIL 16 of 1600 requests failed",
        "20 users, 15s, mix default",
        "Requests1,600",
        "p99.9100 ms",
        "Failed16",
        "5 s: 100/s, 1 failed, p50 1.9 ms, p99 2.3 ms, max 101 ms",
        "1: kill -9 at 5.0 s",
        "at 5.0 s: kill -9",
        "until 2026-01-02T03:04:05Z",
    ] {
        assert!(texts.contains(part), "{part}: {texts}");
    }
    report.passed = true;
    assert!(parse(&report.html()).1.contains("PASS every request was answered as promised"));
}
