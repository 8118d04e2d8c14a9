//! Tests of CSV and gzip bodies that arrive in pieces of any size, compared with third-party
//! readers.

use api_router::body_decoding::{BadGzip, BodyDecoder, ContentCoding, DecodeStep};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use shard_manager::csv::{Kind, Record};
use std::io::Write as _;

/// Returns the fields of each record of a text that arrives in pieces of this size: each as text,
/// with true if it was quoted.
fn records(text: &[u8], piece: usize) -> Vec<Vec<(String, bool)>> {
    let (mut record, mut found) = (Record::default(), Vec::new());
    let (mut at, mut there) = (0, 0);
    loop {
        there = (there + piece).min(text.len());
        let at_end = there == text.len();
        while let Some(cut) = record.read(&text[at..there], at_end) {
            at += cut.bytes;
            if cut.kind == Kind::Blank {
                continue;
            }
            assert_eq!(cut.kind, Kind::Fields);
            let fields = record.fields();
            let fields =
                fields.map(|field| (String::from_utf8(field.text.to_vec()).unwrap(), field.quoted));
            found.push(fields.collect());
        }
        if at_end {
            assert_eq!(at, text.len());
            return found;
        }
    }
}

/// Returns the records that the `csv` crate finds.
fn oracle(text: &[u8]) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text);
    let records = reader.records().map(|record| record.unwrap());
    records.map(|record| record.iter().map(str::to_owned).collect()).collect()
}

/// Returns a strategy for fields: quoted whenever necessary, and sometimes when not.
fn field() -> impl Strategy<Value = (String, bool)> {
    let text = prop_oneof![
        Just(String::new()),
        "[a-z ]{0,5}",
        prop::collection::vec(
            prop::sample::select(vec!["\"", ",", "\n", "\r\n", "a", "é", " "]),
            0..6
        )
        .prop_map(|parts| parts.concat()),
    ];
    (text, any::<bool>()).prop_map(|(text, quoted)| {
        let must = text.contains(['"', ',', '\n', '\r']);
        (text, quoted || must)
    })
}

fn spell(records: &[Vec<(String, bool)>], line_end: &str, last: bool) -> Vec<u8> {
    let line = |record: &Vec<(String, bool)>| {
        let field = |(text, quoted): &(String, bool)| match quoted {
            true => format!("\"{}\"", text.replace('"', "\"\"")),
            false => text.clone(),
        };
        record.iter().map(field).collect::<Vec<_>>().join(",")
    };
    let mut text = records.iter().map(line).collect::<Vec<_>>().join(line_end);
    if last {
        text.push_str(line_end);
    }
    text.into_bytes()
}

proptest! {
    #[test]
    fn whatever_is_written_as_csv_is_read_back_and_others_read_the_same(
        records_given in prop::collection::vec(prop::collection::vec(field(), 2..5), 1..6),
        crlf in any::<bool>(),
        last in any::<bool>(),
        piece in 1_usize..40,
    ) {
        let text = spell(&records_given, if crlf { "\r\n" } else { "\n" }, last);
        prop_assert_eq!(&records(&text, piece), &records_given);
        let reported = records_given.iter().map(|record| record.iter().map(|field| field.0.clone()).collect());
        prop_assert_eq!(oracle(&text), reported.collect::<Vec<Vec<String>>>());
    }

    #[test]
    fn any_bytes_at_all_are_cut_to_their_end(
        text in prop::collection::vec(prop::sample::select(b"\",\n\rab".to_vec()), 0..60),
        piece in 1_usize..20,
    ) {
        let cut_in = |piece: usize| {
            let (mut record, mut kinds) = (Record::default(), Vec::new());
            let (mut at, mut there) = (0, 0);
            while there < text.len() {
                there = (there + piece).min(text.len());
                let at_end = there == text.len();
                while let Some(cut) = record.read(&text[at..there], at_end) {
                    assert!(cut.bytes > 0);
                    at += cut.bytes;
                    kinds.push(cut);
                }
            }
            (at, kinds)
        };
        let whole = cut_in(usize::MAX / 2);
        prop_assert_eq!(whole.0, text.len());
        // The sizes of pieces make no difference.
        prop_assert_eq!(cut_in(piece), whole);
    }

    #[test]
    fn gzip_comes_out_as_it_went_in_whatever_the_pieces(
        text in prop::collection::vec(any::<u8>(), 0..2_000),
        members in 1_usize..3,
        piece in 1_usize..50,
        room in 1_usize..300,
    ) {
        let mut zipped = Vec::new();
        for part in text.chunks(text.len().div_ceil(members).max(1)) {
            zipped.extend(gzip(part));
        }
        if text.is_empty() {
            zipped = gzip(&text);
        }
        prop_assert_eq!(inflated(&zipped, piece, room), Ok(text));
        for cut in 1..zipped.len().min(30) {
            let end = zipped.len() - cut;
            // A body that ends between two members looks complete.
            if members == 1 {
                prop_assert_eq!(inflated(&zipped[..end], piece, room), Err(BadGzip));
            }
        }
    }
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn inflated(zipped: &[u8], piece: usize, room: usize) -> Result<Vec<u8>, BadGzip> {
    let mut inflow = BodyDecoder::new(ContentCoding::Gzip);
    let (mut text, mut pieces) = (Vec::new(), zipped.chunks(piece));
    loop {
        let before = text.len();
        match inflow.fill(&mut text, room)? {
            DecodeStep::Bytes => assert!(text.len() > before && text.len() - before <= room),
            DecodeStep::Ended => return Ok(text),
            DecodeStep::NeedsInput => match pieces.next() {
                Some(piece) => inflow.push(Bytes::copy_from_slice(piece)),
                None => inflow.end(),
            },
        }
    }
}

#[test]
fn members_of_one_byte_and_members_longer_than_the_buffer_come_out_whole() {
    let members: Vec<u8> = gzip(b"x").repeat(20_000);
    assert_eq!(inflated(&members, 4_096, 128 << 10), Ok(vec![b'x'; 20_000]));
    let long: Vec<u8> = (0..200_000_u32).flat_map(u32::to_be_bytes).collect();
    assert!(inflated(&gzip(&long), 4_096, 128 << 10) == Ok(long));
}

#[test]
fn invalid_gzip_and_trailing_garbage_are_reported() {
    let zipped = gzip(b"text");
    for bad in [b"text".to_vec(), Vec::new(), [&zipped[..], b"garbage"].concat()] {
        assert_eq!(inflated(&bad, 3, 100), Err(BadGzip));
    }
}

#[test]
fn an_invalid_record_is_reported_with_its_fault_and_its_end() {
    let read = |text: &[u8]| {
        let cut = Record::default().read(text, true).unwrap();
        (cut.bytes, cut.kind)
    };
    assert_eq!(read(b"a,\"b\"c,d\nnext"), (9, Kind::TextAfterQuote));
    assert_eq!(read(b"a,\"b\"\r\nnext"), (7, Kind::Fields));
    assert_eq!(read(b"a,\"b\nnext"), (9, Kind::OpenQuote));
    assert_eq!(read(b"a\"b,c\n"), (6, Kind::Fields));
    assert_eq!(read(b"\r\nnext"), (2, Kind::Blank));
}
