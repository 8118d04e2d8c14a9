//! Compared callers: what the callers of two clusters have learnt, which must be the same.
//!
//! **Not here:** the requests of the callers (`bound_steps`).

use proptest::test_runner::TestCaseError;

use crate::bound_specs::Script;

/// Returns the number of pages that had rows.
///
/// # Errors
/// The callers have learnt different things at a step.
pub(crate) fn equal_pages(
    script: &Script,
    learnt: Vec<[Vec<String>; 2]>,
) -> Result<usize, TestCaseError> {
    let mut pages = 0;
    for (step, [one, other]) in script.steps.iter().zip(learnt) {
        pages += one.iter().filter(|line| line.starts_with("[\"")).count();
        if one != other {
            let shown = format!("{step:#?}\n one   {one:#?}\n other {other:#?}");
            return Err(TestCaseError::fail(shown));
        }
    }
    Ok(pages)
}
