//! Evaluation of conditions in memory with SQL's three-valued logic, and random conditions to
//! compare with.

use proptest::prelude::*;
use shard_manager::query::{Comparison, Condition, Pattern, Piece, Test, ValueState};
use shard_manager::value::Value;

use crate::nested_conditions::nested;

use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};

/// True, false, or unknown because of a null.
pub(crate) fn truth(line: &[Value], condition: &Condition) -> Option<bool> {
    match condition {
        Condition::Column(column, test) => passes(&line[*column], test),
        Condition::Not(one) => truth(line, one).map(|truth| !truth),
        Condition::All(list) => joined(list.iter().map(|one| truth(line, one)), false),
        Condition::Any(list) => joined(list.iter().map(|one| truth(line, one)), true),
    }
}

/// One deciding value decides; otherwise one unknown makes the result unknown.
fn joined(truths: impl Iterator<Item = Option<bool>>, decides: bool) -> Option<bool> {
    let mut joined = Some(!decides);
    for truth in truths {
        match truth {
            Some(truth) if truth == decides => return Some(decides),
            Some(_) => {}
            None => joined = None,
        }
    }
    joined
}

fn passes(value: &Value, test: &Test) -> Option<bool> {
    let text = || match value {
        Value::Text(text) => Some(text.as_str()),
        Value::Null => None,
        Value::Bool(_) | Value::Int(_) | Value::Double(_) => panic!("{value:?} is not text"),
    };
    match test {
        Test::Is(ValueState::Null) => Some(*value == Value::Null),
        Test::Is(ValueState::NotNull) => Some(*value != Value::Null),
        Test::Is(ValueState::True) => Some(*value == Value::Bool(true)),
        Test::Is(ValueState::False) => Some(*value == Value::Bool(false)),
        Test::In(list) if list.is_empty() => Some(false),
        Test::In(_) if *value == Value::Null => None,
        Test::In(list) => Some(list.contains(value)),
        Test::Like(pattern) => {
            text().map(|text| like(&pieces(pattern, false), &chars(text, false)))
        }
        Test::ILike(pattern) => text().map(|text| like(&pieces(pattern, true), &chars(text, true))),
        Test::Compare(_, literal) if *value == Value::Null || *literal == Value::Null => None,
        Test::Compare(comparison, literal) => {
            let found = value.compare(literal);
            Some(match comparison {
                Equal => found.is_eq(),
                NotEqual => found.is_ne(),
                Greater => found.is_gt(),
                GreaterOrEqual => found.is_ge(),
                Less => found.is_lt(),
                LessOrEqual => found.is_le(),
            })
        }
    }
}

/// One element of a pattern.
#[derive(PartialEq)]
enum PatternElement {
    This(char),
    One,
    Many,
}

fn chars(text: &str, fold: bool) -> Vec<char> {
    text.chars().map(|c| if fold { c.to_ascii_lowercase() } else { c }).collect()
}

fn pieces(pattern: &Pattern, fold: bool) -> Vec<PatternElement> {
    let places = pattern.0.iter().flat_map(|piece| match piece {
        Piece::Text(text) => chars(text, fold).into_iter().map(PatternElement::This).collect(),
        Piece::One => vec![PatternElement::One],
        Piece::Many => vec![PatternElement::Many],
    });
    places.collect()
}

fn like(pattern: &[PatternElement], text: &[char]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, _) => text.is_empty(),
        (Some((PatternElement::Many, rest)), None) => like(rest, text),
        (Some((PatternElement::Many, rest)), Some((_, after))) => {
            like(rest, text) || like(pattern, after)
        }
        (Some(_), None) => false,
        (Some((PatternElement::One, rest)), Some((_, after))) => like(rest, after),
        (Some((PatternElement::This(c), rest)), Some((found, after))) => {
            c == found && like(rest, after)
        }
    }
}

fn comparison() -> impl Strategy<Value = Comparison> {
    prop::sample::select(vec![Equal, NotEqual, Greater, GreaterOrEqual, Less, LessOrEqual])
}

fn state() -> impl Strategy<Value = ValueState> {
    prop::sample::select(vec![ValueState::Null, ValueState::NotNull])
}

/// Patterns with every character that a database may treat as special.
fn pattern() -> impl Strategy<Value = Pattern> {
    let piece = prop::sample::select(vec![
        "%", "*", "_", "a", "A", "b", "é", "🦀", "\\%", "\\_", "\\*", "\\\\", "?", "[", "]", "'",
        "^a",
    ]);
    let text = proptest::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat());
    text.prop_map(|text| Pattern::parse(&text).expect("nothing ends in a backslash"))
}

/// A random test for the values of a column.
fn test(literal: BoxedStrategy<Value>, is_text: bool, is_truth: bool) -> BoxedStrategy<Test> {
    let null = prop_oneof![1 => Just(Value::Null), 6 => literal.clone()];
    let compare = (comparison(), null).prop_map(|(how, literal)| Test::Compare(how, literal));
    let list = proptest::collection::vec(literal, 0..6).prop_map(Test::In);
    let truths = vec![Test::Is(ValueState::True), Test::Is(ValueState::False)];
    let plain = prop_oneof![6 => compare, 2 => list, 1 => state().prop_map(Test::Is)];
    let like = prop_oneof![pattern().prop_map(Test::Like), pattern().prop_map(Test::ILike),];
    match (is_text, is_truth) {
        (true, _) => prop_oneof![2 => plain, 1 => like].boxed(),
        (false, true) => prop_oneof![2 => plain, 1 => prop::sample::select(truths)].boxed(),
        (false, false) => plain.boxed(),
    }
}

/// Random conditions on these columns, each given with its literals and whether it is text or
/// boolean.
pub(crate) fn condition(
    columns: Vec<(usize, BoxedStrategy<Value>, bool, bool)>,
) -> impl Strategy<Value = Condition> {
    let leaf = prop::sample::select(columns).prop_flat_map(|(column, literal, text, truth)| {
        test(literal, text, truth).prop_map(move |test| Condition::Column(column, test))
    });
    nested(leaf)
}

#[test]
fn patterns_have_the_meaning_of_postgrest() {
    let matches = |pattern: &str, text: &str| {
        let test = Test::Like(Pattern::parse(pattern).expect("a pattern"));
        passes(&Value::Text(text.into()), &test) == Some(true)
    };
    assert!(matches("Jo%", "John") && matches("Jo*", "John") && matches("J_hn", "John"));
    assert!(!matches("jo%", "John") && !matches("Jo", "John") && !matches("J_n", "John"));
    assert!(matches("100\\%", "100%") && !matches("100\\%", "1000"));
    assert!(matches("%%%%", "") && matches("a\\\\b", "a\\b") && matches("", ""));
    assert_eq!(Pattern::parse("a\\"), None);
}
