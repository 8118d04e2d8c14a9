//! Memory families: the metrics about two shared memory limits, one for large responses and one for
//! the rows of reads over several shards.
//!
//! **Not here:** the memory of the process (`process`), the memory of request bodies.

use std::fmt;

use super::Families;

/// Number of responses and reads that the shared memory limits ended or refused, since the start of
/// the router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryNow {
    /// Number of large responses that the router ended before they were complete, because their
    /// clients read them slowly while other responses needed the memory.
    pub evicted_responses: u64,
    /// Number of reads that were refused because large responses had used up their memory.
    pub refused_responses: u64,
    /// Number of reads of several shards that were refused because the rows of other reads had used
    /// up their memory.
    pub refused_rows: u64,
}

impl MemoryNow {
    /// Writes the families.
    pub(super) fn write(self, families: &mut Families<'_>) -> fmt::Result {
        let evicted = std::iter::once(([], self.evicted_responses));
        let help = "Large responses to slow clients that ended early, because memory was short.";
        families.counters::<0>("tessera_responses_evicted", help, evicted)?;
        let refused = [("responses", self.refused_responses), ("rows", self.refused_rows)];
        let refused = refused.into_iter().map(|(memory, count)| ([("memory", memory)], count));
        let help = "Reads that were refused because large responses, or the rows of other reads, \
                    had used up their memory.";
        families.counters("tessera_reads_refused", help, refused)
    }
}
