//! Tests of API keys: each key has one spelling, is checked without a lookup and is never printed.

use access::key::{ApiKey, KeyId, NewApiKey, SecretDigest};
use proptest::prelude::*;

fn key(byte: u8) -> NewApiKey {
    NewApiKey::from_random(&[byte; NewApiKey::RANDOM_LEN])
}

#[test]
fn the_format_of_a_key_never_changes() {
    let bytes: Vec<u8> = (0..48).collect();
    let key = NewApiKey::from_random(bytes.as_slice().try_into().unwrap());
    assert_eq!(key.reveal().len(), 66);
    assert!(key.reveal().starts_with("tsr_"));
    assert_eq!(&key.reveal()[4..16], key.id().as_str());
    assert_eq!(&key.reveal()[16..17], "_");
    let again = NewApiKey::from_random(bytes.as_slice().try_into().unwrap());
    assert_eq!(again.reveal(), key.reveal());
}

#[test]
fn nothing_prints_a_secret() {
    let key = key(7);
    let parsed = ApiKey::parse(key.reveal()).unwrap();
    assert_eq!(format!("{key:?} {parsed:?} {:?}", key.digest()), "*** *** ***");
    assert_eq!(format!("{:?}", parsed.id()), key.id().to_string());
}

#[test]
fn a_digest_is_read_as_it_was_written() {
    let digest = key(9).digest();
    assert!(SecretDigest::parse_hex(&digest.to_hex()) == Some(digest));
    assert!(SecretDigest::parse_hex(&digest.to_hex()[1..]).is_none());
    assert!(SecretDigest::parse_hex(&"G".repeat(64)).is_none());
    assert!(SecretDigest::parse_hex(&"A".repeat(64)).is_none(), "upper case is another spelling");
    assert!(digest != SecretDigest::DUMMY);
}

#[test]
fn texts_that_are_no_keys_are_refused() {
    let good = key(1).reveal().to_owned();
    let spaced = format!(" {good}");
    let longer = format!("{good}0");
    let upper = good.replacen("tsr_", "TSR_", 1);
    let wide = good.replacen('_', "é", 1);
    for text in ["", "tsr_", &good[..65], &spaced, &longer, &upper, &wide, &"tsr_".repeat(1_000)] {
        assert!(ApiKey::parse(text).is_none(), "{text}");
    }
    for id in ["", "abc", "abcdefghijk_", "abcdefghijkl1", "äbcdefghijk"] {
        assert!(KeyId::parse(id).is_none(), "{id}");
    }
}

proptest! {
    #[test]
    fn a_key_is_read_as_it_was_made(bytes in any::<[u8; 32]>(), id in any::<[u8; 16]>()) {
        let random: Vec<u8> = id.into_iter().chain(bytes).collect();
        let made = NewApiKey::from_random(random.as_slice().try_into().unwrap());
        let read = ApiKey::parse(made.reveal()).unwrap();
        prop_assert_eq!(read.id(), made.id());
        prop_assert!(read.digest() == made.digest());
    }

    #[test]
    fn a_key_with_one_other_character_is_no_key(
        bytes in any::<[u8; 32]>(),
        index in 0..ApiKey::LEN,
        other in proptest::char::range('!', '~'),
    ) {
        let random: Vec<u8> = bytes.into_iter().chain([5; 16]).collect();
        let made = NewApiKey::from_random(random.as_slice().try_into().unwrap());
        let mut text: Vec<char> = made.reveal().chars().collect();
        prop_assume!(text[index] != other);
        text[index] = other;
        let text: String = text.into_iter().collect();
        prop_assert!(ApiKey::parse(&text).is_none());
    }

    #[test]
    fn a_key_with_two_swapped_characters_is_no_key(
        bytes in any::<[u8; 32]>(),
        index in 4..ApiKey::LEN - 1,
    ) {
        let random: Vec<u8> = bytes.into_iter().chain([5; 16]).collect();
        let made = NewApiKey::from_random(random.as_slice().try_into().unwrap());
        let mut text: Vec<char> = made.reveal().chars().collect();
        prop_assume!(text[index] != text[index + 1]);
        text.swap(index, index + 1);
        let text: String = text.into_iter().collect();
        prop_assert!(ApiKey::parse(&text).is_none());
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,80}") {
        ApiKey::parse(&text);
        ApiKey::parse(&format!("tsr_{text}"));
    }
}
