//! Disk: what a folder of databases may hold after a power cut, by what was synced until then.
//!
//! - The bytes of a file are sure once the file is synced. Of the writes since then any may have arrived, in
//!   any order, whole or torn at sectors; so may a change of its length.
//! - A name is sure once the folder is synced. One that was made, removed or given to a new file since then
//!   may come back as anything it was in between: a removed file, too.
//! - Bytes next to a write are not harmed by it (SQLite takes that for granted: `POWERSAFE_OVERWRITE`).
//! - A rename or removal that does not go through SQLite is seen in the folder, but not a sync of it. A name
//!   that SQLite opens after a rename is taken to be sure: whoever renames must sync the folder before.
//!
//! **Invariant:** an image is one moment of all files: no step of any file falls into the middle of it.
//! **Not here:** how SQLite's calls come here (`vfs`); what is expected of an image (`story`).

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::SystemTime;
use std::{fs, io};

use crate::chance::Chance;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

static DISKS: Mutex<Vec<Weak<Disk>>> = Mutex::new(Vec::new());

/// A folder whose databases are watched.
pub(crate) struct Disk {
    root: PathBuf,
    state: Mutex<State>,
    steps: Mutex<BTreeMap<Step, u64>>,
    watch: Mutex<Option<Watch>>,
}

type Watch = Box<dyn FnMut(Step) + Send>;

/// What SQLite is about to do, and with what kind of file.
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
    /// A write at the start of the file: in a WAL, the header with which it begins anew.
    WriteHead,
    Write,
    Resize,
    Sync,
    Remove,
}

/// What a disk that lies reports as synced though it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    BytesOf(Kind),
    Names,
}

/// A file, whatever it is called by now.
pub(crate) type FileId = usize;

#[derive(Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<String, Name>,
    lie: Option<Lie>,
}

/// The bytes of a file that are sure, and what was done to them since.
#[derive(Default)]
struct Content {
    /// `None` once SQLite removes it: another may be given its number at once.
    identity: Option<Identity>,
    sure: Vec<u8>,
    since: Vec<Edit>,
}

/// By what a file is known whatever its name: its number, which is given again, and when it was made.
type Identity = (u64, Option<SystemTime>);

fn identity(seen: &Metadata) -> Identity {
    (seen.ino(), seen.created().ok())
}

enum Edit {
    Write { at: usize, bytes: Vec<u8> },
    Resize(usize),
}

/// The file that a name surely means, and what it meant since.
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
    /// Watches a folder. What it holds now is sure. SQLite may have no file of it open yet.
    pub(crate) fn under(root: &Path) -> io::Result<Arc<Self>> {
        let disk = Arc::new(Self {
            root: root.canonicalize()?,
            state: Mutex::default(),
            steps: Mutex::default(),
            watch: Mutex::default(),
        });
        let mut disks = DISKS.lock().expect("nobody died with it");
        disks.retain(|disk| disk.strong_count() > 0);
        disks.push(Arc::downgrade(&disk));
        Ok(disk)
    }

    /// The disk that this file is on, and the file's name there; `None` if nobody watches its folder.
    pub(crate) fn holding(path: &Path) -> Option<(Arc<Self>, String)> {
        let folder = path.parent()?;
        let name = path.file_name()?.to_str()?.to_owned();
        let disks = DISKS.lock().expect("nobody died with it");
        let disk = disks.iter().filter_map(Weak::upgrade).find(|disk| disk.root == folder)?;
        Some((disk, name))
    }

    /// Calls `watch` before each step, on the thread that does it: no other step is done meanwhile.
    pub(crate) fn before_each_step(&self, watch: impl FnMut(Step) + Send + 'static) {
        *self.watch.lock().expect("nobody died with it") = Some(Box::new(watch));
    }

    pub(crate) fn forget_watch(&self) {
        *self.watch.lock().expect("nobody died with it") = None;
    }

    /// From now on.
    pub(crate) fn lie(&self, lie: Lie) {
        self.state().lie = Some(lie);
    }

    /// How many such steps have begun.
    pub(crate) fn steps(&self, step: Step) -> u64 {
        self.steps.lock().expect("nobody died with it").get(&step).copied().unwrap_or(0)
    }

    pub(crate) fn about_to(&self, step: Step) {
        *self.steps.lock().expect("nobody died with it").entry(step).or_default() += 1;
        if let Some(watch) = &mut *self.watch.lock().expect("nobody died with it") {
            watch(step);
        }
    }

    /// The file of this name, which SQLite has just opened or made.
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
            // SQLite has had no other handle to it, hence no lock that would go with this one.
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

    /// A sync of a file, and of its folder if `names`.
    pub(crate) fn synced(&self, file: FileId, kind: Kind, names: bool) {
        let mut state = self.state();
        if state.lie != Some(Lie::BytesOf(kind)) {
            state.files[file].settle();
        }
        if names {
            state.settle_names(&self.root);
        }
    }

    /// SQLite is about to remove this file.
    pub(crate) fn removes(&self, name: &str) {
        let mut state = self.state();
        if let Some(file) = state.names.get(name).and_then(Name::now) {
            state.files[file].identity = None;
        }
    }

    /// It has, and has synced the folder if `names`.
    pub(crate) fn removed(&self, name: &str, names: bool) {
        let mut state = self.state();
        state.names.entry(name.to_owned()).or_default().since.push(None);
        if names {
            state.settle_names(&self.root);
        }
    }

    /// Cuts the power: writes into `to` what this disk could hold then. What arrived of the unsynced is
    /// drawn by `seed`.
    pub(crate) fn power_loss(&self, seed: u64, to: &Path) -> io::Result<()> {
        let mut chance = Chance::new(seed);
        let fate = Fate::draw(&mut chance);
        // Held to the end: a file that is copied here cannot be opened by SQLite meanwhile, whose locks would
        // go when the copy is done.
        let state = self.state();
        let seen = self.seen()?;
        let known = state.names.keys().filter(|name| !seen.contains_key(*name));
        for name in known.chain(seen.keys()) {
            let mut could = state.could_mean(name, seen.get(name));
            if could.is_empty() {
                // It may have gone since it was seen; then it is gone there, too.
                let _ = fs::copy(self.root.join(name), to.join(name));
            } else if let Some(file) = could.swap_remove(chance.below(could.len() as u64) as usize)
            {
                fs::write(to.join(name), state.files[file].after(fate, &mut chance))?;
            }
        }
        Ok(())
    }

    /// The files in the folder. The index of a WAL is not worth a look: it is made anew after a power cut.
    fn seen(&self) -> io::Result<BTreeMap<String, Metadata>> {
        let mut seen = BTreeMap::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // One may have gone since.
            if let (false, Ok(file)) = (name.ends_with("-shm"), entry.metadata()) {
                seen.insert(name, file);
            }
        }
        Ok(seen)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody died with it")
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

    /// The files that a name could mean after a power cut now, `None` for no file. Empty if SQLite does not
    /// know it: then it is what it is.
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

    /// The bytes after a power cut.
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

    /// Each sector for itself arrives or does not.
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

/// A write behind the end leaves a gap of zeros.
fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at {
        file.resize(at, 0);
    }
    let (over, behind) = bytes.split_at(bytes.len().min(file.len() - at));
    file[at..at + over.len()].copy_from_slice(over);
    file.extend_from_slice(behind);
}

/// How the unsynced fares in one power cut. An even coin for each write would hardly ever draw the extremes
/// (all of it arrived, nothing did, nothing but one), and the worst cases are near them.
#[derive(Clone, Copy)]
struct Fate {
    /// Of eight writes so many arrive.
    arrive: u64,
    /// Of eight that arrive so many are torn.
    tear: u64,
    /// Writes arrive as they were issued, up to some moment, instead of in any order.
    in_order: bool,
}

impl Fate {
    fn draw(chance: &mut Chance) -> Self {
        let in_order = chance.eighths(2);
        let arrive = if in_order { 8 } else { chance.one_of(&[0, 1, 4, 7, 8]) };
        Self { arrive, tear: chance.one_of(&[0, 1, 4]), in_order }
    }
}
