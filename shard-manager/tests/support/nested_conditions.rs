//! Nested conditions: random conditions on several columns, for the properties of all engines.
//!
//! **Not here:** the conditions on single columns, which differ between the properties.

use proptest::prelude::*;
use shard_manager::query::Condition;

/// Returns conditions that combine these on single columns with `and`, `or` and `not`.
pub(crate) fn nested(leaf: impl Strategy<Value = Condition> + 'static) -> BoxedStrategy<Condition> {
    let nested = leaf.prop_recursive(3, 8, 3, |inner| {
        let list = proptest::collection::vec(inner.clone(), 0..4);
        prop_oneof![
            list.clone().prop_map(Condition::All),
            list.prop_map(Condition::Any),
            inner.prop_map(|one| Condition::Not(Box::new(one))),
        ]
    });
    nested.boxed()
}
