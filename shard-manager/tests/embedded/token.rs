//! Tests of session tokens and positions: what a client has seen, and whether it belongs to the
//! current timeline history.

use proptest::prelude::*;
use shard_manager::consistency::Level;
use shard_manager::position::{Position, TimelineHistory};
use shard_manager::token::{SessionToken, TokenError, TokenKey};
use shard_manager::topology::{ShardNumber, Topology};

fn key() -> TokenKey {
    TokenKey::new(*b"0123456789abcdef")
}

fn position(timeline: u32, sequence: u64) -> Position {
    Position { timeline, sequence }
}

fn token(seen: &[(u16, u32, u64)]) -> SessionToken {
    let mut token = SessionToken::empty();
    for (shard, timeline, at) in seen {
        token.see(ShardNumber(*shard), position(*timeline, *at));
    }
    token
}

fn seen() -> impl Strategy<Value = Vec<(u16, u32, u64)>> {
    proptest::collection::vec((0..256_u16, any::<u32>(), any::<u64>()), 0..40)
}

/// Epochs of the responses of a session, and whether its positions were held at each.
fn epochs() -> impl Strategy<Value = Vec<(u64, bool)>> {
    let epoch = prop_oneof![0..5_u64, any::<u64>()];
    proptest::collection::vec((epoch, any::<bool>()), 0..4)
}

/// Token of a session with responses of these epochs.
fn token_at(seen: &[(u16, u32, u64)], epochs: &[(u64, bool)]) -> SessionToken {
    let mut token = token(seen);
    for (epoch, held) in epochs {
        token.see_epoch(*epoch, |_, _| *held);
    }
    token
}

proptest! {
    #![proptest_config(crate::cases(256))]

    #[test]
    fn a_token_survives_encoding_and_decoding(seen in seen(), epochs in epochs()) {
        let token = token_at(&seen, &epochs);
        let text = token.encode(&key());
        prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        prop_assert_eq!(SessionToken::parse(&text, &key()), Ok(token));
    }

    #[test]
    fn a_modified_token_is_refused(
        seen in seen(), epochs in epochs(), at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_-]{1}"
    ) {
        let text = token_at(&seen, &epochs).encode(&key());
        let at = at.index(text.len());
        let mut changed = text.clone();
        changed.replace_range(at..=at, &with);
        // The last character has unused bits; changing only these is refused as well.
        prop_assume!(changed != text);
        prop_assert_eq!(SessionToken::parse(&changed, &key()), Err(TokenError::Foreign));
        prop_assert_eq!(SessionToken::parse(&text[..at], &key()), Err(TokenError::Foreign));
    }

    #[test]
    fn any_text_is_refused_without_a_panic(text in "\\PC{0,300}") {
        prop_assert!(SessionToken::parse(&text, &key()).is_err());
    }

    #[test]
    fn merging_keeps_the_higher_epoch_and_a_check_that_holds_for_both(
        a in (seen(), epochs()), b in (seen(), epochs()), held in any::<bool>(), since in 0..7_u64
    ) {
        let (a, b) = (token_at(&a.0, &a.1), token_at(&b.0, &b.1));
        let (mut ab, mut ba) = (a.clone(), b.clone());
        ab.merge(&b, |_, _| held);
        ba.merge(&a, |_, _| held);
        prop_assert_eq!(ab.epoch(), a.epoch().max(b.epoch()));
        prop_assert_eq!((ab.epoch(), ab.predates(since)), (ba.epoch(), ba.predates(since)));
        let (one, other) = (a.predates(since), b.predates(since));
        // A token without positions has nothing to check.
        let late = (one && !(held || a.is_empty())) || (other && !(held || b.is_empty()));
        prop_assert_eq!(ab.predates(since), (one && other) || late);
    }

    #[test]
    fn merging_forgets_nothing_and_does_not_depend_on_the_order(
        a in proptest::collection::vec((0..8_u16, 0..100_u64), 0..20),
        b in proptest::collection::vec((0..8_u16, 0..100_u64), 0..20),
    ) {
        let of = |list: &[(u16, u64)]| {
            token(&list.iter().map(|(shard, at)| (*shard, 7, *at)).collect::<Vec<_>>())
        };
        let (mut ab, mut ba) = (of(&a), of(&b));
        ab.merge(&of(&b), |_, _| true);
        ba.merge(&of(&a), |_, _| true);
        prop_assert_eq!(&ab, &ba);
        for (shard, at) in a.iter().chain(&b) {
            prop_assert!(ab.seen(ShardNumber(*shard)).is_some_and(|seen| seen.sequence >= *at));
        }
    }

    #[test]
    fn a_position_belongs_to_a_history_exactly_up_to_where_the_next_timeline_began(
        begins in proptest::collection::vec(0..50_u64, 1..6), at in 0..60_u64, which in 0..6_usize
    ) {
        let mut begins = begins;
        begins.sort_unstable();
        let timelines: Vec<(u32, u64)> = (1..).zip(begins.iter().copied()).collect();
        let history = TimelineHistory::new(timelines).expect("ascending");
        prop_assert_eq!(history.current() as usize, begins.len());
        let expected = match begins.get(which + 1) {
            _ if which >= begins.len() => at == 0,
            Some(next) => at <= *next,
            None => true,
        };
        prop_assert_eq!(history.holds(position(which as u32 + 1, at)), expected);
    }
}

#[test]
fn a_token_of_another_cluster_is_as_wrong_as_a_forged_one() {
    let text = token(&[(0, 1, 5)]).encode(&TokenKey::new([7; 16]));
    assert_eq!(SessionToken::parse(&text, &key()), Err(TokenError::Foreign));
}

#[test]
fn a_token_of_all_shards_that_can_be_stays_within_its_limit() {
    let all = (0..Topology::SHARDS_MAX as u16).map(|shard| (shard, u32::MAX, 1_u64 << 34));
    let mut token = token(&all.collect::<Vec<_>>());
    assert!(token.encode(&key()).len() <= SessionToken::LEN_MAX);
    token.see_epoch(u64::MAX, |_, _| false);
    let text = token.encode(&key());
    assert!(text.len() <= SessionToken::LEN_MAX, "{} bytes", text.len());
    assert_eq!(SessionToken::parse(&"A".repeat(4_097), &key()), Err(TokenError::TooLong));
}

#[test]
fn merged_tokens_keep_lost_positions() {
    // Timeline 2 began at 80, so that position 85 of timeline 1 is lost.
    let history = TimelineHistory::new(vec![(1, 0), (2, 80)]).expect("a history");
    let holds = |_: ShardNumber, position| history.holds(position);
    for (first, second) in [((1, 85), (2, 90)), ((2, 90), (1, 85))] {
        let mut merged = token(&[(0, first.0, first.1)]);
        merged.merge(&token(&[(0, second.0, second.1)]), holds);
        assert_eq!(merged.seen(ShardNumber(0)), Some(position(1, 85)));
    }
    let mut merged = token(&[(0, 1, 70)]);
    merged.merge(&token(&[(0, 2, 90)]), holds);
    assert_eq!(merged.seen(ShardNumber(0)), Some(position(2, 90)));
}

/// Text of one token. It must never change: tokens outlive the router that created them.
#[test]
fn the_form_of_a_token_is_pinned() {
    let text = token(&[(0, 0x0403_0201, 300), (3, 5, 7)]).encode(&key());
    assert_eq!(text, GOLDEN);
}

const GOLDEN: &str = "AQABAgMErAICBQAAAAcT5qR0bH_ULQ";

/// Texts of the same token at a later epoch, before and after its positions were checked. They must
/// never change either.
#[test]
fn the_form_of_a_token_with_an_epoch_is_pinned() {
    let seen = [(0, 0x0403_0201, 300), (3, 5, 7)];
    let texts = [false, true].map(|held| token_at(&seen, &[(300, held)]).encode(&key()));
    assert_eq!(texts, GOLDEN_WITH_EPOCH);
}

const GOLDEN_WITH_EPOCH: [&str; 2] =
    ["A6wCrAIAAQIDBKwCAgUAAAAHSViDsQtOoxI", "A6wCAAABAgMErAICBQAAAAeRJb1mjw_xCQ"];

#[test]
fn a_token_without_an_epoch_predates_every_move() {
    let old = SessionToken::parse(GOLDEN, &key()).expect("it stays valid");
    assert_eq!((old.epoch(), old.predates(1), old.predates(2)), (0, false, true));
    assert_eq!(old.seen(ShardNumber(3)), Some(position(5, 7)));
}

#[test]
fn a_cluster_whose_slots_never_moved_has_tokens_of_the_first_version() {
    let mut token = token(&[(0, 0x0403_0201, 300), (3, 5, 7)]);
    token.see_epoch(1, |_, _| true);
    assert_eq!(token.encode(&key()), GOLDEN);
}

#[test]
fn a_lost_position_keeps_the_epoch_before_which_slots_are_suspect() {
    let mut token = token(&[(0, 1, 5)]);
    token.see_epoch(3, |_, _| true);
    token.see_epoch(6, |_, _| false);
    assert_eq!((token.epoch(), token.predates(3), token.predates(4)), (6, false, true));
    token.see_epoch(5, |_, _| true);
    assert_eq!((token.epoch(), token.predates(5), token.predates(6)), (6, false, true));
    let checked_later = token_at(&[(1, 1, 9)], &[(7, true)]);
    let mut merged = token.clone();
    merged.merge(&checked_later, |shard, _| shard != ShardNumber(0));
    assert_eq!((merged.epoch(), merged.predates(6)), (7, true));
    token.merge(&checked_later, |_, _| true);
    assert_eq!((token.epoch(), token.predates(7)), (7, false));
}

#[test]
fn an_unordered_history_is_invalid_and_an_empty_one_contains_only_the_beginning() {
    let nothing = TimelineHistory::new(vec![]).expect("a history");
    assert!(nothing.holds(position(0, 0)) && !nothing.holds(position(0, 1)));
    assert_eq!(TimelineHistory::new(vec![(1, 5), (2, 4)]), None);
}

#[test]
fn levels_count_nodes_as_a_majority_does() {
    let needed = |replicas| Level::ALL.map(|level| level.replicas_needed(replicas));
    assert_eq!(needed(0), [0, 0, 0]);
    assert_eq!(needed(1), [0, 1, 1]);
    assert_eq!(needed(2), [0, 1, 2]);
    assert_eq!(needed(3), [0, 2, 3]);
    assert_eq!(needed(4), [0, 2, 4]);
    assert_eq!(needed(5), [0, 3, 5]);
    for replicas in 0..=5 {
        for confirmed in 0..=replicas {
            let reached = Level::reached(confirmed, replicas);
            assert!(reached.replicas_needed(replicas) <= confirmed);
            let stronger = Level::ALL.into_iter().filter(|level| *level > reached);
            assert!(stronger.into_iter().all(|level| level.replicas_needed(replicas) > confirmed));
        }
    }
}
