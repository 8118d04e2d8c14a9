//! Test of the tests that the book names: each one exists.

use std::collections::BTreeSet;
use std::path::Path;

const PAGE: &str = include_str!("../../docs/src/moves-compared.md");
/// Page whose tables have a column of tests, their last one.
const SMALL_SYSTEMS: &str = include_str!("../../docs/src/small-systems.md");
/// Folders of the workspace with tests.
const FOLDERS: [&str; 3] = ["api-router", "loadtest", "shard-manager"];

/// Returns the names of tests in the first table of the page.
fn named() -> Vec<&'static str> {
    let (table, _) = PAGE.split_once("## Others").unwrap();
    words(table).collect()
}

/// Returns the names of tests in the last column of the tables of a page.
fn named_in_last_column(page: &'static str) -> Vec<&'static str> {
    let rows = page.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    rows.filter_map(|row| row.rsplit_once('|')).flat_map(|(_, tests)| words(tests)).collect()
}

/// Returns the parts of a text between backticks.
fn words(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split('`').skip(1).step_by(2)
}

/// Adds the names of the functions in the sources of a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let after = text.split("fn ").skip(1);
            found.extend(after.filter_map(|rest| Some(rest.split_once('(')?.0.to_owned())));
        }
    }
}

#[test]
fn every_test_that_the_book_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = BTreeSet::new();
    FOLDERS.iter().for_each(|folder| functions(&root.join(folder), &mut found));
    let mut named = named();
    assert!(named.len() >= 14, "{named:?}");
    let small_systems = named_in_last_column(SMALL_SYSTEMS);
    assert!(small_systems.len() >= 50, "{small_systems:?}");
    named.extend(small_systems);
    let missing: Vec<_> = named.iter().filter(|name| !found.contains(**name)).collect();
    assert!(missing.is_empty(), "the book names tests that do not exist: {missing:?}");
}
