//! The rules of the language test, and the search for cases that break a rule.

use std::collections::BTreeMap;

use super::old_names::OLD_NAMES;
use super::text::{DECLARING, Text, declared};

/// A place that breaks a rule.
pub(super) struct Case {
    pub(super) rule: &'static str,
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) excerpt: String,
}

const LONG: &str = "comment line over 100 columns";
const REFERRING: &str = "doc comment that refers to another";
const OPENING: &str = "doc comment that opens with a question word or pronoun";
const WORDS: &str = "words of a private dialect";
const DENIAL: &str = "`is no` before a noun, for `is not a`";
const REPLACED: &str = "word that has a plainer one";
const OLD: &str = "name that has a better one";
const TWIN: &str = "public type whose name another one has";

/// Every rule that examines a single text, with an example that breaks it.
pub(super) const RULES: [(&str, &str); 10] = [
    (
        LONG,
        "// A comment that goes on and on until it is longer than the hundred columns that a comment line may have.",
    ),
    (REFERRING, "/// As there.\nfn drain() {}"),
    (OPENING, "/// What a client has seen.\nstruct Seen;"),
    (OPENING, "/// Its owner.\nstruct SlotOwner;"),
    (WORDS, "// The file is made anew."),
    (WORDS, "let cause = \"the file is made anew\";"),
    (WORDS, "fn a_client_is_told_the_reason() {}"),
    (DENIAL, "let cause = format!(\"{name} is no setting\");"),
    (REPLACED, "fn swallow_row() {}"),
    (OLD, "pub(crate) struct Brake;"),
];

const COLUMNS_MAX: usize = 100;
const OPENINGS: [&str; 14] = [
    "What", "Who", "Whoever", "Whether", "When", "How", "Told", "Of", "As", "It", "Its", "This",
    "That", "These",
];
const DIALECT: [&str; 11] = [
    "anew",
    "are told",
    "be told",
    "in bad order",
    "is told",
    "nobody",
    "somebody",
    "to tell of",
    "told of",
    "was told",
    "whoever",
];
/// Words of declared names, separated by underscores.
const DIALECT_OF_NAMES: [&str; 6] = ["anew", "nobody", "somebody", "tells", "told", "whoever"];

/// Words after `is no` that do not deny a noun.
const COMPARISONS: [&str; 9] =
    ["longer", "newer", "older", "more", "less", "fewer", "later", "higher", "better"];
/// Words that are replaced in comments, names and texts: by "recently" and "discard".
const REPLACED_WORDS: [&str; 2] = ["lately", "swallow"];

/// Returns the cases of one text.
pub(super) fn find(text: &Text) -> impl Iterator<Item = Case> + use<> {
    let mut cases = Vec::new();
    let mut add = |rule, line, excerpt: &str| {
        let excerpt = excerpt.chars().take(COLUMNS_MAX).collect();
        cases.push(Case { rule, file: text.name.clone(), line, excerpt });
    };
    for (line, said) in text.comments() {
        if is_long(text, line, said) {
            add(LONG, line, said);
        }
        let lower = without_code(said).to_lowercase();
        for phrase in DIALECT {
            for _ in 0..occurrences(&lower, phrase) {
                add(WORDS, line, said);
            }
        }
    }
    for (line, said) in text.code().filter(|(_, said)| has_dialect(said)) {
        add(WORDS, line, said.trim());
    }
    // The changelog uses the words of earlier versions.
    for (index, said) in text.lines.iter().enumerate().filter(|_| text.name != "CHANGELOG.md") {
        let lower = said.to_lowercase();
        if denies_a_noun(&lower) {
            add(DENIAL, index + 1, said.trim());
        }
        if REPLACED_WORDS.iter().any(|word| lower.contains(word)) {
            add(REPLACED, index + 1, said.trim());
        }
    }
    for (line, said) in text.doc_openings() {
        let first = said.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let is_about_another = said.starts_with("As there")
            || [
                "The same.",
                "The same,",
                "The same of",
                "The same for",
                "The same as",
                "The same with",
            ]
            .iter()
            .any(|opening| said.starts_with(opening));
        if is_about_another {
            add(REFERRING, line, said);
        } else if OPENINGS.contains(&first) {
            add(OPENING, line, said);
        }
    }
    for (line, name) in text.declarations() {
        let is_old = |(old, folder): &(&str, &str)| *old == name && text.name.starts_with(folder);
        if OLD_NAMES.iter().any(is_old) {
            add(OLD, line, name);
        }
    }
    cases.into_iter()
}

/// Returns the public types with the same name in one top-level folder, each except the first.
pub(super) fn twins(texts: &[Text]) -> Vec<Case> {
    let mut seen: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let mut cases = Vec::new();
    for text in texts.iter().filter(|text| !text.name.contains("/tests/")) {
        for (line, name) in text.public_types() {
            let Some(first) = seen.insert((text.folder(), name), &text.name) else { continue };
            let excerpt = format!("{name}, as in {first}");
            cases.push(Case { rule: TWIN, file: text.name.clone(), line, excerpt });
        }
    }
    cases
}

/// Returns true if a line of code has a phrase of the dialect in a literal, or declares a name with
/// such a word. Literals may name the system's user `nobody`.
fn has_dialect(code: &str) -> bool {
    let lower = code.to_lowercase();
    let is_phrase = |phrase: &&str| *phrase != "nobody" && occurrences(&lower, phrase) > 0;
    let name = declared(code, &DECLARING);
    let is_word = |word: &str| DIALECT_OF_NAMES.contains(&word);
    DIALECT.iter().any(is_phrase) || name.is_some_and(|name| name.split('_').any(is_word))
}

/// Returns true if a comment line is too long. Tables, lines with links and Markdown files may be
/// longer.
fn is_long(text: &Text, line: usize, said: &str) -> bool {
    let columns = text.lines[line - 1].chars().count();
    let is_free = said.starts_with('|') || said.contains("://") || text.name.ends_with(".md");
    columns > COLUMNS_MAX && !is_free
}

/// Removes the parts between backticks, such as the system's user `nobody`.
fn without_code(text: &str) -> String {
    text.split('`').step_by(2).collect()
}

/// Returns true if "is no" stands before a noun, except in "there is no".
fn denies_a_noun(lower: &str) -> bool {
    let is_letter = |c: char| c.is_alphanumeric();
    let words: Vec<&str> =
        lower.split_whitespace().map(|word| word.trim_matches(|c| !is_letter(c))).collect();
    words.windows(4).any(|four| {
        let [before, verb, no, noun] = [four[0], four[1], four[2], four[3]];
        let denies = ["is", "are", "was", "were"].contains(&verb) && no == "no";
        denies
            && !before.is_empty()
            && !before.ends_with("there")
            && !noun.is_empty()
            && !COMPARISONS.contains(&noun)
    })
}

/// Returns how often the phrase is in the text as whole words.
fn occurrences(text: &str, phrase: &str) -> usize {
    let is_letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let found = text.match_indices(phrase);
    let whole = found.filter(|(start, found)| {
        let after = text[start + found.len()..].chars().next();
        !is_letter(text[..*start].chars().next_back()) && !is_letter(after)
    });
    whole.count()
}
