//! Files: checks the data directory of embedded shards, whether it exists already or not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use model::topology::{Role, ShardNumber, ShardSpec};
use rustix::fs::{Access, access, statfs};
use sqlite::catalog::{ClusterSpec, check_start};
use sqlite::migrate;
use sqlite::offline_view::{DirView, Holder, NodeFile, holder};

use super::Finding;

/// Number of free bytes on the disk below which the doctor warns that it will soon be full.
const FREE_BYTES_WARNING: u64 = 2 << 30;
const FREE_BYTES_FAULT: u64 = 64 << 20;

/// Network file systems, on which SQLite is not safe, with the `f_type` numbers by which Linux
/// reports them. SQLite keeps the index of its write-ahead log in shared memory, which processes on
/// other machines do not see, so two writers would damage the file.
const FOREIGN: [(u32, &str); 4] =
    [(0x6969, "NFS"), (0x517B, "SMB"), (0xFF53_4D42, "CIFS"), (0xFE53_4D42, "SMB 2")];

/// Checks a data directory: permissions, disk, and the files of its cluster if it has one. Blocks.
pub fn files(data_dir: &Path) -> Vec<Finding> {
    let about = data_dir.display().to_string();
    let standing = standing(data_dir);
    if standing.is_file() {
        let text = format!(
            "{} is a file, where a folder is expected: name another with --data-dir",
            standing.display()
        );
        return vec![Finding::fault(&about, text)];
    }
    let mut found = Vec::new();
    if access(&standing, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let text = format!(
            "this user may not write in {}: chown it, or name another with --data-dir",
            standing.display()
        );
        found.push(Finding::fault(&about, text));
    }
    found.extend(disk(&about, &standing));
    found.extend(open_to_others(&about, data_dir));
    if data_dir.join("catalog.db").exists() {
        found.extend(cluster(&about, data_dir));
    } else if let Err(error) = check_start(data_dir, &ClusterSpec::default()) {
        found.push(Finding::fault(&about, error));
    } else if found.is_empty() {
        found.push(Finding::good(&about, "holds no cluster yet: the first start makes one"));
    }
    found
}

/// Returns the data directory if it exists, or else its closest ancestor that exists.
fn standing(data_dir: &Path) -> PathBuf {
    let whole = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let mut folders = whole.ancestors();
    folders.find(|folder| folder.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn disk(about: &str, folder: &Path) -> Vec<Finding> {
    let Ok(disk) = statfs(folder) else { return Vec::new() };
    let mut found = Vec::new();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "32 bits of meaning"
    )]
    let kind = disk.f_type as u32;
    if let Some((_, name)) = FOREIGN.iter().find(|(number, _)| *number == kind) {
        let text = format!("is on {name}, where SQLite is not safe: use a local disk");
        found.push(Finding::fault(about, text));
    }
    #[expect(clippy::cast_sign_loss, reason = "a block has a size")]
    let free = disk.f_bavail.saturating_mul(disk.f_bsize as u64);
    let text = format!("its disk has {} MiB left: writes are refused when it is full", free >> 20);
    match free {
        ..FREE_BYTES_FAULT => found.push(Finding::fault(about, text)),
        FREE_BYTES_FAULT..FREE_BYTES_WARNING => found.push(Finding::warning(about, text)),
        FREE_BYTES_WARNING.. => {}
    }
    found
}

/// Returns a warning if users outside the files' group may read or replace the files. Earlier
/// versions created files with the permissions that the umask allowed.
fn open_to_others(about: &str, data_dir: &Path) -> Option<Finding> {
    const READ: u32 = 0o004;
    const WRITE: u32 = 0o002;
    const ENTER: u32 = 0o001;
    let remedy = format!("chmod -R o-rwx {}", data_dir.display());
    let folder = fs::metadata(data_dir).ok().filter(fs::Metadata::is_dir)?.permissions().mode();
    if folder & ENTER == 0 {
        return None;
    }
    if folder & WRITE != 0 {
        let text = format!("every user may replace its files: run {remedy}");
        return Some(Finding::warning(about, text));
    }
    let files = fs::read_dir(data_dir).ok()?.filter_map(Result::ok);
    let open = files.filter(|file| {
        file.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & READ != 0)
    });
    let name = open.filter_map(|file| file.file_name().into_string().ok()).min()?;
    let text = format!("every user may read {name}, and with it rows or keys: run {remedy}");
    Some(Finding::warning(about, text))
}

fn cluster(about: &str, data_dir: &Path) -> Vec<Finding> {
    if let Some(older) = older_schema(about, data_dir) {
        return [older].into_iter().chain(last_holder(about, data_dir)).collect();
    }
    let view = match DirView::open(data_dir) {
        Ok(view) => view,
        Err(error) => return vec![Finding::fault(about, error)],
    };
    let members = view.map.topology().members();
    let shard = |(number, shard): (ShardNumber, &ShardSpec)| {
        let (name, state, weight) = (&shard.name, shard.state.name(), shard.weight);
        format!("{name} (number {}, {state}, weight {weight})", number.0)
    };
    let listed: Vec<String> = members.clone().map(shard).collect();
    let (shards, replicas) = (members.count(), view.replicas);
    let epoch = view.map.epoch();
    let mut found = vec![Finding::good(
        about,
        format!("{shards} shards, {replicas} replicas each, epoch {epoch}: {}", listed.join(", ")),
    )];
    found.extend(last_holder(about, data_dir));
    for shard in view.map.topology().numbers() {
        for file in view.nodes(shard) {
            if file.bytes().is_none() {
                found.push(missing(&file, view.is_made(shard)));
            } else if let Err(error) = view.node(&file) {
                found.push(Finding::fault(file.node, error));
            }
        }
    }
    found
}

/// Returns a warning if files have an older schema than this program, which a start upgrades. Other
/// checks cannot read such files. If a file is missing, foreign or newer, there is no warning,
/// because those checks report the fault.
fn older_schema(about: &str, data_dir: &Path) -> Option<Finding> {
    let files = migrate::plan(data_dir).ok()?;
    let mut older = files.iter().filter(|file| !file.applied.is_empty());
    let first = &older.next()?.file;
    let text = match older.count() {
        0 => format!("{first} has an older schema: the next start upgrades it"),
        others => format!(
            "{first} and {others} more of its files have an older schema: the next start upgrades them"
        ),
    };
    Some(Finding::warning(about, text))
}

/// Returns a finding if a process holds the directory, or did not close its files.
fn last_holder(about: &str, data_dir: &Path) -> Option<Finding> {
    match holder(data_dir) {
        Ok(Holder::Process { pid }) => Some(Finding::warning(
            about,
            format!("process {pid} serves it: a second router is refused"),
        )),
        Ok(Holder::Crashed) => Some(Finding::warning(
            about,
            "the last router ended without closing its files: the next start checks them",
        )),
        Ok(Holder::Free) => None,
        Err(error) => Some(Finding::fault(about, error)),
    }
}

fn missing(file: &NodeFile, is_made: bool) -> Finding {
    let (node, text) = (&*file.node, format!("{} is missing", file.path.display()));
    match file.role {
        Role::Primary if is_made => Finding::fault(
            node,
            format!("{text}, and with it the shard's rows: put the file back, or restore a backup"),
        ),
        Role::Primary | Role::Replica => {
            Finding::warning(node, format!("{text}: the next start makes it"))
        }
    }
}
