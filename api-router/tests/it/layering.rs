//! The house rules that a compiler does not keep: layers look down, files stay short and say what they are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Packages, lowest first: folder, and the packages of this workspace that it depends on.
pub(crate) const PACKAGES: &[(&str, &[&str])] = &[
    ("shard-manager/model", &[]),
    ("shard-manager/local-postgres", &["model"]),
    ("shard-manager/cache", &["model"]),
    ("shard-manager", &["cache", "local-postgres", "model"]),
    ("analytics", &[]),
    ("api-router", &["analytics", "shard-manager"]),
    ("loadtest", &[]),
];

/// Lowest first. A module may import only from lines above its own, and from its own children.
const MODEL: &[&[&str]] = &[
    &[
        "consistency",
        "csv",
        "finding",
        "json_members",
        "keyspace",
        "position",
        "reason",
        "sabotage",
        "topology",
    ],
    &["placement", "stats", "token", "value"],
    &["shard_map", "simulation", "table"],
    &["advice", "declaration", "query", "row_change"],
    &["cursor", "result_rows"],
    &["error"],
    &["idempotency"],
];
const LOCAL_POSTGRES: &[&[&str]] = &[
    &["environment", "error", "processes"],
    &["os_user", "ports", "programs", "settings"],
    &["cluster_dir"],
    &["manifest", "shared_env"],
    &["node"],
    &["provision"],
    &["parallel_tasks", "pg_rewind", "standalone"],
    &["primary_choice"],
    &["node_commands"],
];
/// The first line holds `cache`, `local-postgres` as `local`, and the modules of `model`.
const SHARD_MANAGER: &[&[&str]] = &[
    &[
        "advice",
        "cache",
        "consistency",
        "csv",
        "cursor",
        "declaration",
        "error",
        "finding",
        "idempotency",
        "json_members",
        "keyspace",
        "local",
        "placement",
        "position",
        "query",
        "reason",
        "result_rows",
        "row_change",
        "sabotage",
        "shard_map",
        "simulation",
        "stats",
        "table",
        "token",
        "topology",
        "value",
    ],
    &["barrier", "brake", "home"],
    &["doubts", "progress"],
    &["address", "demo_data"],
    &["store"],
    &["lane", "replica_set"],
    &["lanes"],
    &["backup", "shard"],
    &["control"],
    &["manager"],
    &["doctor"],
    &["import"],
    &["terminal"],
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
const ANALYTICS: &[&[&str]] = &[
    &[
        "clock",
        "cluster",
        "counted",
        "dashboard",
        "errors",
        "foreign",
        "live",
        "log_lines",
        "packed",
        "probe",
        "process",
        "readiness",
        "sample",
        "settings",
        "spans",
        "trust",
        "window",
    ],
    &["errors_query", "histogram", "query", "served"],
    &["entry", "frame", "metrics"],
    &["curves", "example_lines", "hot", "merge", "slot_load", "totals"],
    &["history", "sheet"],
    &["ledger", "sums"],
    &["figures", "shared"],
    &["worker"],
    &["recorder"],
    &["openmetrics", "store"],
    &["service"],
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

/// The name of the package in a folder.
fn name_of(folder: &str) -> &str {
    folder.rsplit('/').next().unwrap()
}

/// The manifest of the package in a folder.
fn manifest(folder: &str) -> toml::Table {
    fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap().parse().unwrap()
}

/// Names of the packages that a manifest depends on, also for tests and for building.
fn dependencies(manifest: &toml::Table) -> BTreeSet<&str> {
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    let tables = kinds.iter().filter_map(|kind| manifest.get(*kind)?.as_table());
    tables.flat_map(toml::Table::keys).map(String::as_str).collect()
}

/// The modules of its own package that a file names after `crate::`, or after the name that its programs use.
fn imports(package: &str, text: &str) -> Vec<String> {
    let mut modules = Vec::new();
    let own = format!("{}::", name_of(package).replace('-', "_"));
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
    check_layers("shard-manager/model", MODEL);
    check_layers("shard-manager/local-postgres", LOCAL_POSTGRES);
    check_layers("shard-manager", SHARD_MANAGER);
    check_layers("api-router", API_ROUTER);
    check_layers("analytics", ANALYTICS);
}

#[test]
fn the_model_is_plain_values() {
    let manifest = manifest("shard-manager/model");
    for package in ["tokio", "diesel", "diesel-async", "tokio-postgres", "redis", "rand"] {
        assert!(!dependencies(&manifest).contains(package), "model must not depend on {package}");
    }
    for file in sources(&root().join("shard-manager/model/src")) {
        let text = fs::read_to_string(&file).unwrap();
        for word in ["async fn", "tokio", "diesel", "std::fs", "SystemTime", "Instant", "Utc::now"]
        {
            assert!(!text.contains(word), "{}: model must not use {word}", file.display());
        }
    }
}

#[test]
fn packages_depend_only_on_lower_ones() {
    let workspace = manifest("");
    let members = workspace["workspace"]["members"].as_array().unwrap();
    let members: BTreeSet<&str> = members.iter().filter_map(toml::Value::as_str).collect();
    let listed: BTreeSet<&str> = PACKAGES.iter().map(|(folder, _)| *folder).collect();
    assert_eq!(members, listed, "PACKAGES lists the members of the workspace");
    let names: BTreeSet<&str> = listed.iter().map(|folder| name_of(folder)).collect();
    let mut lower = BTreeSet::new();
    for (folder, may) in PACKAGES {
        let manifest = manifest(folder);
        assert_eq!(manifest["package"]["name"].as_str(), Some(name_of(folder)), "{folder}");
        let known: BTreeSet<&str> = dependencies(&manifest).intersection(&names).copied().collect();
        assert_eq!(known, may.iter().copied().collect(), "{folder}");
        assert!(known.is_subset(&lower), "{folder} must stand above {known:?}");
        lower.insert(name_of(folder));
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
    let domain = [
        "shard-manager/local-postgres/src",
        "shard-manager/model/src",
        "shard-manager/cache/src",
        "shard-manager/src",
    ];
    for file in domain.iter().flat_map(|folder| sources(&root().join(folder))) {
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
