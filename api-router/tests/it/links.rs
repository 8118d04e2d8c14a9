//! Tests of the links in documents: each link leads to a file and a heading that exist, and every
//! chapter is in the table of contents.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::layering::root;

/// Maximum number of lines of the README.
const README_LINES_MAX: usize = 180;
/// Folders into which builds and programs write.
const GENERATED: [&str; 5] = ["target", "data", "data-postgres", "node_modules", ".git"];

/// A Markdown file with everything that links can refer to.
struct Document {
    path: PathBuf,
    links: Vec<String>,
    anchors: HashSet<String>,
}

impl Document {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap();
        let prose = prose(&text);
        let headings = prose.iter().filter(|line| line.starts_with('#'));
        let mut anchors = HashSet::new();
        for heading in headings {
            let plain = anchor(heading.trim_start_matches('#').trim());
            let numbered = (1..).map(|count| format!("{plain}-{count}"));
            let unused = std::iter::once(plain.clone()).chain(numbered);
            let free = unused.into_iter().find(|name| !anchors.contains(name)).unwrap();
            anchors.insert(free);
        }
        let links = prose.iter().flat_map(|line| links(line)).collect();
        Self { path, links, anchors }
    }
}

/// Returns the lines of a document outside of fenced blocks.
fn prose(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push(line);
        }
    }
    lines
}

/// Returns the anchor of a heading, as GitHub and mdBook derive it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// Returns the targets of the links and pictures of a line, except those in code.
fn links(line: &str) -> Vec<String> {
    let outside: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
    let ends = |rest: &str, end: char| rest.split(end).next().unwrap().to_owned();
    let inline = outside.split("](").skip(1).map(|rest| ends(rest, ')'));
    let attributes = ["src=\"", "srcset=\"", "href=\""];
    let html = attributes
        .iter()
        .flat_map(|name| outside.split(name).skip(1).map(|rest| ends(rest, '"')))
        .collect::<Vec<_>>();
    inline.chain(html).collect()
}

/// Adds the Markdown files below a folder, except generated ones.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !GENERATED.contains(&&*name) {
            documents(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

fn all_documents() -> Vec<Document> {
    let mut paths = Vec::new();
    documents(&root(), &mut paths);
    assert!(paths.len() > 20, "only {} documents were found", paths.len());
    paths.into_iter().map(|path| Document::read(path.canonicalize().unwrap())).collect()
}

/// Returns the error of a link, if it has one.
fn fault(document: &Document, link: &str, all: &[Document]) -> Option<&'static str> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let folder = document.path.parent().unwrap();
    let target = if file.is_empty() { document.path.clone() } else { folder.join(file) };
    let Ok(target) = target.canonicalize() else { return Some("no such file") };
    let book = book();
    if document.path.starts_with(&book) && !target.starts_with(&book) {
        return Some("leads out of the book, where its pages cannot follow");
    }
    let known = all.iter().find(|document| document.path == target);
    match (anchor, known) {
        ("", _) => None,
        (anchor, Some(known)) if known.anchors.contains(anchor) => None,
        _ => Some("no such heading"),
    }
}

fn book() -> PathBuf {
    root().join("api-router/docs/src").canonicalize().unwrap()
}

#[test]
fn every_link_leads_to_a_file_and_heading_that_exist() {
    let all = all_documents();
    let faults: Vec<String> = all
        .iter()
        .flat_map(|document| document.links.iter().map(move |link| (document, link)))
        .filter_map(|(document, link)| {
            let fault = fault(document, link, &all)?;
            Some(format!("{}: {link}: {fault}", document.path.display()))
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_link_to_a_missing_file_or_heading_is_found() {
    let all = all_documents();
    let readme = all.iter().find(|document| document.path.ends_with("guarantees.md")).unwrap();
    assert_eq!(fault(readme, "nowhere.md", &all), Some("no such file"));
    assert_eq!(fault(readme, "limits.md#nowhere", &all), Some("no such heading"));
    assert_eq!(fault(readme, "limits.md#requests", &all), None);
    assert!(fault(readme, "../../../README.md", &all).is_some());
    assert_eq!(links("see [a](b.md), `[c](d.md)` and [e](f.md#g)"), ["b.md", "f.md#g"]);
}

#[test]
fn the_summary_lists_every_chapter_of_the_book() {
    let summary = Document::read(book().join("SUMMARY.md"));
    let listed: HashSet<String> = summary.links.into_iter().collect();
    let mut chapters = Vec::new();
    documents(&book(), &mut chapters);
    let chapters: HashSet<String> = chapters
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .filter(|name| name != "SUMMARY.md")
        .collect();
    assert_eq!(listed, chapters);
}

#[test]
fn the_readme_can_be_read_in_one_go() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let lines = readme.lines().count();
    assert!(lines <= README_LINES_MAX, "README.md has {lines} lines");
}
