//! Tests of the SQL of reads for PostgreSQL: the text of each sample query is pinned.

use std::fmt::Write as _;

use engine::sample_queries;

use super::*;

#[test]
fn the_sql_of_the_sample_queries_is_pinned() {
    let written = sample_queries::written(|out, query, scope| {
        let page = Select::page(query, scope);
        let _ = writeln!(out, "{}\n{:?}", page.sql, page.binds);
        if query.counts {
            let count = Select::count(query, scope);
            let _ = writeln!(out, "{}\n{:?}", count.sql, count.binds);
        }
    });
    assert!(written == include_str!("texts.txt"), "{written}");
}
