//! Select: the SQL of a read in SQLite's dialect, and the values that it binds.
//!
//! The text depends on the shape of a query alone: on its table, columns, operators and the nesting of its
//! conditions, all of which are limited, so there are finitely many texts, and none holds a client's words.
//!
//! **Invariant:** a text is made of constants and of names from the registry; its `?1`, `?2` … stand for the binds
//! in their order.
//! **Not here:** running it (`reader`), statements that write (`sql`).

use std::fmt::Write as _;

use super::connection::Bind;
use super::reader::Scope;
use crate::keyspace::Slot;
use crate::query::{Comparison, Condition, OrderBy, Pattern, Piece, ReadQuery, State, Test};
use crate::sabotage::{Mutation, is_due, is_on};
use crate::table::Table;
use crate::value::{Value, push_json_number, push_json_string};

/// A statement and its values.
#[derive(Debug, Default)]
pub(super) struct Select<'q> {
    pub(super) sql: String,
    values: Vec<Bound<'q>>,
}

/// A value to bind: the query's own, or a text made of it.
#[derive(Debug)]
enum Bound<'q> {
    Plain(Bind<'q>),
    Text(String),
}

impl<'q> Select<'q> {
    /// The page of a query and one row more, which tells whether more follow. Columns: the outputs, then
    /// [`keys`].
    pub(super) fn page(query: &'q ReadQuery, scope: Scope<'q>) -> Self {
        let keyed = scope.is_keyed();
        let (table, order) = (&query.table, query.sort_keys(keyed));
        let mut select = Self { sql: String::with_capacity(256), values: Vec::with_capacity(4) };
        select.push("SELECT ");
        let outputs = query.outputs.iter().map(|output| output.column);
        select.push_list(outputs.chain(keys(&order, table, keyed)), |select, column| {
            select.push(&table.column(column).name);
        });
        let _ = write!(select.sql, " FROM {}", table.name());
        select.push_conditions(query, scope, query.after.as_deref().map(|after| (&*order, after)));
        select.push_order(table, &order);
        // Sums, because SQLite looks at the value of a bare parameter in LIMIT when it plans, and then
        // plans anew whenever the parameter is bound: three times the cost of a point read.
        select.push(" LIMIT ");
        let (limit, offset) = (i64::from(query.limit) + 1, i64::from(query.offset));
        if keyed && offset > 0 {
            select.bind(Bind::Int(limit));
            select.push("+0 OFFSET ");
            select.bind(Bind::Int(offset));
        } else {
            // Over several shards nobody knows which rows of which shard are to be passed over.
            select.bind(Bind::Int(limit + offset));
        }
        select.push("+0");
        select
    }

    /// The number of rows that meet the conditions, whatever the page.
    pub(super) fn count(query: &'q ReadQuery, scope: Scope<'q>) -> Self {
        let mut select = Self::default();
        let _ = write!(select.sql, "SELECT count(*) FROM {}", query.table.name());
        select.push_conditions(query, scope, None);
        select
    }

    /// The values in their order.
    pub(super) fn binds(&self) -> Vec<Bind<'_>> {
        let bound = self.values.iter().map(|value| match value {
            Bound::Plain(bind) => *bind,
            Bound::Text(text) => Bind::Text(text),
        });
        bound.collect()
    }

    fn push(&mut self, text: &str) {
        self.sql.push_str(text);
    }

    fn push_list<T>(&mut self, items: impl IntoIterator<Item = T>, push: impl FnMut(&mut Self, T)) {
        self.push_joined(",", items, push);
    }

    fn push_joined<T>(
        &mut self,
        joint: &str,
        items: impl IntoIterator<Item = T>,
        mut push: impl FnMut(&mut Self, T),
    ) {
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.push(joint);
            }
            push(self, item);
        }
    }

    fn bind(&mut self, bind: Bind<'q>) {
        self.push_value(Bound::Plain(bind));
    }

    fn push_value(&mut self, value: Bound<'q>) {
        self.values.push(value);
        let _ = write!(self.sql, "?{}", self.values.len());
    }

    /// The key stands first and then the place where a page begins: SQLite takes the first bounds that fit for the
    /// range of the index that it looks at.
    fn push_conditions(
        &mut self,
        query: &'q ReadQuery,
        scope: Scope<'q>,
        after: Option<(&[OrderBy], &'q [Value])>,
    ) {
        let mut joint = Joint { first: true };
        if !query.is_point_read() {
            self.push(joint.next());
            self.push("tessera_in_time()");
        }
        if let Scope::Key(slot, key) = scope {
            self.push(joint.next());
            let wrong = is_due(Mutation::WrongRow, 128);
            self.push(if wrong { "slot>=" } else { "slot=" });
            self.bind(Bind::Int(i64::from(slot.number())));
            self.push(if wrong { " AND shard_key<>" } else { " AND shard_key=" });
            self.bind(Bind::Text(key));
        }
        if !query.keys.is_empty() {
            // Pairs, so that each key is looked up in its own slot alone. One parameter, however
            // many they are.
            self.push(joint.next());
            self.push("(slot,shard_key) IN (SELECT value->>0,value->>1 FROM json_each(");
            self.push_value(Bound::Text(json_pairs(&query.keys)));
            self.push("))");
        }
        if let Some((order, after)) = after {
            self.push(joint.next());
            self.push_after(&query.table, order, after);
        }
        for condition in &query.conditions {
            self.push(joint.next());
            self.push_condition(&query.table, condition);
        }
    }

    fn push_condition(&mut self, table: &Table, condition: &'q Condition) {
        match condition {
            Condition::Column(column, test) => self.push_test(&table.column(*column).name, test),
            // Of nothing all is true, and none is.
            Condition::All(list) if list.is_empty() => self.push("TRUE"),
            Condition::Any(list) if list.is_empty() => self.push("FALSE"),
            Condition::All(list) => self.push_nested(table, " AND ", list),
            Condition::Any(list) => self.push_nested(table, " OR ", list),
            Condition::Not(one) => {
                self.push("NOT ");
                self.push_nested(table, "", std::slice::from_ref(&**one));
            }
        }
    }

    fn push_nested(&mut self, table: &Table, joint: &str, list: &'q [Condition]) {
        self.push("(");
        self.push_joined(joint, list, |select, condition| select.push_condition(table, condition));
        self.push(")");
    }

    fn push_test(&mut self, name: &str, test: &'q Test) {
        self.push(name);
        match test {
            Test::Compare(comparison, value) => {
                self.push(operator(*comparison));
                self.bind(Bind::from(value));
            }
            // One parameter, a JSON array, however many values: shapes stay few.
            Test::In(values) => {
                self.push(" IN (SELECT value FROM json_each(");
                self.push_value(Bound::Text(json_array(values)));
                self.push("))");
            }
            Test::Like(pattern) => {
                self.push(" GLOB ");
                self.push_value(Bound::Text(glob(pattern)));
            }
            Test::ILike(pattern) => {
                self.push(" LIKE ");
                self.push_value(Bound::Text(like(pattern)));
                self.push(" ESCAPE '\\'");
            }
            Test::Is(state) => self.push(match state {
                State::Null => " IS NULL",
                State::NotNull => " IS NOT NULL",
                State::True => " IS 1",
                State::False => " IS 0",
            }),
        }
    }

    /// Rows that come after one with these sort keys.
    fn push_after(&mut self, table: &Table, order: &[OrderBy], after: &'q [Value]) {
        let one_way = order.windows(2).all(|pair| pair[0].descending == pair[1].descending);
        if one_way && order.iter().all(|by| !table.column(by.column).nullable) {
            // One range of the index, if it is that of the primary key.
            self.push("(");
            self.push_list(order, |select, by| select.push(&table.column(by.column).name));
            let again = is_on(Mutation::DuplicatePages);
            self.push(if order[0].descending { ")<" } else { ")>" });
            self.push(if again { "=(" } else { "(" });
            self.push_list(after, |select, value| select.bind(Bind::from(value)));
            self.push(")");
            return;
        }
        // (a later) or (a the same and (b later or (b the same and …))): each key is compared once or twice.
        let last = order.len() - 1;
        for (index, (by, value)) in order.iter().zip(after).enumerate() {
            self.push("(");
            self.push_later(table, by, value);
            if index < last {
                let _ = write!(self.sql, " OR ({} IS ", table.column(by.column).name);
                self.bind(Bind::from(value));
                self.push(" AND ");
            }
        }
        // Each key opened one, and each but the last another.
        (0..order.len() + last).for_each(|_| self.push(")"));
    }

    /// Null is last when ascending and first when descending.
    fn push_later(&mut self, table: &Table, by: &OrderBy, value: &'q Value) {
        let column = table.column(by.column);
        match (value, by.descending) {
            (Value::Null, false) => self.push("FALSE"),
            (Value::Null, true) => {
                let _ = write!(self.sql, "{} IS NOT NULL", column.name);
            }
            (Value::Bool(_) | Value::Int(_) | Value::Double(_) | Value::Text(_), descending) => {
                let _ = write!(self.sql, "{}{}", column.name, if descending { "<" } else { ">" });
                self.bind(Bind::from(value));
                if column.nullable && !descending {
                    let _ = write!(self.sql, " OR {} IS NULL", column.name);
                }
            }
        }
    }

    fn push_order(&mut self, table: &Table, order: &[OrderBy]) {
        self.push(" ORDER BY ");
        self.push_list(order, |select, by| {
            let column = table.column(by.column);
            select.push(&column.name);
            select.push(if by.descending { " DESC" } else { "" });
            if column.nullable {
                select.push(if by.descending { " NULLS FIRST" } else { " NULLS LAST" });
            }
        });
    }
}

/// What a read tells of each row beside its outputs: of the rows of one key their versions; then what they are sorted
/// by.
pub(super) fn keys(order: &[OrderBy], table: &Table, keyed: bool) -> impl Iterator<Item = usize> {
    let version = keyed.then_some(table.version());
    version.into_iter().chain(order.iter().map(|by| by.column))
}

/// What stands before the next condition.
struct Joint {
    first: bool,
}

impl Joint {
    fn next(&mut self) -> &'static str {
        if std::mem::take(&mut self.first) { " WHERE " } else { " AND " }
    }
}

fn operator(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::Equal => "=",
        Comparison::NotEqual => "<>",
        Comparison::Greater => ">",
        Comparison::GreaterOrEqual => ">=",
        Comparison::Less => "<",
        Comparison::LessOrEqual => "<=",
    }
}

/// For GLOB, which minds the case; LIKE does not.
fn glob(pattern: &Pattern) -> String {
    spelled(pattern, ["?", "*"], |out, c| match c {
        '*' | '?' | '[' => {
            let _ = write!(out, "[{c}]");
        }
        c => out.push(c),
    })
}

fn like(pattern: &Pattern) -> String {
    spelled(pattern, ["_", "%"], |out, c| {
        if matches!(c, '%' | '_' | '\\') {
            out.push('\\');
        }
        out.push(c);
    })
}

fn spelled(pattern: &Pattern, [one, many]: [&str; 2], push: impl Fn(&mut String, char)) -> String {
    let mut out = String::new();
    for piece in &pattern.0 {
        match piece {
            Piece::Text(text) => text.chars().for_each(|c| push(&mut out, c)),
            Piece::One => out.push_str(one),
            Piece::Many => out.push_str(many),
        }
    }
    out
}

fn json_array(values: &[Value]) -> String {
    let mut out = Vec::with_capacity(values.len() * 8 + 2);
    out.push(b'[');
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match value {
            Value::Null => out.extend_from_slice(b"null"),
            // SQLite keeps truth as 1 and 0.
            Value::Bool(truth) => push_json_number(&mut out, i64::from(*truth)),
            Value::Int(number) => push_json_number(&mut out, *number),
            Value::Double(number) => push_json_number(&mut out, *number),
            Value::Text(text) => push_json_string(&mut out, text),
        }
    }
    out.push(b']');
    String::from_utf8(out).expect("made of strings and digits")
}

fn json_pairs(keys: &[(Slot, String)]) -> String {
    let mut out = Vec::with_capacity(keys.len() * 24 + 2);
    for (index, (slot, key)) in keys.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"[[" } else { b",[" });
        push_json_number(&mut out, slot.number());
        out.push(b',');
        push_json_string(&mut out, key);
        out.push(b']');
    }
    out.push(b']');
    String::from_utf8(out).expect("made of strings and digits")
}

#[cfg(test)]
mod tests;
