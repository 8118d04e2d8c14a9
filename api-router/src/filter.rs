//! Filters: parses conditions in the syntax of PostgREST, and checks them against the table.
//!
//! ```text
//! age=gte.18   name=not.like.A*   id=in.(a,b,"c,d")
//! or=(age.lt.13,and(age.gt.64,not.state.is.null))
//! ```
//!
//! **Invariant:** every column exists in the table, every literal fits the type of its column, and
//! neither the number of tests nor the nesting depth exceeds the limits of a query.
//! **Not here:** the other parameters (`query`).

use std::borrow::Cow;

use shard_manager::query::{Comparison, Condition, Pattern, ReadQuery, Test, ValueState};
use shard_manager::table::{Column, Table, closest};
use shard_manager::value::{ColumnType, Value};

use crate::problem::{Code, Problem};

/// Operators that compare a column with one literal.
const COMPARISONS: [(&str, Comparison); 6] = [
    ("eq", Comparison::Equal),
    ("neq", Comparison::NotEqual),
    ("gt", Comparison::Greater),
    ("gte", Comparison::GreaterOrEqual),
    ("lt", Comparison::Less),
    ("lte", Comparison::LessOrEqual),
];
const OPERATORS: [&str; 11] =
    ["eq", "neq", "gt", "gte", "lt", "lte", "like", "ilike", "in", "is", "not"];
/// Literals that the operator `is` accepts.
const STATES: [(&str, ValueState); 5] = [
    ("null", ValueState::Null),
    ("not_null", ValueState::NotNull),
    ("true", ValueState::True),
    ("false", ValueState::False),
    ("unknown", ValueState::Null),
];

/// Returns true if a parameter of this name joins conditions, rather than naming a column.
pub fn is_group(name: &str) -> bool {
    matches!(name.strip_prefix("not.").unwrap_or(name), "and" | "or")
}

/// Parser of the conditions of one query string, which limits their total number and size.
#[derive(Debug)]
pub struct FilterParser<'t> {
    table: &'t Table,
    tests: usize,
    pattern_bytes: usize,
}

impl<'t> FilterParser<'t> {
    /// Creates a parser for filters on this table.
    pub fn new(table: &'t Table) -> Self {
        Self { table, tests: 0, pattern_bytes: 0 }
    }

    /// Parses `column=op.value`, `column=not.op.value`, `or=(…)` or `not.and=(…)`.
    ///
    /// # Errors
    /// TSR100, TSR311 or TSR312, naming the parameter.
    pub fn parameter(&mut self, name: &str, value: &str) -> Result<Condition, Problem> {
        if is_group(name) {
            let mut rest = value;
            let condition = self.group(name, &mut rest, 1)?;
            return if rest.is_empty() { Ok(condition) } else { Err(malformed(name)) };
        }
        let column = find_column(self.table, name)?;
        self.count(name)?;
        let (negated, operator, literal) = split_operator(name, value)?;
        let test = if operator == "in" {
            let mut rest = literal;
            let list = list(self.table.column(column), &mut rest)?;
            if !rest.is_empty() {
                return Err(bad_list(name));
            }
            list
        } else {
            self.test(column, operator, literal)?
        };
        Ok(negate(negated, Condition::Column(column, test)))
    }

    /// Parses the conditions after `or`, `and`, `not.or` or `not.and`: `(a.eq.1,and(…))`.
    fn group(&mut self, name: &str, rest: &mut &str, depth: usize) -> Result<Condition, Problem> {
        if depth > ReadQuery::DEPTH_MAX {
            let most = ReadQuery::DEPTH_MAX;
            return Err(bad(format!("filters are nested deeper than {most} levels")));
        }
        let (negated, kind) = match name.strip_prefix("not.") {
            Some(kind) => (true, kind),
            None => (false, name),
        };
        eat(rest, "(").ok_or_else(|| malformed(name))?;
        let mut list = Vec::new();
        loop {
            list.push(self.item(name, rest, depth)?);
            if eat(rest, ")").is_some() {
                break;
            }
            eat(rest, ",").ok_or_else(|| malformed(name))?;
        }
        let group = if kind == "or" { Condition::Any(list) } else { Condition::All(list) };
        Ok(negate(negated, group))
    }

    /// Parses `column.op.value`, `column.not.op.value`, or a group.
    fn item(&mut self, name: &str, rest: &mut &str, depth: usize) -> Result<Condition, Problem> {
        // Spaces after a comma are permitted.
        *rest = rest.trim_start_matches(' ');
        for group in ["not.and", "not.or", "and", "or"] {
            if rest.strip_prefix(group).is_some_and(|after| after.starts_with('(')) {
                *rest = &rest[group.len()..];
                return self.group(group, rest, depth + 1);
            }
        }
        let (negated_before, text) = match rest.strip_prefix("not.") {
            Some(text) => (true, text),
            None => (false, *rest),
        };
        let (column_name, after) = text.split_once('.').ok_or_else(|| malformed(name))?;
        let column = find_column(self.table, column_name)?;
        self.count(column_name)?;
        let (negated, operator, literal) = split_operator(column_name, after)?;
        *rest = literal;
        let column_of = self.table.column(column);
        let test = if operator == "in" {
            list(column_of, rest)?
        } else {
            let literal = next_literal(rest, [',', ')']).ok_or_else(|| malformed(name))?;
            self.test(column, operator, &literal)?
        };
        Ok(negate(negated != negated_before, Condition::Column(column, test)))
    }

    /// Parses a test with any operator except `in`.
    fn test(&mut self, column: usize, operator: &str, literal: &str) -> Result<Test, Problem> {
        let column = self.table.column(column);
        if matches!(operator, "like" | "ilike") {
            self.pattern_bytes += literal.len();
            if self.pattern_bytes > ReadQuery::PATTERN_BYTES_MAX {
                let most = ReadQuery::PATTERN_BYTES_MAX;
                let detail =
                    format!("{}: all patterns together have at most {most} bytes", column.name);
                return Err(bad(detail));
            }
        }
        test(column, operator, literal)
    }

    fn count(&mut self, name: &str) -> Result<(), Problem> {
        self.tests += 1;
        if self.tests > ReadQuery::TESTS_MAX {
            return Err(bad(format!("{name}: more than {} filters", ReadQuery::TESTS_MAX)));
        }
        Ok(())
    }
}

fn negate(negated: bool, condition: Condition) -> Condition {
    if negated { Condition::Not(Box::new(condition)) } else { condition }
}

/// Splits `op.value` or `not.op.value`.
fn split_operator<'v>(name: &str, value: &'v str) -> Result<(bool, &'v str, &'v str), Problem> {
    let (negated, text) = match value.strip_prefix("not.") {
        Some(text) => (true, text),
        None => (false, value),
    };
    match text.split_once('.') {
        Some((operator, literal)) if OPERATORS.contains(&operator) && operator != "not" => {
            Ok((negated, operator, literal))
        }
        Some((operator, _)) => Err(no_operator(name, Some(operator))),
        None => Err(no_operator(name, None)),
    }
}

fn no_operator(name: &str, written: Option<&str>) -> Problem {
    let problem = bad(format!("{name}: a filter needs an operator: {}", OPERATORS.join(", ")));
    match written.and_then(|written| closest(written, OPERATORS.into_iter())) {
        Some(near) => problem.hint(format!("did you mean {name}={near}.…?")),
        None => problem.hint(format!("{name}=eq.value")),
    }
}

fn test(column: &Column, operator: &str, literal: &str) -> Result<Test, Problem> {
    let name = &column.name;
    if operator == "is" {
        return state(column, literal).map(Test::Is);
    }
    if !column.kind.is_comparable() {
        return Err(bad(format!("{name} is json and cannot be compared"))
            .hint(format!("{name}=is.null and {name}=not.is.null are possible")));
    }
    if let Some((_, comparison)) = COMPARISONS.iter().find(|(spelling, _)| *spelling == operator) {
        return Ok(Test::Compare(*comparison, literal_of(column, literal)?));
    }
    if column.kind != ColumnType::Text {
        let kind = column.kind;
        return Err(bad(format!("{name}: {operator} needs a text column, and this is {kind}")));
    }
    literal_of(column, literal)?;
    let pattern = Pattern::parse(literal)
        .ok_or_else(|| bad(format!("{name}: nothing follows the \\ at the end of the pattern")))?;
    Ok(if operator == "like" { Test::Like(pattern) } else { Test::ILike(pattern) })
}

fn state(column: &Column, literal: &str) -> Result<ValueState, Problem> {
    let name = &column.name;
    let found = STATES.iter().find(|(spelling, _)| literal.eq_ignore_ascii_case(spelling));
    let Some((spelling, state)) = found else {
        let names = STATES.map(|(spelling, _)| spelling).join(", ");
        return Err(bad(format!("{name}: is takes one of: {names}")));
    };
    let of_truth = matches!(state, ValueState::True | ValueState::False) || *spelling == "unknown";
    if of_truth && column.kind != ColumnType::Boolean {
        let kind = column.kind;
        return Err(bad(format!(
            "{name}: is.{spelling} needs a boolean column, and this is {kind}"
        ))
        .hint(format!("{name}=is.null and {name}=is.not_null work on any column")));
    }
    Ok(*state)
}

fn literal_of(column: &Column, literal: &str) -> Result<Value, Problem> {
    column
        .kind
        .read_text(literal)
        .map_err(|mismatch| Problem::new(Code::TSR312, format!("{}: {mismatch}", column.name)))
}

/// Parses the list of the operator `in`, such as `(a,b,"c,d")`. A value in double quotes may
/// contain commas and parentheses; within the quotes, `\` escapes the next character.
fn list(column: &Column, rest: &mut &str) -> Result<Test, Problem> {
    let malformed = || bad_list(&column.name);
    if !column.kind.is_comparable() {
        return Err(bad(format!("{} is json and cannot be compared", column.name)));
    }
    eat(rest, "(").ok_or_else(malformed)?;
    let mut values = Vec::new();
    if eat(rest, ")").is_some() {
        return Ok(Test::In(values));
    }
    loop {
        // An empty item is more likely an extra comma than an empty string, which is spelled "".
        if rest.starts_with([',', ')']) {
            return Err(malformed());
        }
        let literal = next_literal(rest, [',', ')']).ok_or_else(malformed)?;
        values.push(literal_of(column, &literal)?);
        if values.len() > ReadQuery::IN_MAX {
            return Err(bad(format!("{}: more than {} values", column.name, ReadQuery::IN_MAX)));
        }
        if eat(rest, ")").is_some() {
            return Ok(Test::In(values));
        }
        eat(rest, ",").ok_or_else(malformed)?;
    }
}

/// Takes the literal that `rest` begins with, up to one of `ends`.
fn next_literal<'v>(rest: &mut &'v str, ends: [char; 2]) -> Option<Cow<'v, str>> {
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find(ends)?;
        let literal = &rest[..end];
        *rest = &rest[end..];
        return Some(Cow::Borrowed(literal));
    };
    let mut literal = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                *rest = &quoted[at + 1..];
                return Some(Cow::Owned(literal));
            }
            '\\' => literal.push(chars.next()?.1),
            c => literal.push(c),
        }
    }
    None
}

fn eat(rest: &mut &str, sign: &str) -> Option<()> {
    *rest = rest.strip_prefix(sign)?;
    Some(())
}

/// Returns the hint that names the path where the columns of a table are listed.
pub fn columns_of(table: &str) -> String {
    format!("/api/tables/{table} lists the columns")
}

/// Returns the index of the column with this name.
///
/// # Errors
/// TSR311 if there is no such column; the hint suggests a similar name if there is one.
pub fn find_column(table: &Table, name: &str) -> Result<usize, Problem> {
    table.find(name).ok_or_else(|| {
        let detail = format!("{} has no column `{}`", table.name(), shown(name));
        let problem = Problem::new(Code::TSR311, detail);
        match table.visible().suggest(name) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None => problem.hint(columns_of(table.name())),
        }
    })
}

fn bad_list(name: &str) -> Problem {
    bad(format!("{name}: in needs a list in parentheses"))
        .hint(format!("{name}=in.(a,b,\"c,d\"); in an address, a double quote is written %22"))
}

fn malformed(name: &str) -> Problem {
    bad(format!("{name} needs conditions in parentheses, with commas between them"))
        .hint("or=(amount.gte.100,and(status.eq.paid,note.is.null)); a literal with commas or parentheses stands in double quotes, written %22 in an address")
}

/// Truncates a string from a client to 80 characters, for an error message.
pub fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Returns the problem TSR100 for a fault in the query string.
pub fn bad(detail: String) -> Problem {
    Problem::new(Code::TSR100, detail)
}
