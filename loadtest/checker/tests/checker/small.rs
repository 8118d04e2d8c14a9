//! Property tests with small random histories of one row: check C3 agrees with brute force.

use checker::history::{
    Header, Key, Kind, Level, NEVER, Operation, OperationHistory, Outcome, Value,
};
use checker::{Check, check};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::brute::is_linearizable;

/// Parts of a random operation.
#[derive(Clone, Debug)]
struct Piece {
    kind: u8,
    start: u64,
    length: u64,
    flavour: u8,
    which: Index,
}

fn pieces() -> impl Strategy<Value = (Vec<Piece>, Vec<u64>)> {
    let piece = (0_u8..10, 0_u64..16, 0_u64..8, 0_u8..10, any::<Index>());
    let piece = piece.prop_map(|(kind, start, length, flavour, which)| Piece {
        kind,
        start,
        length,
        flavour,
        which,
    });
    let versions = Just((1..=7).map(|version| version * 10).collect::<Vec<u64>>());
    (prop::collection::vec(piece, 1..=7), prop_oneof![versions.clone(), versions.prop_shuffle()])
}

/// Builds a history from changes, each with a version of its own, and reads, each of which returns
/// the value of one of the changes or no row.
fn history(pieces: &[Piece], versions: &[u64], open_deletes: bool) -> OperationHistory {
    let mut operations: Vec<Operation> = Vec::new();
    let mut hidden = Vec::new();
    let (changes, reads): (Vec<_>, Vec<_>) = pieces.iter().partition(|piece| piece.kind < 5);
    let mut changes = changes;
    // Versions increase with time, unless `versions` is shuffled.
    changes.sort_by_key(|piece| piece.start);
    for (number, piece) in changes.iter().enumerate() {
        let delete = piece.kind >= 3;
        let kind = if delete { Kind::Delete } else { Kind::Write };
        let mut one = Operation::new(kind, Key(0), 1, number as u32 + 1);
        (one.start, one.end) = (piece.start, piece.start + piece.length);
        one.value = Value::new(1, number as u32 + 1);
        hidden.push(versions[number]);
        match piece.flavour {
            0..5 => one.version = versions[number],
            _ if delete && !open_deletes => one.version = versions[number],
            5..7 => one.outcome = Outcome::Committed,
            7..9 => one.outcome = Outcome::Unknown,
            _ => (one.outcome, one.end) = (Outcome::Unknown, NEVER),
        }
        operations.push(one);
    }
    let writes: Vec<usize> =
        (0..operations.len()).filter(|&index| operations[index].kind == Kind::Write).collect();
    for (number, piece) in reads.iter().enumerate() {
        let mut one = Operation::new(Kind::Read, Key(0), 2, number as u32 + 1);
        (one.start, one.end) = (piece.start, piece.start + piece.length);
        one.level = if piece.flavour == 0 { Level::One } else { Level::Quorum };
        if piece.kind < 8 && !writes.is_empty() {
            let write = writes[piece.which.index(writes.len())];
            (one.value, one.version) = (operations[write].value, hidden[write]);
        }
        operations.push(one);
    }
    let mut history = OperationHistory {
        header: Header::new("small", String::new(), vec![]),
        ..OperationHistory::default()
    };
    history.keys.intern("kv/0");
    history.operations = operations;
    history
}

fn accused(history: &OperationHistory) -> bool {
    check(history).count(Check::Linearizable) > 0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30_000, ..ProptestConfig::default() })]

    #[test]
    fn without_open_deletes_the_theorem_is_exact((pieces, versions) in pieces()) {
        let history = history(&pieces, &versions, false);
        prop_assert_eq!(!accused(&history), is_linearizable(&history.operations));
    }

    #[test]
    fn an_ordered_history_with_open_deletes_has_no_violations((pieces, versions) in pieces()) {
        let history = history(&pieces, &versions, true);
        prop_assert!(!(accused(&history) && is_linearizable(&history.operations)));
    }
}

/// The two properties above would prove little if almost all random histories were linearizable, or
/// almost none.
#[test]
fn the_small_histories_are_of_both_kinds() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut right, mut wrong, mut missed) = (0, 0, 0);
    for _ in 0..5_000 {
        let (pieces, versions) = pieces().new_tree(&mut runner).unwrap().current();
        let history = history(&pieces, &versions, true);
        match (is_linearizable(&history.operations), accused(&history)) {
            (true, _) => right += 1,
            (false, true) => wrong += 1,
            (false, false) => missed += 1,
        }
    }
    assert!(right > 1_000 && wrong > 1_000, "{right} right, {wrong} wrong");
    assert!(missed * 50 < wrong, "lenient to {missed}, accused {wrong}");
}
