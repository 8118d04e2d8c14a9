//! Test of the cost of rights without bounds.

use shard_manager::access::operation::RowOperations;
use shard_manager::access::rights::Rights;
use shard_manager::query::ReadQuery;

use crate::counted_heap::allocations_of;
use crate::shop::Shop;

#[test]
fn rights_without_bounds_allocate_nothing() {
    let shop = Shop::open();
    let schema = shop.manager.schema(Rights::ALL);
    let table = schema.table("users").expect("a table");
    let query = ReadQuery::unselected(&table);
    let allocated = allocations_of(|| {
        let found = schema.table("users").expect("a table");
        let usable = schema.usable_for(found, RowOperations::UPSERT).expect("all rights");
        assert!(usable.visible().has(0));
        // The read is bound before it is routed.
        assert!(shop.manager.data(Rights::ALL).is_scatter_read(&query, None));
    });
    assert_eq!(allocated, 0);
}
