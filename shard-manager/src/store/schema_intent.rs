//! Intent: a table that is being made or taken back on every shard.
//!
//! **Invariant:** as long as an intent is in the catalog, its table is shown to nobody and holds no row.
//! **Not here:** the catalogs that keep it (`sqlite`, `postgres`), carrying it out (`manager`).

use super::SchemaChange;
use super::table_declaration::Declared;
use crate::table::Table;

/// What is to become of a table that is on some shards perhaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is made on every shard.
    Make,
    /// It is dropped on every shard.
    Undo,
}

impl State {
    const ALL: [Self; 2] = [Self::Make, Self::Undo];

    /// The name in the catalog.
    pub fn name(self) -> &'static str {
        match self {
            Self::Make => "make",
            Self::Undo => "undo",
        }
    }
}

/// A table that is on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Where to.
    pub state: State,
    /// The table.
    pub table: Table,
}

impl Intent {
    /// What each shard has to do.
    pub fn change(&self) -> SchemaChange {
        let table = std::sync::Arc::new(self.table.clone());
        match self.state {
            State::Make => SchemaChange::Make(table),
            State::Undo => SchemaChange::Drop(table),
        }
    }

    /// What a catalog keeps of it: state and declaration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn read(state: &str, declaration: &str) -> Result<Self, String> {
        let known = State::ALL.into_iter().find(|known| known.name() == state);
        let state = known.ok_or_else(|| "an intent of an unknown state".to_owned())?;
        let declared = Declared::parse(declaration).map_err(|error| error.to_string())?;
        Ok(Self { state, table: declared.into_table()? })
    }
}
