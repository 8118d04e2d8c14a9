//! Select: the SQL of a read in PostgreSQL's dialect, and the values that it binds.
//!
//! The text depends on the shape of a query alone: on its table, columns, operators and the nesting of its
//! conditions, all of which are limited, so there are finitely many texts, and none holds a client's words.
//!
//! **Invariant:** a text is made of constants and of names from the registry; its `$1`, `$2` … stand for the binds
//! in their order.
//! **Not here:** running it (`scan`), reads of many keys at once (`point`), statements that write (`sql`).

use std::fmt::Write as _;

use super::statement::Bind;
use crate::query::{Comparison, Condition, OrderBy, Pattern, Piece, ReadQuery, State, Test};
use crate::sabotage::{Mutation, is_due, is_on};
use crate::store::Scope;
use crate::table::Table;
use crate::value::Value;

/// A statement and its values.
#[derive(Debug, Default)]
pub(super) struct Select {
    pub(super) sql: String,
    pub(super) binds: Vec<Bind>,
}

impl Select {
    /// The page of a query and one row more, which tells whether more follow. Columns: the outputs, then
    /// [`keys`].
    pub(super) fn page(query: &ReadQuery, scope: Scope<'_>) -> Self {
        let keyed = scope.is_keyed();
        let (table, order) = (&query.table, query.sort_keys(keyed));
        let mut select = Self { sql: String::with_capacity(256), binds: Vec::with_capacity(4) };
        select.push("SELECT ");
        let outputs = query.outputs.iter().map(|output| output.column);
        select.push_list(outputs.chain(keys(&order, table, keyed)), |select, column| {
            select.push(&table.column(column).name);
        });
        let _ = write!(select.sql, " FROM {}", table.name());
        select.push_conditions(query, scope, query.after.as_deref().map(|after| (&*order, after)));
        select.push_order(table, &order);
        select.push(" LIMIT ");
        let (limit, offset) = (i64::from(query.limit) + 1, i64::from(query.offset));
        if keyed && offset > 0 {
            select.bind(Bind::bigint(limit));
            select.push(" OFFSET ");
            select.bind(Bind::bigint(offset));
        } else {
            // Over several shards nobody knows which rows of which shard are to be passed over.
            select.bind(Bind::bigint(limit + offset));
        }
        select
    }

    /// The number of rows that meet the conditions, whatever the page.
    pub(super) fn count(query: &ReadQuery, scope: Scope<'_>) -> Self {
        let mut select = Self::default();
        let _ = write!(select.sql, "SELECT count(*) FROM {}", query.table.name());
        select.push_conditions(query, scope, None);
        select
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

    fn bind(&mut self, bind: Bind) {
        self.binds.push(bind);
        let _ = write!(self.sql, "${}", self.binds.len());
    }

    fn bind_value(&mut self, table: &Table, column: usize, value: &Value) {
        self.bind(Bind::value(table.column(column).kind, value));
    }

    fn push_conditions(
        &mut self,
        query: &ReadQuery,
        scope: Scope<'_>,
        after: Option<(&[OrderBy], &[Value])>,
    ) {
        let mut joint = Joint { first: true };
        if let Scope::Key(slot, key) = scope {
            self.push(joint.next());
            let wrong = is_due(Mutation::WrongRow, 128);
            self.push(if wrong { "slot>=" } else { "slot=" });
            self.bind(Bind::integer(i32::from(slot.number())));
            self.push(if wrong { " AND shard_key<>" } else { " AND shard_key=" });
            self.bind(Bind::text(key));
        }
        if !query.keys.is_empty() {
            self.push_keys(joint.next(), query);
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

    /// Two arrays instead of one of pairs: Citus finds the workers by the second, and would join
    /// pairs on its coordinator. The first only limits the range of the index, which begins with
    /// the slot.
    fn push_keys(&mut self, joint: &str, query: &ReadQuery) {
        let mut slots: Vec<i32> = query.keys.iter().map(|(slot, _)| slot.number().into()).collect();
        slots.sort_unstable();
        slots.dedup();
        self.push(joint);
        self.push("slot=ANY(");
        self.bind(Bind::integers(slots.into_iter()));
        self.push(") AND shard_key=ANY(");
        self.bind(Bind::texts(query.keys.iter().map(|(_, key)| &**key)));
        self.push(")");
    }

    fn push_condition(&mut self, table: &Table, condition: &Condition) {
        match condition {
            Condition::Column(column, test) => self.push_test(table, *column, test),
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

    fn push_nested(&mut self, table: &Table, joint: &str, list: &[Condition]) {
        self.push("(");
        self.push_joined(joint, list, |select, condition| select.push_condition(table, condition));
        self.push(")");
    }

    fn push_test(&mut self, table: &Table, column: usize, test: &Test) {
        self.push(&table.column(column).name);
        match test {
            Test::Compare(comparison, value) => {
                self.push(operator(*comparison));
                self.bind_value(table, column, value);
            }
            // One parameter, an array, however many values: shapes stay few.
            Test::In(values) => {
                self.push("=ANY(");
                self.bind(Bind::values(table.column(column).kind, values.iter()));
                self.push(")");
            }
            Test::Like(pattern) => {
                self.push(" LIKE ");
                self.bind(Bind::text(&like(pattern)));
                self.push(" ESCAPE '\\'");
            }
            Test::ILike(pattern) => {
                self.push(" ILIKE ");
                self.bind(Bind::text(&like(pattern)));
                self.push(" ESCAPE '\\'");
            }
            Test::Is(state) => self.push(match state {
                State::Null => " IS NULL",
                State::NotNull => " IS NOT NULL",
                State::True => " IS TRUE",
                State::False => " IS FALSE",
            }),
        }
    }

    /// Rows that come after one with these sort keys.
    fn push_after(&mut self, table: &Table, order: &[OrderBy], after: &[Value]) {
        let one_way = order.windows(2).all(|pair| pair[0].descending == pair[1].descending);
        if one_way && order.iter().all(|by| !table.column(by.column).nullable) {
            // One range of the index, if it is that of the primary key.
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
        // (a later) or (a the same and (b later or (b the same and …))): each key is compared once or twice.
        let last = order.len() - 1;
        for (index, (by, value)) in order.iter().zip(after).enumerate() {
            self.push("(");
            self.push_later(table, by, value);
            if index < last {
                let _ =
                    write!(self.sql, " OR ({} IS NOT DISTINCT FROM ", table.column(by.column).name);
                self.bind_value(table, by.column, value);
                self.push(" AND ");
            }
        }
        // Each key opened one, and each but the last another.
        (0..order.len() + last).for_each(|_| self.push(")"));
    }

    /// Null is last when ascending and first when descending.
    fn push_later(&mut self, table: &Table, by: &OrderBy, value: &Value) {
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

fn like(pattern: &Pattern) -> String {
    let mut out = String::new();
    for piece in &pattern.0 {
        match piece {
            Piece::Text(text) => {
                for c in text.chars() {
                    if matches!(c, '%' | '_' | '\\') {
                        out.push('\\');
                    }
                    out.push(c);
                }
            }
            Piece::One => out.push('_'),
            Piece::Many => out.push('%'),
        }
    }
    out
}
