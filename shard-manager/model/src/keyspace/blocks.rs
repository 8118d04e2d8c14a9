//! Blocks: divides the slots into contiguous blocks whose sizes are in proportion to weights.
//!
//! **Invariant:** all code that divides slots by weights rounds in the same way. If the keyspace
//! `list` and the placement `partitions` have the same names and weights in the same order, a
//! partition therefore has the same slots in both.
//! **Not here:** the shard that owns a block (`placement`), the keys of a block (`list`).

use std::ops::Range;

use super::SLOT_COUNT;

/// Maximum weight of a block. It keeps the sum of all weights, multiplied by the number of slots,
/// far below 2^64.
pub const WEIGHT_MAX: u32 = 1_000_000;
/// Maximum number of named blocks of one cluster. Every request searches them by name, and an
/// operator lists them by hand in the configuration.
pub const BLOCKS_MAX: usize = 1_024;
/// Maximum length of the name of a block, in bytes.
const NAME_LEN_MAX: usize = 64;
/// Characters that names cannot contain, because they separate the parts of a configuration value
/// or of a key.
const SEPARATORS: [char; 4] = [':', '=', ',', '>'];

/// Divides the slots into one block for each weight. Block `i` ends before slot `ceil(SLOT_COUNT *
/// (w0 + … + wi) / total)`. Rounding the running sum instead of each share keeps the size of every
/// block within one slot of its exact share, and leaves no remainder to distribute. A block with a
/// small weight may be empty, and all blocks are empty if no weight is above 0.
pub fn cut(weights: impl Iterator<Item = u64> + Clone) -> impl Iterator<Item = Range<u16>> {
    let total = weights.clone().sum::<u64>().max(1);
    let mut reached = 0;
    let mut first = 0;
    weights.map(move |weight| {
        reached += weight;
        let end = (u64::from(SLOT_COUNT) * reached).div_ceil(total) as u16;
        let block = first..end;
        first = end;
        block
    })
}

/// Parses a block's name and weight from `NAME=WEIGHT`.
///
/// # Errors
/// Description of the fault, as a clause.
pub fn parse_weight(text: &str) -> Result<(Box<str>, u32), String> {
    let (name, weight) =
        text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=WEIGHT"))?;
    let (name, weight) = (name.trim(), weight.trim());
    let weight = weight.parse().map_err(|_| format!("`{weight}` is not a weight of {name}"))?;
    Ok((name.into(), weight))
}

/// Checks that the names of blocks are valid and unique, and that each block gets at least one slot
/// by its weight.
///
/// # Errors
/// Description of the fault, as a clause.
pub fn check(blocks: &[(&str, u32)]) -> Result<(), String> {
    if blocks.is_empty() || blocks.len() > BLOCKS_MAX {
        return Err(format!("there must be 1 to {BLOCKS_MAX} partitions, not {}", blocks.len()));
    }
    for (index, (name, weight)) in blocks.iter().enumerate() {
        let is_bad = |c: char| SEPARATORS.contains(&c) || c.is_whitespace() || c.is_control();
        if name.is_empty() || name.len() > NAME_LEN_MAX || name.contains(is_bad) {
            return Err(format!(
                "`{name}` is not a name of a partition: 1 to {NAME_LEN_MAX} bytes without spaces and : = , >"
            ));
        }
        if *weight == 0 || *weight > WEIGHT_MAX {
            return Err(format!("the weight of {name} must be 1 to {WEIGHT_MAX}, not {weight}"));
        }
        if blocks[..index].iter().any(|(other, _)| other == name) {
            return Err(format!("two partitions are called {name}"));
        }
    }
    let cuts = cut(blocks.iter().map(|(_, weight)| u64::from(*weight)));
    match blocks.iter().zip(cuts).find(|(_, slots)| slots.is_empty()) {
        Some(((name, _), _)) => Err(format!("the weight of {name} is too small for a slot")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_without_any_weight_are_empty() {
        let blocks: Vec<_> = cut([0, 0].into_iter()).collect();
        assert_eq!(blocks, [0..0, 0..0]);
    }
}
