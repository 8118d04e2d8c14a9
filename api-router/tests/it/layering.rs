//! The house rules that a compiler does not keep: layers look down, files stay short and say what they are.

use std::fs;
use std::path::{Path, PathBuf};

/// Lowest first. A module may import only from lines above its own, and from its own children.
const SHARD_MANAGER: &[&[&str]] = &[
    &[
        "barrier",
        "brake",
        "consistency",
        "csv",
        "home",
        "keyspace",
        "members",
        "position",
        "reason",
        "sabotage",
        "topology",
    ],
    &["doubts", "local", "placement", "progress", "token", "value", "vitals"],
    &["shard_map", "simulation", "table"],
    &["address", "advice", "declaration", "fake", "query", "row"],
    &["cursor", "rows"],
    &["error"],
    &["cache", "idempotency"],
    &["store"],
    &["lane", "replica_set"],
    &["lanes"],
    &["backup", "shard"],
    &["control"],
    &["manager"],
    &["doctor"],
    &["fill"],
    &["screen"],
    &["command"],
];
const API_ROUTER: &[&[&str]] = &[
    &["hints"],
    &["data_route", "inflate", "isolation", "negotiation", "problem", "tls", "trace"],
    &["otlp", "paths", "room", "trail"],
    &["config"],
    &["body", "compression", "filter", "prefer"],
    &["headers", "lookout", "query"],
    &["figures", "surplus"],
    &["app"],
    &["answer"],
    &["gate", "routes"],
    &["server"],
    &["doctor"],
];
const RECORDER: &[&[&str]] = &[
    &[
        "bucket_counter",
        "clock",
        "cluster",
        "errors",
        "measured_intervals",
        "packed",
        "process",
        "sample",
        "tls_roots",
        "window",
    ],
    &["errors_query", "histogram", "query"],
    &["entry", "frame", "metrics"],
    &["example_lines", "hot", "merge", "slot_load", "totals"],
    &["current_second", "history"],
    &["aggregator", "curves"],
    &["window_sums"],
    &["figures", "recorder_state"],
    &["worker"],
    &["recorder"],
    &["openmetrics", "store"],
];
const WEB_KIT: &[&[&str]] = &[
    &[
        "cross_origin",
        "dashboard",
        "event_stream",
        "health_probe",
        "http_client",
        "log_format",
        "readiness",
        "settings",
    ],
    &["static_assets"],
];
const SERVICE: &[&[&str]] = &[
    &["alerts", "clock_offset", "fleet", "frame_response", "merged", "problem"],
    &["collector", "config", "fleet_query"],
    &["discovery", "parameters", "webhook"],
    &["rule_evaluator"],
    &["app"],
    &["forward", "middleware", "scrape"],
    &["routes"],
    &["server"],
];

/// Layers of `shard-manager` that are plain values.
const PURE: &[&str] = &[
    "consistency",
    "keyspace",
    "position",
    "topology",
    "placement",
    "token",
    "value",
    "vitals",
    "shard_map",
    "advice",
    "simulation",
    "table",
    "declaration",
    "query",
    "cursor",
    "row",
    "rows",
    "idempotency",
];

const LINES_MAX: usize = 500;
const FORBIDDEN_NAMES: [&str; 5] = ["utils", "util", "common", "helpers", "types"];

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every source file below a folder.
pub(crate) fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The first module below `src/` that a file belongs to.
fn module_of(src: &Path, file: &Path) -> String {
    let inside = file.strip_prefix(src).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Modules of its own package that a file names after `crate::`, or after the name that its
/// programs use. Nested crates have no programs.
fn imports(package: &str, text: &str) -> Vec<String> {
    let mut modules = Vec::new();
    let own = format!("{}::", package.replace('-', "_"));
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    for rest in code.flat_map(|line| line.split("crate::").skip(1).chain(line.split(&own).skip(1)))
    {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        modules.push(rest[..end.unwrap_or(rest.len())].to_owned());
    }
    modules
}

fn check_layers(package: &str, layers: &[&[&str]]) {
    let src = root().join(package).join("src");
    let layer = |module: &str| {
        let found = layers.iter().position(|names| names.contains(&module));
        found.unwrap_or_else(|| panic!("{package}: `{module}` stands in no layer"))
    };
    for file in sources(&src) {
        let from = module_of(&src, &file);
        if from == "lib" || from == "main" {
            continue;
        }
        for to in imports(package, &fs::read_to_string(&file).unwrap()) {
            let down = to == from || layer(&to) < layer(&from);
            assert!(down, "{}: `{from}` must not import `{to}`", file.display());
        }
    }
}

#[test]
fn modules_import_only_lower_layers() {
    check_layers("shard-manager", SHARD_MANAGER);
    check_layers("api-router", API_ROUTER);
    check_layers("analytics/recorder", RECORDER);
    check_layers("analytics/web-kit", WEB_KIT);
    check_layers("analytics/service", SERVICE);
}

#[test]
fn the_lowest_layers_are_plain_values() {
    let src = root().join("shard-manager/src");
    for file in sources(&src) {
        let module = module_of(&src, &file);
        if !PURE.contains(&&*module) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for word in ["async fn", "tokio", "diesel", "std::fs", "SystemTime", "Instant", "Utc::now"]
        {
            assert!(!text.contains(word), "{}: {module} must not use {word}", file.display());
        }
    }
}

#[test]
fn packages_know_only_those_they_may_know() {
    let allowed = [
        ("api-router", vec!["analytics", "shard-manager"]),
        ("shard-manager", vec![]),
        ("analytics", vec![]),
        ("loadtest", vec![]),
    ];
    for (package, may) in allowed {
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
        for other in ["api-router", "shard-manager", "analytics", "loadtest"] {
            let begins = [format!("{other}."), format!("{other} =")];
            let is_named = |line: &str| begins.iter().any(|begin| line.starts_with(begin));
            let knows = manifest.lines().any(is_named);
            assert_eq!(knows, may.contains(&other), "{package} and {other}");
        }
    }
}

#[test]
fn crates_of_analytics_know_only_those_they_may_know() {
    let allowed = [
        ("recorder", vec![]),
        ("web-kit", vec!["recorder"]),
        ("service", vec!["recorder", "web-kit"]),
    ];
    for (package, may) in allowed {
        let folder = root().join("analytics").join(package);
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        for other in ["analytics", "recorder", "service", "web-kit"] {
            let begins = [format!("{other}."), format!("{other} =")];
            let is_named = |line: &str| begins.iter().any(|begin| line.starts_with(begin));
            assert_eq!(manifest.lines().any(is_named), may.contains(&other), "{package}, {other}");
        }
    }
}

#[test]
fn the_router_knows_no_sql_and_the_domain_no_http() {
    for file in sources(&root().join("api-router/src")) {
        let text = fs::read_to_string(&file).unwrap();
        for word in ["diesel", "SELECT ", "INSERT INTO", "rusqlite"] {
            assert!(!text.contains(word), "{}: {word}", file.display());
        }
    }
    for file in sources(&root().join("shard-manager/src")) {
        let text = fs::read_to_string(&file).unwrap();
        for word in ["actix", "StatusCode", "analytics::"] {
            assert!(!text.contains(word), "{}: {word}", file.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is_and_stays_short() {
    for package in ["api-router", "shard-manager", "analytics", "loadtest"] {
        for file in sources(&root().join(package)) {
            let text = fs::read_to_string(&file).unwrap();
            let name = file.display();
            let documented = text.starts_with("//!") || text.starts_with("#![doc");
            assert!(documented, "{name} does not begin with what it is");
            assert!(text.lines().count() <= LINES_MAX, "{name} is longer than {LINES_MAX} lines");
            let stem = file.file_stem().unwrap().to_string_lossy();
            assert!(!FORBIDDEN_NAMES.contains(&&*stem), "{name} has a name that says nothing");
        }
    }
}

#[test]
fn the_top_level_is_the_one_that_was_agreed() {
    let known = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "CHANGELOG.md",
        "README.md",
        "api-router",
        "shard-manager",
        "analytics",
        "loadtest",
        "migrations",
        "setup.sh",
        "docker-compose.yml",
        "target",
        "data",
        "data-postgres",
    ];
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(name.starts_with('.') || known.contains(&&*name), "{name} stands in the top level");
    }
}
