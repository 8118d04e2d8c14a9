//! Query: a checked read, with the rows, columns, order and page that it requests.
//!
//! **Invariant:** a [`ReadQuery`] names only columns of its table, its literals fit their columns,
//! and its order is total: after the requested columns, rows are ordered by columns that
//! distinguish any two rows.
//! **Not here:** the syntax of a query string (the router), the text of a cursor (`cursor`), SQL
//! (`engine::select`).

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
    /// Columns of the response, in order. Empty until the read is bound to the rights of its
    /// caller, if it returns all columns that they permit.
    pub outputs: Vec<Output>,
    /// Conditions, all of which must hold.
    pub conditions: Vec<Condition>,
    /// True if the first condition binds the read to shard keys that its caller may read, by a test
    /// of the column `shard_key`.
    pub is_bound: bool,
    /// Sort order of the client; ties are broken by [`ReadQuery::sort_keys`].
    pub order: Vec<OrderBy>,
    /// Highest number of rows in the response, 0..=[`ReadQuery::LIMIT_MAX`].
    pub limit: u32,
    /// Number of rows to skip, 0..=[`ReadQuery::OFFSET_MAX`].
    pub offset: u32,
    /// Row after which the page begins, by its values of [`ReadQuery::sort_keys`].
    pub after: Option<Vec<Value>>,
    /// True to count the rows on all pages that meet the conditions.
    pub counts: bool,
    /// Shard keys of one shard that the conditions name, with their slots: every row that meets the
    /// conditions has one of these keys. Empty if the conditions name no key, or a single one,
    /// which a read passes separately.
    pub keys: Vec<(Slot, String)>,
    /// True if the rows of one shard key may be in several slots, because the table is partitioned
    /// by another column than its routing column.
    pub is_divided: bool,
}

impl ReadQuery {
    /// Default number of rows in a response.
    pub const LIMIT_DEFAULT: u32 = 100;
    /// Highest number of rows in one response: a page, not an export.
    pub const LIMIT_MAX: u32 = 1_000;
    /// Highest number of skipped rows: the database reads them anyway. A cursor avoids that cost.
    pub const OFFSET_MAX: u32 = 10_000;
    /// Highest number of tests: each costs time for every visited row.
    pub const TESTS_MAX: usize = 50;
    /// Highest size of all patterns together in bytes: a row costs the length of its text times
    /// that of the patterns, and a statement cannot be interrupted between two rows.
    pub const PATTERN_BYTES_MAX: usize = 200;
    /// Deepest nesting of conditions.
    pub const DEPTH_MAX: usize = 5;
    /// Highest number of literals in one `in.(…)`.
    pub const IN_MAX: usize = 500;
    /// Highest number of shard keys for which a read goes to the shards of these keys only and
    /// looks up their rows; with more it reads all shards.
    pub const KEYS_MAX: usize = 100;
    /// Highest number of columns in `order`.
    pub const ORDER_MAX: usize = 8;

    /// Returns a read of all returned columns of a table, with no conditions and the default order
    /// and limit.
    pub fn all(table: &Arc<Table>) -> Self {
        let mut query = Self::unselected(table);
        query.select_if(|_| true);
        query
    }

    /// Returns a read of all columns that the rights of its caller permit, with no conditions and
    /// the default order and limit.
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

    /// Selects the returned columns of the table for whose names `permits` returns true.
    pub fn select_if(&mut self, permits: impl Fn(&str) -> bool) {
        let shown = self
            .table
            .visible()
            .answered()
            .filter(|column| permits(&self.table.column(*column).name));
        self.outputs = shown.map(|column| Output { column, alias: None }).collect();
    }

    /// Adds, as the outermost conjunction, a condition on the column `shard_key` that binds the
    /// read to the keys that its caller may read.
    pub fn bind(&mut self, test: Condition) {
        self.conditions.insert(0, test);
        self.is_bound = true;
    }

    /// Returns the indices of the columns that the client names: in `select`, in conditions, and in
    /// the order.
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

    /// Returns, in ascending order, shard keys of which a row must have one to meet the conditions;
    /// `None` if the conditions name none, or more than [`ReadQuery::KEYS_MAX`]. Keys are named
    /// only by equality tests of the routing column that are joined by `and`, and not inside an
    /// `or` or a `not`, and by the condition that binds the read.
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

    /// Returns the values of a column, one of which a row must have to meet the conditions, as text
    /// in ascending order; `None` if the conditions name none. Values are named as in
    /// [`ReadQuery::keys_named`].
    pub fn values_named(&self, column: usize) -> Option<Vec<Cow<'_, str>>> {
        let mut named = None;
        self.conditions.iter().for_each(|condition| narrow(condition, column, &mut named));
        named
    }

    /// Returns this read without equality tests of a column, for slots whose rows all pass them.
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

    /// Returns this read as a read within the one key that [`ReadQuery::keys_named`] returns: it
    /// has no tests of the key, and its position no slot and shard key.
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

    /// Converts the sort keys of a row among the rows of its shard key into those among the rows of
    /// all keys.
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

    /// Returns the full order: the requested columns, then the tie breakers. Without requested
    /// columns rows come in the order in which they are stored (slot, shard key, id), which needs
    /// no sorting; with some, ties are broken by shard key and id, and then by slot if the table is
    /// divided: two partitions may have rows of one shard key and id. Among the rows of one key
    /// (`keyed`) slot and shard key are the same, and omitted.
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

    /// Returns true if a row may cost much more than another, because patterns are matched with its
    /// texts.
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

    /// Returns true if one index range answers the read without visiting other rows: it has no
    /// conditions, and the order in which rows are stored.
    pub fn is_point_read(&self) -> bool {
        self.conditions.is_empty() && self.order.is_empty() && self.offset == 0 && !self.counts
    }
}

/// Narrows the candidate values of a column, in ascending order, to those that this condition
/// allows.
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
    /// Name of the member, if it is not the column's.
    pub alias: Option<String>,
}

/// Condition on a row. As in SQL a test of null is neither true nor false, and such a row does not
/// pass.
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
    /// The value must have this state. For null, too, the test is true or false.
    Is(ValueState),
}

/// Comparison of two values; text is compared by bytes.
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

/// State of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueState {
    /// Null.
    Null,
    /// Any value that is not null.
    NotNull,
    /// True, of a boolean column.
    True,
    /// False, of a boolean column.
    False,
}

/// Pattern that a text must match as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pattern(pub Vec<Piece>);

/// Part of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Exactly these characters.
    Text(String),
    /// Any one character.
    One,
    /// Any number of characters, or none.
    Many,
}

impl Pattern {
    /// Parses a pattern: `%` and `*` stand for any characters, `_` for one, and `\` escapes the
    /// next character. Returns `None` if the text ends with such a `\`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let literal = match c {
                '%' | '*' => {
                    // Several in a row mean the same as one, and take several times as long.
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

/// One column of an order. Null is last when ascending and first when descending.
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
