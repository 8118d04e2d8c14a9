//! Position: a point in the life of a shard's data, and whether it belongs to the life that went
//! on.
//!
//! Numbers alone do not tell: a primary that was put back from an older copy counts on from there,
//! and a later write gets the number of one that is gone. So each number belongs to a timeline, as
//! in PostgreSQL; here every opening of a primary begins a new one, with a random id.
//!
//! **Invariant:** in one history, positions only grow, also from timeline to timeline.
//! **Not here:** where positions are stored (`store`), tasks that wait for one (`replication`).

/// A point up to which a shard's changes are meant, all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The timeline in which it was reached.
    pub timeline: u32,
    /// The number of the last batch of changes.
    pub sequence: u64,
}

/// The timelines of a shard, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    /// Id, and the position that had been reached when it began.
    timelines: Vec<(u32, u64)>,
}

impl TimelineHistory {
    /// Timelines that are remembered. A position of an older one counts as lost.
    pub const TIMELINES_MAX: usize = 4_096;

    /// A history of these timelines, each with the position at which it began, oldest first. Of
    /// none it holds nothing but the beginning.
    ///
    /// Returns nothing if they do not follow each other.
    pub fn new(timelines: Vec<(u32, u64)>) -> Option<Self> {
        let ascending = timelines.windows(2).all(|pair| pair[0].1 <= pair[1].1);
        ascending.then_some(Self { timelines })
    }

    /// The timeline in which positions are reached now.
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

    /// True if this timeline is one of these.
    pub fn knows(&self, timeline: u32) -> bool {
        self.timelines.iter().any(|(id, _)| *id == timeline)
    }

    /// True if everything up to this position is part of this history. Every position of the
    /// current timeline is: only reached positions are reported.
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
