//! Tests of the feature `sabotage`: the default program contains no code that violates guarantees
//! on purpose, and no other feature enables `sabotage`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::command;
use crate::layering::PACKAGES;

const VARIABLE: &str = "TESSERA_SABOTAGE";
/// The packages that have the feature.
const SABOTAGED: [&str; 10] = [
    "api-router",
    "shard-manager",
    "shard-manager/assembly",
    "shard-manager/cache",
    "shard-manager/cli",
    "shard-manager/cluster",
    "shard-manager/engine",
    "shard-manager/model",
    "shard-manager/postgres",
    "shard-manager/sqlite",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Returns the names of all mutations, from the table that describes them.
fn mutations() -> Vec<String> {
    let table = fs::read_to_string(root().join("shard-manager/model/src/sabotage.rs")).unwrap();
    let lines = table.lines().filter_map(|line| line.strip_prefix("//! | `"));
    let names: Vec<String> = lines.map(|line| line.split('`').next().unwrap().to_owned()).collect();
    assert!(names.len() >= 10 && names.contains(&"lost_batch".to_owned()), "{names:?}");
    names
}

/// Returns those of these texts that a file contains. A search by this unoptimized test program
/// would take seconds.
fn texts_in(file: &str, searched: &[String]) -> BTreeSet<String> {
    let mut search = Command::new("grep");
    search.env("LC_ALL", "C").args(["--text", "--only-matching", "--fixed-strings"]);
    search.args(searched.iter().map(|text| format!("--regexp={text}"))).arg(file);
    let found = String::from_utf8(search.output().unwrap().stdout).unwrap();
    found.lines().map(str::to_owned).collect()
}

#[test]
fn the_default_program_knows_no_mutation() {
    let known = "TESSERA_".to_owned();
    let mut searched = mutations();
    searched.extend([known.clone(), VARIABLE.to_owned(), "TESSERA_STOP_AT".to_owned()]);
    // The known text proves that the search works.
    let found = texts_in(env!("CARGO_BIN_EXE_api-router"), &searched);
    assert_eq!(found, BTreeSet::from([known]), "mutations are in the default program");
}

#[test]
fn the_default_program_does_not_start_when_a_promise_is_to_be_broken() {
    let folder = crate::folders::temporary();
    let mut router: Command = command(&folder.path().join("data"));
    // A router without sabotage must refuse the variable, so that it is not mistaken for one with
    // sabotage.
    let ended = router.env(VARIABLE, "lost_batch").stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.contains("TESSERA_SABOTAGE (from environment) is not a setting"), "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Returns every feature list of a manifest, with its name, and every list of features of a
/// dependency.
fn feature_lists(manifest: &toml::Table) -> Vec<(String, Vec<String>)> {
    let mut lists = Vec::new();
    for (name, value) in manifest {
        match value {
            toml::Value::Table(table) if name == "features" => {
                lists.extend(table.iter().map(|(name, list)| (name.clone(), texts(list))));
            }
            toml::Value::Table(table) => lists.extend(feature_lists(table)),
            toml::Value::Array(_) if name == "features" => {
                lists.push(("a dependency".to_owned(), texts(value)));
            }
            toml::Value::Array(tables) => {
                let tables = tables.iter().filter_map(toml::Value::as_table);
                lists.extend(tables.flat_map(feature_lists));
            }
            toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_) => {}
        }
    }
    lists
}

fn texts(list: &toml::Value) -> Vec<String> {
    let list = list.as_array().unwrap().iter();
    list.map(|text| text.as_str().unwrap().to_owned()).collect()
}

#[test]
fn no_manifest_enables_sabotage() {
    let packages = PACKAGES.iter().map(|(folder, _)| *folder).chain([""]);
    let mut having = BTreeSet::new();
    for package in packages {
        let manifest = root().join(package).join("Cargo.toml");
        let manifest: toml::Table = fs::read_to_string(manifest).unwrap().parse().unwrap();
        for (name, list) in feature_lists(&manifest) {
            if name == "sabotage" {
                having.insert(package);
            } else {
                let enables = list.iter().any(|feature| feature.contains("sabotage"));
                assert!(!enables, "{package}: {name} enables it");
            }
        }
    }
    assert_eq!(having, BTreeSet::from(SABOTAGED));
    for file in [".cargo/config.toml", "setup.sh"] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        assert!(!text.contains("sabotage"), "{file}");
    }
}
