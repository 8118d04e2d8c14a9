//! Names: stores each distinct name of a key once, and assigns a small number to it.
//!
//! **Invariant:** a name has one number, which never changes. Numbers are consecutive and begin
//! with 0.
//! **Not here:** locks (the load tester's `recorder` has one).

use std::hash::{BuildHasher, RandomState};

/// Number of a key's name in [`Names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u32);

/// Content of an unused entry of the hash table.
const FREE: u32 = u32::MAX;

/// All names, stored one after another in one string. A hash table with open addressing finds the
/// number of a name. Each name takes 16 to 24 bytes in addition to its own bytes.
#[derive(Clone, Debug, Default)]
pub struct Names {
    text: String,
    /// End of each name in `text`.
    ends: Vec<usize>,
    /// Hash table of the numbers of names, at most half full.
    table: Vec<u32>,
    hasher: RandomState,
}

impl Names {
    /// Returns the number of `name`; a new name gets the next one.
    pub fn intern(&mut self, name: &str) -> Key {
        if self.ends.len() * 2 >= self.table.len() {
            self.grow();
        }
        if let Some(key) = self.find(name) {
            return key;
        }
        // The conversion cannot overflow: 2^32 names would need more memory than any run has.
        let number = self.ends.len() as u32;
        if let Some(slot) = self.slot(name) {
            self.table[slot] = number;
        }
        self.text.push_str(name);
        self.ends.push(self.text.len());
        Key(number)
    }

    /// Returns the number of `name`, if it has one.
    #[inline]
    pub fn find(&self, name: &str) -> Option<Key> {
        let number = *self.table.get(self.slot(name)?)?;
        (number != FREE).then_some(Key(number))
    }

    /// Returns the name of `key`.
    #[inline]
    pub fn name(&self, key: Key) -> &str {
        let index = key.0 as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.text[start..self.ends[index]]
    }

    /// Returns the number of names.
    #[inline]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns true if there are no names.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the index of the hash table's entry for `name`, or of the free entry in which it can
    /// be stored. Returns `None` if the table is still empty.
    fn slot(&self, name: &str) -> Option<usize> {
        let mask = self.table.len().checked_sub(1)?;
        let mut slot = self.hasher.hash_one(name) as usize & mask;
        while self.table[slot] != FREE && self.name(Key(self.table[slot])) != name {
            slot = (slot + 1) & mask;
        }
        Some(slot)
    }

    fn grow(&mut self) {
        let size = (self.table.len() * 2).max(64);
        self.table = vec![FREE; size];
        for number in 0..self.ends.len() as u32 {
            if let Some(slot) = self.slot(self.name(Key(number))) {
                self.table[slot] = number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number_however_many_come_after() {
        let mut names = Names::default();
        assert!(names.is_empty());
        let name =
            |number: u32| format!("kv/{}", "é".repeat(number as usize % 7)) + &number.to_string();
        for number in 0..10_000 {
            assert_eq!(names.intern(&name(number)), Key(number));
        }
        for number in 0..10_000 {
            assert_eq!(names.intern(&name(number)), Key(number));
            assert_eq!(names.name(Key(number)), name(number));
        }
        assert_eq!(names.len(), 10_000);
    }
}
