//! Shard labels: the names of the shards in samples, by number. Shards join while requests are
//! recorded.
//!
//! **Invariant:** a number keeps its name forever; shards with the same name, of which at most one
//! serves requests, are counted together.
//! **Not here:** the shards of a response (`figures`), which are those of the cluster's state and
//! of the frames.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::sample::Labels;

/// Index of requests to several shards or none.
pub(crate) const NO_SHARD: u16 = u16::MAX;

const _: () = assert!(Labels::SHARDS_MAX <= NO_SHARD as usize, "no shard has the index of none");

/// Returns the place of a shard in a list whose first element is for requests to several shards or
/// none, and whose next elements are for the shards.
#[inline]
pub(crate) fn place_of(index: u16) -> usize {
    usize::from(index.wrapping_add(1))
}

/// Returns the index of the shard at a place: the inverse of [`place_of`]. Returns `None` for the
/// first place.
pub(crate) fn index_of(place: usize) -> Option<u16> {
    place.checked_sub(1).and_then(|index| u16::try_from(index).ok())
}

/// Names of shards by number. Reading takes no lock.
#[derive(Debug)]
pub struct ShardLabels {
    labels: Box<[OnceLock<ShardLabel>]>,
    /// Lock that is held while a name is added.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct ShardLabel {
    name: Arc<str>,
    /// Lowest number of the shards with this name, under which all of them are counted.
    index: u16,
}

impl ShardLabels {
    pub(crate) fn new(names: &[String]) -> Self {
        let labels = (0..Labels::SHARDS_MAX).map(|_| OnceLock::new()).collect();
        let all = Self { labels, turn: Mutex::default() };
        (0..).zip(names).for_each(|(number, name)| all.add(number, name));
        all
    }

    /// Adds the name of a shard that has joined; samples with its number are counted under the name
    /// from now on. A number that has a name keeps it. A number of [`Labels::SHARDS_MAX`] or above
    /// is ignored.
    pub fn add(&self, number: u16, name: &str) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(label) = self.labels.get(usize::from(number)) else { return };
        let known = self.known().find(|known| *known.name == *name);
        let (name, index) = known
            .map_or_else(|| (Arc::from(name), number), |known| (known.name.clone(), known.index));
        label.get_or_init(|| ShardLabel { name, index });
    }

    /// Returns true if samples of this number are counted under a name.
    #[inline]
    pub fn knows(&self, number: u16) -> bool {
        self.index(number) != NO_SHARD
    }

    /// Returns the index under which requests of a shard are counted; [`NO_SHARD`] if its number
    /// has no name.
    #[inline]
    pub(crate) fn index(&self, number: u16) -> u16 {
        let label = self.labels.get(usize::from(number)).and_then(OnceLock::get);
        label.map_or(NO_SHARD, |label| label.index)
    }

    /// Returns the name of an index.
    pub(crate) fn name(&self, index: u16) -> Option<&Arc<str>> {
        let label = self.labels.get(usize::from(index)).and_then(OnceLock::get);
        label.map(|label| &label.name)
    }

    /// Returns all names, each once, in the order of the numbers.
    pub(crate) fn names(&self) -> Vec<String> {
        let numbered = (0..).zip(&self.labels);
        let first = numbered.filter_map(|(number, label): (u16, _)| {
            label.get().filter(|label| label.index == number)
        });
        first.map(|label| label.name.to_string()).collect()
    }

    fn known(&self) -> impl Iterator<Item = &ShardLabel> {
        self.labels.iter().filter_map(OnceLock::get)
    }
}
