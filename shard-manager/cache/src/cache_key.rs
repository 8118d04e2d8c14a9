//! Cache key: the name under which a query's result is stored.
//!
//! All results about one shard key of one table are fields of one Redis hash, whose key is
//! `tessera:1:{cluster}:{since}:{slot}:{table}:{key}`. A write to a row of that shard key therefore
//! removes all of them without knowing which queries were cached. `1` is the version of the storage
//! format, and `{cluster}` is derived from the cluster's secret. `{since}` is the epoch of the
//! shard map in which the slot got its present owner. When a slot moves, its old entries are
//! therefore no longer found, even if it returns to an earlier owner, while the entries of all
//! other slots stay in use. The field name is a keyed 128-bit hash of the query's canonical
//! encoding.
//!
//! **Invariant:** two queries that may have different results have different names.
//! **Not here:** the encoding of a result (`entry`).

use std::fmt::Write as _;
use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

use super::entry::{EntryKey, FORMAT};
use model::keyspace::Slot;
use model::query::{Comparison, Condition, Output, Pattern, Piece, ReadQuery, Test, ValueState};
use model::sabotage::{Mutation, is_on};
use model::token::TokenKey;
use model::value::Value;

/// Secrets of a cluster for the names and the tags of its entries.
#[derive(Clone)]
pub(super) struct Secrets {
    /// Beginning of every Redis key of the cluster.
    pub(super) prefix: String,
    names: [u8; 16],
    pub(super) entries: [u8; 16],
}

/// Table, shard key and slot of the rows that a result contains.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Epoch of the shard map in which the slot got its present owner.
    pub since: u64,
    /// The slot of the key.
    pub slot: Slot,
    /// The name of the table.
    pub table: &'a str,
    /// The shard key.
    pub key: &'a str,
}

/// Name under which a result is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// The Redis key.
    pub(super) key: String,
    /// Keyed hash of the Redis key.
    pub(super) key_hash: u128,
    /// Name of the field in the Redis hash.
    pub(super) field: [u8; 16],
}

impl Name {
    pub(super) fn entry_key(&self) -> EntryKey<'_> {
        EntryKey { key: self.key.as_bytes(), field: &self.field }
    }
}

impl Secrets {
    /// Derives the secrets of the cluster that signs its tokens with this key.
    pub(super) fn of(key: &TokenKey) -> Self {
        let cluster = key.derive(b"cache: cluster");
        let cluster = u64::from_le_bytes(std::array::from_fn(|index| cluster[index]));
        Self {
            prefix: format!("tessera:{FORMAT}:{cluster:016x}:"),
            names: key.derive(b"cache: names"),
            entries: key.derive(b"cache: entries"),
        }
    }

    /// Returns the Redis key that holds all results about this shard key, and the keyed hash of
    /// that Redis key.
    pub(super) fn key(&self, about: &About<'_>) -> (String, u128) {
        let About { since, slot, table, key: shard_key } = about;
        let since = if is_on(Mutation::CacheKeepsSlot) { &1 } else { since };
        let mut key = String::with_capacity(56 + table.len() + shard_key.len());
        // Writing to a string never fails.
        let _ = write!(key, "{}{since}:{slot}:{table}:{shard_key}", self.prefix);
        let hash = self.hash(key.as_bytes());
        (key, hash)
    }

    /// Returns the name under which the result of this query is stored.
    pub(super) fn name(&self, about: &About<'_>, query: &ReadQuery) -> Name {
        let (key, key_hash) = self.key(about);
        let mut spelled = Vec::with_capacity(128);
        spell(query, &mut spelled);
        Name { key, key_hash, field: self.hash(&spelled).to_le_bytes() }
    }

    fn hash(&self, bytes: &[u8]) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.names);
        hasher.write(bytes);
        hasher.finish128().as_u128()
    }
}

/// Returns true if the result of this query can be cached at all: the query is about one key,
/// returns the first page, and does not count all rows.
pub(super) fn is_kept(query: &ReadQuery) -> bool {
    query.after.is_none() && query.offset == 0 && !query.counts && query.keys.is_empty()
}

/// Encodes the whole query, so that no two queries have the same encoding.
fn spell(query: &ReadQuery, to: &mut Vec<u8>) {
    let ReadQuery {
        table,
        outputs,
        conditions,
        // The condition on the shard key is one of the conditions.
        is_bound: _,
        order,
        limit,
        offset,
        after: _,
        counts: _,
        keys: _,
        // All rows of one key are in the same slot, so an order by slot changes nothing.
        is_divided: _,
    } = query;
    // A table that was dropped and created again under the same name may have other columns.
    to.extend_from_slice(&table.digest().to_le_bytes());
    to.extend_from_slice(&limit.to_le_bytes());
    to.extend_from_slice(&offset.to_le_bytes());
    number(outputs.len(), to);
    for Output { column, alias } in outputs {
        number(*column, to);
        match alias {
            None => to.push(0),
            Some(alias) => {
                to.push(1);
                text(alias, to);
            }
        }
    }
    number(order.len(), to);
    for by in order {
        number(by.column, to);
        to.push(u8::from(by.descending));
    }
    list(conditions, to);
}

fn list(conditions: &[Condition], to: &mut Vec<u8>) {
    number(conditions.len(), to);
    conditions.iter().for_each(|one| condition(one, to));
}

fn condition(one: &Condition, to: &mut Vec<u8>) {
    match one {
        Condition::Column(column, tested) => {
            to.push(0);
            number(*column, to);
            test(tested, to);
        }
        Condition::All(all) => {
            to.push(1);
            list(all, to);
        }
        Condition::Any(any) => {
            to.push(2);
            list(any, to);
        }
        Condition::Not(not) => {
            to.push(3);
            condition(not, to);
        }
    }
}

fn test(tested: &Test, to: &mut Vec<u8>) {
    match tested {
        Test::Compare(comparison, with) => {
            to.push(0);
            to.push(match comparison {
                Comparison::Equal => 0,
                Comparison::NotEqual => 1,
                Comparison::Greater => 2,
                Comparison::GreaterOrEqual => 3,
                Comparison::Less => 4,
                Comparison::LessOrEqual => 5,
            });
            value(with, to);
        }
        Test::In(values) => {
            to.push(1);
            number(values.len(), to);
            values.iter().for_each(|one| value(one, to));
        }
        Test::Like(like) => {
            to.push(2);
            pattern(like, to);
        }
        Test::ILike(like) => {
            to.push(3);
            pattern(like, to);
        }
        Test::Is(state) => {
            to.push(4);
            to.push(match state {
                ValueState::Null => 0,
                ValueState::NotNull => 1,
                ValueState::True => 2,
                ValueState::False => 3,
            });
        }
    }
}

fn pattern(Pattern(pieces): &Pattern, to: &mut Vec<u8>) {
    number(pieces.len(), to);
    for piece in pieces {
        match piece {
            Piece::One => to.push(0),
            Piece::Many => to.push(1),
            Piece::Text(piece) => {
                to.push(2);
                text(piece, to);
            }
        }
    }
}

fn value(one: &Value, to: &mut Vec<u8>) {
    match one {
        Value::Null => to.push(0),
        Value::Bool(one) => to.extend_from_slice(&[1, u8::from(*one)]),
        Value::Int(one) => {
            to.push(2);
            to.extend_from_slice(&one.to_le_bytes());
        }
        Value::Double(one) => {
            to.push(3);
            to.extend_from_slice(&one.to_bits().to_le_bytes());
        }
        Value::Text(one) => {
            to.push(4);
            text(one, to);
        }
    }
}

fn text(one: &str, to: &mut Vec<u8>) {
    number(one.len(), to);
    to.extend_from_slice(one.as_bytes());
}

fn number(one: usize, to: &mut Vec<u8>) {
    to.extend_from_slice(&(one as u32).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use model::query::OrderBy;
    use model::table::{Column, Table};
    use model::value::ColumnType;

    /// Returns few different strings. Like the strategies below, it has few values, so that two
    /// generated queries often differ in one part only, or are equal.
    fn texts() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["", "a", "b", "ab", "\u{0}", "a\u{0}"]).prop_map(str::to_owned)
    }

    fn values() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (0_i64..3).prop_map(Value::Int),
            (1_u8..3).prop_map(|number| Value::Double(number.into())),
            texts().prop_map(Value::Text),
        ]
    }

    fn patterns() -> impl Strategy<Value = Pattern> {
        let piece = prop_oneof![Just(Piece::One), Just(Piece::Many), texts().prop_map(Piece::Text)];
        vec(piece, 0..3).prop_map(Pattern)
    }

    fn tests() -> impl Strategy<Value = Test> {
        let comparisons = [
            Comparison::Equal,
            Comparison::NotEqual,
            Comparison::Greater,
            Comparison::GreaterOrEqual,
            Comparison::Less,
            Comparison::LessOrEqual,
        ];
        let states = [ValueState::Null, ValueState::NotNull, ValueState::True, ValueState::False];
        prop_oneof![
            (prop::sample::select(comparisons.to_vec()), values())
                .prop_map(|(comparison, with)| Test::Compare(comparison, with)),
            vec(values(), 0..3).prop_map(Test::In),
            patterns().prop_map(Test::Like),
            patterns().prop_map(Test::ILike),
            prop::sample::select(states.to_vec()).prop_map(Test::Is),
        ]
    }

    fn conditions() -> impl Strategy<Value = Condition> {
        let one = (0_usize..3, tests()).prop_map(|(column, test)| Condition::Column(column, test));
        one.prop_recursive(3, 8, 3, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..3).prop_map(Condition::All),
                vec(inner.clone(), 0..3).prop_map(Condition::Any),
                inner.prop_map(|one| Condition::Not(Box::new(one))),
            ]
        })
    }

    fn declared(name: &str) -> Arc<Table> {
        let kind = ColumnType::Text;
        let columns = ["id", "n"].map(|name| Column {
            name: name.into(),
            kind,
            nullable: false,
            default: None,
        });
        let table = Table::new(name, columns.to_vec(), &["id".to_owned()], None);
        Arc::new(table.expect("it is a table"))
    }

    prop_compose! {
        fn queries()(
            table in prop::sample::select(vec!["users", "orders"]),
            outputs in vec((0_usize..3, prop::option::of(texts())), 0..3),
            conditions in vec(conditions(), 0..3),
            order in vec((0_usize..3, any::<bool>()), 0..3),
            limit in 1_u32..4,
            offset in 0_u32..2,
        ) -> ReadQuery {
            let output = |(column, alias)| Output { column, alias };
            let by = |(column, descending)| OrderBy { column, descending };
            ReadQuery {
                table: declared(table),
                outputs: outputs.into_iter().map(output).collect(),
                conditions,
                is_bound: false,
                order: order.into_iter().map(by).collect(),
                limit,
                offset,
                after: None,
                counts: false,
                keys: Vec::new(),
                is_divided: false,
            }
        }
    }

    fn name(key: &str, query: &ReadQuery) -> Name {
        let secrets = Secrets::of(&TokenKey::new([3; 16]));
        let slot = Slot::new(7).expect("there is such a slot");
        secrets.name(&About { since: 1, slot, table: query.table.name(), key }, query)
    }

    /// Returns the query with one thing changed.
    fn changed(query: &ReadQuery, what: u8, condition: Condition) -> ReadQuery {
        let mut other = query.clone();
        match what % 6 {
            0 => other.limit += 1,
            1 => other.offset += 1,
            2 => other.conditions.push(condition),
            3 => other.conditions = vec![Condition::All(std::mem::take(&mut other.conditions))],
            4 => other.outputs.push(Output { column: 0, alias: None }),
            _ => other.order.push(OrderBy { column: 0, descending: false }),
        }
        other
    }

    proptest! {
        #[test]
        fn two_queries_share_a_name_only_if_they_are_equal(
            one in queries(), other in queries(), what in any::<u8>(), condition in conditions(),
        ) {
            prop_assert_eq!(one == other, name("k", &one) == name("k", &other));
            let changed = changed(&one, what, condition);
            prop_assert!(name("k", &one) != name("k", &changed), "{one:?} {changed:?}");
            prop_assert_eq!(name("k", &one), name("k", &one.clone()));
            prop_assert_ne!(name("k", &one).key, name("l", &one).key);
        }

        /// Varies the lengths of the parts, to find encodings in which the end of one part could
        /// also be the beginning of the next.
        #[test]
        fn equal_encodings_mean_equal_conditions(one in vec(conditions(), 0..3), other in vec(conditions(), 0..3)) {
            let spelled = |conditions: &[Condition]| {
                let mut spelled = Vec::new();
                list(conditions, &mut spelled);
                spelled
            };
            let (short, long) = (spelled(&one), spelled(&other));
            prop_assert_eq!(one == other, short == long);
            prop_assert!(short == long || !long.starts_with(&short), "{one:?} {other:?}");
        }
    }

    #[test]
    fn explicit_and_implicit_defaults_are_one_query() {
        let table = declared("users");
        let short = ReadQuery::all(&table);
        let output = |column| Output { column, alias: None };
        let outputs = short.outputs.iter().map(|it| output(it.column)).collect();
        // A second, equal declaration, as another router would have it.
        let table = declared("users");
        let limit = ReadQuery::LIMIT_DEFAULT;
        let long = ReadQuery { outputs, limit, ..ReadQuery::all(&table) };
        assert_eq!(name("k", &short), name("k", &long));
    }
}
