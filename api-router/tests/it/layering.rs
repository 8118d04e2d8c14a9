//! Tests of the layering, which the compiler does not check: modules import only from lower layers,
//! files stay short, and each begins with its purpose.

mod layers;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::import_graph;

pub(crate) use layers::PACKAGES;
use layers::{
    ACCESS, API_ROUTER, ASSEMBLY, CACHE, CHECKER, CLI, CLUSTER, ENGINE, ENGINE_USERS, ENGINES,
    IMPORT, ISSUERS, LAB, LOADTEST, LOCAL_POSTGRES, MODEL, MOVES, POSTGRES, RECORDER, REPORT_PAGE,
    SERVICE, SQLITE, WEB_KIT,
};

const LINES_MAX: usize = 500;
const FORBIDDEN_NAMES: [&str; 5] = ["utils", "util", "common", "helpers", "types"];

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Returns every source file below a folder.
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

/// Returns the first module below `src/` that a file belongs to.
fn module_of(src: &Path, file: &Path) -> String {
    let inside = file.strip_prefix(src).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Returns the name of the package in a folder.
fn name_of(folder: &str) -> &str {
    folder.rsplit('/').next().unwrap()
}

/// Returns the manifest of the package in a folder.
fn manifest(folder: &str) -> toml::Table {
    fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap().parse().unwrap()
}

/// Returns the names of the packages that a manifest depends on, also for tests and builds.
fn dependencies(manifest: &toml::Table) -> BTreeSet<&str> {
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    let tables = kinds.iter().filter_map(|kind| manifest.get(*kind)?.as_table());
    tables.flat_map(toml::Table::keys).map(String::as_str).collect()
}

/// Returns the modules of its own package that a file names. A program names them after the
/// package's name.
fn imports(package: &str, src: &Path, file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let module = file.strip_prefix(src).unwrap().with_extension("");
    let mut paths = import_graph::paths(&module.to_string_lossy().replace('/', "::"), &text);
    if !package.contains('/') {
        let begin = format!("{}::", package.replace('-', "_"));
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        paths.extend(code.flat_map(|line| line.split(begin.as_str()).skip(1)).map(str::to_owned));
    }
    let is_module = |name: &String| src.join(name).with_extension("rs").exists();
    let name = |path: &String| {
        let end = path.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        path[..end.unwrap_or(path.len())].to_owned()
    };
    paths.iter().map(name).filter(is_module).collect()
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
        for to in imports(package, &src, &file) {
            let down = to == from || layer(&to) < layer(&from);
            assert!(down, "{}: `{from}` must not import `{to}`", file.display());
        }
    }
}

#[test]
fn modules_import_only_lower_layers() {
    check_layers("shard-manager/model", MODEL);
    check_layers("shard-manager/access", ACCESS);
    check_layers("shard-manager/local-postgres", LOCAL_POSTGRES);
    check_layers("shard-manager/engine", ENGINE);
    check_layers("shard-manager/cache", CACHE);
    check_layers("shard-manager/moves", MOVES);
    check_layers("shard-manager/postgres", POSTGRES);
    check_layers("shard-manager/sqlite", SQLITE);
    check_layers("shard-manager/assembly", ASSEMBLY);
    check_layers("shard-manager/cluster", CLUSTER);
    check_layers("shard-manager/cli", CLI);
    check_layers("shard-manager/import", IMPORT);
    check_layers("shard-manager/lab", LAB);
    check_layers("shard-manager/report-page", REPORT_PAGE);
    check_layers("api-router", API_ROUTER);
    check_layers("analytics/issuers", ISSUERS);
    check_layers("analytics/recorder", RECORDER);
    check_layers("analytics/web-kit", WEB_KIT);
    check_layers("analytics/service", SERVICE);
    check_layers("loadtest", LOADTEST);
    check_layers("loadtest/checker", CHECKER);
}

#[test]
fn model_access_and_moves_are_plain_values() {
    for package in ["model", "access", "moves"] {
        let folder = format!("shard-manager/{package}");
        let manifest = manifest(&folder);
        for other in ["tokio", "diesel", "diesel-async", "tokio-postgres", "redis", "rand"] {
            let depends = dependencies(&manifest).contains(other);
            assert!(!depends, "{package} must not depend on {other}");
        }
        for file in sources(&root().join(&folder).join("src")) {
            let text = fs::read_to_string(&file).unwrap();
            let words =
                ["async fn", "tokio", "diesel", "std::fs", "SystemTime", "Instant", "Utc::now"];
            for word in words {
                let uses = text.contains(word);
                assert!(!uses, "{}: {package} must not use {word}", file.display());
            }
        }
    }
}

/// Returns true if code, not a comment, names a module of an engine.
fn names_an_engine(text: &str) -> bool {
    let engines = ["store::sqlite", "store::postgres", "store::{"];
    let mut code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.any(|line| {
        let line = line.replace("access_store::", "");
        engines.iter().any(|engine| line.contains(engine))
    })
}

#[test]
fn only_the_assembly_the_commands_and_the_facade_depend_on_an_engine() {
    let uses_engine = |may: &[&str]| may.iter().any(|package| ENGINES.contains(package));
    let users = PACKAGES.iter().filter(|(_, may)| uses_engine(may));
    assert_eq!(users.map(|(folder, _)| *folder).collect::<Vec<_>>(), ENGINE_USERS);
    for file in sources(&root().join("api-router/src")) {
        let names = names_an_engine(&fs::read_to_string(&file).unwrap());
        assert!(!names, "{} names an engine of shard-manager", file.display());
    }
}

#[test]
fn the_checker_judges_without_a_clock_or_a_network() {
    for file in sources(&root().join("loadtest/checker/src")) {
        let text = fs::read_to_string(&file).unwrap();
        for word in ["async fn", "tokio", "hyper", "std::fs", "SystemTime", "Instant", "Utc::now"] {
            assert!(!text.contains(word), "{}: must not use {word}", file.display());
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
        "shard-manager/access/src",
        "shard-manager/assembly/src",
        "shard-manager/cli/src",
        "shard-manager/cluster/src",
        "shard-manager/credential/src",
        "shard-manager/import/src",
        "shard-manager/lab/src",
        "shard-manager/model/src",
        "shard-manager/moves/src",
        "shard-manager/cache/src",
        "shard-manager/engine/src",
        "shard-manager/local-postgres/src",
        "shard-manager/postgres/src",
        "shard-manager/sqlite/src",
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
fn every_file_has_a_module_comment_and_stays_short() {
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
