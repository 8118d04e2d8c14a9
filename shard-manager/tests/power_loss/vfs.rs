//! VFS: intercepts SQLite's calls to the operating system and records what is written and synced.
//!
//! The real VFS does all the work. The watching VFS is a copy of the real one with two calls
//! replaced, and a watched file has a copy of its real methods with four calls replaced; locks,
//! shared memory and reads are those of the real VFS. To make this possible, the record of a file
//! is placed after the real file's struct in memory, not around it:
//!
//! ```text
//! sqlite3_file*  ->  | pMethods -> notes.methods | the real file's … | notes |
//!                    |<------------ szOsFile of the real ----------->|
//! ```
//!
//! **Invariant:** a write counts as issued after the real one succeeded; a sync makes durable only
//! what was issued before it began. A panic in here ends the process: it cannot unwind through C.
//! **Not here:** the files after a power cut (`disk`).

#![expect(unsafe_code, reason = "SQLite calls a VFS through pointers, and hands it memory to fill")]

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Once};

use libsqlite3_sys as ffi;

use crate::disk::{Act, Disk, FileId, Kind, Step};

/// The default VFS before this one: set once, never freed.
static REAL: AtomicPtr<ffi::sqlite3_vfs> = AtomicPtr::new(ptr::null_mut());

/// Record of a watched file, behind the real file's struct.
struct Notes {
    methods: ffi::sqlite3_io_methods,
    real: *const ffi::sqlite3_io_methods,
    disk: Arc<Disk>,
    file: FileId,
    kind: Kind,
    /// True until the first sync of a journal or WAL, which also syncs its folder.
    syncs_folder: Cell<bool>,
}

/// Makes this the VFS of each connection opened from now on, in the whole process. Files in folders
/// that are not watched are passed through.
pub(crate) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: a registered VFS is never freed, so the pointers stay valid; the copy is
        // registered before any other code can see it, and leaked, because SQLite keeps it for
        // ever.
        unsafe {
            let real = ffi::sqlite3_vfs_find(ptr::null());
            assert!(!real.is_null(), "there is a default VFS");
            REAL.store(real, Ordering::Release);
            // The copy keeps the real one's `pAppData`, which the calls that are not replaced use.
            let watching = Box::leak(Box::new(ffi::sqlite3_vfs {
                szOsFile: c_int::try_from(notes_at(real) + size_of::<Notes>()).expect("small"),
                pNext: ptr::null_mut(),
                zName: c"watching".as_ptr(),
                xOpen: Some(open),
                xDelete: Some(delete),
                ..*real
            }));
            assert_eq!(ffi::sqlite3_vfs_register(watching, 1), ffi::SQLITE_OK);
        }
    });
}

/// Returns the start of the notes in a file's memory, which is aligned as they need it.
///
/// SAFETY of a call: `real` must be a VFS.
unsafe fn notes_at(real: *const ffi::sqlite3_vfs) -> usize {
    // SAFETY: guaranteed by the caller.
    let size = usize::try_from(unsafe { (*real).szOsFile }).expect("a size");
    size.next_multiple_of(align_of::<Notes>())
}

/// SAFETY of a call: `file` must be memory for a file of this VFS.
unsafe fn notes(file: *mut ffi::sqlite3_file) -> *mut Notes {
    // SAFETY: `REAL` was set before the first file, and `szOsFile` of this VFS reserves room for
    // the notes.
    unsafe { file.byte_add(notes_at(REAL.load(Ordering::Acquire))).cast() }
}

/// The kind of a file by the flags it is opened with; `None` for temporary files, which a power cut
/// may destroy.
fn kind_of(flags: c_int) -> Option<Kind> {
    let is = |kind: c_int| flags & kind != 0;
    if is(ffi::SQLITE_OPEN_MAIN_DB) {
        Some(Kind::Database)
    } else if is(ffi::SQLITE_OPEN_WAL) {
        Some(Kind::Wal)
    } else if is(ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL) {
        Some(Kind::Journal)
    } else {
        None
    }
}

/// The watched disk that holds a file.
///
/// SAFETY of a call: `name` must be null or a C string.
unsafe fn holding(name: *const c_char) -> Option<(Arc<Disk>, String)> {
    if name.is_null() {
        return None;
    }
    // SAFETY: guaranteed by the caller.
    let name = unsafe { CStr::from_ptr(name) };
    Disk::holding(Path::new(name.to_str().ok()?))
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let real = REAL.load(Ordering::Acquire);
    // SAFETY: SQLite's arguments are passed on unchanged, to the VFS that they were meant for.
    // After a success `file` holds the real file, and there is room for the notes behind it; they
    // hold no pointer into themselves but `methods`, and SQLite does not move a file.
    unsafe {
        let status = (*real).xOpen.expect("a VFS opens")(real, name, file, flags, out_flags);
        let (ffi::SQLITE_OK, Some(kind), Some((disk, name))) =
            (status, kind_of(flags), holding(name))
        else {
            return status;
        };
        // A file that has been removed already is of no interest.
        let Ok(file_id) = disk.opened(&name) else { return status };
        let real = (*file).pMethods;
        let methods = ffi::sqlite3_io_methods {
            xClose: Some(close),
            xWrite: Some(write),
            xTruncate: Some(truncate),
            xSync: Some(sync),
            ..*real
        };
        let makes = flags & ffi::SQLITE_OPEN_CREATE != 0;
        let syncs_folder = Cell::new(makes && kind != Kind::Database);
        let notes = notes(file);
        notes.write(Notes { methods, real, disk, file: file_id, kind, syncs_folder });
        (*file).pMethods = &raw const (*notes).methods;
        status
    }
}

unsafe extern "C" fn delete(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    sync_folder: c_int,
) -> c_int {
    let real = REAL.load(Ordering::Acquire);
    // SAFETY: SQLite's arguments are passed on unchanged.
    unsafe {
        let held = holding(name);
        if let Some((disk, name)) = &held {
            let kind = if name.ends_with("-wal") { Kind::Wal } else { Kind::Journal };
            disk.about_to(Step { kind, act: Act::Remove });
            disk.removes(name);
        }
        let status = (*real).xDelete.expect("a VFS deletes")(real, name, sync_folder);
        if let (ffi::SQLITE_OK, Some((disk, name))) = (status, held) {
            disk.removed(&name, sync_folder & 1 != 0);
        }
        status
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: the file is open, so its notes were written; they are taken out once, because it is
    // closed once.
    unsafe {
        let notes = notes(file).read();
        (*file).pMethods = notes.real;
        (*notes.real).xClose.expect("a file closes")(file)
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    length: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: the file is open, so its notes were written; `from` holds `length` bytes.
    unsafe {
        let notes = &*notes(file);
        notes.about_to(if at == 0 { Act::WriteHead } else { Act::Write });
        let status = (*notes.real).xWrite.expect("a file is written")(file, from, length, at);
        if status == ffi::SQLITE_OK {
            let bytes = std::slice::from_raw_parts(from.cast(), length as usize);
            notes.disk.wrote(notes.file, at as usize, bytes);
        }
        status
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    // SAFETY: the file is open, so its notes were written.
    unsafe {
        let notes = &*notes(file);
        notes.about_to(Act::Resize);
        let status = (*notes.real).xTruncate.expect("a file is truncated")(file, size);
        if status == ffi::SQLITE_OK {
            notes.disk.resized(notes.file, size as usize);
        }
        status
    }
}

/// Skips the real sync: the watched disk is the one that loses power, and waiting for another
/// proves nothing.
unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: the file is open, so its notes were written.
    let notes = unsafe { &*notes(file) };
    notes.about_to(Act::Sync);
    notes.disk.synced(notes.file, notes.kind, notes.syncs_folder.take());
    ffi::SQLITE_OK
}

impl Notes {
    fn about_to(&self, act: Act) {
        self.disk.about_to(Step { kind: self.kind, act });
    }
}
