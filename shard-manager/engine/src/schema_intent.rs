//! Schema intent: the record that a table is being created or dropped on every shard.
//!
//! **Invariant:** as long as an intent is in the catalog, its table is hidden from clients and
//! empty.
//! **Not here:** the catalogs that store it (`sqlite`, `postgres`), carrying it out (`manager`).

use model::table::Table;

use super::SchemaChange;
use super::table_declaration::TableDeclaration;

/// Target state of a table that may exist on some shards only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The table will exist on every shard.
    Make,
    /// The table will exist on no shard.
    Undo,
}

impl State {
    const ALL: [Self; 2] = [Self::Make, Self::Undo];

    /// Returns the name in the catalog.
    pub fn name(self) -> &'static str {
        match self {
            Self::Make => "make",
            Self::Undo => "undo",
        }
    }
}

/// A table that is being created or dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Target state.
    pub state: State,
    /// The table.
    pub table: Table,
}

impl Intent {
    /// Returns the change that each shard must carry out.
    pub fn change(&self) -> SchemaChange {
        let table = std::sync::Arc::new(self.table.clone());
        match self.state {
            State::Make => SchemaChange::Make(table),
            State::Undo => SchemaChange::Drop(table),
        }
    }

    /// Restores an intent from the columns `state` and `declaration` of a catalog.
    ///
    /// # Errors
    /// A description of the damage.
    pub fn read(state: &str, declaration: &str) -> Result<Self, String> {
        let known = State::ALL.into_iter().find(|known| known.name() == state);
        let state = known.ok_or_else(|| "an intent of an unknown state".to_owned())?;
        let declared = TableDeclaration::parse(declaration).map_err(|error| error.to_string())?;
        Ok(Self { state, table: declared.into_table()? })
    }
}
