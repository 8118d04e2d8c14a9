//! Select: the SQL of a read and the values to bind, in the [`Dialect`] of an engine.
//!
//! The SQL text depends only on the shape of a query: on its table, columns, operators and the
//! nesting of its conditions. All of these are limited, so the number of different SQL texts is
//! finite, and none contains a string from a client. Engines cache prepared statements by their SQL
//! text.
//!
//! **Invariant:** the SQL text consists of constants and of names from the registry; its numbered
//! parameters stand for the values in order.
//! **Not here:** executing the SQL (the engines), reads of many keys at once
//! (`postgres::key_reads`), statements that write.

use std::fmt::Write as _;

use model::keyspace::Slot;
use model::query::{Comparison, Condition, OrderBy, Pattern, Piece, ReadQuery, Test, ValueState};
use model::sabotage::{Mutation, is_due, is_on};
use model::table::Table;
use model::value::{ColumnType, Value};

use super::Scope;

/// Those parts of the SQL in which engines differ.
///
/// Unquoted names of tables and columns, `NULLS FIRST` and row comparisons are common to all
/// engines, and the tables declare the collation.
pub trait Dialect: Sized {
    /// A value to bind, which may borrow from the query.
    type Bind<'q>;

    /// Character in front of the number of a parameter.
    const PARAMETER: char;
    /// Condition that ends a statement after its deadline, for an engine without a statement
    /// timeout. It is the first condition of reads that may visit many rows.
    const DEADLINE_CHECK: Option<&'static str>;
    /// Equality operator that treats two nulls as equal.
    const IS_SAME: &'static str;
    /// SQL after the name of a boolean column that tests for true.
    const IS_TRUE: &'static str;
    /// SQL after the name of a boolean column that tests for false.
    const IS_FALSE: &'static str;
    /// SQL before and after the parameter of a list of values.
    const IN_LIST: [&'static str; 2];
    /// SQL before and after the pattern of a case-sensitive match.
    const LIKE: [&'static str; 2];
    /// SQL before and after the pattern of a match that ignores the case of ASCII letters.
    const ILIKE: [&'static str; 2];
    /// SQL after each parameter of `LIMIT` and `OFFSET`.
    const AFTER_LIMIT: &'static str;

    /// Converts the slot of a row to a value to bind.
    fn slot<'q>(slot: Slot) -> Self::Bind<'q>;
    /// Converts a shard key to a value to bind.
    fn key(key: &str) -> Self::Bind<'_>;
    /// Converts a number of rows to a value to bind.
    fn row_count<'q>(count: i64) -> Self::Bind<'q>;
    /// Converts a value of a column of this type to a value to bind.
    fn value(kind: ColumnType, value: &Value) -> Self::Bind<'_>;
    /// Converts a list of values of a column of this type to one parameter, so that the SQL does
    /// not depend on the length of the list.
    fn list(kind: ColumnType, values: &[Value]) -> Self::Bind<'_>;
    /// Converts a pattern for [`Dialect::LIKE`].
    fn like<'q>(pattern: &Pattern) -> Self::Bind<'q>;
    /// Converts a pattern for [`Dialect::ILIKE`].
    fn ilike<'q>(pattern: &Pattern) -> Self::Bind<'q>;
    /// Appends the condition that a row belongs to one of these shard keys.
    fn push_keys<'q>(select: &mut Select<'q, Self>, keys: &'q [(Slot, String)]);
}

/// Rows that a statement may select.
#[derive(Clone, Copy)]
pub struct CoveredRows<'q> {
    /// The rows of a read.
    pub scope: Scope<'q>,
    /// Constant condition that the rows must also meet.
    pub condition: Option<&'static str>,
}

impl<'q> From<Scope<'q>> for CoveredRows<'q> {
    fn from(scope: Scope<'q>) -> Self {
        Self { scope, condition: None }
    }
}

/// A statement and its values.
pub struct Select<'q, D: Dialect> {
    /// SQL text of the statement.
    pub sql: String,
    /// The values in the order of their numbers.
    pub binds: Vec<D::Bind<'q>>,
}

impl<'q, D: Dialect> Select<'q, D> {
    /// Selects the rows of a query's page and one more row, which shows whether more rows follow.
    /// The columns are the outputs, then those of [`keys`].
    pub fn page(query: &'q ReadQuery, covered: impl Into<CoveredRows<'q>>) -> Self {
        let covered @ CoveredRows { scope, .. } = covered.into();
        let keyed = scope.is_keyed();
        let (table, order) = (&query.table, query.sort_keys(keyed));
        let mut select = Self { sql: String::with_capacity(256), binds: Vec::with_capacity(4) };
        select.push("SELECT ");
        let outputs = query.outputs.iter().map(|output| output.column);
        select.push_list(outputs.chain(keys(&order, table, keyed)), |select, column| {
            select.push(&table.column(column).name);
        });
        let _ = write!(select.sql, " FROM {}", table.name());
        let after = query.after.as_deref().map(|after| (&*order, after));
        select.push_conditions(query, covered, after);
        select.push_order(table, &order);
        select.push(" LIMIT ");
        let (limit, offset) = (i64::from(query.limit) + 1, i64::from(query.offset));
        if keyed && offset > 0 {
            select.bind(D::row_count(limit));
            select.push(D::AFTER_LIMIT);
            select.push(" OFFSET ");
            select.bind(D::row_count(offset));
        } else {
            // Rows can be skipped only after the rows of all shards are merged, so they are read as
            // well.
            select.bind(D::row_count(limit + offset));
        }
        select.push(D::AFTER_LIMIT);
        select
    }

    /// Selects the number of all rows that meet the conditions, not only those of one page.
    pub fn count(query: &'q ReadQuery, covered: impl Into<CoveredRows<'q>>) -> Self {
        let mut select = Self { sql: String::new(), binds: Vec::new() };
        let _ = write!(select.sql, "SELECT count(*) FROM {}", query.table.name());
        select.push_conditions(query, covered.into(), None);
        select
    }

    /// Appends text, which must be a constant or a name from the registry.
    #[inline]
    pub fn push(&mut self, text: &str) {
        self.sql.push_str(text);
    }

    /// Appends a parameter.
    #[inline]
    pub fn bind(&mut self, bind: D::Bind<'q>) {
        self.binds.push(bind);
        let _ = write!(self.sql, "{}{}", D::PARAMETER, self.binds.len());
    }

    fn bind_value(&mut self, table: &Table, column: usize, value: &'q Value) {
        self.bind(D::value(table.column(column).kind, value));
    }

    fn push_list<T>(&mut self, items: impl IntoIterator<Item = T>, push: impl FnMut(&mut Self, T)) {
        self.push_joined(",", items, push);
    }

    fn push_joined<T>(
        &mut self,
        separator: &str,
        items: impl IntoIterator<Item = T>,
        mut push: impl FnMut(&mut Self, T),
    ) {
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.push(separator);
            }
            push(self, item);
        }
    }

    /// Appends all conditions. The condition on the key comes before the one on the row after which
    /// a page continues, because SQLite uses the first suitable bounds for its index range.
    fn push_conditions(
        &mut self,
        query: &'q ReadQuery,
        CoveredRows { scope, condition }: CoveredRows<'q>,
        after: Option<(&[OrderBy], &'q [Value])>,
    ) {
        let mut connective = Connective { first: true };
        if let Some(check) = D::DEADLINE_CHECK
            && !query.is_point_read()
        {
            self.push(connective.next());
            self.push(check);
        }
        if let Some(condition) = condition {
            self.push(connective.next());
            self.push(condition);
        }
        if let Scope::Key(slot, key) = scope {
            self.push(connective.next());
            let wrong = is_due(Mutation::WrongRow, 128);
            self.push(if wrong { "slot>=" } else { "slot=" });
            self.bind(D::slot(slot));
            self.push(if wrong { " AND shard_key<>" } else { " AND shard_key=" });
            self.bind(D::key(key));
        }
        if !query.keys.is_empty() {
            self.push(connective.next());
            D::push_keys(self, &query.keys);
        }
        if let Some((order, after)) = after {
            self.push(connective.next());
            self.push_after(&query.table, order, after);
        }
        for condition in &query.conditions {
            self.push(connective.next());
            self.push_condition(&query.table, condition);
        }
    }

    fn push_condition(&mut self, table: &Table, condition: &'q Condition) {
        match condition {
            Condition::Column(column, test) => self.push_test(table, *column, test),
            // An empty conjunction is true, and an empty disjunction is false.
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

    fn push_nested(&mut self, table: &Table, separator: &str, list: &'q [Condition]) {
        self.push("(");
        let push = |select: &mut Self, condition| select.push_condition(table, condition);
        self.push_joined(separator, list, push);
        self.push(")");
    }

    fn push_test(&mut self, table: &Table, column: usize, test: &'q Test) {
        self.push(&table.column(column).name);
        match test {
            Test::Compare(comparison, value) => {
                self.push(operator(*comparison));
                self.bind_value(table, column, value);
            }
            Test::In(values) => {
                self.push_around(D::IN_LIST, D::list(table.column(column).kind, values));
            }
            Test::Like(pattern) => self.push_around(D::LIKE, D::like(pattern)),
            Test::ILike(pattern) => self.push_around(D::ILIKE, D::ilike(pattern)),
            Test::Is(state) => self.push(match state {
                ValueState::Null => " IS NULL",
                ValueState::NotNull => " IS NOT NULL",
                ValueState::True => D::IS_TRUE,
                ValueState::False => D::IS_FALSE,
            }),
        }
    }

    fn push_around(&mut self, [before, after]: [&str; 2], bind: D::Bind<'q>) {
        self.push(before);
        self.bind(bind);
        self.push(after);
    }

    /// Appends the condition that a row comes after a row with these sort keys.
    fn push_after(&mut self, table: &Table, order: &[OrderBy], after: &'q [Value]) {
        let one_way = order.windows(2).all(|pair| pair[0].descending == pair[1].descending);
        if one_way && order.iter().all(|by| !table.column(by.column).nullable) {
            // A row comparison is a single index range if the order is that of the primary key.
            self.push("(");
            self.push_list(order, |select, by| select.push(&table.column(by.column).name));
            let again = is_on(Mutation::DuplicatePages);
            self.push(if order[0].descending { ")<" } else { ")>" });
            self.push(if again { "=(" } else { "(" });
            self.push_list(order.iter().zip(after), |select, (by, value)| {
                select.bind_value(table, by.column, value);
            });
            self.push(")");
            return;
        }
        // (a later) or (a equal and (b later or (b equal and …))): each key is compared once or
        // twice.
        let last = order.len() - 1;
        for (index, (by, value)) in order.iter().zip(after).enumerate() {
            self.push("(");
            self.push_later(table, by, value);
            if index < last {
                let _ = write!(self.sql, " OR ({}{}", table.column(by.column).name, D::IS_SAME);
                self.bind_value(table, by.column, value);
                self.push(" AND ");
            }
        }
        // Each key has opened one parenthesis, and each key except the last has opened a second
        // one.
        (0..order.len() + last).for_each(|_| self.push(")"));
    }

    /// Appends the condition that a column sorts after a value: null is last when ascending and
    /// first when descending.
    fn push_later(&mut self, table: &Table, by: &OrderBy, value: &'q Value) {
        let column = table.column(by.column);
        match (value, by.descending) {
            (Value::Null, false) => self.push("FALSE"),
            (Value::Null, true) => {
                let _ = write!(self.sql, "{} IS NOT NULL", column.name);
            }
            (Value::Bool(_) | Value::Int(_) | Value::Double(_) | Value::Text(_), descending) => {
                let _ = write!(self.sql, "{}{}", column.name, if descending { "<" } else { ">" });
                self.bind_value(table, by.column, value);
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

/// Returns the columns that a read selects in addition to its outputs: the version if it reads one
/// shard key, then the sort keys.
pub fn keys(order: &[OrderBy], table: &Table, keyed: bool) -> impl Iterator<Item = usize> {
    let version = keyed.then_some(table.version());
    version.into_iter().chain(order.iter().map(|by| by.column))
}

/// Formats a pattern for `LIKE … ESCAPE '\'`.
pub fn like_pattern(pattern: &Pattern) -> String {
    spell_pattern(pattern, ["_", "%"], |out, c| {
        if matches!(c, '%' | '_' | '\\') {
            out.push('\\');
        }
        out.push(c);
    })
}

/// Formats a pattern, with `one` as the wildcard for one character and `many` as the wildcard for
/// any number of characters. `push` appends a literal character.
pub fn spell_pattern(
    pattern: &Pattern,
    [one, many]: [&str; 2],
    push: impl Fn(&mut String, char),
) -> String {
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

/// Source of the keyword before each condition: `WHERE` for the first, then `AND`.
struct Connective {
    first: bool,
}

impl Connective {
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
