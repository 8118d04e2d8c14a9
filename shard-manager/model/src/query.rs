//! Query: a checked read, with its conditions, columns, order and page.
//!
//! **Invariant:** a [`ReadQuery`] names only columns of its table, its literals have the types of
//! their columns, and its order is total: rows that are equal in the requested sort columns are
//! ordered by columns in which no two rows are equal.
//! **Not here:** the syntax of a query string (the router), the encoding of a cursor (`cursor`),
//! SQL (`engine::select`).

use std::borrow::Cow;
use std::sync::Arc;

use crate::keyspace::Slot;
use crate::table::Table;
use crate::value::Value;

/// Checked read of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadQuery {
    /// The table.
    pub table: Arc<Table>,
    /// Columns of the response, in order. If the read is to return all columns that the client may
    /// read, this is empty until the rights of the client are applied.
    pub outputs: Vec<Output>,
    /// Conditions, all of which must hold.
    pub conditions: Vec<Condition>,
    /// True if the first condition is a test of the column `shard_key` that was added to restrict
    /// the read to shard keys that the client may read.
    pub is_bound: bool,
    /// Sort order that the client requested. [`ReadQuery::sort_keys`] adds columns that break ties.
    pub order: Vec<OrderBy>,
    /// Maximum number of rows in the response, 0..=[`ReadQuery::LIMIT_MAX`].
    pub limit: u32,
    /// Number of rows to skip, 0..=[`ReadQuery::OFFSET_MAX`].
    pub offset: u32,
    /// Row after which the page begins, given by its values of the columns of
    /// [`ReadQuery::sort_keys`].
    pub after: Option<Vec<Value>>,
    /// True to count the rows on all pages that meet the conditions.
    pub counts: bool,
    /// Shard keys that the conditions name and that belong to the queried shard, with their slots:
    /// every row of that shard that meets the conditions has one of these keys. Empty if the
    /// conditions name no key, or a single one, which is passed separately.
    pub keys: Vec<(Slot, String)>,
    /// True if the table is divided: rows with the same shard key may be in several slots, because
    /// the table is partitioned by a column other than its routing column.
    pub is_divided: bool,
}

impl ReadQuery {
    /// Default number of rows in a response.
    pub const LIMIT_DEFAULT: u32 = 100;
    /// Maximum number of rows in one response, which is a page and not an export.
    pub const LIMIT_MAX: u32 = 1_000;
    /// Maximum number of rows to skip. The database has to read skipped rows; a cursor avoids that
    /// cost.
    pub const OFFSET_MAX: u32 = 10_000;
    /// Maximum number of column tests in the conditions. Each test takes time for every row that is
    /// examined.
    pub const TESTS_MAX: usize = 50;
    /// Maximum total length of all patterns in bytes. Matching a row takes time in proportion to
    /// the length of its text times the length of the patterns, and a statement cannot be
    /// interrupted between two rows.
    pub const PATTERN_BYTES_MAX: usize = 200;
    /// Maximum nesting depth of conditions.
    pub const DEPTH_MAX: usize = 5;
    /// Maximum number of literals in one `in.(…)`.
    pub const IN_MAX: usize = 500;
    /// Maximum number of named shard keys for which a read queries only the shards of these keys
    /// and looks up their rows. If the conditions name more keys, the read queries all shards.
    pub const KEYS_MAX: usize = 100;
    /// Maximum number of columns in `order`.
    pub const ORDER_MAX: usize = 8;

    /// Returns a read without conditions, with the default order and limit, and with all visible
    /// columns that a response without `select` contains.
    pub fn all(table: &Arc<Table>) -> Self {
        let mut query = Self::unselected(table);
        query.select_if(|_| true);
        query
    }

    /// Returns a read without conditions, with the default order and limit, whose columns are
    /// chosen later by the rights of the client.
    pub fn unselected(table: &Arc<Table>) -> Self {
        Self {
            table: Arc::clone(table),
            outputs: Vec::new(),
            conditions: Vec::new(),
            is_bound: false,
            order: Vec::new(),
            limit: Self::LIMIT_DEFAULT,
            offset: 0,
            after: None,
            counts: false,
            keys: Vec::new(),
            is_divided: false,
        }
    }

    /// Selects those columns of a response without `select` for whose names `permits` returns true.
    pub fn select_if(&mut self, permits: impl Fn(&str) -> bool) {
        let shown = self
            .table
            .visible()
            .answered()
            .filter(|column| permits(&self.table.column(*column).name));
        self.outputs = shown.map(|column| Output { column, alias: None }).collect();
    }

    /// Restricts the read to the shard keys that the client may read: `test`, a condition on the
    /// column `shard_key`, must hold in addition to all others.
    pub fn bind(&mut self, test: Condition) {
        self.conditions.insert(0, test);
        self.is_bound = true;
    }

    /// Returns the indices of the columns that the client names in `select`, in conditions and in
    /// the order. The condition that [`ReadQuery::bind`] added does not count.
    pub fn columns_named(&self) -> Vec<usize> {
        fn add(conditions: &[Condition], columns: &mut Vec<usize>) {
            for condition in conditions {
                match condition {
                    Condition::Column(column, _) => columns.push(*column),
                    Condition::All(list) | Condition::Any(list) => add(list, columns),
                    Condition::Not(one) => add(std::slice::from_ref(one), columns),
                }
            }
        }
        let mut columns = self.outputs.iter().map(|output| output.column).collect();
        add(&self.conditions[usize::from(self.is_bound)..], &mut columns);
        columns.extend(self.order.iter().map(|by| by.column));
        columns
    }

    /// Returns, in ascending order, the shard keys to which the conditions restrict the read: a row
    /// must have one of them to meet the conditions. Returns `None` if the conditions do not
    /// restrict the keys, or name more than [`ReadQuery::KEYS_MAX`]. Only two kinds of conditions
    /// count: equality and `in` tests of the routing column that are joined by `and`, not inside an
    /// `or` or a `not`; and the condition that [`ReadQuery::bind`] added.
    pub fn keys_named(&self) -> Option<Vec<String>> {
        let mut named = None;
        if let Some(binding) = self.binding() {
            narrow(binding, Table::SHARD_KEY, &mut named);
        }
        if let Some(routing) = self.table.routing() {
            self.conditions.iter().for_each(|condition| narrow(condition, routing, &mut named));
        }
        let named = named.filter(|named: &Vec<Cow<'_, str>>| named.len() <= Self::KEYS_MAX)?;
        Some(named.into_iter().map(Cow::into_owned).collect())
    }

    /// Returns, as text in ascending order, the values to which the conditions restrict a column: a
    /// row must have one of them to meet the conditions. Returns `None` if the conditions do not
    /// restrict the column. Only equality and `in` tests joined by `and` count, as in
    /// [`ReadQuery::keys_named`].
    pub fn values_named(&self, column: usize) -> Option<Vec<Cow<'_, str>>> {
        let mut named = None;
        self.conditions.iter().for_each(|condition| narrow(condition, column, &mut named));
        named
    }

    /// Returns this read without its outermost equality tests of a column, for a read of slots
    /// whose rows all pass these tests.
    #[must_use]
    pub fn without_equality(&self, column: usize) -> Self {
        let is_implied = |condition: &&Condition| match condition {
            Condition::Column(tested, Test::Compare(Comparison::Equal, _)) => *tested == column,
            Condition::Column(..) | Condition::All(_) | Condition::Any(_) | Condition::Not(_) => {
                false
            }
        };
        let conditions = self.conditions.iter().filter(|condition| !is_implied(condition));
        Self { conditions: conditions.cloned().collect(), ..self.clone() }
    }

    fn binding(&self) -> Option<&Condition> {
        self.conditions.first().filter(|_| self.is_bound)
    }

    /// Returns this read as a read of the rows of one shard key, the only one that
    /// [`ReadQuery::keys_named`] returns. It has no equality tests of that key, and its position
    /// `after` has no values for slot and shard key.
    #[must_use]
    pub fn within_key(&self) -> Self {
        let equals = |condition: &Condition| match condition {
            Condition::Column(column, Test::Compare(Comparison::Equal, _)) => Some(*column),
            Condition::Column(..) | Condition::All(_) | Condition::Any(_) | Condition::Not(_) => {
                None
            }
        };
        let binds_one = self.binding().is_some_and(|binding| equals(binding).is_some());
        let says_key = |condition: &&Condition| {
            let column = equals(condition);
            column.is_some() && column == self.table.routing()
        };
        let conditions = self.conditions.iter().skip(usize::from(binds_one));
        let conditions = conditions.filter(|condition| !says_key(condition)).cloned();
        let after = self.after.as_ref().map(|after| {
            let keys = self.sort_keys(false).into_iter().zip(after);
            let kept = keys.filter(|(by, _)| !Table::PLACE.contains(&by.column));
            kept.map(|(_, value)| value.clone()).collect()
        });
        let is_bound = self.is_bound && !binds_one;
        Self { conditions: conditions.collect(), is_bound, after, ..self.clone() }
    }

    /// Adds slot and shard key to the sort keys of a row that was read within its shard key. The
    /// result is the row's position in a read of all keys.
    pub fn sort_values(&self, slot: Slot, key: &str, within_key: &[Value]) -> Vec<Value> {
        let mut rest = within_key.iter();
        let order = self.sort_keys(false);
        let values = order.iter().filter_map(|by| match by.column {
            Table::SLOT => Some(Value::Int(i64::from(slot.number()))),
            Table::SHARD_KEY => Some(Value::Text(key.to_owned())),
            _ => rest.next().cloned(),
        });
        values.collect()
    }

    /// Returns the full order: the requested columns, followed by columns that break ties. If no
    /// order is requested, rows come in the order in which they are stored (slot, shard key, id),
    /// which needs no sorting. Otherwise ties are broken by shard key and id, and then by slot if
    /// the table is divided, because two partitions may have rows with the same shard key and id.
    /// In a read of the rows of one key (`keyed`), slot and shard key are omitted, because all rows
    /// have the same.
    pub fn sort_keys(&self, keyed: bool) -> Vec<OrderBy> {
        let place = Table::PLACE;
        let mut keys: Vec<OrderBy> = Vec::with_capacity(self.order.len() + 3);
        keys.extend(self.order.iter().filter(|by| !(keyed && place.contains(&by.column))));
        let kept: &[usize] = match (keyed, self.order.is_empty()) {
            (true, _) => &[],
            (false, true) => &place,
            (false, false) => &place[1..],
        };
        let last = (self.is_divided && !keyed).then_some(Table::SLOT);
        for column in kept.iter().chain(self.table.id()).copied().chain(last) {
            if keys.iter().all(|key| key.column != column) {
                keys.push(OrderBy { column, descending: false });
            }
        }
        keys
    }

    /// Returns true if the conditions contain a pattern. The time to examine a row then depends on
    /// the length of its text, so that some rows may take much longer than others.
    pub fn has_patterns(&self) -> bool {
        fn any(conditions: &[Condition]) -> bool {
            conditions.iter().any(|condition| match condition {
                Condition::All(list) | Condition::Any(list) => any(list),
                Condition::Not(one) => any(std::slice::from_ref(one)),
                Condition::Column(_, Test::Like(_) | Test::ILike(_)) => true,
                Condition::Column(_, Test::Compare(..) | Test::In(_) | Test::Is(_)) => false,
            })
        }
        any(&self.conditions)
    }

    /// Returns true if the database can answer the read from one index range without examining
    /// other rows: the read has no conditions, no offset and no count, and its order is that in
    /// which rows are stored.
    pub fn is_point_read(&self) -> bool {
        self.conditions.is_empty() && self.order.is_empty() && self.offset == 0 && !self.counts
    }
}

/// Narrows `named`, the values that the column `routing` may have, to those that this condition
/// allows. `None` stands for any value. The values are in ascending order.
fn narrow<'q>(condition: &'q Condition, routing: usize, named: &mut Option<Vec<Cow<'q, str>>>) {
    let values = match condition {
        Condition::All(list) => {
            list.iter().for_each(|condition| narrow(condition, routing, named));
            return;
        }
        Condition::Column(column, Test::Compare(Comparison::Equal, value))
            if *column == routing =>
        {
            std::slice::from_ref(value)
        }
        Condition::Column(column, Test::In(values)) if *column == routing => values,
        Condition::Column(..) | Condition::Any(_) | Condition::Not(_) => return,
    };
    let mut keys: Vec<_> = values.iter().filter_map(Value::key_text).collect();
    keys.sort_unstable();
    keys.dedup();
    if let Some(known) = named {
        known.retain(|key| keys.binary_search(key).is_ok());
    } else {
        *named = Some(keys);
    }
}

/// Column of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Index of the column.
    pub column: usize,
    /// Name of the member in the response, if it differs from the name of the column.
    pub alias: Option<String>,
}

/// Condition on a row. As in SQL, a comparison with null is neither true nor false, and a row for
/// which the condition is not true is left out.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// A column must pass the test.
    Column(usize, Test),
    /// All conditions must hold.
    All(Vec<Self>),
    /// At least one condition must hold.
    Any(Vec<Self>),
    /// The condition must be false.
    Not(Box<Self>),
}

/// Test of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// The comparison with this value must hold.
    Compare(Comparison, Value),
    /// The value must equal one of these.
    In(Vec<Value>),
    /// The text must match this pattern.
    Like(Pattern),
    /// The text must match this pattern, ignoring the case of ASCII letters.
    ILike(Pattern),
    /// The value must have this state. This test is true or false even for null.
    Is(ValueState),
}

/// Comparison of two values. Text is compared byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<>`
    NotEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
}

/// State of a value that an `is` test requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueState {
    /// Null.
    Null,
    /// Any value that is not null.
    NotNull,
    /// True, in a boolean column.
    True,
    /// False, in a boolean column.
    False,
}

/// Pattern that must match the whole text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pattern(pub Vec<Piece>);

/// Part of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Exactly these characters.
    Text(String),
    /// Any one character.
    One,
    /// Any characters, including none.
    Many,
}

impl Pattern {
    /// Parses a pattern: `%` and `*` stand for any characters, including none, `_` for any one
    /// character, and `\` makes the next character literal. Returns `None` if the text ends with a
    /// `\` that escapes nothing.
    pub fn parse(text: &str) -> Option<Self> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let literal = match c {
                '%' | '*' => {
                    // Several wildcards in a row match the same texts as one, but take longer.
                    if pieces.last() != Some(&Piece::Many) {
                        pieces.push(Piece::Many);
                    }
                    continue;
                }
                '_' => {
                    pieces.push(Piece::One);
                    continue;
                }
                '\\' => chars.next()?,
                c => c,
            };
            match pieces.last_mut() {
                Some(Piece::Text(text)) => text.push(literal),
                Some(Piece::One | Piece::Many) | None => pieces.push(Piece::Text(literal.into())),
            }
        }
        Some(Self(pieces))
    }
}

/// One column of a sort order. Nulls come last in ascending order, and first in descending order,
/// as in PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderBy {
    /// Index of the column.
    pub column: usize,
    /// True to sort from high to low.
    pub descending: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Column;
    use crate::value::ColumnType;

    const NAME: usize = 3;

    fn by(column: usize) -> OrderBy {
        OrderBy { column, descending: false }
    }

    /// Returns a read of a divided table with this order.
    fn divided(order: Vec<OrderBy>) -> ReadQuery {
        let own = ["id", "name"].map(|name| Column::new(name, ColumnType::Text, false));
        let table = Table::new("users", own.into(), &["id".to_owned()], None);
        let table = Arc::new(table.expect("it is a table"));
        ReadQuery { order, is_divided: true, ..ReadQuery::all(&table) }
    }

    fn columns(query: &ReadQuery, keyed: bool) -> Vec<usize> {
        query.sort_keys(keyed).iter().map(|by| by.column).collect()
    }

    #[test]
    fn the_order_of_a_divided_table_distinguishes_rows_of_one_key_and_id_by_their_slots() {
        let (slot, key, id) = (Table::SLOT, Table::SHARD_KEY, 2);
        let named = divided(vec![by(NAME)]);
        assert_eq!(columns(&named, false), [NAME, key, id, slot]);
        assert_eq!(columns(&named, true), [NAME, id], "the rows of one slot");
        assert_eq!(columns(&divided(vec![]), false), [slot, key, id]);
        assert_eq!(columns(&divided(vec![by(slot)]), false), [slot, key, id]);
        let whole = ReadQuery { is_divided: false, ..named };
        assert_eq!(columns(&whole, false), [NAME, key, id], "a key has one slot");
    }

    #[test]
    fn a_position_in_a_divided_table_is_converted_within_a_key_and_back() {
        let text = |text: &str| Value::Text(text.to_owned());
        let all = vec![text("Ada"), text("key"), text("id"), Value::Int(7)];
        let within = [text("Ada"), text("id")];
        let query = ReadQuery { after: Some(all.clone()), ..divided(vec![by(NAME)]) };
        assert_eq!(query.within_key().after.as_deref(), Some(&within[..]));
        let slot = Slot::new(7).expect("there is such a slot");
        assert_eq!(query.sort_values(slot, "key", &within), all);
    }
}
