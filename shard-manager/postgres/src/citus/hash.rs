//! Hash: the hash by which Citus places a text. It is the hash of PostgreSQL's hash indexes:
//! `hashtext` under collation C.
//!
//! The function is lookup3 of Bob Jenkins ("Algorithm Alley: Hash Functions", Dr. Dobb's Journal,
//! September 1997, and its successor of 2006), with PostgreSQL's initial value, as in
//! `src/common/hashfn.c` on little-endian machines.
//!
//! **Not here:** the shard of a hash (`citus`).

/// Initial value beside the length: the golden ratio, and a number of PostgreSQL's own.
const BEGIN: u32 = 0x9e37_79b9_u32.wrapping_add(3_923_095);
/// Bytes that are mixed together.
const BLOCK: usize = 12;

/// Returns the hash of a text.
pub(super) fn of_text(bytes: &[u8]) -> i32 {
    // PostgreSQL uses the same type: a text is shorter than 2^30 bytes.
    let begin = BEGIN.wrapping_add(bytes.len() as u32);
    let mut state = [begin; 3];
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    for block in blocks {
        add(&mut state, block);
        mix(&mut state);
    }
    let mut last = [0; BLOCK];
    let (low, high) = rest.split_at(rest.len().min(8));
    last[..low.len()].copy_from_slice(low);
    // The lowest byte of the third word is reserved for the length.
    last[9..9 + high.len()].copy_from_slice(high);
    add(&mut state, &last);
    finish(&mut state);
    state[2].cast_signed()
}

fn add(state: &mut [u32; 3], block: &[u8; BLOCK]) {
    for (word, four) in state.iter_mut().zip(block.as_chunks::<4>().0) {
        *word = word.wrapping_add(u32::from_le_bytes(*four));
    }
}

fn mix([a, b, c]: &mut [u32; 3]) {
    let step = |x: &mut u32, y: &mut u32, z: &mut u32, by: u32| {
        *x = x.wrapping_sub(*z) ^ z.rotate_left(by);
        *z = z.wrapping_add(*y);
    };
    step(a, b, c, 4);
    step(b, c, a, 6);
    step(c, a, b, 8);
    step(a, b, c, 16);
    step(b, c, a, 19);
    step(c, a, b, 4);
}

fn finish([a, b, c]: &mut [u32; 3]) {
    let step = |x: &mut u32, y: u32, by: u32| *x = (*x ^ y).wrapping_sub(y.rotate_left(by));
    step(c, *b, 14);
    step(a, *c, 11);
    step(b, *a, 25);
    step(c, *b, 16);
    step(a, *c, 4);
    step(b, *a, 14);
    step(c, *b, 24);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results of `SELECT hashtext(… COLLATE "C")` on PostgreSQL 15.18.
    const KNOWN: [(&str, i32); 9] = [
        ("", -1_477_818_771),
        ("a", 1_075_015_857),
        ("abcd", -393_934_804),
        ("abcde", -445_659_580),
        ("user_123", -441_737_008),
        ("elevenbytes", -353_398_116),
        ("twelve bytes", 652_846_557),
        ("thirteen byte", -1_367_827_268),
        ("größe 🦀 and more than that of a key", 957_766_001),
    ];

    #[test]
    fn texts_have_the_hashes_that_postgresql_gives_them() {
        for (text, hash) in KNOWN {
            assert_eq!(of_text(text.as_bytes()), hash, "{text}");
        }
    }
}
