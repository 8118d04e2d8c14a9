//! Doubt record: stores doubts about copies of a shard's rows in a file beside the catalog, so that
//! they survive a restart.
//!
//! ```text
//! data/doubtful-copies.json   exists only while there is a doubt
//! ```
//!
//! A doubt exists if copies differ. It is about the bytes of certain files, so each entry
//! identifies the files of all copies of its shard. A doubt ends when its file has been replaced,
//! or when all copies with which the file was compared are gone: in both cases the operator has
//! decided which copy is right.
//!
//! **Invariant:** the record has at most one entry for each copy of each shard; it is replaced as
//! a whole, and synced.
//! **Not here:** finding and withdrawing doubts (`comparison_loop`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use engine::copy_faults::CopyFault;
use serde::{Deserialize, Serialize};

use crate::private_file;

/// Name of the record in a data directory.
pub(super) const NAME: &str = "doubtful-copies.json";
/// Maximum size in bytes of a record that is read: hundreds of times the size for a large cluster.
const BYTES_MAX: u64 = 16 << 20;

/// Doubts about the copies of each shard of a data directory.
#[derive(Debug)]
pub struct DoubtRecord {
    path: PathBuf,
    shards: Mutex<BTreeMap<String, Vec<RecordedCopy>>>,
}

/// One copy of a shard, as it was when the doubts were recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RecordedCopy {
    /// Inode number of the file, which stays the same until the file is replaced. Because inode
    /// numbers are reused, the creation time is compared as well if the file system records one.
    inode: u64,
    created_ns: Option<u64>,
    doubt: Option<DoubtName>,
}

/// Format of a doubt in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DoubtName {
    Unsettled,
    Wrong,
}

impl RecordedCopy {
    /// Describes a file without a doubt; `None` if it cannot be found.
    fn at(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        let created = file.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let created_ns = created.and_then(|time| u64::try_from(time.as_nanos()).ok());
        Some(Self { inode: file.ino(), created_ns, doubt: None })
    }

    fn is_same_file(&self, other: &Self) -> bool {
        (self.inode, self.created_ns) == (other.inode, other.created_ns)
    }
}

impl DoubtRecord {
    /// Reads the record of a data directory. A record that cannot be read is ignored with a
    /// warning, because the next comparison finds the differences again.
    pub fn read(data_dir: &Path) -> Arc<Self> {
        let path = data_dir.join(NAME);
        let shards = read(&path).unwrap_or_else(|cause| {
            let path = path.display();
            tracing::warn!(%path, cause, "the record of doubtful copies cannot be read");
            BTreeMap::new()
        });
        Arc::new(Self { path, shards: Mutex::new(shards) })
    }

    /// Returns the recorded doubts about a shard that still apply to its files. `file_of` returns
    /// the file of each copy that the cluster has now; the primary is number 0. Copies that the
    /// cluster no longer has are ignored: they are never compared again, so a doubt that depends on
    /// them would never end.
    pub fn about(
        &self,
        shard: &str,
        file_of: impl Fn(usize) -> Option<PathBuf>,
    ) -> BTreeMap<usize, CopyFault> {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(copies) = shards.get(shard) else { return BTreeMap::new() };
        let present = copies.iter().enumerate().filter(|(number, copy)| {
            let now = file_of(*number).and_then(|file| RecordedCopy::at(&file));
            now.is_some_and(|now| now.is_same_file(copy))
        });
        let present: Vec<(usize, Option<DoubtName>)> =
            present.map(|(number, copy)| (number, copy.doubt)).collect();
        let unsettled =
            present.iter().filter(|(_, doubt)| *doubt == Some(DoubtName::Unsettled)).count();
        let applies = |(number, doubt): &(usize, Option<DoubtName>)| {
            let doubt = match doubt.as_ref()? {
                DoubtName::Unsettled => (unsettled > 1).then_some(CopyFault::Unsettled),
                DoubtName::Wrong => (present.len() > 1).then_some(CopyFault::Wrong),
            };
            Some((*number, doubt?))
        };
        present.iter().filter_map(applies).collect()
    }

    /// Replaces the recorded doubts about a shard. A failure is logged, and the next call tries
    /// again.
    pub fn replace(&self, shard: &str, files: &[PathBuf], doubts: &BTreeMap<usize, CopyFault>) {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shards.clone();
        shards.remove(shard);
        if !doubts.is_empty() {
            let copies = files.iter().enumerate().map(|(number, file)| {
                let doubt = doubts.get(&number).map(|doubt| match doubt {
                    CopyFault::Unsettled => DoubtName::Unsettled,
                    CopyFault::Wrong => DoubtName::Wrong,
                });
                // A missing file is recorded with an inode number that no later file can have.
                let missing = RecordedCopy { inode: 0, created_ns: None, doubt: None };
                RecordedCopy { doubt, ..RecordedCopy::at(file).unwrap_or(missing) }
            });
            shards.insert(shard.to_owned(), copies.collect());
        }
        if *shards == before {
            return;
        }
        if let Err(error) = write(&self.path, &shards) {
            let path = self.path.display();
            tracing::warn!(%path, %error, "the doubts about copies cannot be recorded");
            *shards = before;
        }
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, Vec<RecordedCopy>>, String> {
    let file = match fs::metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error.to_string()),
    };
    if file.len() > BYTES_MAX {
        return Err(format!("it is longer than {BYTES_MAX} bytes"));
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

/// Replaces the record, or removes it if there is no doubt.
fn write(path: &Path, shards: &BTreeMap<String, Vec<RecordedCopy>>) -> std::io::Result<()> {
    if shards.is_empty() {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    } else {
        let new = path.with_extension("json.new");
        let mut file = private_file::create(&new)?;
        file.write_all(&serde_json::to_vec(shards)?)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
    }
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRONG_PRIMARY: [(usize, CopyFault); 1] = [(0, CopyFault::Wrong)];
    const UNSETTLED: [(usize, CopyFault); 2] =
        [(0, CopyFault::Unsettled), (1, CopyFault::Unsettled)];

    /// Creates a data directory with a primary and two replicas.
    fn data_dir() -> (tempfile::TempDir, Vec<PathBuf>) {
        let folder = tempfile::tempdir().unwrap();
        let files = ["primary", "replica1", "replica2"].map(|name| folder.path().join(name));
        files.iter().for_each(|file| fs::write(file, "rows").unwrap());
        (folder, files.into())
    }

    fn file_of(files: &[PathBuf]) -> impl Fn(usize) -> Option<PathBuf> {
        |copy| files.get(copy).cloned()
    }

    /// Puts another file in the place of this one. Both exist for a moment, so that their inodes
    /// differ.
    fn replace(file: &Path) {
        let other = file.with_extension("other");
        fs::write(&other, "rows").unwrap();
        fs::rename(other, file).unwrap();
    }

    #[test]
    fn doubts_are_read_as_they_were_recorded_until_they_are_withdrawn() {
        let (folder, files) = data_dir();
        let record = DoubtRecord::read(folder.path());
        assert!(record.about("shard1", file_of(&files)).is_empty());
        record.replace("shard1", &files, &WRONG_PRIMARY.into());
        record.replace("shard2", &files, &UNSETTLED.into());
        let record = DoubtRecord::read(folder.path());
        assert_eq!(record.about("shard1", file_of(&files)), WRONG_PRIMARY.into());
        assert_eq!(record.about("shard2", file_of(&files)), UNSETTLED.into());
        assert!(record.about("shard3", file_of(&files)).is_empty());
        record.replace("shard1", &files, &BTreeMap::new());
        let record = DoubtRecord::read(folder.path());
        assert!(record.about("shard1", file_of(&files)).is_empty());
        record.replace("shard2", &files, &BTreeMap::new());
        assert!(!folder.path().join(NAME).exists(), "there is no record without a doubt");
    }

    #[test]
    fn a_doubt_ends_with_its_file_or_with_the_last_copy_that_contradicts_it() {
        let (folder, files) = data_dir();
        let record = DoubtRecord::read(folder.path());
        record.replace("wrong", &files, &WRONG_PRIMARY.into());
        record.replace("unsettled", &files, &UNSETTLED.into());
        replace(&files[1]);
        assert_eq!(
            record.about("wrong", file_of(&files)),
            WRONG_PRIMARY.into(),
            "replica2 is left"
        );
        assert!(record.about("unsettled", file_of(&files)).is_empty());
        fs::remove_file(&files[2]).unwrap();
        assert!(record.about("wrong", file_of(&files)).is_empty());
        let (folder, files) = data_dir();
        let record = DoubtRecord::read(folder.path());
        record.replace("wrong", &files, &WRONG_PRIMARY.into());
        replace(&files[0]);
        assert!(record.about("wrong", file_of(&files)).is_empty());
    }

    #[test]
    fn a_doubt_is_void_without_a_configured_copy_that_contradicts_it() {
        let (folder, files) = data_dir();
        let record = DoubtRecord::read(folder.path());
        record.replace("shard1", &files, &WRONG_PRIMARY.into());
        assert!(record.about("shard1", file_of(&files[..1])).is_empty());
        assert_eq!(record.about("shard1", file_of(&files[..2])), WRONG_PRIMARY.into());
    }

    #[test]
    fn doubts_that_could_not_be_recorded_are_recorded_by_the_next_call() {
        let (folder, files) = data_dir();
        let record = DoubtRecord::read(folder.path());
        let in_the_way = folder.path().join(NAME).with_extension("json.new");
        fs::create_dir(&in_the_way).unwrap();
        record.replace("shard1", &files, &WRONG_PRIMARY.into());
        fs::remove_dir(&in_the_way).unwrap();
        record.replace("shard1", &files, &WRONG_PRIMARY.into());
        let record = DoubtRecord::read(folder.path());
        assert_eq!(record.about("shard1", file_of(&files)), WRONG_PRIMARY.into());
    }

    #[test]
    fn a_record_that_cannot_be_read_is_ignored_and_replaced() {
        let (folder, files) = data_dir();
        fs::write(folder.path().join(NAME), r#"{"shard1":[{"inode":"#).unwrap();
        let record = DoubtRecord::read(folder.path());
        assert!(record.about("shard1", file_of(&files)).is_empty());
        record.replace("shard1", &files, &WRONG_PRIMARY.into());
        let record = DoubtRecord::read(folder.path());
        assert_eq!(record.about("shard1", file_of(&files)), WRONG_PRIMARY.into());
    }
}
