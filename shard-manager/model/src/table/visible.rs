//! Visible columns: the part of a table that a caller may know.
//!
//! **Invariant:** a hidden column is suggested for no name, and is in no response.
//! **Not here:** the choice of the columns that are hidden ([`Table::view`]).

use super::{Table, closest};

/// Columns of a table that are not hidden.
#[derive(Clone, Copy, Debug)]
pub struct VisibleColumns<'t>(pub(super) &'t Table);

impl<'t> VisibleColumns<'t> {
    /// Returns true unless the column at this index is hidden.
    #[inline]
    pub fn has(self, index: usize) -> bool {
        self.0.view.as_ref().is_none_or(|view| !view.hidden[index])
    }

    /// Returns the columns of a response without `select`.
    #[inline]
    pub fn answered(self) -> impl Iterator<Item = usize> + use<'t> {
        self.0.answered().filter(move |index| self.has(*index))
    }

    /// Returns the column that the client may have meant.
    pub fn suggest(self, name: &str) -> Option<String> {
        let visible = (0..self.0.columns.len()).filter(|index| self.has(*index));
        closest(name, visible.map(|index| self.0.columns[index].name.as_str()))
    }
}
