//! Test of the sizes of types: a type with many methods has several responsibilities. If it has
//! more methods than the limit, a part of it should become another type.

use std::collections::BTreeMap;
use std::fs;

use crate::layering::{PACKAGES, root, sources};

/// Maximum number of methods of a type: public and private ones and constructors, without those of
/// traits.
const METHODS_MAX: usize = 15;

#[test]
fn no_type_has_more_methods_than_the_limit() {
    let mut large = Vec::new();
    for (package, _) in PACKAGES {
        let mut sums: BTreeMap<String, usize> = BTreeMap::new();
        for file in sources(&root().join(package).join("src")) {
            if file.file_name().is_some_and(|name| name == "tests.rs") {
                continue;
            }
            for (name, count) in methods(&fs::read_to_string(&file).unwrap()) {
                *sums.entry(name).or_default() += count;
            }
        }
        for (name, count) in sums.into_iter().filter(|(_, count)| *count > METHODS_MAX) {
            large.push((*package, name, count));
        }
    }
    large.sort();
    assert!(large.is_empty(), "types with more than {METHODS_MAX} methods: {large:?}");
}

#[test]
fn methods_of_all_blocks_are_counted_and_those_of_traits_and_tests_are_not() {
    let text = "
impl<T: Fn(u8) -> bool> Shard<T> {
    pub async fn one(&self) {
        fn inner() {}
    }

    pub(super) const fn two() {}
}
impl<'a, T>
    super::Shard<T>
where
    T: for<'b> Fn(&'b str),
{
    fn three(&self) {}
}
impl Drop for Shard<u8> {
    fn drop(&mut self) {}
}
impl Copy for Shard<u8> {}
#[cfg(test)]
mod tests {
    impl Shard<u8> {
        fn four() {}
    }
}
";
    assert_eq!(methods(text), [("Shard".to_owned(), 2), ("Shard".to_owned(), 1)]);
}

/// Returns the types of the `impl` blocks in a formatted file, each with the number of its methods.
fn methods(text: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    let mut is_test = false;
    while let Some(line) = lines.next() {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        let end = format!("{indent}}}");
        if is_test && code.starts_with("mod ") && code.ends_with('{') {
            lines.by_ref().take_while(|line| *line != end).for_each(drop);
        }
        is_test = code == "#[cfg(test)]";
        if !(code.starts_with("impl ") || code.starts_with("impl<")) {
            continue;
        }
        let mut head = code.to_owned();
        while !head.ends_with(['{', '}']) {
            head = format!("{head} {}", lines.next().unwrap().trim_start());
        }
        if head.ends_with('}') {
            continue;
        }
        let begin = format!("{indent}    ");
        let body = lines.by_ref().take_while(|line| *line != end);
        let count = body.filter(|line| line.strip_prefix(&begin).is_some_and(is_function)).count();
        found.extend(type_of(&head).map(|name| (name.to_owned(), count)));
    }
    found
}

/// Returns true if a function begins with this line.
fn is_function(line: &str) -> bool {
    let mut words = line
        .split(' ')
        .skip_while(|word| word.starts_with("pub") || ["const", "async", "unsafe"].contains(word));
    words.next() == Some("fn")
}

/// Returns the name of the type to which a block belongs; `None` if the block implements a trait.
fn type_of(head: &str) -> Option<&str> {
    let head = head.strip_prefix("impl").unwrap();
    let head = head.split_once(" where ").map_or(head, |(head, _)| head);
    let head = after_generics(head).trim_start();
    if head.contains(" for ") {
        return None;
    }
    let end = head.find(|c: char| !(c.is_ascii_alphanumeric() || "_:".contains(c)));
    head[..end.unwrap_or(head.len())].rsplit("::").next()
}

/// Returns the rest of a text after the parameters in angle brackets with which it begins.
fn after_generics(text: &str) -> &str {
    let mut depth = 0;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if before != '-' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return if c == '>' { &text[at + 1..] } else { text };
        }
        before = c;
    }
    text
}
