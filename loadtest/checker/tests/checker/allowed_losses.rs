//! Tests of changes that a promotion may lose at level `one`, and of changes that it must not lose.

use checker::history::{
    Fault, Header, Key, Kind, Ledger, Level, NodeId, Operation, OperationHistory, Outcome, Value,
};
use checker::{Check, Report, check};

const ROW: Key = Key(0);

/// Returns a history with a promotion from 100 to 200.
fn history(operations: Vec<Operation>) -> OperationHistory {
    let mut history = OperationHistory {
        header: Header::new("losses", String::new(), vec![]),
        ..OperationHistory::default()
    };
    history.keys.intern("kv/a");
    history.operations = operations;
    let fault = |at, what: &str| Fault { at, what: what.to_owned() };
    history.faults = vec![
        fault(100, "promotion in shard1: its primary stopped at once for 100 ms"),
        fault(200, "over: promotion in shard1: its primary stopped at once for 100 ms"),
    ];
    history
}

fn write(number: u32, start: u64, version: u64, level: Level) -> Operation {
    let one = Operation::new(Kind::Write, ROW, 1, number);
    Operation { start, end: start + 5, value: Value::new(1, number), version, level, ..one }
}

/// Returns a read after the run that finds the value of the write with this number.
fn read(number: u32, start: u64, version: u64) -> Operation {
    let one = Operation::new(Kind::Read, ROW, 2, 100);
    let value = Value::new(1, number);
    Operation { start, end: start + 5, value, version, level: Level::All, last: true, ..one }
}

fn lost_only(report: &Report) -> bool {
    report.passed() && report.lost > 0
}

#[test]
fn a_write_at_one_may_be_gone_after_a_promotion_and_is_reported() {
    let gone =
        |level| vec![write(1, 10, 1, Level::Quorum), write(2, 50, 2, level), read(1, 500, 1)];
    let reported = history(gone(Level::One));
    let report = check(&reported);
    assert!(lost_only(&report), "{:#?}", report.violations);
    let text = report.text(&reported);
    assert!(text.contains("lost at level one after a promotion: C6 final state: kv/a"), "{text}");
    assert!(text.contains("\nLOST: lost at level one after a promotion"), "{text}");
    assert_eq!(report.json(&reported)["lost"], report.lost);

    // A write at a higher level must not be lost, and without a promotion no write may be lost.
    assert!(check(&history(gone(Level::Quorum))).count(Check::FinalState) > 0);
    let calm = OperationHistory { faults: Vec::new(), ..history(gone(Level::One)) };
    assert!(check(&calm).count(Check::FinalState) > 0 && check(&calm).lost == 0);
    // A write after the end of the promotion must not be lost either.
    let later = vec![write(1, 10, 1, Level::One), write(2, 300, 2, Level::One), read(1, 500, 1)];
    assert!(check(&history(later)).count(Check::FinalState) > 0);
}

#[test]
fn a_loss_at_one_does_not_hide_one_at_quorum() {
    let both = vec![
        write(1, 10, 1, Level::One),
        write(2, 30, 2, Level::Quorum),
        write(3, 50, 3, Level::One),
        read(1, 500, 1),
    ];
    assert!(check(&history(both)).count(Check::FinalState) > 0);
}

#[test]
fn a_version_that_comes_twice_is_reported_as_a_loss_of_the_first() {
    let again = vec![write(1, 50, 1, Level::One), write(2, 300, 1, Level::One), read(2, 500, 1)];
    let report = check(&history(again));
    assert!(lost_only(&report), "{report:#?}");
}

#[test]
fn a_lost_write_at_one_that_is_sent_again_may_get_another_version() {
    let again = |level| {
        let replay = Operation { kind: Kind::Replay, ..write(1, 300, 42, level) };
        history(vec![write(1, 50, 10, level), replay, read(1, 500, 42)])
    };
    let report = check(&again(Level::One));
    assert!(lost_only(&report), "{report:#?}");
    assert!(check(&again(Level::Quorum)).count(Check::Identity) > 0);
    let calm = OperationHistory { faults: Vec::new(), ..again(Level::One) };
    assert!(check(&calm).count(Check::Identity) > 0);
}

#[test]
fn a_write_at_quorum_that_no_replica_has_confirmed_may_be_gone_after_a_promotion() {
    let gone = |outcome| {
        let second = Operation { outcome, ..write(2, 50, 2, Level::Quorum) };
        check(&history(vec![write(1, 10, 1, Level::Quorum), second, read(1, 500, 1)]))
    };
    let report = gone(Outcome::Committed);
    assert!(lost_only(&report), "{report:#?}");
    assert!(gone(Outcome::Ok).count(Check::FinalState) > 0);
}

#[test]
fn a_value_never_sent_and_a_change_counted_twice_are_never_excused() {
    let foreign = vec![write(1, 50, 1, Level::One), read(9, 500, 1)];
    assert!(check(&history(foreign)).count(Check::Corruption) > 0);
    let ledger = |counter, rows, acknowledged| {
        let mut history = history(vec![write(1, 50, 1, Level::One), read(1, 500, 1)]);
        history.ledgers.push(Ledger {
            bank: "b".to_owned(),
            session: 1,
            request: 0,
            start: 600,
            end: 600,
            node: NodeId::NONE,
            counter,
            rows,
            acknowledged,
            attempted: 5,
        });
        check(&history)
    };
    assert!(lost_only(&ledger(3, 3, 5)), "entries may be gone");
    assert!(!ledger(4, 3, 5).passed() && !ledger(6, 6, 5).passed());
}
