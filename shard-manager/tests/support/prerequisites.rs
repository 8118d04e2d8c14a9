//! Prerequisites of the tests: programs, servers and rights without which a test is skipped.
//!
//! The variable `TESSERA_TEST_REQUIRE` lists prerequisites, separated by commas. A test that lacks
//! a listed one fails, so that a machine that should have everything cannot pass without running
//! it.
//!
//! **Invariant:** a test that lacks something outside the workspace ends in [`skip`].
//!
//! **Not here:** tests that do not apply to an engine, whatever the machine provides.

use std::io::Write;

/// Environment variable that lists prerequisites.
const VARIABLE: &str = "TESSERA_TEST_REQUIRE";

/// Condition outside the workspace that some tests need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prerequisite {
    /// A cluster of Citus, which `TESSERA_CITUS_URL` names.
    Citus,
    Curl,
    Flock,
    /// The right to mount a small disk in a namespace of the test's own.
    Mount,
    /// Node.js, and the packages that `./setup.sh tools` installs.
    Node,
    /// The programs of PostgreSQL.
    Postgres,
    /// Python, and the packages that the tests install.
    Python,
    Redis,
    /// PostgreSQL servers, which `TESSERA_TEST_POSTGRES` names.
    Servers,
    /// strace, and the right to trace a process.
    Strace,
    /// A user other than root.
    Unprivileged,
}

/// All prerequisites, with their words in the list.
const WORDS: [(&str, Prerequisite); 11] = [
    ("citus", Prerequisite::Citus),
    ("curl", Prerequisite::Curl),
    ("flock", Prerequisite::Flock),
    ("mount", Prerequisite::Mount),
    ("node", Prerequisite::Node),
    ("postgres", Prerequisite::Postgres),
    ("python", Prerequisite::Python),
    ("redis", Prerequisite::Redis),
    ("servers", Prerequisite::Servers),
    ("strace", Prerequisite::Strace),
    ("unprivileged", Prerequisite::Unprivileged),
];

/// Reports that the calling test is skipped. `eprintln!` would not do: its output is hidden if the
/// test succeeds.
///
/// # Panics
/// If the missing prerequisite is listed, or the list has an unknown word.
#[track_caller]
pub(crate) fn skip(missing: Prerequisite, reason: &str) {
    check_optional(missing, reason);
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Nothing can be reported if standard error is closed.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {reason}");
}

/// Checks that the environment does not list a missing prerequisite.
///
/// # Panics
/// If the missing prerequisite is listed, or the list has an unknown word.
#[track_caller]
pub(crate) fn check_optional(missing: Prerequisite, reason: &str) {
    let required = environment().unwrap_or_else(|message| panic!("{message}"));
    assert!(!required.contains(&missing), "{VARIABLE} lists {missing:?}: {reason}");
}

/// Returns the prerequisites that the environment lists.
fn environment() -> Result<Vec<Prerequisite>, String> {
    parse(&std::env::var_os(VARIABLE).unwrap_or_default().to_string_lossy())
}

/// Returns the prerequisites of a list; spaces around words and empty words are ignored.
fn parse(list: &str) -> Result<Vec<Prerequisite>, String> {
    let words = list.split(',').map(str::trim).filter(|word| !word.is_empty());
    let find = |word: &str| {
        let known = WORDS.iter().find(|(known, _)| *known == word);
        known.map(|(_, prerequisite)| *prerequisite).ok_or_else(|| {
            let all = WORDS.map(|(word, _)| word).join(", ");
            format!("{VARIABLE} lists {word:?}; known prerequisites: {all}")
        })
    };
    words.map(find).collect()
}

#[test]
fn the_environment_lists_only_known_prerequisites() {
    assert_eq!(environment().err(), None);
}

#[test]
fn a_list_of_prerequisites_is_read_and_an_unknown_word_is_refused() {
    assert_eq!(parse(""), Ok(Vec::new()));
    assert_eq!(parse("redis"), Ok(vec![Prerequisite::Redis]));
    assert_eq!(
        parse(" strace, mount,,citus"),
        Ok(vec![Prerequisite::Strace, Prerequisite::Mount, Prerequisite::Citus])
    );
    let all = WORDS.map(|(word, _)| word).join(",");
    assert_eq!(parse(&all), Ok(WORDS.map(|(_, prerequisite)| prerequisite).to_vec()));
    let refusal = parse("redis,Redis").expect_err("unknown");
    assert!(refusal.contains("\"Redis\"; known prerequisites: citus, curl, "), "{refusal}");
}
