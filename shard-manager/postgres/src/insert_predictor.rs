//! Insert predictor: predicts that the next rows of a write lane are new and can be inserted
//! without looking for existing rows.
//!
//! **Not here:** the statements (`upsert_transaction`).

/// Number of successive new rows after which the next are expected to be new.
const NEW_FIRST: u32 = 64;
/// Maximum of this number, which grows after wrong predictions.
const NEW_MAX: u32 = 65_536;

/// Predicts that rows are new. A wrong prediction costs a round trip and a line in the log of the
/// server, so a prediction is made only after many successive new rows, and after twice as many
/// following each wrong prediction.
#[derive(Debug)]
pub(super) struct InsertPredictor {
    seen: u32,
    needed: u32,
}

impl Default for InsertPredictor {
    fn default() -> Self {
        Self { seen: 0, needed: NEW_FIRST }
    }
}

impl InsertPredictor {
    /// Returns true if the next rows are probably new.
    pub(super) fn is_expected(&self) -> bool {
        self.seen >= self.needed
    }

    /// Records that a row was expected to be new and exists.
    pub(super) fn was_wrong(&mut self) {
        *self = Self { seen: 0, needed: (self.needed * 2).min(NEW_MAX) };
    }

    /// Records the numbers of rows that were created and changed.
    pub(super) fn learn(&mut self, made: u32, changed: u32) {
        self.seen = if changed > 0 { 0 } else { self.seen.saturating_add(made) };
    }
}
