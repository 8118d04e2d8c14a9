//! Tests of each rule with the smallest history that violates it, and with a similar history that
//! does not.

use checker::history::{
    BankConstants, Header, Key, Kind, Ledger, Level, NodeId, Operation, OperationHistory, Outcome,
    Page, Total, Value,
};
use checker::{Check, check};

const ROW: Key = Key(0);
const OTHER: Key = Key(1);
const MS: u64 = 1_000_000;

fn history(operations: Vec<Operation>) -> OperationHistory {
    let mut history = OperationHistory {
        header: Header::new("rules", String::new(), vec![]),
        ..OperationHistory::default()
    };
    history.keys.intern("kv/a");
    history.keys.intern("kv/b");
    history.operations = operations;
    history
}

/// Returns the text of each violation, with its check.
fn judged(history: &OperationHistory) -> Vec<String> {
    let report = |one: &checker::Violation| format!("{} {}", one.check.id(), one.what);
    check(history).violations.iter().map(report).collect()
}

fn said(operations: Vec<Operation>) -> Vec<String> {
    judged(&history(operations))
}

#[track_caller]
fn accuses(operations: Vec<Operation>, story: &str) {
    let said = said(operations);
    assert!(said.iter().any(|one| one == story), "{said:#?}");
}

#[track_caller]
fn passes(operations: Vec<Operation>) {
    assert_eq!(said(operations), Vec::<String>::new());
}

/// Returns the value of the write of session 1 with this number.
fn value(number: u32) -> Value {
    Value::new(1, number)
}

fn change(kind: Kind, number: u32, start: u64, version: u64) -> Operation {
    let one = Operation::new(kind, ROW, 1, number);
    Operation { start, end: start + 5, value: value(number), version, ..one }
}

fn write(number: u32, start: u64, version: u64) -> Operation {
    change(Kind::Write, number, start, version)
}

fn delete(number: u32, start: u64, version: u64) -> Operation {
    change(Kind::Delete, number, start, version)
}

fn weak(start: u64, value: Value, version: u64) -> Operation {
    let one = Operation::new(Kind::Read, ROW, 2, 100);
    Operation { start, end: start + 5, value, version, ..one }
}

fn strong(start: u64, value: Value, version: u64) -> Operation {
    Operation { level: Level::Quorum, ..weak(start, value, version) }
}

fn unknown(one: Operation) -> Operation {
    Operation { outcome: Outcome::Unknown, version: 0, ..one }
}

fn in_session(one: Operation) -> Operation {
    Operation { session: 1, token: true, ..one }
}

fn last(one: Operation) -> Operation {
    Operation { last: true, ..one }
}

#[test]
fn c1_a_change_happens_once_at_a_version_of_its_own() {
    passes(vec![write(1, 0, 7), write(2, 10, 8), weak(20, value(1), 7)]);
    accuses(
        vec![write(1, 0, 7), write(2, 10, 7)],
        "C1 two acknowledged changes were answered with version 7",
    );
    accuses(
        vec![write(1, 0, 7), weak(20, value(1), 9)],
        "C1 one value was at version 7 and at version 9",
    );
    accuses(
        vec![unknown(write(1, 0, 0)), weak(20, value(1), 7), weak(30, value(1), 9)],
        "C1 one value was at version 7 and at version 9",
    );
    let replay = |version| Operation { kind: Kind::Replay, ..write(1, 20, version) };
    passes(vec![write(1, 0, 7), replay(7), Operation { outcome: Outcome::Rejected, ..replay(0) }]);
    accuses(
        vec![write(1, 0, 7), replay(9)],
        "C1 it was answered with version 7, sent again with 9",
    );
}

#[test]
fn c2_a_value_that_is_read_was_sent_to_that_row() {
    accuses(vec![weak(0, value(9), 7)], "C2 the value 1:9 was read, which was never sent");
    accuses(
        vec![weak(0, Value::FOREIGN, 7)],
        "C2 the value foreign was read, which was never sent",
    );
    let elsewhere = Operation { key: OTHER, ..write(1, 0, 7) };
    accuses(
        vec![elsewhere, weak(10, value(1), 7)],
        "C2 the value 1:1 was read, which was sent to kv/b",
    );
    let refused = Operation { outcome: Outcome::Rejected, ..write(1, 0, 0) };
    accuses(vec![refused, weak(10, value(1), 7)], "C2 the value of a refused write was read");
    accuses(vec![delete(1, 0, 7), weak(10, value(1), 7)], "C2 the value is the name of a delete");
    accuses(
        vec![write(1, 10, 7), weak(0, value(1), 7)],
        "C2 the value was read before it was sent",
    );
    passes(vec![write(1, 5, 7), weak(0, value(1), 7)]);
    accuses(
        vec![write(1, 0, 7), unknown(write(2, 0, 0)), weak(10, value(2), 7)],
        "C2 version 7 was 1:1 and 1:2",
    );
}

#[test]
fn c3_strong_reads_and_changes_have_one_order() {
    let older = "C3 version 7 was read although version 8 was known before";
    accuses(vec![write(1, 0, 7), write(2, 10, 8), strong(16, value(1), 7)], older);
    passes(vec![write(1, 0, 7), write(2, 10, 8), strong(15, value(1), 7)]);
    passes(vec![write(1, 0, 7), write(2, 10, 8), weak(16, value(1), 7)]);
    accuses(
        vec![
            unknown(write(2, 0, 0)),
            write(1, 0, 7),
            strong(10, value(2), 8),
            strong(20, value(1), 7),
        ],
        older,
    );
    accuses(
        vec![write(1, 0, 8), write(2, 10, 7)],
        "C3 version 7 was given to a change sent when 8 was known",
    );
    accuses(
        vec![strong(0, value(1), 7), write(1, 10, 7)],
        "C3 version 7 was known before the change that made it was sent",
    );
}

#[test]
fn c3_a_bulk_row_that_was_never_read_still_came_after_known_versions() {
    let bulk = write(2, 10, 0);
    passes(vec![write(1, 0, 7), bulk, strong(15, value(1), 7)]);
    accuses(
        vec![write(1, 0, 7), bulk, strong(16, value(1), 7)],
        "C3 version 7 was read although a change after it was known before",
    );
    passes(vec![write(1, 0, 7), bulk, write(3, 16, 8), strong(30, value(3), 8)]);
    passes(vec![write(1, 0, 7), unknown(bulk), strong(16, value(1), 7)]);
}

#[test]
fn c3_a_row_is_absent_before_its_first_write_and_after_a_delete() {
    let absent = |start| strong(start, Value::NONE, 0);
    passes(vec![absent(0), write(1, 4, 7), absent(5)]);
    let vanished = "C3 no row was found although version 7 was known before, and no delete at or \
                    after that version had been sent";
    accuses(vec![write(1, 0, 7), absent(10)], vanished);
    accuses(vec![delete(2, 0, 6), write(1, 6, 7), absent(12)], vanished);
    passes(vec![write(1, 0, 7), delete(2, 15, 8), absent(10)]);
    accuses(vec![write(1, 0, 7), delete(2, 16, 8), absent(10)], vanished);
    passes(vec![write(1, 0, 7), unknown(delete(2, 6, 0)), absent(12), strong(8, value(1), 7)]);
    accuses(
        vec![write(1, 0, 7), unknown(delete(2, 6, 0)), absent(12), strong(18, value(1), 7)],
        "C3 version 7 was read although a change after it was known before",
    );
    // The response to the delete contained no version. The delete must come before the write that
    // followed it.
    let vanished = "C3 no row was found although version 8 was known before, and no delete at or \
                    after that version had been sent";
    accuses(vec![write(1, 0, 7), delete(2, 6, 0), write(3, 12, 8), absent(18)], vanished);
}

#[test]
fn c4_a_session_sees_its_writes_and_its_earlier_reads() {
    let (one, two) = (write(1, 0, 7), in_session(write(2, 10, 8)));
    let read = |start| in_session(weak(start, value(1), 7));
    accuses(
        vec![one, two, read(20)],
        "C4 the session had written version 8; it then read version 7",
    );
    passes(vec![one, two, Operation { token: false, ..read(20) }]);
    passes(vec![one, two, Operation { session: 2, ..read(20) }]);
    passes(vec![one, two, read(12)]);
    let seen = in_session(weak(20, value(2), 8));
    accuses(
        vec![one, write(2, 10, 8), seen, read(30)],
        "C4 the session had read version 8; it then read version 7",
    );
    accuses(
        vec![one, two, in_session(weak(20, Value::NONE, 0))],
        "C4 the session had written version 8; it then found no row, and no delete explains it",
    );
    passes(vec![one, two, delete(3, 20, 9), in_session(weak(20, Value::NONE, 0))]);
    accuses(
        vec![one, read(10), in_session(write(2, 20, 0)), read(30)],
        "C4 the session had written a change after version 7; it then read version 7",
    );
    let seen = Operation { end: 12, ..in_session(weak(10, value(2), 8)) };
    accuses(
        vec![unknown(write(2, 0, 0)), seen, in_session(write(1, 20, 7))],
        "C4 the session had seen or written version 8; its write got version 7",
    );
}

#[test]
fn c5_a_bounded_read_is_no_older_than_its_bound() {
    let bounded = |start| Operation { bound_ms: 10, ..weak(start, value(1), 7) };
    let writes = [write(1, 0, 7), write(2, MS, 8)];
    let [one, two] = writes;
    passes(vec![one, two, bounded(11 * MS + 5)]);
    accuses(
        vec![one, two, bounded(11 * MS + 6)],
        "C5 version 7 was read with a bound of 10 ms, although version 8 had been acknowledged \
         before that",
    );
    let absent = Operation { value: Value::NONE, version: 0, ..bounded(20 * MS) };
    accuses(
        vec![one, absent],
        "C5 no row was found with a bound of 10 ms, although version 7 had been acknowledged \
         before that",
    );
}

#[test]
fn c6_an_acknowledged_change_is_kept() {
    let (one, two) = (write(1, 0, 7), write(2, 10, 8));
    passes(vec![one, two, last(weak(20, value(2), 8))]);
    accuses(
        vec![one, two, last(weak(20, value(1), 7))],
        "C6 version 8 was acknowledged; the row is left at version 7",
    );
    accuses(
        vec![delete(1, 0, 7), two, last(weak(20, Value::NONE, 0))],
        "C6 version 8 was acknowledged; the row is gone, without a delete after it",
    );
    passes(vec![one, unknown(two), last(weak(20, value(2), 8))]);
    let report = check(&history(vec![one]));
    assert_eq!(report.rows_not_read_back, 1);
}

fn page(keys: Vec<Key>, complete: bool) -> Page {
    let (table, session, request) = ("kv".to_owned(), 1, 1);
    Page { table, session, request, start: 100, end: 101, keys, complete }
}

fn walked(operations: Vec<Operation>, keys: Vec<Key>, complete: bool) -> Vec<String> {
    judged(&OperationHistory { pages: vec![page(keys, complete)], ..history(operations) })
}

#[test]
fn a_row_that_a_whole_walk_did_not_meet_is_known_to_be_absent() {
    let unread = |keys: Vec<Key>, complete| {
        let pages = vec![page(keys, complete)];
        check(&OperationHistory { pages, ..history(vec![unknown(write(1, 0, 0))]) })
            .rows_not_read_back
    };
    assert_eq!(unread(vec![], true), 0);
    assert_eq!(unread(vec![], false), 1, "it may stand behind the pages that were read");
    assert_eq!(unread(vec![ROW], true), 1, "it is there, and its version is not known");
}

#[test]
fn c7_each_walk_during_the_run_meets_each_row_once() {
    let of = |session, keys| Page { session, ..page(keys, true) };
    let judge =
        |pages: Vec<Page>| judged(&OperationHistory { pages, ..history(vec![write(1, 0, 0)]) });
    let none: [&str; 0] = [];
    assert_eq!(judge(vec![of(2, vec![ROW]), of(3, vec![ROW])]), none);
    let lost = ["C7 an acknowledged row is not there"];
    assert_eq!(judge(vec![of(2, vec![ROW]), of(3, vec![])]), lost);
    let halves = vec![Page { complete: false, ..of(2, vec![ROW]) }, of(2, vec![ROW])];
    assert_eq!(judge(halves), ["C7 the row was met twice"]);
    let other = Page { table: "k".to_owned(), ..of(2, vec![]) };
    assert_eq!(judge(vec![other, of(3, vec![ROW])]), none, "it is of another table");
}

#[test]
fn c7_exactly_the_rows_that_were_written_are_there() {
    let lost = ["C7 an acknowledged row is not there"];
    let none: [&str; 0] = [];
    let written = write(1, 0, 0);
    assert_eq!(walked(vec![written], vec![ROW], true), none);
    assert_eq!(walked(vec![written], vec![], true), lost);
    assert_eq!(walked(vec![written], vec![], false), none);
    assert_eq!(walked(vec![unknown(written)], vec![], true), none);
    assert_eq!(walked(vec![written, unknown(delete(2, 0, 0))], vec![], true), none);
    assert_eq!(walked(vec![delete(2, 0, 6), write(1, 10, 7)], vec![], true), lost);
    assert_eq!(said(vec![written, last(weak(10, Value::NONE, 0))])[1..], lost);
    let refused = Operation { outcome: Outcome::Rejected, ..written };
    for nobody in [vec![], vec![refused]] {
        let said = walked(nobody, vec![ROW], true);
        let unexpected =
            "C7 the row is there although it was never written, or every write was refused";
        assert_eq!(said, [unexpected]);
    }
    let deleted = walked(vec![write(1, 0, 7), delete(2, 10, 8)], vec![ROW], true);
    assert_eq!(deleted, ["C7 the row is there although it was deleted last"]);
    assert_eq!(walked(vec![written], vec![ROW, ROW], true), ["C7 the row was met twice"]);
    let again = vec![page(vec![ROW], true), page(vec![ROW], true)];
    let twice = OperationHistory { pages: again, ..history(vec![written]) };
    assert_eq!(judged(&twice), none, "two walks may meet a row once each");
}

#[test]
fn c8_transfers_change_no_total() {
    let total = |start, sum, accounts| Total {
        bank: "b".to_owned(),
        session: 1,
        request: 1,
        start,
        end: start + 1,
        node: NodeId::NONE,
        level: Level::One,
        sum,
        accounts,
    };
    let mut history = history(vec![]);
    history.header.bank = Some(BankConstants { total: 400, accounts: 4 });
    history.totals = vec![total(9, 300, 3), total(1, 400, 4), total(5, 399, 4)];
    let said = judged(&history);
    let torn = "C8 bank b had 399 in 4 accounts instead of 400 in 4";
    assert_eq!(said, [torn, "C8 bank b had 300 in 3 accounts instead of 400 in 4"]);
    assert_eq!(check(&history).violations[0].evidence.len(), 2, "and the right one before");
    history.header.bank = None;
    assert!(check(&history).passed());
}

#[test]
fn c9_counters_count() {
    let ledger = |counter, rows, acknowledged, attempted| {
        let (bank, node) = ("b".to_owned(), NodeId::NONE);
        let (session, request, start, end) = (1, 1, 1, 2);
        Ledger { bank, session, request, start, end, node, counter, rows, acknowledged, attempted }
    };
    let mut history = history(vec![]);
    history.ledgers =
        vec![ledger(5, 5, 4, 6), ledger(5, 4, 4, 5), ledger(3, 3, 4, 5), ledger(6, 6, 4, 5)];
    let wanted = [
        "C9 bank b: the counter says 5, the ledger has 4 rows",
        "C9 bank b: 4 entries were acknowledged, 3 are there",
        "C9 bank b: 5 entries were sent, 6 are there",
    ];
    assert_eq!(judged(&history), wanted);
}

#[test]
fn c9_a_write_under_a_condition_replaces_its_base_version() {
    let based = |one: Operation, based_on| Operation { based_on, ..one };
    passes(vec![write(1, 0, 7), based(write(2, 10, 8), 7), based(write(3, 20, 9), 8)]);
    accuses(
        vec![write(1, 0, 7), write(2, 10, 8), based(write(3, 20, 9), 7)],
        "C9 a write based on version 7 got version 9, over version 8",
    );
    // Neither write has a version in its response, as with rows of a bulk write.
    accuses(
        vec![write(1, 0, 7), based(write(2, 10, 0), 7), based(write(3, 10, 0), 7)],
        "C9 two writes were both stored on top of version 7",
    );
    passes(vec![write(1, 0, 7), based(write(2, 10, 0), 7), based(unknown(write(3, 10, 0)), 7)]);
    accuses(vec![based(write(1, 0, 7), 8)], "C9 a write based on version 8 got version 7");
}

#[test]
fn c10_reports_the_longest_gap_without_success() {
    let mut history = history(vec![write(1, 0, 7), write(2, 100, 8), write(3, 300, 9)]);
    history.operations.push(unknown(write(4, 600, 0)));
    let node = history.nodes.intern("shard1", checker::history::Role::Primary, 0);
    history.operations[0].node = node;
    let report = check(&history);
    let [group] = report.availability.groups.as_slice() else { panic!("{report:?}") };
    assert_eq!((group.shard.as_str(), group.reads, group.level), ("shard1", false, Level::One));
    assert_eq!((group.outcomes.ok, group.outcomes.unknown), (3, 1));
    let gap = group.gap.unwrap();
    assert_eq!((gap.from, gap.to, gap.nanos()), (305, 605, 300), "to the last failure");
}

#[test]
fn only_the_earliest_are_reported_and_all_are_counted() {
    let mut operations = vec![write(1, 0, 7), write(2, 10, 8)];
    operations.extend((0..500).rev().map(|number| strong(20 + number, value(1), 7)));
    let report = check(&history(operations));
    assert_eq!(report.count(Check::Linearizable), 500);
    let times: Vec<u64> = report.violations.iter().map(|one| one.at).collect();
    assert_eq!(times, (20..30).collect::<Vec<_>>());
}
