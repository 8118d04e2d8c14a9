//! Tests of the keyspaces other than hash: golden vectors, extreme keys, and properties of any key.

use proptest::prelude::*;
use shard_manager::keyspace::range::RangeSpace;
use shard_manager::keyspace::routing_step::RoutingStep;
use shard_manager::keyspace::{KeyError, Keyspace, SLOT_COUNT, ShardKey};

const PARTITIONS: &str = "list:A=30,B=20,C=15,D=25,E=10";

/// A keyspace of each kind and mode, as the configuration writes it.
const EACH: [&str; 7] = [
    "hash",
    "modulo",
    "range:-5,1000,2000,3000",
    "range-text:g,n,Ω",
    PARTITIONS,
    "matrix:id",
    "matrix:server",
];

/// Keys that a careless implementation gets wrong.
const EXTREME: [&str; 14] =
    [":", "::", "@:", "@", "@a:", "@:a", "-", "-0", "+1", "00", "Ω", "Ω:Ω", "@Ω:Ω", "A:"];

fn keyspace(text: &str) -> Keyspace {
    text.parse().expect("a good keyspace")
}

fn place(text: &str, key: &str) -> Result<u16, KeyError> {
    let key = ShardKey::parse(key).expect("a good key");
    keyspace(text).slot_of(key).map(|slot| slot.number())
}

fn refused(text: &str, key: &str) -> String {
    place(text, key).expect_err("no place").to_string()
}

#[test]
fn modulo_is_the_integer_at_the_end_of_the_key_however_long() {
    // Computed independently with Python's integers: `int(digits) % 16384`.
    for (key, golden) in [
        ("0", 0),
        ("7", 7),
        ("007", 7),
        ("user_16384", 0),
        ("user_16385", 1),
        ("order/2026-11-21", 21),
        ("Ω12345678901234567890", 2770),
        ("123456789012345678901234567890", 2770),
        ("a-5", 5),
    ] {
        assert_eq!(place("modulo", key), Ok(golden), "{key}");
    }
    assert_eq!(place("modulo", &"9".repeat(256)), Ok(16_383));
    assert_eq!(place("modulo", &format!("{}1", "0".repeat(255))), Ok(1));
    // Digits of other scripts count as letters.
    for key in ["user", "7a", "٣", "1٣", ":"] {
        assert_eq!(place("modulo", key), Err(KeyError::NoTrailingInteger), "{key}");
    }
    assert!(refused("modulo", "user").contains("ends in a decimal integer"));
}

#[test]
fn modulo_equals_id_modulo_n_only_where_n_divides_the_slot_count() {
    let same = |shards: u64| (0..100_000_u64).all(|id| id % 16_384 % shards == id % shards);
    assert!([1, 2, 4, 256].into_iter().all(same));
    assert!(![3, 5, 6].into_iter().any(same));
}

#[test]
fn a_list_gives_each_partition_a_block_by_weight_and_hashes_inside() {
    // Computed independently: Python 3.11, package xxhash 4.1.0.
    for (key, golden) in [
        ("A:1", 4566),
        ("A:user_123", 3495),
        ("B:", 7761),
        ("C:7", 9573),
        ("D:用户", 13_759),
        ("E:x:y", 15_964),
    ] {
        assert_eq!(place(PARTITIONS, key), Ok(golden), "{key}");
    }
    let Keyspace::List(list) = keyspace(PARTITIONS) else { panic!("a list") };
    let blocks: Vec<(&str, u16, u16)> = list
        .partitions()
        .iter()
        .map(|part| (&*part.name, part.first.number(), part.last.number()))
        .collect();
    let golden = [
        ("A", 0, 4915),
        ("B", 4916, 8191),
        ("C", 8192, 10_649),
        ("D", 10_650, 14_745),
        ("E", 14_746, 16_383),
    ];
    assert_eq!(blocks, golden);
}

#[test]
fn the_error_for_a_key_of_no_partition_lists_at_most_twenty_partitions() {
    for key in ["F:1", "a:1", "A", ":", ":A", " A:1", "AB:1", "Ω"] {
        let reported = refused(PARTITIONS, key);
        assert!(reported.ends_with("there are: A, B, C, D, E"), "{reported}");
    }
    let many: Vec<String> = (1..=21).map(|number| format!("p{number}=1")).collect();
    let reported = refused(&format!("list:{}", many.join(",")), "x:1");
    assert!(reported.ends_with("p19, p20, …") && !reported.contains("p21"), "{reported}");
    let reported = refused(&format!("list:{}", many[..20].join(",")), "x:1");
    assert!(reported.ends_with("p19, p20"), "{reported}");
}

#[test]
fn a_matrix_id_is_hashed_whole_or_by_its_server() {
    // Computed independently, like the values of the list keyspace.
    for (key, by_id, by_server) in [
        ("@alice:example.org", 6739, 16_197),
        ("@bob:example.org", 8863, 16_197),
        ("@alice:matrix.org:8448", 1241, 6425),
        ("@Ω:[::1]", 2842, 7708),
    ] {
        assert_eq!(place("matrix:id", key), Ok(by_id), "{key}");
        assert_eq!(place("matrix", key), Ok(by_id), "the whole id by default");
        assert_eq!(place("matrix:server", key), Ok(by_server), "{key}");
    }
    for key in ["alice:example.org", "@alice", "@:", "@:server", "@user:", "@", ":", "#room:a"] {
        for text in ["matrix:id", "matrix:server"] {
            assert_eq!(place(text, key), Err(KeyError::NotAMatrixId), "{key}");
        }
    }
    assert!(refused("matrix", "x").contains("@user:server"));
}

#[test]
fn a_split_point_begins_the_range_above_it() {
    let text = "range:-5,1000,2000,3000";
    let ranges = [("-170", "-6"), ("-5", "999"), ("1000", "1999"), ("2000", "2999")];
    for (index, (first, last)) in ranges.into_iter().enumerate() {
        let slot = (SLOT_COUNT as usize * index).div_ceil(5) as u16;
        assert_eq!((place(text, first), place(text, last)), (Ok(slot), Ok(slot)), "{first}");
    }
    let last = (SLOT_COUNT as usize * 4).div_ceil(5) as u16;
    let most = i128::MAX.to_string();
    for key in ["3000", "003000", &most] {
        assert_eq!(place(text, key), Ok(last), "{key}");
    }
    assert_eq!(place(text, &i128::MIN.to_string()), Ok(0));
    for key in [
        "user_5",
        "+5",
        "5.0",
        "",
        "-",
        "5 ",
        "1e3",
        "0x10",
        "٣",
        &"9".repeat(256),
        &most.replace("27", "28"),
    ] {
        if let Ok(parsed) = ShardKey::parse(key) {
            assert_eq!(keyspace(text).slot_of(parsed), Err(KeyError::NotAnInteger), "{key}");
        }
    }
    // Split points beyond 64 bits are valid as well.
    let far = format!("range:0,{most}");
    assert_ne!(place(&far, &most), place(&far, &(i128::MAX - 1).to_string()));
    assert_ne!(place(&far, "-1"), place(&far, "0"));
    // Texts are compared byte by byte: capitals sort before lowercase letters.
    let text = "range-text:g,n";
    for (key, index) in [("a", 0), ("fzz", 0), ("G", 0), ("g", 1), ("mz", 1), ("n", 2), ("Ω", 2)] {
        assert_eq!(place(text, key), Ok([0, 5462, 10_923][index]), "{key}");
    }
}

#[test]
fn a_contiguous_placement_assigns_the_ranges_of_a_new_cluster_in_order() {
    let topology = shard_manager::topology::Topology::with_weights(&[1, 1, 1]).expect("weights");
    let placement = shard_manager::placement::Placement::Even;
    let map =
        shard_manager::shard_map::ShardMap::first(keyspace("range:10,20"), placement, topology);
    let map = map.expect("a map");
    for (key, shard) in [("9", 0), ("10", 1), ("19", 1), ("20", 2)] {
        let place = map.place(ShardKey::parse(key).expect("a key")).expect("a place");
        assert_eq!(place.shard.0, shard, "{key}");
    }
}

#[test]
fn an_explanation_names_the_deciding_rule() {
    let explain = |text: &str, key| {
        let key = ShardKey::parse(key).expect("a key");
        keyspace(text).explain(key).expect("a place").steps
    };
    let hash = RoutingStep::Hash(0x6b32_cffc_057a_0d5d);
    assert_eq!(explain("hash", "user_123"), [hash]);
    assert_eq!(explain("modulo", "user_0123"), [RoutingStep::Integer("0123")]);
    let range = |from: Option<&str>, below: Option<&str>| RoutingStep::Range {
        from: from.map(str::to_owned),
        below: below.map(str::to_owned),
    };
    assert_eq!(explain("range:10,20", "9"), [range(None, Some("10"))]);
    assert_eq!(explain("range:10,20", "10"), [range(Some("10"), Some("20"))]);
    assert_eq!(explain("range-text:g,n", "zebra"), [range(Some("n"), None)]);
    let steps = explain(PARTITIONS, "A:1");
    assert!(matches!(&steps[0], RoutingStep::Partition { name, first, last }
        if name == "A" && (first.number(), last.number()) == (0, 4915)));
    assert_eq!(steps[1..], [RoutingStep::Hash(0x6d1f_2a2c_a6f3_68ee)]);
    let server = [RoutingStep::Server("example.org"), RoutingStep::Hash(0x4037_554f_7ebc_bf45)];
    assert_eq!(explain("matrix:server", "@alice:example.org"), server);
}

#[test]
fn every_keyspace_comes_back_from_configuration_and_from_the_catalog() {
    for text in EACH {
        let keyspace = keyspace(text);
        assert_eq!(keyspace.to_string(), text);
        let restored = Keyspace::restore(keyspace.name(), &keyspace.parameters());
        assert_eq!(restored.as_ref(), Ok(&keyspace), "{}", keyspace.parameters());
        assert!(Keyspace::NAMES.contains(&keyspace.name()));
    }
    // The form in which catalogs store them; it must never change.
    for (text, golden) in [
        ("hash", r#"{"seed":0}"#),
        ("modulo", "{}"),
        ("range:10,20", r#"{"order":"numeric","splits":["10","20"],"slots":[0,5462,10923]}"#),
        ("range-text:g", r#"{"order":"text","splits":["g"],"slots":[0,8192]}"#),
        ("list:A=2,B=1", r#"{"partitions":[["A",2],["B",1]],"seed":0}"#),
        ("matrix:server", r#"{"mode":"server","seed":0}"#),
    ] {
        assert_eq!(keyspace(text).parameters(), golden);
    }
}

#[test]
fn invalid_keyspace_parameters_are_refused_with_the_reason() {
    for (text, reason) in [
        ("hash:1", "there are none"),
        ("modulo:7", "there are none"),
        ("range", "`` is not an integer"),
        ("range:", "`` is not an integer"),
        ("range:1,x", "`x` is not an integer"),
        ("range:2,1", "must ascend"),
        ("range:1,1", "must ascend"),
        ("range:1,01", "must ascend"),
        ("range-text:", "`` is not a split point"),
        ("range-text:b,a", "must ascend"),
        ("list", "`` is not NAME=WEIGHT"),
        ("list:A", "`A` is not NAME=WEIGHT"),
        ("list:A=x", "`x` is not a weight of A"),
        ("list:A=0", "must be 1 to 1000000, not 0"),
        ("list:A=1,A=2", "two partitions are called A"),
        ("list:=1", "`` is not a name"),
        ("list:A:B=1", "`A:B` is not a name"),
        ("list:A B=1", "`A B` is not a name"),
        ("list:A=1000000,B=1", "the weight of B is too small for a slot"),
        ("matrix:room", "neither id nor server"),
        ("matrix:", "neither id nor server"),
    ] {
        let reported = text.parse::<Keyspace>().expect_err("refused").to_string();
        assert!(reported.contains(reason), "{text}: {reported}");
    }
    let many = |count: usize| -> String {
        let parts: Vec<String> = (0..count).map(|number| format!("p{number}=1")).collect();
        format!("list:{}", parts.join(","))
    };
    assert!(many(1024).parse::<Keyspace>().is_ok());
    assert!(many(1025).parse::<Keyspace>().is_err());
    let splits = |count: usize| -> String {
        let splits: Vec<String> = (0..count).map(|number| number.to_string()).collect();
        format!("range:{}", splits.join(","))
    };
    assert!(splits(16_383).parse::<Keyspace>().is_ok());
    assert!(splits(16_384).parse::<Keyspace>().is_err());
}

#[test]
fn catalog_entries_that_no_version_wrote_are_refused() {
    for (name, parameters) in [
        ("else", "{}"),
        ("hash", r#"{"seed":1}"#),
        ("hash", r#"{ "seed":0}"#),
        ("modulo", r#"{"n":3}"#),
        ("range", "{}"),
        ("range", r#"{"order":"numeric","splits":["10"],"slots":[0]}"#),
        ("range", r#"{"order":"numeric","splits":["10"],"slots":[7,7]}"#),
        ("range", r#"{"order":"numeric","splits":["10"],"slots":[0,16384]}"#),
        ("range", r#"{"order":"numeric","splits":["010"],"slots":[0,1]}"#),
        ("range", r#"{"order":"numeric","splits":[],"slots":[0]}"#),
        ("list", r#"{"partitions":[],"seed":0}"#),
        ("list", r#"{"partitions":[["A",1]],"seed":3}"#),
        ("matrix", r#"{"mode":"room","seed":0}"#),
    ] {
        assert!(Keyspace::restore(name, parameters).is_err(), "{name} {parameters}");
    }
}

/// Range space of a keyspace.
fn ranges(text: &str) -> RangeSpace {
    let Keyspace::Range(ranges) = keyspace(text) else { panic!("a range") };
    (*ranges).clone()
}

#[test]
fn a_range_can_be_split_until_every_slot_is_taken() {
    let most: Vec<String> = (1..16_380).map(|split| split.to_string()).collect();
    let mut space = ranges(&format!("range:{}", most.join(",")));
    for at in 16_380..=16_383 {
        space = space.split(&at.to_string()).expect("a slot is free");
    }
    assert_eq!(space.ranges(), 16_384);
    assert_eq!(space.split("16384").expect_err("full"), "every slot has a range");
    let space = ranges("range:10");
    assert!(space.split("10").expect_err("twice").contains("already"));
    assert!(space.split("ten").is_err());
    assert!(ranges("range-text:g").split("a,b").is_err());
}

/// Any key, or a key that the keyspaces of [`EACH`] accept.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{1,60}",
        "[a-z_]{0,9}[0-9]{1,40}",
        "-?[0-9]{1,5}",
        "[A-F]:\\PC{0,20}",
        "@[a-z]{0,4}:[a-z.:0-9]{0,9}",
        proptest::sample::select(&EXTREME[..]).prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(crate::cases(512))]

    #[test]
    fn a_key_has_one_slot_and_its_explanation_ends_there(
        key in key(),
        text in proptest::sample::select(&EACH[..]),
    ) {
        let Ok(key) = ShardKey::parse(&key) else { return Ok(()) };
        let keyspace = keyspace(text);
        let slot = keyspace.slot_of(key);
        prop_assert_eq!(&slot, &keyspace.clone().slot_of(key), "the same each time");
        match (slot, keyspace.explain(key)) {
            (Ok(slot), Ok(explanation)) => {
                prop_assert!(slot.number() < SLOT_COUNT);
                prop_assert_eq!(explanation.slot, slot);
                prop_assert!(!explanation.steps.is_empty());
            }
            (Err(refused), Err(reported)) => prop_assert_eq!(refused, reported),
            (slot, reported) => prop_assert!(false, "{slot:?} and {reported:?}"),
        }
    }

    #[test]
    fn modulo_equals_long_division(prefix in "[^0-9]{0,8}", digits in "[0-9]{1,60}") {
        let key = format!("{prefix}{digits}");
        let divide = |rest: u32, digit: u8| (rest * 10 + u32::from(digit - b'0')) % 16_384;
        if ShardKey::parse(&key).is_ok() {
            let golden = digits.bytes().fold(0, divide);
            prop_assert_eq!(place("modulo", &key).map(u32::from), Ok(golden));
        }
    }

    #[test]
    fn a_split_changes_the_slot_of_the_keys_in_its_upper_part_and_of_no_other(
        splits in proptest::collection::btree_set(-200_i32..200, 1..20),
        added in proptest::collection::vec(-200_i32..200, 1..12),
    ) {
        let list: Vec<String> = splits.iter().map(ToString::to_string).collect();
        let mut space = ranges(&format!("range:{}", list.join(",")));
        let mut points = splits;
        for at in added {
            let split = space.split(&at.to_string());
            if !points.insert(at) {
                prop_assert!(split.is_err());
                continue;
            }
            let next = split.expect("a slot is free");
            let upper = points.range(at + 1..).next().copied().unwrap_or(i32::MAX);
            let slot = |space: &RangeSpace, key: i32| {
                let keyspace = Keyspace::Range(std::sync::Arc::new(space.clone()));
                let key = key.to_string();
                keyspace.slot_of(ShardKey::parse(&key).expect("a key")).expect("a place").number()
            };
            let used: std::collections::BTreeSet<u16> = (-201..=200).map(|k| slot(&space, k)).collect();
            let free = (0..).find(|slot| !used.contains(slot)).expect("one is free");
            for key in -201..=200 {
                let expected = if (at..upper).contains(&key) { free } else { slot(&space, key) };
                prop_assert_eq!(slot(&next, key), expected, "key {} after a split at {}", key, at);
            }
            let keyspace = Keyspace::Range(std::sync::Arc::new(next.clone()));
            let restored = Keyspace::restore("range", &keyspace.parameters());
            prop_assert_eq!(restored, Ok(keyspace), "a split is kept");
            space = next;
        }
    }

    #[test]
    fn a_partition_keeps_to_its_block_and_fills_it_evenly(
        weights in proptest::collection::vec(1_u32..50, 1..12),
    ) {
        let parts: Vec<String> =
            weights.iter().enumerate().map(|(index, weight)| format!("p{index}={weight}")).collect();
        let Keyspace::List(list) = keyspace(&format!("list:{}", parts.join(","))) else { panic!("a list") };
        let total: u32 = weights.iter().sum();
        let mut next = 0;
        for (part, weight) in list.partitions().iter().zip(&weights) {
            prop_assert_eq!(part.first.number(), next, "blocks follow each other");
            next = part.last.number() + 1;
            let size = f64::from(next - part.first.number());
            let share = 16_384.0 * f64::from(*weight) / f64::from(total);
            prop_assert!((size - share).abs() < 1.0 + 1e-6);
            for number in 0..50 {
                let key = format!("{}:{number}", part.name);
                let slot = Keyspace::List(list.clone()).slot_of(ShardKey::parse(&key).expect("a key"));
                prop_assert!((part.first..=part.last).contains(&slot.expect("a place")));
            }
        }
        prop_assert_eq!(next, SLOT_COUNT);
    }
}
