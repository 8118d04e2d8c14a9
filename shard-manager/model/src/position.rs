//! Position: a point in the history of a shard's changes, given by a timeline and a sequence
//! number.
//!
//! A sequence number alone is not enough: a primary that was restored from an older copy continues
//! counting from there, so a later write may get the number of a write that was lost. Therefore
//! each number belongs to a timeline, as in PostgreSQL. On files, a new timeline with a random id
//! begins each time a primary is opened.
//!
//! **Invariant:** in the history of one shard, sequence numbers never decrease, even from one
//! timeline to the next.
//! **Not here:** storing positions (`sqlite`; PostgreSQL stores its own), waiting for a position
//! (`engine::replication`).

/// Position in the history of a shard. A node that has reached it has all changes up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Timeline in which the position was reached.
    pub timeline: u32,
    /// Sequence number in that timeline: the number of the last batch of changes on files, the LSN
    /// as an integer on PostgreSQL.
    pub sequence: u64,
}

/// Timelines of a shard from the oldest to the current one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    /// Id of each timeline, with the sequence number at which it began.
    timelines: Vec<(u32, u64)>,
}

impl TimelineHistory {
    /// Maximum number of timelines that are remembered. A position of an older timeline counts as
    /// lost.
    pub const TIMELINES_MAX: usize = 4_096;

    /// Creates a history from timelines, oldest first, each with the sequence number at which it
    /// began. In an empty history only sequence number 0 has been reached.
    ///
    /// Returns `None` if the sequence numbers decrease.
    pub fn new(timelines: Vec<(u32, u64)>) -> Option<Self> {
        let ascending = timelines.windows(2).all(|pair| pair[0].1 <= pair[1].1);
        ascending.then_some(Self { timelines })
    }

    /// Returns the id of the current timeline; 0 if the history is empty.
    pub fn current(&self) -> u32 {
        self.timelines.last().map_or(0, |(id, _)| *id)
    }

    /// Returns this history with one more timeline, which begins at `sequence`, or where the last
    /// timeline began if that is later.
    #[must_use]
    pub fn followed_by(&self, timeline: u32, sequence: u64) -> Self {
        let began = self.timelines.last().map_or(0, |(_, began)| *began).max(sequence);
        let timelines = self.timelines.iter().copied().chain([(timeline, began)]).collect();
        Self { timelines }
    }

    /// Returns true if this timeline is in the history.
    pub fn knows(&self, timeline: u32) -> bool {
        self.timelines.iter().any(|(id, _)| *id == timeline)
    }

    /// Returns true if all changes up to this position are part of the history. Any position of the
    /// current timeline is accepted, because clients receive only positions that were reached.
    pub fn holds(&self, position: Position) -> bool {
        let Some(index) = self.timelines.iter().rposition(|(id, _)| *id == position.timeline)
        else {
            return position.sequence == 0;
        };
        match self.timelines.get(index + 1) {
            Some((_, next_began)) => position.sequence <= *next_began,
            None => true,
        }
    }
}
