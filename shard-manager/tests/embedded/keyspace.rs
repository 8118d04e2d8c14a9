//! Tests of the hash keyspace: golden vectors, and properties of any key.

use proptest::prelude::*;
use shard_manager::keyspace::{GROUPS_MAX, KeyError, Keyspace, SLOT_COUNT, ShardKey, Slot};
use shard_manager::table_group::GroupNumber;

/// Keys and their slots, computed independently: Python 3.11, package xxhash 4.1.0 (C library
/// 0.8.4), `xxhash.xxh3_64_intdigest(key.encode()) % 16384`. They must never change, because the
/// slots decide where stored rows lie.
const GOLDEN: [(&str, u16); 21] = [
    ("a", 3615),
    ("A", 13445),
    ("0", 4181),
    ("7", 1530),
    ("007", 3458),
    (" ", 14287),
    ("a:b", 1113),
    ("user_0", 1758),
    ("user_1", 5537),
    ("user_123", 3421),
    ("user_9999", 11290),
    ("order/2026-11-21", 7378),
    ("@user:server.example", 2208),
    ("' OR 1=1 --", 14407),
    ("Ω", 3736),
    ("ключ", 7902),
    ("用户_42", 4673),
    ("🦀", 9000),
    // The same character to a reader, two different keys: precomposed, and with a combining accent.
    ("\u{e9}", 3251),
    ("e\u{301}", 1448),
    ("xxxxxxxxxxxxxxxxx", 6673),
];

/// Lengths at which XXH3 changes its algorithm: `x` repeated this often, and the slot. Computed
/// like [`GOLDEN`].
const GOLDEN_LENGTHS: [(usize, u16); 7] =
    [(16, 7903), (17, 6673), (128, 7447), (129, 10204), (240, 2920), (241, 10781), (256, 11977)];

fn slot(key: &str) -> u16 {
    Keyspace::Hash.slot_of(ShardKey::parse(key).expect("a good key")).expect("a slot").number()
}

#[test]
fn a_key_has_the_slot_that_another_implementation_of_the_hash_computes() {
    for (key, golden) in GOLDEN {
        assert_eq!(slot(key), golden, "{key:?}");
    }
    for (len, golden) in GOLDEN_LENGTHS {
        assert_eq!(slot(&"x".repeat(len)), golden, "{len} bytes");
    }
    assert_eq!(slot(&"é".repeat(128)), 2467, "256 bytes in 128 characters");
}

#[test]
fn a_key_has_1_to_256_bytes_however_many_characters_that_are() {
    assert_eq!(ShardKey::parse(""), Err(KeyError::Empty));
    assert!(ShardKey::parse(&"x".repeat(256)).is_ok());
    assert_eq!(ShardKey::parse(&"x".repeat(257)), Err(KeyError::TooLong { len: 257 }));
    assert!(ShardKey::parse(&"é".repeat(128)).is_ok());
    assert_eq!(ShardKey::parse(&"é".repeat(129)), Err(KeyError::TooLong { len: 258 }));
}

#[test]
fn a_key_must_not_contain_control_characters() {
    let controls = (0..=0x1f).chain(0x7f..=0x9f).filter_map(char::from_u32);
    for control in controls {
        for key in [format!("{control}"), format!("{control}a"), format!("a{control}")] {
            let refused = ShardKey::parse(&key);
            assert_eq!(refused, Err(KeyError::ControlCharacter), "{key:?}");
        }
    }
    for neighbour in ['\u{20}', '\u{7e}', '\u{a0}', '\u{200d}', '\u{feff}', '\u{ffff}'] {
        assert!(ShardKey::parse(&neighbour.to_string()).is_ok(), "{neighbour:?}");
    }
}

#[test]
fn there_is_a_slot_for_each_number_of_16_bits_and_groups_share_them_out() {
    assert_eq!((SLOT_COUNT, GROUPS_MAX), (16_384, 4));
    for number in 0..=u16::MAX {
        let slot = Slot::new(number);
        assert_eq!(slot.map(Slot::number), Some(number));
        let group = slot.map(|slot| GroupNumber::of(slot).index());
        assert_eq!(group, Some(usize::from(number) / 16_384));
    }
}

#[test]
fn a_keyspace_is_found_by_its_own_name_only() {
    assert_eq!("hash".parse(), Ok(Keyspace::Hash));
    assert_eq!(Keyspace::Hash.algorithm(), Some("xxh3_64"));
    for name in ["", "Hash", "hash ", "geo"] {
        let refused = name.parse::<Keyspace>().expect_err("no such keyspace").to_string();
        assert!(refused.contains(&format!("`{name}`")), "{refused}");
    }
}

#[test]
fn sequential_keys_spread_evenly_over_the_slots() {
    const KEYS: u32 = 163_840;
    let mut counts = vec![0_u32; usize::from(SLOT_COUNT)];
    for number in 0..KEYS {
        counts[usize::from(slot(&format!("user_{number}")))] += 1;
    }
    // Pearson's chi-square with 16,383 degrees of freedom: mean 16,383, standard deviation 181.
    // Five standard deviations are allowed either way; a hash that clusters is far above, one that
    // assigns slots in turn far below.
    let expected = f64::from(KEYS) / f64::from(SLOT_COUNT);
    let chi: f64 = counts.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
    assert!((15_478.0..17_288.0).contains(&chi), "{chi}");
}

proptest! {
    #![proptest_config(crate::cases(512))]

    #[test]
    fn any_text_is_a_key_with_one_slot_or_is_refused(text in "\\PC{0,300}|.{0,8}") {
        let expected = (1..=256).contains(&text.len()) && !text.chars().any(char::is_control);
        match ShardKey::parse(&text) {
            Ok(key) => {
                prop_assert!(expected);
                prop_assert_eq!(key.as_str(), text.as_str());
                let first = Keyspace::Hash.slot_of(key).unwrap();
                prop_assert!(first.number() < SLOT_COUNT);
                let copy = text.clone();
                prop_assert_eq!(slot(&copy), first.number());
            }
            Err(_) => prop_assert!(!expected),
        }
    }
}
