//! Control: commands for a running cluster, through a socket in its data directory.
//!
//! The process that holds the data directory listens on `control.sock`, which only its user may
//! open. A request is one line of JSON. The response consists of lines of JSON that report
//! progress, and a last line with the result:
//!
//! ```text
//! > {"command":"backup","to":"/backups/monday"}
//! < {"step":"copying","shard":"shard1","bytes":4096,"of":81920}
//! < {"done":{"format":1, …}}                  or  {"error":"the folder is not empty"}
//! > {"command":"change_access","change":{"change":"revoke_key","id":"4fKq0ZxY81Ab"}}
//! < {"generation":7}                          or  {"member":"id","refused":"there is no key …"}
//! > {"command":"fence_slots","slots":"0-63,100","hold_ms":2000}
//! < {"slots":65}                              or  {"error":"…"}
//! > {"command":"change_shards","change":"join","name":"shard4","weight":1}
//! < {"changed_shard":"shard4"}                or  {"error":"…"}
//! > {"command":"moves","request":"begin","slots":"0-63","to":"shard4"}
//! < {"moves":[{"id":"5f0c1c1e-…", …}]}        or  {"error":"…"}
//! ```
//! A client cancels its request by closing the connection, or the writing half of it.
//!
//! **Invariant:** the socket is created after the directory's lock is taken, and removed before the
//! lock is released; at most [`CLIENTS_MAX`] clients are served at a time, and no client waits for
//! a slow one.
//! **Not here:** the commands (`backup`, `access_store`, `engine::operator_queue`), sending
//! requests (`client`).

pub mod client;
pub mod move_command;
pub mod rebalance_command;
mod shard_request;

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::access_store::{AccessChange, AccessError, ChangeAuthor, now};
use engine::move_view::MoveView;
use engine::operator_queue::{OperatorQueue, OperatorRequest, OperatorResponse, SlotAction};
use engine::published_map::PublishedMap;
use engine::rebalance_view::{PlanView, RebalanceView};
use model::slot_set::SlotSet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::move_command::MoveCommand;
use self::rebalance_command::RebalanceCommand;
use crate::access_store::FileAccess;
use crate::backup::manifest::Manifest;
use crate::backup::{BackupSource, ProgressObserver, Step};

pub use self::shard_request::ShardRequest;

/// Name of the socket in the data directory.
pub const SOCKET: &str = "control.sock";
/// Maximum number of clients at a time: one whose request is carried out, and a few that receive an
/// error.
pub const CLIENTS_MAX: usize = 4;
/// Maximum number of bytes of a request: enough for the documents of many roles.
const LINE_MAX: usize = 4 << 20;
/// Maximum number of bytes of a request that one call reads.
const PIECE: usize = 16 << 10;
/// Time limit for a client to send its request, or to receive a line.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest time for which a stopping cluster waits until cancelled requests have ended.
const END_MAX: Duration = Duration::from_secs(5);
/// Interval at which a waiting thread checks its conditions.
const LOOK: Duration = Duration::from_millis(50);
/// Maximum length in bytes of the path of a socket, a little below the limit of the system.
const PATH_MAX: usize = 100;

/// Request of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Copies the cluster.
    Backup {
        /// Folder of the copy, an absolute path.
        to: PathBuf,
    },
    /// Changes keys or roles. Only the owner of the catalog can open the socket, and needs no key.
    ChangeAccess {
        /// The change, as [`AccessChange::to_json`] writes it.
        change: Value,
    },
    /// Fences slots, so that their writes wait.
    FenceSlots {
        /// The slots, as ranges: `0-63,100`.
        slots: String,
        /// Milliseconds after which the fence ends by itself.
        hold_ms: u64,
    },
    /// Ends the fence of slots, so that their writes continue.
    ReleaseSlots {
        /// The slots, as ranges.
        slots: String,
    },
    /// Changes the shards.
    ChangeShards(ShardRequest),
    /// Changes or shows moves of slots.
    Moves(MoveCommand),
    /// Plans, changes or shows rebalances.
    Rebalances(RebalanceCommand),
}

/// Line of a response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reply {
    /// The backup succeeded.
    Done {
        /// Manifest of the copy.
        done: Manifest,
    },
    /// The request failed.
    Error {
        /// Reason, for the operator.
        error: String,
    },
    /// Keys or roles were changed.
    Changed {
        /// The generation that the change began.
        generation: u64,
    },
    /// Slots were fenced or released.
    SlotsChanged {
        /// Number of slots.
        slots: usize,
    },
    /// A shard was changed.
    ShardChanged {
        /// Name of the shard.
        changed_shard: String,
    },
    /// Moves were changed or read.
    Moves {
        /// The moves that the request is about.
        moves: Vec<MoveView>,
    },
    /// A rebalance was planned.
    Plan {
        /// The plan.
        plan: Box<PlanView>,
    },
    /// Rebalances were changed or read.
    Rebalances {
        /// The rebalances that the request is about.
        rebalances: Vec<RebalanceView>,
    },
    /// A rule forbids a change of keys or roles.
    Refused {
        /// Member of the change that the rule is about.
        member: String,
        /// Reason, for the operator.
        refused: String,
    },
    /// Progress of the request.
    Step(Step),
}

/// Control socket of an open cluster.
pub struct ControlSocket {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    source: Arc<BackupSource>,
    access: FileAccess,
    operator_queue: Arc<OperatorQueue>,
    map: Arc<PublishedMap>,
    stopping: AtomicBool,
    clients: Mutex<usize>,
    left: Condvar,
}

impl ControlSocket {
    /// Listens in the data directory, whose lock must be held. If no socket can be created there, a
    /// warning is logged, and the cluster runs without one.
    pub(super) fn open(
        source: &Arc<BackupSource>,
        access: &FileAccess,
        operator_queue: &Arc<OperatorQueue>,
        map: &Arc<PublishedMap>,
    ) -> Self {
        let path = source.data_dir.join(SOCKET);
        let shared = Arc::new(Shared {
            source: Arc::clone(source),
            access: access.clone(),
            operator_queue: Arc::clone(operator_queue),
            map: Arc::clone(map),
            stopping: AtomicBool::new(false),
            clients: Mutex::new(0),
            left: Condvar::new(),
        });
        let listening = bind(&source.data_dir).and_then(|listener| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("control".to_owned())
                .spawn(move || shared.listen(&listener))
        });
        let thread = listening.inspect_err(|error| {
            let socket = path.display();
            tracing::warn!(%socket, %error, "no commands can be given to this cluster while it runs");
        });
        Self { path, shared, thread: Mutex::new(thread.ok()) }
    }

    /// Stops listening, and cancels the running request. Blocks for a few seconds at most.
    pub fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        self.shared.stopping.store(true, Ordering::SeqCst);
        // The connection wakes the listening thread, so that it ends.
        if connect(&self.shared.source.data_dir).is_ok() {
            // An error means that the thread has panicked, and the panic was already logged.
            let _ = thread.join();
        }
        // The next process replaces a socket that is left behind.
        let _ = fs::remove_file(&self.path);
        let busy = |clients: &mut usize| *clients > 0;
        drop(self.shared.left.wait_timeout_while(self.shared.clients(), END_MAX, busy));
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.close();
    }
}

/// Creates the socket in a folder that only its owner can enter, so that it is never open to
/// others, and then renames it, replacing any file of that name.
fn bind(data_dir: &Path) -> io::Result<UnixListener> {
    let private = data_dir.join(".control");
    if private.exists() {
        fs::remove_dir_all(&private)?;
    }
    DirBuilder::new().mode(0o700).create(&private)?;
    let made = within(&private, "socket", |path| UnixListener::bind(path)).and_then(|listener| {
        let socket = private.join("socket");
        fs::set_permissions(&socket, Permissions::from_mode(0o600))?;
        fs::rename(&socket, data_dir.join(SOCKET))?;
        Ok(listener)
    });
    fs::remove_dir_all(&private)?;
    made
}

/// Opens a connection to the socket.
fn connect(data_dir: &Path) -> io::Result<UnixStream> {
    within(data_dir, SOCKET, |path| UnixStream::connect(path))
}

/// Calls a function with a path of the socket that is short enough for a socket address, which has
/// room for about a hundred bytes. A longer path is replaced by one through an open handle of the
/// folder.
fn within<T>(
    folder: &Path,
    name: &str,
    work: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let path = folder.join(name);
    if path.as_os_str().len() <= PATH_MAX {
        return work(&path);
    }
    let handle = File::open(folder)?;
    work(&Path::new("/proc/self/fd").join(handle.as_raw_fd().to_string()).join(name))
}

impl Shared {
    fn clients(&self) -> MutexGuard<'_, usize> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn listen(self: Arc<Self>, listener: &UnixListener) {
        while !self.is_stopping() {
            let Ok((client, _)) = listener.accept() else {
                // The reason may be temporary, such as too many open files.
                std::thread::sleep(LOOK);
                continue;
            };
            if self.is_stopping() {
                break;
            }
            let _ = client.set_write_timeout(Some(PATIENCE));
            if *self.clients() == CLIENTS_MAX {
                let error = "too many commands are being carried out; try again later".to_owned();
                let _ = send(&client, &Reply::Error { error });
                continue;
            }
            *self.clients() += 1;
            let shared = Arc::clone(&self);
            let work = move || {
                let _present = Present(&shared);
                shared.serve(&client);
            };
            let spawned = std::thread::Builder::new().name("control-client".to_owned()).spawn(work);
            if let Err(error) = spawned {
                drop(Present(&self));
                tracing::error!(%error, "a command cannot be carried out");
            }
        }
    }

    fn serve(&self, client: &UnixStream) {
        let reply = match read_request(client) {
            Ok(Request::Backup { to }) => self.backup(client, &to),
            Ok(Request::ChangeAccess { change }) => self.change_access(&change),
            Ok(Request::FenceSlots { slots, hold_ms }) => {
                let hold = Duration::from_millis(hold_ms);
                self.change_slots(&slots, SlotAction::Fence { hold })
            }
            Ok(Request::ReleaseSlots { slots }) => self.change_slots(&slots, SlotAction::Release),
            Ok(Request::ChangeShards(change)) => self.change_shards(change),
            Ok(Request::Moves(command)) => self.moves(command),
            Ok(Request::Rebalances(command)) => self.rebalances(command),
            Err(error) => Reply::Error { error },
        };
        // A client that has disconnected needs no response.
        let _ = send(client, &reply);
    }

    fn change_access(&self, change: &Value) -> Reply {
        let change = match AccessChange::from_json(&change.to_string()) {
            Ok(change) => change,
            Err(error) => return Reply::Error { error: format!("this is not a change: {error}") },
        };
        match self.access.change_now(&change, &ChangeAuthor::CommandLine, now()) {
            Ok(generation) => Reply::Changed { generation },
            Err(AccessError::Refused(refusal)) => {
                let member = refusal.member().to_owned();
                Reply::Refused { member, refused: refusal.to_string() }
            }
            Err(AccessError::Catalog(error)) => Reply::Error { error: error.to_string() },
        }
    }

    fn change_slots(&self, slots: &str, action: SlotAction) -> Reply {
        let slots = slots.parse::<SlotSet>().map_err(|error| error.to_string());
        let changed = slots.and_then(|slots| {
            let count = slots.len();
            let request = OperatorRequest::Slots(slots, action);
            self.operator_queue.command(request).map(|_| count)
        });
        match changed {
            Ok(slots) => Reply::SlotsChanged { slots },
            Err(error) => Reply::Error { error },
        }
    }

    fn change_shards(&self, change: ShardRequest) -> Reply {
        let (ShardRequest::Join { name, .. }
        | ShardRequest::Weight { name, .. }
        | ShardRequest::Remove { name }) = &change;
        let changed_shard = name.clone();
        match self.operator_queue.command(OperatorRequest::Shards(change.into())) {
            Ok(_) => Reply::ShardChanged { changed_shard },
            Err(error) => Reply::Error { error },
        }
    }

    fn moves(&self, command: MoveCommand) -> Reply {
        let carry_out = |action| self.operator_queue.command(OperatorRequest::Moves(action));
        let slot_count = self.map.load().groups().slot_count();
        match command.action(slot_count).and_then(carry_out) {
            Ok(OperatorResponse::Moves(moves)) => Reply::Moves { moves },
            Ok(
                OperatorResponse::Changed
                | OperatorResponse::Plan(_)
                | OperatorResponse::Rebalances(_),
            ) => Reply::Moves { moves: Vec::new() },
            Err(error) => Reply::Error { error },
        }
    }

    fn rebalances(&self, command: RebalanceCommand) -> Reply {
        let carry_out = |action| self.operator_queue.command(OperatorRequest::Rebalances(action));
        match command.action().and_then(carry_out) {
            Ok(OperatorResponse::Plan(plan)) => Reply::Plan { plan },
            Ok(OperatorResponse::Rebalances(rebalances)) => Reply::Rebalances { rebalances },
            Ok(OperatorResponse::Changed | OperatorResponse::Moves(_)) => {
                Reply::Rebalances { rebalances: Vec::new() }
            }
            Err(error) => Reply::Error { error },
        }
    }

    fn backup(&self, client: &UnixStream, to: &Path) -> Reply {
        if !to.is_absolute() {
            return Reply::Error {
                error: "the folder must be given as an absolute path".to_owned(),
            };
        }
        let (gone, ended) = (AtomicBool::new(false), AtomicBool::new(false));
        let saved = std::thread::scope(|scope| {
            scope.spawn(|| watch_for_end(client, &gone, &ended));
            let step = |step: &Step| {
                if send(client, &Reply::Step(step.clone())).is_err() {
                    gone.store(true, Ordering::SeqCst);
                }
            };
            let cancelled = || gone.load(Ordering::SeqCst) || self.is_stopping();
            let saved =
                self.source.save(to, &ProgressObserver { step: &step, cancelled: &cancelled });
            ended.store(true, Ordering::SeqCst);
            saved
        });
        match saved {
            Ok(done) => Reply::Done { done },
            Err(error) => {
                tracing::warn!(to = %to.display(), %error, "a backup was not made");
                Reply::Error { error: error.to_string() }
            }
        }
    }
}

/// Counts a client as present until it is dropped.
struct Present<'s>(&'s Shared);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        *self.0.clients() -= 1;
        self.0.left.notify_all();
    }
}

/// Waits until the client closes its end of the connection, and records that. The client sends
/// nothing after its request.
fn watch_for_end(mut client: &UnixStream, gone: &AtomicBool, ended: &AtomicBool) {
    let _ = client.set_read_timeout(Some(LOOK));
    let mut byte = [0];
    while !ended.load(Ordering::SeqCst) {
        match client.read(&mut byte) {
            Err(error) if is_timeout(&error) => {}
            Ok(0) | Err(_) => {
                gone.store(true, Ordering::SeqCst);
                return;
            }
            Ok(_) => {}
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn send(mut client: &UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    client.write_all(&line)
}

fn read_request(mut client: &UnixStream) -> Result<Request, String> {
    let deadline = Instant::now() + PATIENCE;
    let _ = client.set_read_timeout(Some(LOOK));
    let (mut line, mut piece, mut is_whole) = (Vec::new(), [0; PIECE], false);
    while !is_whole {
        if line.len() > LINE_MAX || Instant::now() > deadline {
            return Err("no command was received, or a command that is too long".to_owned());
        }
        match client.read(&mut piece) {
            Ok(0) => return Err("the command has no end".to_owned()),
            Ok(read) => {
                is_whole = piece[..read].contains(&b'\n');
                line.extend_from_slice(&piece[..read]);
            }
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    serde_json::from_slice(&line).map_err(|error| format!("this is not a command: {error}"))
}
