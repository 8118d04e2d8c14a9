//! Test of the language of comments, names and documents: the number of old names, unclear openings
//! and long comment lines may only fall.
//!
//! Each rule finds cases in the project's texts. `language/baseline.txt` lists how many cases of a
//! rule a file still has. A file with more cases fails the test and so does one with fewer, until
//! the baseline is lowered:
//! `TESSERA_WRITE_BASELINE=1 cargo test -p api-router --test it language::`
//! writes it, and refuses to raise the sum of any rule in a top-level folder.

mod old_names;
mod rules;
mod text;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rules::{Case, RULES};
use text::Text;

/// Number of cases by rule and file.
type Counts = BTreeMap<(String, String), usize>;

const BASELINE: &str = "tests/it/language/baseline.txt";
/// Maximum number of cases that a failure lists.
const LISTED_MAX: usize = 20;

#[test]
fn plain_english_only_gains_ground() {
    let cases: Vec<Case> =
        texts().iter().flat_map(rules::find).chain(rules::twins(&texts())).collect();
    let found = count(&cases);
    let baseline = read_baseline();
    if std::env::var_os("TESSERA_WRITE_BASELINE").is_some() {
        return write_baseline(&baseline, &found);
    }
    let mut complaints = String::new();
    for ((rule, file), number) in &found {
        let allowed = baseline.get(&(rule.clone(), file.clone())).copied().unwrap_or(0);
        if *number > allowed {
            complaints += &format!("\n{file}: {number} cases of `{rule}`, {allowed} are allowed:");
            let listed = cases.iter().filter(|case| case.rule == rule && case.file == *file);
            for case in listed.take(LISTED_MAX) {
                complaints += &format!("\n    line {}: {}", case.line, case.excerpt);
            }
        }
    }
    for ((rule, file), allowed) in &baseline {
        let number = found.get(&(rule.clone(), file.clone())).copied().unwrap_or(0);
        if number < *allowed {
            complaints += &format!(
                "\n{file}: {number} cases of `{rule}` are left, the baseline says {allowed}: lower it"
            );
        }
    }
    assert!(complaints.is_empty(), "{complaints}\n(language.rs says how the baseline is written)");
}

#[test]
fn every_rule_finds_the_example_it_was_made_for() {
    for (rule, example) in RULES {
        let text = Text::new("shard-manager/src/example.rs".to_owned(), example);
        let found: Vec<Case> = rules::find(&text).collect();
        assert!(found.iter().any(|case| case.rule == rule), "`{rule}` does not find:\n{example}");
    }
}

#[test]
fn a_text_in_plain_english_breaks_no_rule() {
    let example = "//! Write lanes of a shard.\n\n/// Returns the slot of a key.\n\
                   /// The same key always has the same slot.\npub fn slot_of() {}\n\
                   // \"//\" inside a literal: see below.\nconst LINK: &str = \"http://host/what\";\n";
    let text = Text::new("shard-manager/src/example.rs".to_owned(), example);
    let found: Vec<String> = rules::find(&text).map(|case| case.excerpt).collect();
    assert!(found.is_empty(), "{found:?}");
}

fn count(cases: &[Case]) -> Counts {
    let mut counts = Counts::new();
    for case in cases {
        *counts.entry((case.rule.to_owned(), case.file.clone())).or_default() += 1;
    }
    counts
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Returns every text of the project except those of this test, in the order of their names.
fn texts() -> Vec<Text> {
    let mut found = Vec::new();
    collect(&root(), &mut found);
    found.sort();
    let texts = found.into_iter().filter_map(|path| {
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let is_of_this_test = name.starts_with("api-router/tests/it/language");
        (!is_of_this_test).then(|| Text::new(name, &fs::read_to_string(&path).unwrap()))
    });
    texts.collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // Programs write into these folders; others of these names have sources.
        let is_generated =
            ["target", "data", "data-postgres"].contains(&&*name) && folder == root();
        if name.starts_with('.') || is_generated || name == "node_modules" {
            continue;
        }
        if path.is_dir() {
            collect(&path, found);
        } else if [".rs", ".md", ".toml", ".sh"].iter().any(|end| name.ends_with(end)) {
            found.push(path);
        }
    }
}

fn read_baseline() -> Counts {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(BASELINE));
    let text = text.unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let entries = lines.map(|line| {
        let mut parts = line.split('\t');
        let mut part = || parts.next().unwrap_or_else(|| panic!("not an entry: {line}"));
        let (rule, file, number) = (part(), part(), part());
        ((rule.to_owned(), file.to_owned()), number.parse().unwrap())
    });
    entries.collect()
}

/// Writes what is found, unless a rule has more cases in a top-level folder than before.
fn write_baseline(old: &Counts, new: &Counts) {
    let sums = |counts: &Counts| {
        let mut sums: BTreeMap<(String, String), usize> = BTreeMap::new();
        for ((rule, file), number) in counts {
            let folder = file.split('/').next().unwrap_or_default();
            *sums.entry((rule.clone(), folder.to_owned())).or_default() += number;
        }
        sums
    };
    let before = sums(old);
    for ((rule, folder), number) in sums(new) {
        let allowed = before.get(&(rule.clone(), folder.clone())).copied();
        let is_first = old.is_empty();
        let grows = number > allowed.unwrap_or(0) && !is_first;
        assert!(!grows, "{folder}: {number} cases of `{rule}`, and {allowed:?} before");
    }
    let mut text =
        String::from("# Cases that are left, by rule and file. The numbers may only fall.\n");
    for ((rule, file), number) in new {
        text += &format!("{rule}\t{file}\t{number}\n");
    }
    fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(BASELINE), text).unwrap();
}
