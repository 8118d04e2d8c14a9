//! Atomic group: the errors of changes that take effect together or not at all.
//!
//! **Not here:** applying and undoing the changes (`batch` of the engines).

use model::error::Error;
use model::row_change::{IMAGES_BYTES_MAX, RowDone};

/// Returns the reason to undo a whole group after one of its changes was applied: the change was
/// refused, or the rows of the group, including this one, exceed [`IMAGES_BYTES_MAX`].
pub fn reason_to_undo(outcome: &Result<RowDone, Error>, group_bytes: usize) -> Option<Error> {
    match outcome {
        Err(error) => Some(error.clone()),
        Ok(_) if group_bytes > IMAGES_BYTES_MAX => Some(Error::TransactionTooLarge),
        Ok(_) => None,
    }
}

/// Returns the error to report for one change of a group that was undone for this reason. `culprit`
/// is the index, within the request, of the change that caused the failure.
pub fn undone_error(reason: &Error, is_culprit: bool, culprit: usize) -> Error {
    match (reason, is_culprit) {
        (reason, true) | (reason @ Error::TransactionTooLarge, false) => reason.clone(),
        (reason, false) => Error::Undone { row: culprit, cause: Box::new(reason.clone()) },
    }
}

#[cfg(test)]
mod tests {
    use model::row_change::Change;

    use super::*;

    fn done() -> Result<RowDone, Error> {
        Ok(RowDone { change: Change::Created, version: 1, json: Vec::new(), replayed: false })
    }

    #[test]
    fn a_group_is_undone_if_a_change_is_refused_or_if_it_becomes_too_large() {
        assert_eq!(reason_to_undo(&done(), IMAGES_BYTES_MAX), None);
        let large = reason_to_undo(&done(), IMAGES_BYTES_MAX + 1);
        assert_eq!(large, Some(Error::TransactionTooLarge));
        let refused = reason_to_undo(&Err(Error::NoSuchRow), IMAGES_BYTES_MAX + 1);
        assert_eq!(refused, Some(Error::NoSuchRow));
    }

    #[test]
    fn only_the_refused_change_has_its_own_error_unless_the_whole_group_is_too_large() {
        let undone = Error::Undone { row: 7, cause: Box::new(Error::NoSuchRow) };
        assert_eq!(undone_error(&Error::NoSuchRow, true, 7), Error::NoSuchRow);
        assert_eq!(undone_error(&Error::NoSuchRow, false, 7), undone);
        let large = undone_error(&Error::TransactionTooLarge, false, 7);
        assert_eq!(large, Error::TransactionTooLarge);
    }
}
