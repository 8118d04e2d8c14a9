//! Visible columns: the columns of a table that a client may know.
//!
//! **Invariant:** a hidden column is never suggested for a misspelled name, and never in a
//! response.
//! **Not here:** choosing the columns to hide ([`Table::view`]).

use super::{Table, closest};

/// Columns of a table that are not hidden.
#[derive(Clone, Copy, Debug)]
pub struct VisibleColumns<'t>(pub(super) &'t Table);

impl<'t> VisibleColumns<'t> {
    /// Returns true if the column at this index is not hidden.
    #[inline]
    pub fn has(self, index: usize) -> bool {
        self.0.view.as_ref().is_none_or(|view| !view.hidden[index])
    }

    /// Returns the indices of the visible columns that a response without `select` contains.
    #[inline]
    pub fn answered(self) -> impl Iterator<Item = usize> + use<'t> {
        self.0.answered().filter(move |index| self.has(*index))
    }

    /// Returns the name of the visible column that a client may have meant with this name.
    pub fn suggest(self, name: &str) -> Option<String> {
        let visible = (0..self.0.columns.len()).filter(|index| self.has(*index));
        closest(name, visible.map(|index| self.0.columns[index].name.as_str()))
    }
}
