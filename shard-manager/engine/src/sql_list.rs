//! SQL list: a comma-separated list in the SQL of a statement, written in the same way for all
//! engines.
//!
//! **Not here:** the SQL of reads (`select`), the SQL of other statements (`sql` of the engines).

/// Appends items to the SQL of a statement, separated by commas.
pub fn push_list<T>(
    sql: &mut String,
    items: impl IntoIterator<Item = T>,
    mut push: impl FnMut(&mut String, T),
) {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            sql.push(',');
        }
        push(sql, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_separate_the_items_of_a_list() {
        let list = |items: &[&str]| {
            let mut sql = String::from("(");
            push_list(&mut sql, items, |sql, item| sql.push_str(item));
            sql
        };
        assert_eq!(list(&[]), "(");
        assert_eq!(list(&["a"]), "(a");
        assert_eq!(list(&["a", "b", "c"]), "(a,b,c");
    }
}
