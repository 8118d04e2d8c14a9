//! Tests of `lab shards` and `lab grow`.

use super::{left_in, rows};
use crate::cluster::run;
use crate::scratch;

#[test]
fn the_same_queries_are_answered_with_each_number_of_shards() {
    let dir = scratch::folder();
    let work = dir.path().to_str().expect("UTF-8");
    let args =
        ["lab", "shards", "--json", "--users", "500", "--operations", "50", "--clients", "2"];
    let more = ["--counts", "1,3", "--work-dir", work];
    let report = run(&[&args[..], &more].concat()).expect(0).json();
    let explanation = report["explanation"].as_str().expect("an explanation");
    assert!(explanation.starts_with("From 1 to 3 shards the rate of `"), "{explanation}");
    assert!(explanation.contains("times the original rate, and that of `"), "{explanation}");
    let rows = rows(&report, "Queries by number of shards");
    assert_eq!(rows.len(), 12, "six queries, two numbers");
    for pair in rows.chunks(2) {
        let counts = pair.iter().map(|row| (row[0].clone(), row[1].clone(), row[2].clone()));
        let [one, three] = counts.collect::<Vec<_>>().try_into().expect("a pair");
        assert_eq!((&one.0, one.1, one.2), (&three.0, 1.into(), three.2), "the same requests");
        assert_eq!(three.1, 3);
    }
    assert_eq!(left_in(dir.path()), Vec::<String>::new());
    run(&["lab", "shards", "--counts", "2,300", "--work-dir", work]).refused("256 shards, not 300");
    run(&["lab", "shards", "--counts", "2,x", "--work-dir", work]).refused("it is not a number");
    run(&["lab", "shards", "--counts", "1,2,1", "--work-dir", work]).refused("has 1 twice");
    let many = ["1"; 13].join(",");
    run(&["lab", "shards", "--counts", &many, "--work-dir", work])
        .refused("1 to 12 counts, not 13");
    assert_eq!(left_in(dir.path()), Vec::<String>::new());
}

#[test]
fn a_shard_takes_its_share_under_traffic_and_gives_it_back_and_nothing_is_lost() {
    let dir = scratch::folder();
    let work = dir.path().to_str().expect("UTF-8");
    let args = ["lab", "grow", "--json", "--users", "500", "--shards", "31", "--clients", "2"];
    let more = ["--quiet-ms", "500", "--work-dir", work];
    let report = run(&[&args[..], &more].concat()).expect(0).json();
    let moved = rows(&report, "Slots that moved");
    assert_eq!((&moved[0][2], &moved[1][2]), (&512.into(), &512.into()), "{moved:?}");
    let phases = rows(&report, "Requests of all clients");
    assert_eq!(phases.len(), 5);
    assert!(phases.iter().all(|row| row[2].as_u64() > Some(0) && row[3] == 0), "{phases:?}");
    assert_eq!(left_in(dir.path()), Vec::<String>::new());
    run(&["lab", "grow", "--shards", "256"]).refused("1 to 255 shards before, not 256");
}
