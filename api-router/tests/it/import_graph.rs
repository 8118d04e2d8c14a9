//! Test of import cycles: files that import each other can only be understood together, so no cycle
//! is longer than two files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::layering::{PACKAGES, root, sources};

const CYCLE_MAX: usize = 2;

type Graph = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_circle_of_imports_is_longer_than_two_files() {
    let mut found = Vec::new();
    for (package, _) in PACKAGES {
        for cycle in cycles(&graph(package)) {
            if cycle.len() > CYCLE_MAX {
                found.push((package, cycle));
            }
        }
    }
    assert!(found.is_empty(), "files that import each other in a circle: {found:#?}");
}

#[test]
fn a_circle_of_imports_is_found() {
    let edges = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e")];
    let mut graph: Graph =
        edges.iter().map(|(from, _)| ((*from).to_owned(), BTreeSet::new())).collect();
    graph.insert("e".to_owned(), BTreeSet::new());
    for (from, to) in edges {
        graph.entry(from.to_owned()).or_default().insert(to.to_owned());
    }
    assert_eq!(cycles(&graph), [["a", "b", "c"]]);
}

/// Returns the files of a package by their module's path, each with those it imports.
///
/// A module and the modules inside it belong together and are not a cycle.
fn graph(package: &str) -> Graph {
    let src = root().join(package).join("src");
    let mut texts = BTreeMap::new();
    for file in sources(&src) {
        let path = file.strip_prefix(&src).unwrap().with_extension("");
        let module = path.to_string_lossy().replace('/', "::");
        if module != "lib" && module != "main" {
            texts.insert(module, fs::read_to_string(&file).unwrap());
        }
    }
    let edges = |module: &str, text: &str| {
        let is_related = |other: &str| {
            other == module
                || other.starts_with(&format!("{module}::"))
                || module.starts_with(&format!("{other}::"))
        };
        let named = paths(module, text);
        let files = named.iter().filter_map(|path| file_of(path, |file| texts.contains_key(file)));
        files.filter(|other| !is_related(other)).map(str::to_owned).collect()
    };
    texts.iter().map(|(module, text)| (module.clone(), edges(module, text))).collect()
}

/// Returns the longest beginning of a path that is a file.
fn file_of(path: &str, is_file: impl Fn(&str) -> bool) -> Option<&str> {
    let mut path = path;
    while !is_file(path) {
        path = path.rsplit_once("::")?.0;
    }
    Some(path)
}

/// Returns the paths that a file names after `crate::` or `super::`, from the root of its package.
pub(crate) fn paths(module: &str, text: &str) -> Vec<String> {
    let code: Vec<&str> =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        found.extend(leaves("", rest));
    }
    for (start, _) in code.match_indices("super::") {
        if code[..start].ends_with("super::") {
            continue; // Already counted with the first one.
        }
        let mut base: Vec<&str> = module.split("::").collect();
        let mut rest = &code[start..];
        while let Some(inner) = rest.strip_prefix("super::") {
            base.pop();
            rest = inner;
        }
        let base = if base.is_empty() { String::new() } else { base.join("::") + "::" };
        found.extend(leaves(&base, rest));
    }
    found
}

/// Returns the paths of an import: one, or those in braces after it.
fn leaves(base: &str, rest: &str) -> Vec<String> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let end = rest.find(|c: char| !is_path(c)).unwrap_or(rest.len());
    let path = format!("{base}{}", &rest[..end]);
    let Some(group) = rest[end..].strip_prefix('{').and_then(|group| group.split(';').next())
    else {
        return vec![path];
    };
    let names = group.split(|c: char| !is_path(c)).filter(|name| !name.is_empty());
    names.map(|name| format!("{path}{name}")).collect()
}

/// Returns groups of files that reach each other, each in the order of their names.
fn cycles(graph: &Graph) -> Vec<Vec<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> =
        graph.keys().map(|from| (from, reachable(graph, from))).collect();
    let mut done = BTreeSet::new();
    let mut cycles = Vec::new();
    for from in graph.keys() {
        let back = |to: &&&String| reached.get(**to).is_some_and(|all| all.contains(from));
        let cycle: Vec<String> =
            reached[from].iter().filter(back).map(|to| (*to).clone()).collect();
        if cycle.len() > 1 && done.insert(cycle[0].clone()) {
            cycles.push(cycle);
        }
    }
    cycles
}

fn reachable<'g>(graph: &'g Graph, from: &String) -> BTreeSet<&'g String> {
    let mut found = BTreeSet::new();
    let mut left: Vec<&String> = graph[from].iter().collect();
    while let Some(to) = left.pop() {
        if found.insert(to) {
            left.extend(graph.get(to).into_iter().flatten());
        }
    }
    found
}
