//! Query strings: parses a read in the syntax of PostgREST once, into a checked [`ReadQuery`].
//!
//! **Invariant:** an unknown parameter is a filter on a column of the table and must name an
//! operator. A value without an operator is refused: otherwise a value that an application takes
//! from its user could contain an operator.
//! **Not here:** the filters themselves (`filter`), SQL.

use std::borrow::Cow;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use shard_manager::query::{OrderBy, Output, ReadQuery};
use shard_manager::table::{Table, closest};

use crate::filter::{self, FilterParser, bad, find_column, shown};
use crate::problem::{Code, Problem};
use crate::request_hints;

/// Maximum length of a query string, in bytes. It is below the 64 KiB at which the HTTP parser
/// closes a connection without a response.
const LEN_MAX: usize = 32 << 10;
/// Maximum number of parameters.
const PARAMETERS_MAX: usize = 100;

/// Decoded parameters of a query string, in their order.
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

    /// Returns the value of a parameter that may be given at most once.
    ///
    /// # Errors
    /// TSR100 if it is given twice.
    pub fn single(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.0.iter().filter(|(parameter, _)| parameter == name);
        let first = values.next().map(|(_, value)| &**value);
        if values.next().is_some() {
            return Err(bad(format!("{name} is given twice")));
        }
        Ok(first)
    }

    /// Returns true if there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses parameters whose names are not in `known`.
    ///
    /// # Errors
    /// TSR100 names the parameter.
    pub fn check_names(&self, known: &[&str]) -> Result<(), Problem> {
        let unknown = self.0.iter().find(|(name, _)| !known.contains(&&**name));
        let Some((name, _)) = unknown else { return Ok(()) };
        let problem = bad(format!("unknown parameter `{}`", shown(name)));
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

/// Name in `select` that stands for all columns.
const ALL_COLUMNS: &str = "*";
/// Parameters of a read that are not filters.
const KNOWN: [&str; 8] =
    ["table", "select", "order", "orderBy", "limit", "offset", "cursor", "shardKey"];
/// Parameters of other APIs, which are refused with a hint even if the table has such a column.
const RESERVED: [(&str, &str); 3] = [
    ("where", "it would be SQL from a client; use column=eq.value"),
    ("count", "send the header Prefer: count=exact"),
    ("columns", "it belongs to writes; use select"),
];

/// Parses the query of a read of `table`; the cursor is not checked.
///
/// # Errors
/// TSR100, TSR106, TSR311 or TSR312, naming the parameter.
pub fn read_query(table: &Arc<Table>, parameters: &Parameters<'_>) -> Result<ReadQuery, Problem> {
    let mut query = ReadQuery::unselected(table);
    if let Some(list) = parameters.single("select")?.filter(|list| *list != ALL_COLUMNS) {
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
        query.limit = parse_number("limit", limit, ReadQuery::LIMIT_MAX)?;
    }
    if let Some(offset) = parameters.single("offset")? {
        query.offset = parse_number("offset", offset, ReadQuery::OFFSET_MAX)
            .map_err(|problem| problem.hint("to go further, follow next_cursor"))?;
        if query.offset > 0 && parameters.single("cursor")?.is_some() {
            let detail = "offset and cursor say where to begin in two ways; give one";
            return Err(Problem::new(Code::TSR106, detail)
                .hint("leave offset out: the cursor goes on after the page before"));
        }
    }
    let mut filters = FilterParser::new(table);
    for (name, value) in &parameters.0 {
        if KNOWN.contains(&&**name) {
            continue;
        }
        if let Some((_, hint)) = RESERVED.iter().find(|(reserved, _)| reserved == name) {
            return Err(bad(format!("{name} is refused")).hint(*hint));
        }
        if !filter::is_group(name) && table.find(name).is_none() {
            return Err(neither_column_nor_parameter(table, name));
        }
        query.conditions.push(filters.parameter(name, value)?);
    }
    Ok(query)
}

fn neither_column_nor_parameter(table: &Table, name: &str) -> Problem {
    let detail = format!("{} has no column `{}`", table.name(), shown(name));
    let problem = Problem::new(Code::TSR311, detail);
    if let Some(hint) = request_hints::hint_for_parameter(name) {
        return problem.hint(hint);
    }
    match table.visible().suggest(name).or_else(|| closest(name, KNOWN.into_iter())) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None => problem.hint(filter::columns_of(table.name())),
    }
}

fn parse_number(name: &str, text: &str, most: u32) -> Result<u32, Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits).filter(|number| *number <= most);
    number.ok_or_else(|| {
        Problem::new(Code::TSR106, format!("{name} must be a number from 0 to {most}"))
    })
}

/// Parses the value of `select`: `a,b,total:c`, where `total` is an alias of the column `c`, or
/// `*`.
fn parse_select(table: &Table, list: &str) -> Result<Vec<Output>, Problem> {
    let mut outputs: Vec<Output> = Vec::new();
    for item in list.split(',').map(str::trim) {
        if item.is_empty() {
            let detail = "select has an empty name, where a column is expected".to_owned();
            return Err(
                bad(detail).hint("for example select=column,column; without it, all are read")
            );
        }
        if item == ALL_COLUMNS {
            outputs.extend(table.visible().answered().map(|column| Output { column, alias: None }));
        } else {
            let (alias, name) = match item.split_once(':') {
                Some((alias, name)) => (Some(parse_alias(alias)?), name),
                None => (None, item),
            };
            if let Some((detail, hint)) = request_hints::hint_for_output(name) {
                let detail = format!("{detail}: `{}`", shown(item));
                return Err(Problem::new(Code::TSR311, detail).hint(hint));
            }
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

/// Parses an alias, whose characters are limited to those that need no escaping in JSON.
fn parse_alias(alias: &str) -> Result<String, Problem> {
    let ok = (1..=40).contains(&alias.len())
        && alias.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if ok {
        return Ok(alias.to_owned());
    }
    Err(bad("an alias in select is 1 to 40 letters, digits or _".to_owned()))
}

/// Parses the value of `order`, such as `a.desc,b`.
fn parse_order(table: &Table, list: &str) -> Result<Vec<OrderBy>, Problem> {
    let mut order: Vec<OrderBy> = Vec::new();
    for item in list.split(',').map(str::trim) {
        let (name, direction) = item.split_once('.').unwrap_or((item, "asc"));
        if name.is_empty() {
            let detail = "order has an empty name, where a column is expected".to_owned();
            return Err(bad(detail).hint("for example order=column.desc,column"));
        }
        let column = find_column(table, name)?;
        let descending = match direction {
            "asc" => false,
            "desc" => true,
            _ => {
                let problem = bad(format!("order: `{}` is not a direction", shown(direction)));
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
