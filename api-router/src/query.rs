//! Query strings: PostgREST's spelling of a read, parsed once into a checked [`ReadQuery`].
//!
//! **Invariant:** a parameter that is no known one is a filter on a column of the table, with an explicit
//! operator: a bare value is refused, because it would let user input choose the operator.
//! **Not here:** SQL.

use std::borrow::Cow;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use shard_manager::query::{Condition, OrderBy, Output, ReadQuery, Test};
use shard_manager::table::{Column, Table, closest};
use shard_manager::value::Value;

use crate::problem::{Code, Problem};

/// Longest query string, in bytes: below the 64 KiB at which the HTTP parser gives up without a word.
const LEN_MAX: usize = 32 << 10;
/// Most parameters.
const PARAMETERS_MAX: usize = 100;

/// Decoded parameters, in their order.
#[derive(Debug, Default)]
pub struct Parameters<'q>(Vec<(Cow<'q, str>, Cow<'q, str>)>);

impl<'q> Parameters<'q> {
    /// Decodes a query string.
    ///
    /// # Errors
    /// TSR100 if it is too long, or holds bytes that are not UTF-8.
    pub fn parse(query: &'q str) -> Result<Self, Problem> {
        if query.len() > LEN_MAX {
            return Err(bad(format!("the query string is longer than {} KiB", LEN_MAX >> 10)));
        }
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let mut parameters = Vec::new();
        for pair in pairs {
            if parameters.len() == PARAMETERS_MAX {
                return Err(bad(format!("more than {PARAMETERS_MAX} parameters")));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            parameters.push((decode(name)?, decode(value)?));
        }
        Ok(Self(parameters))
    }

    /// The value of a parameter that may come once.
    ///
    /// # Errors
    /// TSR100 if it comes twice.
    pub fn single(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.0.iter().filter(|(parameter, _)| parameter == name);
        let first = values.next().map(|(_, value)| &**value);
        if values.next().is_some() {
            return Err(bad(format!("{name} is given twice")));
        }
        Ok(first)
    }

    /// Refuses parameters that are none of `known`.
    ///
    /// # Errors
    /// TSR100 names the parameter.
    pub fn check_names(&self, known: &[&str]) -> Result<(), Problem> {
        let unknown = self.0.iter().find(|(name, _)| !known.contains(&&**name));
        let Some((name, _)) = unknown else { return Ok(()) };
        let problem = bad(format!("`{}` means nothing here", shown(name)));
        Err(match closest(name, known.iter().copied()) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None if known.is_empty() => problem.hint("this path takes no parameters"),
            None => problem.hint(format!("known parameters: {}", known.join(", "))),
        })
    }
}

fn decode(text: &str) -> Result<Cow<'_, str>, Problem> {
    let not_utf8 = |_| bad("the query string is not UTF-8".to_owned());
    if !text.contains('+') {
        return percent_decode_str(text).decode_utf8().map_err(not_utf8);
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().map_err(not_utf8)?;
    Ok(Cow::Owned(decoded.into_owned()))
}

/// Parameters of a read that are no filters.
const KNOWN: [&str; 6] = ["table", "select", "order", "orderBy", "limit", "shardKey"];
/// Names that belong to parameters which do not exist yet, and so are no columns either.
const RESERVED: [&str; 4] = ["count", "and", "or", "columns"];

/// Reads the checked query of a read of `table`.
///
/// # Errors
/// TSR100, TSR106, TSR311 or TSR312, naming the parameter.
pub fn read_query(table: &Arc<Table>, parameters: &Parameters<'_>) -> Result<ReadQuery, Problem> {
    let mut query = ReadQuery::all(table);
    if let Some(list) = parameters.single("select")? {
        query.outputs = parse_select(table, list)?;
    }
    let order = (parameters.single("order")?, parameters.single("orderBy")?);
    query.order = match order {
        (Some(_), Some(_)) => {
            return Err(bad("order and orderBy are the same; give one".to_owned()));
        }
        (Some(list), None) | (None, Some(list)) => parse_order(table, list)?,
        (None, None) => Vec::new(),
    };
    if let Some(limit) = parameters.single("limit")? {
        query.limit = parse_limit(limit)?;
    }
    for (name, value) in &parameters.0 {
        if KNOWN.contains(&&**name) {
            continue;
        }
        query.conditions.push(parse_condition(table, name, value)?);
        if query.conditions.len() > ReadQuery::CONDITIONS_MAX {
            return Err(bad(format!("more than {} filters", ReadQuery::CONDITIONS_MAX)));
        }
    }
    Ok(query)
}

fn parse_limit(text: &str) -> Result<u32, Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let limit = text.parse().ok().filter(|_| digits).filter(|limit| *limit <= ReadQuery::LIMIT_MAX);
    limit.ok_or_else(|| {
        let most = ReadQuery::LIMIT_MAX;
        Problem::new(Code::TSR106, format!("limit must be a number from 0 to {most}"))
    })
}

/// `a,b,total:c`, or `*`.
fn parse_select(table: &Table, list: &str) -> Result<Vec<Output>, Problem> {
    let mut outputs: Vec<Output> = Vec::new();
    for item in list.split(',').map(str::trim) {
        if item == "*" {
            outputs.extend(table.answered().map(|column| Output { column, alias: None }));
        } else {
            let (alias, name) = match item.split_once(':') {
                Some((alias, name)) => (Some(parse_alias(alias)?), name),
                None => (None, item),
            };
            outputs.push(Output { column: find_column(table, name)?, alias });
        }
        if outputs.len() > Table::COLUMNS_MAX + 5 {
            return Err(bad("select names too many columns".to_owned()));
        }
    }
    let name = |output: &Output| {
        output.alias.clone().unwrap_or_else(|| table.column(output.column).name.clone())
    };
    for (index, output) in outputs.iter().enumerate() {
        if outputs[..index].iter().any(|other| name(other) == name(output)) {
            return Err(bad(format!("select names `{}` twice", name(output))));
        }
    }
    Ok(outputs)
}

/// Aliases need no escaping in JSON.
fn parse_alias(alias: &str) -> Result<String, Problem> {
    let ok = (1..=40).contains(&alias.len())
        && alias.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if ok {
        return Ok(alias.to_owned());
    }
    Err(bad("an alias in select is 1 to 40 letters, digits or _".to_owned()))
}

/// `a.desc,b`.
fn parse_order(table: &Table, list: &str) -> Result<Vec<OrderBy>, Problem> {
    let mut order: Vec<OrderBy> = Vec::new();
    for item in list.split(',').map(str::trim) {
        let (name, direction) = item.split_once('.').unwrap_or((item, "asc"));
        let column = find_column(table, name)?;
        let descending = match direction {
            "asc" => false,
            "desc" => true,
            _ => {
                let problem = bad(format!("order: `{}` is no direction", shown(direction)));
                return Err(problem.hint("use column.asc or column.desc"));
            }
        };
        if !table.column(column).kind.is_comparable() {
            return Err(bad(format!("order: {name} is json and has no order")));
        }
        if order.iter().any(|by| by.column == column) {
            return Err(bad(format!("order names {name} twice")));
        }
        if order.len() == ReadQuery::ORDER_MAX {
            return Err(bad(format!("order names more than {} columns", ReadQuery::ORDER_MAX)));
        }
        order.push(OrderBy { column, descending });
    }
    Ok(order)
}

/// `column=op.value`.
fn parse_condition(table: &Table, name: &str, value: &str) -> Result<Condition, Problem> {
    if name == "where" {
        let problem = bad("where is refused: it would be SQL from a client".to_owned());
        return Err(problem.hint("use column=eq.value"));
    }
    if ["offset", "cursor"].contains(&name) {
        return Err(Problem::new(Code::TSR106, format!("{name} is not supported")));
    }
    if RESERVED.contains(&name) {
        return Err(bad(format!("{name} is not supported")));
    }
    let index = find_column(table, name)?;
    let column = table.column(index);
    if !column.kind.is_comparable() {
        return Err(bad(format!("{name} is json and cannot be compared")));
    }
    let test = match value.split_once('.') {
        Some(("eq", literal)) => Test::Equal(parse_literal(column, literal)?),
        Some(("in", list)) => Test::In(parse_list(column, list)?),
        Some(_) | None => {
            let problem = bad(format!("{name}: a filter needs an operator, eq or in"));
            return Err(problem.hint(format!("{name}=eq.value or {name}=in.(a,b)")));
        }
    };
    Ok(Condition { column: index, test })
}

fn parse_literal(column: &Column, literal: &str) -> Result<Value, Problem> {
    column
        .kind
        .read_text(literal)
        .map_err(|misfit| Problem::new(Code::TSR312, format!("{}: {misfit}", column.name)))
}

/// `(a,b,"c,d")`: quotes keep commas and parentheses; `\` escapes within them.
fn parse_list(column: &Column, list: &str) -> Result<Vec<Value>, Problem> {
    let malformed = || {
        bad(format!("{}: in needs a list in parentheses", column.name))
            .hint(format!("{}=in.(a,b,\"c,d\")", column.name))
    };
    let inner = list.strip_prefix('(').and_then(|list| list.strip_suffix(')'));
    let mut rest = inner.ok_or_else(malformed)?;
    let mut values = Vec::new();
    while !rest.is_empty() {
        let (literal, after) = next_literal(rest).ok_or_else(malformed)?;
        values.push(parse_literal(column, &literal)?);
        if values.len() > ReadQuery::IN_MAX {
            return Err(bad(format!("{}: more than {} values", column.name, ReadQuery::IN_MAX)));
        }
        rest = match after.strip_prefix(',') {
            Some("") => return Err(malformed()),
            Some(more) => more,
            None if after.is_empty() => after,
            None => return Err(malformed()),
        };
    }
    Ok(values)
}

/// The first literal of a list and what follows it.
fn next_literal(list: &str) -> Option<(Cow<'_, str>, &str)> {
    let Some(quoted) = list.strip_prefix('"') else {
        let end = list.find(',').unwrap_or(list.len());
        return Some((Cow::Borrowed(&list[..end]), &list[end..]));
    };
    let mut literal = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((Cow::Owned(literal), &quoted[at + 1..])),
            '\\' => literal.push(chars.next()?.1),
            c => literal.push(c),
        }
    }
    None
}

fn find_column(table: &Table, name: &str) -> Result<usize, Problem> {
    table.find(name).ok_or_else(|| {
        let detail = format!("{} has no column `{}`", table.name(), shown(name));
        let problem = Problem::new(Code::TSR311, detail);
        match table.suggest(name).or_else(|| closest(name, KNOWN.into_iter())) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None => problem,
        }
    })
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

fn bad(detail: String) -> Problem {
    Problem::new(Code::TSR100, detail)
}
