//! Position: a point in the history of a shard's data, and the timeline to which it belongs.
//!
//! Numbers alone are not enough: a primary that was restored from an older copy continues counting
//! from there, and a later write gets the number of one that is lost. So each number belongs to a
//! timeline, as in PostgreSQL; with files, every opening of a primary begins a new timeline with a
//! random id.
//!
//! **Invariant:** in one history, positions only grow, also across timelines.
//! **Not here:** storing positions (`sqlite`; PostgreSQL keeps its own), waiting for a position
//! (`engine::replication`).

/// Position in a shard's changes; it stands for all changes up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Timeline in which it was reached.
    pub timeline: u32,
    /// Number of the last batch of changes.
    pub sequence: u64,
}

/// Timelines of a shard, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    /// Id of each timeline, with the position at which it began.
    timelines: Vec<(u32, u64)>,
}

impl TimelineHistory {
    /// Highest number of remembered timelines. A position of an older one counts as lost.
    pub const TIMELINES_MAX: usize = 4_096;

    /// Creates a history from timelines, each with the position at which it began, oldest first. An
    /// empty history contains only the beginning.
    ///
    /// Returns `None` if the positions are not in order.
    pub fn new(timelines: Vec<(u32, u64)>) -> Option<Self> {
        let ascending = timelines.windows(2).all(|pair| pair[0].1 <= pair[1].1);
        ascending.then_some(Self { timelines })
    }

    /// Returns the current timeline.
    pub fn current(&self) -> u32 {
        self.timelines.last().map_or(0, |(id, _)| *id)
    }

    /// Returns this history and one more timeline, which begins at `sequence` or where the last one
    /// began, whichever is later.
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

    /// Returns true if everything up to this position is part of the history. That holds for all
    /// positions of the current timeline: only positions that were reached are reported.
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
