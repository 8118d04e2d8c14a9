//! Tests of the commands that fence slots, without a router.

use crate::cluster::{Cluster, run_in};
use crate::placement::with_a_group;

#[test]
fn a_slot_that_no_cluster_has_is_refused_with_the_last_slot_of_this_one() {
    let (one, two) = (Cluster::new(1, 0).stop(), with_a_group());
    let nowhere = one.path().join("nowhere");
    for (dir, last) in [(one.path(), 16_383), (two.path(), 32_767), (&*nowhere, 16_383)] {
        for command in [&["fence", "--seconds", "1"][..], &["release"]] {
            let refused = run_in(dir, &[&["slots"], command, &["--slots", "0,99999"]].concat());
            let reason = format!("--slots: there is no slot 99999: slots are 0 to {last}");
            refused.refused(&reason);
        }
    }
    assert!(!nowhere.exists());
}
