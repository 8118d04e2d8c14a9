//! Text: a file of the project, split into the lines, comments and declarations that the rules
//! examine.

/// A file's text.
pub(super) struct Text {
    /// Path from the project's root.
    pub(super) name: String,
    pub(super) lines: Vec<String>,
}

/// Keywords after which Rust declares a name.
pub(super) const DECLARING: [&str; 8] =
    ["struct", "enum", "trait", "type", "fn", "mod", "const", "static"];
/// Keywords after which Rust declares a type.
const TYPES: [&str; 4] = ["struct", "enum", "trait", "type"];

impl Text {
    pub(super) fn new(name: String, text: &str) -> Self {
        Self { name, lines: text.lines().map(str::to_owned).collect() }
    }

    pub(super) fn is_rust(&self) -> bool {
        self.name.ends_with(".rs")
    }

    /// Returns the top-level folder of the file.
    pub(super) fn folder(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    /// Returns lines with only a comment, with their numbers and without the comment's mark.
    pub(super) fn comments(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines.iter().enumerate().filter_map(|(index, line)| {
            Some((index + 1, comment(line, self.is_rust(), self.name.ends_with(".md"))?))
        })
    }

    /// Returns the first lines of doc comments.
    pub(super) fn doc_openings(&self) -> impl Iterator<Item = (usize, &str)> {
        let kind = |line: &str| {
            ["///", "//!"].into_iter().find(|mark| line.trim_start().starts_with(mark))
        };
        self.lines.iter().enumerate().filter_map(move |(index, line)| {
            let mark = kind(line).filter(|_| self.is_rust())?;
            let goes_on = index > 0 && kind(&self.lines[index - 1]) == Some(mark);
            let said = line.trim_start().trim_start_matches(mark).trim();
            (!goes_on).then_some((index + 1, said))
        })
    }

    /// Returns declared names with their line numbers.
    pub(super) fn declarations(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().filter_map(|(number, line)| Some((number, declared(line, &DECLARING)?)))
    }

    /// Returns public types.
    pub(super) fn public_types(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().filter_map(|(number, line)| {
            let is_public = line.trim_start().starts_with("pub ");
            Some((number, declared(line, &TYPES).filter(|_| is_public)?))
        })
    }

    /// Returns the lines of code with their numbers.
    pub(super) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.lines.iter().enumerate().filter(|_| self.is_rust());
        lines
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(i, line)| (i + 1, &**line))
    }
}

fn comment(line: &str, is_rust: bool, is_prose: bool) -> Option<&str> {
    let line = line.trim_start();
    match (is_rust, is_prose) {
        (true, _) => line.starts_with("//").then(|| line.trim_start_matches(['/', '!']).trim()),
        (_, true) => Some(line),
        _ => line.starts_with('#').then(|| line.trim_start_matches(['#', '!']).trim()),
    }
}

/// Returns the name that a line declares with one of the keywords.
pub(super) fn declared<'l>(line: &'l str, keywords: &[&str]) -> Option<&'l str> {
    let mut words = line.split_whitespace();
    let starts = ["pub", "async", "unsafe", "extern", "const", "static"];
    while let Some(word) = words.next() {
        if keywords.contains(&word) {
            let name = words.next()?;
            if name == "fn" || name == "unsafe" {
                continue;
            }
            let end = name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            return Some(&name[..end.unwrap_or(name.len())]).filter(|name| !name.is_empty());
        }
        if !starts.contains(&word) && !word.starts_with("pub(") {
            return None;
        }
    }
    None
}
