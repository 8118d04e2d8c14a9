//! Modulo: takes the integer at the end of a key modulo the number of slots.
//!
//! Source: systems that route by `user_id % N`, such as DBLab. Consecutive ids have consecutive
//! slots, and the slot of an id is easy to compute by hand. How evenly the shards share the ids
//! depends on the placement: with the placement `modulo`, the numbers of ids on two shards differ
//! by at most one for each 16384 consecutive ids; with contiguous ranges, the first thousands of
//! ids are all stored on the first shard. Only keys that end in digits have a slot. Ids that are
//! multiples of one number may share few slots: multiples of 1024 have only 16. With the placement
//! `modulo` over N shards the shard of a key is `(id % 16384) % N`, which equals `id % N` only if N
//! divides 16384.
//!
//! **Invariant:** any number of digits is accepted without overflow, and leading zeros do not
//! change the slot.
//! **Not here:** signs: the integer at the end of `a-5` is 5.

use super::{KeyError, SLOT_COUNT, Slot};

/// Number of digits that determine the slot: 10^14 is a multiple of 2^14, so digits further to the
/// left add a multiple of [`SLOT_COUNT`].
const DIGITS_MAX: u32 = 14;

const _: () =
    assert!(10_u64.pow(DIGITS_MAX).is_multiple_of(SLOT_COUNT as u64), "the rest adds nothing");

pub(super) fn slot_of(key: &str) -> Result<Slot, KeyError> {
    let mut number = 0;
    let mut unit: u64 = 1;
    let digits = key.bytes().rev().take_while(u8::is_ascii_digit);
    for digit in digits.take(DIGITS_MAX as usize) {
        number += u64::from(digit - b'0') * unit;
        unit *= 10;
    }
    if unit == 1 {
        return Err(KeyError::NoTrailingInteger);
    }
    Ok(Slot((number % u64::from(SLOT_COUNT)) as u16))
}

/// Returns all digits at the end of a key; an error if there are none.
pub(super) fn trailing_digits(key: &str) -> Result<&str, KeyError> {
    let digits = key.bytes().rev().take_while(u8::is_ascii_digit).count();
    match digits {
        0 => Err(KeyError::NoTrailingInteger),
        // A byte that is an ASCII digit is a whole character.
        _ => Ok(&key[key.len() - digits..]),
    }
}
