//! Tests of the lines of a history.

use proptest::prelude::*;

use checker::check;
use checker::history::lines::{LINE_BYTES_MAX, read, write};
use checker::history::{
    BankConstants, Fault, Header, Kind, Ledger, Level, NodeId, Operation, OperationHistory,
    Outcome, Page, Role, Total, Value,
};

fn everything() -> OperationHistory {
    let mut header = Header::new(
        "run \"1\"",
        "2026-01-02T03:04:05.678Z".to_owned(),
        vec!["http://127.0.0.1:3000".to_owned()],
    );
    header.bank = Some(BankConstants { total: -5, accounts: 4 });
    let mut history = OperationHistory { header, ..OperationHistory::default() };
    let key = history.keys.intern("kv/ü\\\"1");
    let other = history.keys.intern("kv/2");
    let node = history.nodes.intern("shard2", Role::Replica, 0);
    let (bank, end) = ("b".to_owned(), 9);
    let write = Operation { value: Value::new(1, 7), ..Operation::new(Kind::Write, key, 1, 7) };
    history.operations = vec![
        write,
        Operation { end, version: u64::MAX, based_on: 3, attempts: 5, node, ..write },
        Operation { outcome: Outcome::Unknown, level: Level::All, token: true, ..write },
        Operation { kind: Kind::Delete, outcome: Outcome::Committed, ..write },
        Operation { kind: Kind::Replay, outcome: Outcome::Rejected, start: 4, ..write },
        Operation { last: true, end, bound_ms: 500, ..Operation::new(Kind::Read, other, 2, 1) },
        Operation { value: Value::FOREIGN, ..Operation::new(Kind::Read, other, 2, 2) },
    ];
    let (session, request, start) = (3, 4, 5);
    let total = Total {
        bank: bank.clone(),
        session,
        request,
        start,
        end,
        node,
        level: Level::Quorum,
        sum: -5,
        accounts: 4,
    };
    let node = NodeId::NONE;
    history.totals = vec![total];
    history.ledgers = vec![Ledger {
        bank,
        session,
        request,
        start,
        end,
        node,
        counter: 1,
        rows: 2,
        acknowledged: 3,
        attempted: 4,
    }];
    history.pages = vec![Page {
        table: "kv".to_owned(),
        session,
        request,
        start,
        end,
        keys: vec![other, key, other],
        complete: true,
    }];
    history.faults = vec![Fault { at: 1, what: "kill -9".to_owned() }];
    history
}

fn written(history: &OperationHistory) -> String {
    let mut lines = Vec::new();
    write(history, &mut lines).expect("a list takes all bytes");
    String::from_utf8(lines).expect("lines are UTF-8")
}

#[test]
fn written_lines_are_read_back_the_same() {
    let history = everything();
    let lines = written(&history);
    assert_eq!(lines.lines().count(), 12);
    let again = read(&mut lines.as_bytes()).unwrap();
    assert_eq!(again.header, history.header);
    assert_eq!(again.operations, history.operations);
    assert_eq!(again.nodes, history.nodes);
    assert_eq!((&again.totals, &again.ledgers), (&history.totals, &history.ledgers));
    assert_eq!((&again.pages, &again.faults), (&history.pages, &history.faults));
    assert_eq!(written(&again), lines);
}

#[test]
fn a_line_that_is_not_understood_is_named_by_its_number() {
    let lines = written(&everything());
    let header = lines.lines().next().unwrap();
    for (second, said) in [
        ("{", "line 2: EOF"),
        ("[]", "line 2: invalid"),
        (r#"{"is":"write","start":1,"value":"1:1","session":1}"#, "line 2: `key` is missing"),
        (r#"{"is":"write","start":1,"key":"k","session":1}"#, "line 2: `value` is missing"),
        (
            r#"{"is":"write","start":1,"key":"k","session":1,"value":"absent"}"#,
            "line 2: a write is named",
        ),
        (r#"{"is":"read","start":1,"key":"k","value":"absent"}"#, "line 2: `session` is required"),
        (
            r#"{"is":"read","start":2,"end":1,"key":"k","session":1,"value":"absent"}"#,
            "line 2: `end` is before",
        ),
        (
            r#"{"is":"read","start":2,"key":"k","session":1,"value":"0:1"}"#,
            "line 2: a value is written",
        ),
        (
            r#"{"is":"read","start":2,"key":"","session":1,"value":"1:1"}"#,
            "line 2: a key has a name",
        ),
        (r#"{"is":"dance","start":2}"#, "line 2: unknown variant `dance`"),
        (r#"{"is":"fault","start":2,"what":"x","more":1}"#, "line 2: unknown field `more`"),
        (r#"{"is":"fault","start":-2,"what":"x"}"#, "line 2: invalid value"),
        (r#"{"is":"page","start":2,"table":"kv"}"#, "line 2: `keys` is missing"),
        (r#"{"is":"total","start":2,"bank":"b","sum":1}"#, "line 2: `accounts` is missing"),
        (r#"{"is":"ledger","start":2,"bank":"b","rows":1}"#, "line 2: `counter` is missing"),
        (&"x".repeat(LINE_BYTES_MAX + 1), "line 2: longer than"),
    ] {
        let error = read(&mut format!("{header}\n{second}\n").as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with(said), "{second:.200}: {error}");
    }
}

#[test]
fn another_format_is_refused_for_its_number() {
    let error = read(&mut &br#"{"format":2,"new":true}"#[..]).unwrap_err();
    let said = "line 1: this is format 2 of a history; format 1 is understood";
    assert_eq!(error.to_string(), said);
    for nothing in [&b""[..], b"\n", b"{}\n", b"\xff\xfe", br#"{"format":1,"run":"r"}"#] {
        assert_eq!(read(&mut &nothing[..]).unwrap_err().line, 1);
    }
}

#[test]
fn the_example_in_the_document_is_a_history_that_passes() {
    let document = include_str!("../../../docs/history.md");
    let example = document.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let history = read(&mut example.as_bytes()).unwrap();
    assert_eq!(history.operations.len(), 5);
    assert_eq!(written(&history).lines().count(), example.lines().count());
    let report = check(&history);
    assert!(report.passed(), "{}", report.text(&history));
}

proptest! {
    #[test]
    fn any_text_is_read_as_a_history_or_refused_with_a_sentence(
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut lines = written(&everything()).into_bytes();
        for (place, byte) in noise {
            let place = place.index(lines.len());
            lines[place] = byte;
        }
        match read(&mut lines.as_slice()) {
            Ok(history) => {
                let report = check(&history);
                report.text(&history);
                report.json(&history);
            }
            Err(bad) => prop_assert!((1..=12).contains(&bad.line) && !bad.what.is_empty()),
        }
    }
}
