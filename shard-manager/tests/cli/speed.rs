//! Creates a large cluster for measurements. Not a test; it runs only by name.
//!
//! ```text
//! TESSERA_SPEED_DIR=/tmp/large cargo test -p shard-manager --test cli -- --ignored a_large_cluster
//! target/release/shard-manager check --data-dir /tmp/large
//! ```

use std::path::Path;

use crate::cluster::{open, write_users};

#[test]
#[ignore = "makes a million users, for measuring"]
fn a_large_cluster_is_made() {
    let Ok(dir) = std::env::var("TESSERA_SPEED_DIR") else { return };
    let manager = open(Path::new(&dir), 4, 1);
    for chunk in 0..100 {
        write_users(&manager, chunk * 10_000..(chunk + 1) * 10_000);
    }
    manager.close();
}
