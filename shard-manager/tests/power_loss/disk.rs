//! Disk: computes the possible contents of a folder of databases after a power cut, from the writes
//! and syncs before it.
//!
//! - The bytes of a file are durable once the file is synced. Any of the writes after the sync may
//!   have reached the disk, in any order, whole or torn at sectors, and so may a change of the
//!   file's length.
//! - A name is durable once the folder is synced. A name that was created, removed or given to a
//!   new file after the sync may have any of the states in between after the power cut; even a
//!   removed file may reappear.
//! - Bytes next to a write are not damaged by it (SQLite assumes that: `POWERSAFE_OVERWRITE`).
//! - A rename or removal that bypasses SQLite is visible in the folder, but a sync of it is not. A
//!   name that SQLite opens after a rename is assumed to be durable: code that renames must sync
//!   the folder before.
//!
//! **Invariant:** an image shows all files at one moment: no file operation is half done in it.
//! **Not here:** intercepting SQLite's calls (`vfs`), checking an image (`story`).

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::SystemTime;
use std::{fs, io};

use crate::chance::Chance;

/// Sector size: the unit that a disk writes completely or not at all.
const SECTOR: usize = 512;

static DISKS: Mutex<Vec<Weak<Disk>>> = Mutex::new(Vec::new());

/// A watched folder of databases.
pub(crate) struct Disk {
    root: PathBuf,
    state: Mutex<State>,
    steps: Mutex<BTreeMap<Step, u64>>,
    watch: Mutex<Option<Watch>>,
}

type Watch = Box<dyn FnMut(Step) + Send>;

/// An operation that SQLite is about to do, and the kind of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step {
    pub(crate) kind: Kind,
    pub(crate) act: Act,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Database,
    Wal,
    Journal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Act {
    /// A write at the start of the file: in a WAL, the header with which it restarts.
    WriteHead,
    Write,
    Resize,
    Sync,
    Remove,
}

/// Operations that a faulty disk reports as synced although they are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    BytesOf(Kind),
    Names,
}

/// A file, whatever its current name.
pub(crate) type FileId = usize;

#[derive(Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<String, Name>,
    lie: Option<Lie>,
}

/// The durable bytes of a file, and the operations on it since the last sync.
#[derive(Default)]
struct Content {
    /// `None` once SQLite removes the file: its inode number may be reused at once.
    identity: Option<Identity>,
    sure: Vec<u8>,
    since: Vec<Edit>,
}

/// Identifies a file independently of its name: its inode number, which may be reused, and its
/// creation time.
type Identity = (u64, Option<SystemTime>);

fn identity(seen: &Metadata) -> Identity {
    (seen.ino(), seen.created().ok())
}

enum Edit {
    Write { at: usize, bytes: Vec<u8> },
    Resize(usize),
}

/// The file that a name durably refers to, and the files that it referred to since.
#[derive(Default)]
struct Name {
    sure: Option<FileId>,
    since: Vec<Option<FileId>>,
}

impl Name {
    fn now(&self) -> Option<FileId> {
        self.since.last().copied().unwrap_or(self.sure)
    }
}

impl Disk {
    /// Watches a folder. Its current content counts as durable. SQLite must not have any of its
    /// files open yet.
    pub(crate) fn under(root: &Path) -> io::Result<Arc<Self>> {
        let disk = Arc::new(Self {
            root: root.canonicalize()?,
            state: Mutex::default(),
            steps: Mutex::default(),
            watch: Mutex::default(),
        });
        let mut disks = DISKS.lock().expect("not poisoned");
        disks.retain(|disk| disk.strong_count() > 0);
        disks.push(Arc::downgrade(&disk));
        Ok(disk)
    }

    /// The disk that holds this file, and the file's name there; `None` if its folder is not
    /// watched.
    pub(crate) fn holding(path: &Path) -> Option<(Arc<Self>, String)> {
        let folder = path.parent()?;
        let name = path.file_name()?.to_str()?.to_owned();
        let disks = DISKS.lock().expect("not poisoned");
        let disk = disks.iter().filter_map(Weak::upgrade).find(|disk| disk.root == folder)?;
        Some((disk, name))
    }

    /// Calls `watch` before each step, on the thread that does it: no other step happens meanwhile.
    pub(crate) fn before_each_step(&self, watch: impl FnMut(Step) + Send + 'static) {
        *self.watch.lock().expect("not poisoned") = Some(Box::new(watch));
    }

    pub(crate) fn forget_watch(&self) {
        *self.watch.lock().expect("not poisoned") = None;
    }

    /// Makes the disk lie from now on.
    pub(crate) fn lie(&self, lie: Lie) {
        self.state().lie = Some(lie);
    }

    /// Number of such steps that have begun.
    pub(crate) fn steps(&self, step: Step) -> u64 {
        self.steps.lock().expect("not poisoned").get(&step).copied().unwrap_or(0)
    }

    pub(crate) fn about_to(&self, step: Step) {
        *self.steps.lock().expect("not poisoned").entry(step).or_default() += 1;
        if let Some(watch) = &mut *self.watch.lock().expect("not poisoned") {
            watch(step);
        }
    }

    /// Registers the file of this name, which SQLite has just opened or created.
    pub(crate) fn opened(&self, name: &str) -> io::Result<FileId> {
        let path = self.root.join(name);
        let seen = fs::metadata(&path)?;
        let mut state = self.state();
        let now = state.names.get(name).and_then(Name::now);
        let is_it = |file: &FileId| state.files[*file].is(&seen);
        if let Some(file) = now.filter(is_it) {
            return Ok(file);
        }
        let new = state.files.len();
        let renamed = (0..new).find(is_it);
        let entry = state.names.entry(name.to_owned()).or_default();
        if renamed.is_none() && seen.len() == 0 {
            entry.since.push(Some(new));
            state.files.push(Content { identity: Some(identity(&seen)), ..Content::default() });
            return Ok(new);
        }
        let file = renamed.unwrap_or(new);
        *entry = Name { sure: Some(file), since: Vec::new() };
        if renamed.is_some() {
            state.settle_names(&self.root);
        } else {
            // SQLite has no other handle to it, hence no lock that closing this one would release.
            let sure = fs::read(&path)?;
            state.files.push(Content { identity: Some(identity(&seen)), sure, since: Vec::new() });
        }
        Ok(file)
    }

    pub(crate) fn wrote(&self, file: FileId, at: usize, bytes: &[u8]) {
        self.state().files[file].since.push(Edit::Write { at, bytes: bytes.to_owned() });
    }

    pub(crate) fn resized(&self, file: FileId, length: usize) {
        self.state().files[file].since.push(Edit::Resize(length));
    }

    /// Records a sync of a file, and of its folder if `names`.
    pub(crate) fn synced(&self, file: FileId, kind: Kind, names: bool) {
        let mut state = self.state();
        if state.lie != Some(Lie::BytesOf(kind)) {
            state.files[file].settle();
        }
        if names {
            state.settle_names(&self.root);
        }
    }

    /// Records that SQLite is about to remove this file.
    pub(crate) fn removes(&self, name: &str) {
        let mut state = self.state();
        if let Some(file) = state.names.get(name).and_then(Name::now) {
            state.files[file].identity = None;
        }
    }

    /// Records that SQLite has removed this file, and has synced the folder if `names`.
    pub(crate) fn removed(&self, name: &str, names: bool) {
        let mut state = self.state();
        state.names.entry(name.to_owned()).or_default().since.push(None);
        if names {
            state.settle_names(&self.root);
        }
    }

    /// Cuts the power: writes into `to` a possible content of this disk after a power cut. `seed`
    /// decides which of the writes without a sync have survived.
    pub(crate) fn power_loss(&self, seed: u64, to: &Path) -> io::Result<()> {
        let mut chance = Chance::new(seed);
        let fate = Fate::draw(&mut chance);
        // Held to the end: SQLite must not open a file while it is copied here, because closing the
        // copy's handle would release SQLite's locks.
        let state = self.state();
        let seen = self.seen()?;
        let known = state.names.keys().filter(|name| !seen.contains_key(*name));
        for name in known.chain(seen.keys()) {
            let mut could = state.could_mean(name, seen.get(name));
            if could.is_empty() {
                // The file may have been removed since it was listed; then the image does not have
                // it either.
                let _ = fs::copy(self.root.join(name), to.join(name));
            } else if let Some(file) = could.swap_remove(chance.below(could.len() as u64) as usize)
            {
                fs::write(to.join(name), state.files[file].after(fate, &mut chance))?;
            }
        }
        Ok(())
    }

    /// Files in the folder. The shared-memory index of a WAL is left out: SQLite rebuilds it after
    /// a power cut.
    fn seen(&self) -> io::Result<BTreeMap<String, Metadata>> {
        let mut seen = BTreeMap::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // A file may have been removed since.
            if let (false, Ok(file)) = (name.ends_with("-shm"), entry.metadata()) {
                seen.insert(name, file);
            }
        }
        Ok(seen)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }
}

impl State {
    fn settle_names(&mut self, root: &Path) {
        if self.lie == Some(Lie::Names) {
            return;
        }
        for (name, entry) in &mut self.names {
            entry.sure = entry.now().filter(|_| root.join(name).exists());
            entry.since.clear();
        }
    }

    /// The files that a name could refer to after a power cut now, `None` for no file. Empty if
    /// SQLite does not know the name: then its current file counts.
    fn could_mean(&self, name: &str, seen: Option<&Metadata>) -> Vec<Option<FileId>> {
        let entry = self.names.get(name);
        let is_it = |file: &FileId| seen.is_some_and(|seen| self.files[*file].is(seen));
        let there = (0..self.files.len()).find(is_it);
        let Some(entry) = entry else {
            return there.map_or(Vec::new(), |file| vec![None, Some(file)]);
        };
        let mut could = vec![entry.sure];
        could.extend(&entry.since);
        if entry.now() != there {
            could.push(there);
        }
        could
    }
}

impl Content {
    fn is(&self, seen: &Metadata) -> bool {
        self.identity == Some(identity(seen))
    }

    fn settle(&mut self) {
        for edit in self.since.drain(..) {
            edit.apply(&mut self.sure);
        }
    }

    /// Content of the file after a power cut.
    fn after(&self, fate: Fate, chance: &mut Chance) -> Vec<u8> {
        let mut bytes = self.sure.clone();
        let issued = self.since.len();
        let until = if fate.in_order { chance.below(issued as u64 + 1) as usize } else { issued };
        let since = self.since[..until].iter();
        let mut arrived: Vec<&Edit> = since.filter(|_| chance.eighths(fate.arrive)).collect();
        if !fate.in_order {
            chance.shuffle(&mut arrived);
        }
        for edit in arrived {
            if chance.eighths(fate.tear) {
                edit.apply_torn(&mut bytes, chance);
            } else {
                edit.apply(&mut bytes);
            }
        }
        bytes
    }
}

impl Edit {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => put(file, *at, bytes),
            Self::Resize(length) => file.resize(*length, 0),
        }
    }

    /// Applies the sectors of a write, each of which arrives or does not.
    fn apply_torn(&self, file: &mut Vec<u8>, chance: &mut Chance) {
        let Self::Write { at, bytes } = self else { return self.apply(file) };
        let (mut at, mut rest) = (*at, &bytes[..]);
        while !rest.is_empty() {
            let (sector, others) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
            if chance.eighths(4) {
                put(file, at, sector);
            }
            at += sector.len();
            rest = others;
        }
    }
}

/// Writes bytes at an offset; a gap behind the end is filled with zeros.
fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at {
        file.resize(at, 0);
    }
    let (over, behind) = bytes.split_at(bytes.len().min(file.len() - at));
    file[at..at + over.len()].copy_from_slice(over);
    file.extend_from_slice(behind);
}

/// Fate of writes without a sync in one power cut. A fair coin for each write would hardly ever
/// draw the extremes (all of it arrived, nothing did, nothing but one), and the worst cases are
/// near them.
#[derive(Clone, Copy)]
struct Fate {
    /// Writes out of eight that arrive.
    arrive: u64,
    /// Arriving writes out of eight that are torn.
    tear: u64,
    /// If true, writes arrive in the order issued, up to some moment, instead of in any order.
    in_order: bool,
}

impl Fate {
    fn draw(chance: &mut Chance) -> Self {
        let in_order = chance.eighths(2);
        let arrive = if in_order { 8 } else { chance.one_of(&[0, 1, 4, 7, 8]) };
        Self { arrive, tear: chance.one_of(&[0, 1, 4]), in_order }
    }
}
