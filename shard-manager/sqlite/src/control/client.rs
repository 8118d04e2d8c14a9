//! Client: sends a command to the process that holds a data directory.
//!
//! **Not here:** the commands (`backup`, `access_store`, `engine::operator_queue`), the listener
//! (`control`).

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::path::Path;

use engine::access_store::AccessChange;
use engine::move_view::MoveView;
use engine::operator_queue::SlotAction;
use engine::rebalance_view::{PlanView, RebalanceView};
use model::slot_set::SlotSet;

use super::move_command::MoveCommand;
use super::rebalance_command::RebalanceCommand;
use super::{LOOK, Reply, Request, ShardRequest, connect, is_timeout};
use crate::backup::ProgressObserver;
use crate::backup::manifest::Manifest;

/// Maximum number of bytes of a line of a response: enough for the manifest of the largest cluster.
const ANSWER_MAX: usize = 16 << 20;

/// Reason why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The data directory has no listener.
    #[error("no router or command listens in this data directory")]
    NoListener,
    /// The listener cannot be reached by this user.
    #[error(
        "the process that holds the data directory cannot be reached through its control.sock: {0}"
    )]
    Unreachable(io::Error),
    /// The command was refused, or failed.
    #[error("{0}")]
    Refused(String),
    /// The connection broke off.
    #[error("the process that holds the data directory closed the connection: {0}")]
    Broken(io::Error),
}

/// Rule that forbids a change of keys or roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRefused {
    /// Member of the change that the rule is about.
    pub member: String,
    /// Reason, for the operator.
    pub reason: String,
}

/// Changes keys or roles, and returns the generation that the change began.
///
/// # Errors
/// [`ControlError`]; inside, the rule that forbids the change.
pub fn change_access(
    data_dir: &Path,
    change: &AccessChange,
) -> Result<Result<u64, AccessRefused>, ControlError> {
    let change = serde_json::from_str(&change.to_json());
    let change = change.map_err(|error| ControlError::Broken(error.into()))?;
    let observer = ProgressObserver { step: &|_| (), cancelled: &|| false };
    match exchange(data_dir, &Request::ChangeAccess { change }, &observer)? {
        Reply::Changed { generation } => Ok(Ok(generation)),
        Reply::Refused { member, refused } => Ok(Err(AccessRefused { member, reason: refused })),
        reply @ (Reply::Done { .. }
        | Reply::SlotsChanged { .. }
        | Reply::ShardChanged { .. }
        | Reply::Moves { .. }
        | Reply::Plan { .. }
        | Reply::Rebalances { .. }
        | Reply::Error { .. }
        | Reply::Step(_)) => Err(failure(reply)),
    }
}

/// Fences or releases slots, and returns their number.
///
/// # Errors
/// [`ControlError`].
pub fn change_slots(
    data_dir: &Path,
    slots: &SlotSet,
    action: SlotAction,
) -> Result<usize, ControlError> {
    let slots = slots.to_string();
    let request = match action {
        SlotAction::Fence { hold } => {
            let hold_ms = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
            Request::FenceSlots { slots, hold_ms }
        }
        SlotAction::Release => Request::ReleaseSlots { slots },
    };
    let observer = ProgressObserver { step: &|_| (), cancelled: &|| false };
    match exchange(data_dir, &request, &observer)? {
        Reply::SlotsChanged { slots } => Ok(slots),
        reply @ (Reply::Done { .. }
        | Reply::ShardChanged { .. }
        | Reply::Moves { .. }
        | Reply::Plan { .. }
        | Reply::Rebalances { .. }
        | Reply::Changed { .. }
        | Reply::Refused { .. }
        | Reply::Error { .. }
        | Reply::Step(_)) => Err(failure(reply)),
    }
}

/// Changes the shards.
///
/// # Errors
/// [`ControlError`].
pub fn change_shards(data_dir: &Path, change: ShardRequest) -> Result<(), ControlError> {
    let observer = ProgressObserver { step: &|_| (), cancelled: &|| false };
    match exchange(data_dir, &Request::ChangeShards(change), &observer)? {
        Reply::ShardChanged { .. } => Ok(()),
        reply @ (Reply::Done { .. }
        | Reply::Changed { .. }
        | Reply::SlotsChanged { .. }
        | Reply::Moves { .. }
        | Reply::Plan { .. }
        | Reply::Rebalances { .. }
        | Reply::Refused { .. }
        | Reply::Error { .. }
        | Reply::Step(_)) => Err(failure(reply)),
    }
}

/// Changes or reads moves of slots, and returns those that the request is about.
///
/// # Errors
/// [`ControlError`].
pub fn command_moves(data_dir: &Path, command: MoveCommand) -> Result<Vec<MoveView>, ControlError> {
    let observer = ProgressObserver { step: &|_| (), cancelled: &|| false };
    match exchange(data_dir, &Request::Moves(command), &observer)? {
        Reply::Moves { moves } => Ok(moves),
        reply @ (Reply::Done { .. }
        | Reply::Changed { .. }
        | Reply::SlotsChanged { .. }
        | Reply::ShardChanged { .. }
        | Reply::Plan { .. }
        | Reply::Rebalances { .. }
        | Reply::Refused { .. }
        | Reply::Error { .. }
        | Reply::Step(_)) => Err(failure(reply)),
    }
}

/// Answer to a request about rebalances.
#[derive(Clone, Debug, PartialEq)]
pub enum RebalanceAnswer {
    /// A plan, or the proof that nothing has to move.
    Plan(Box<PlanView>),
    /// The rebalances that the request is about.
    Rebalances(Vec<RebalanceView>),
}

/// Plans, changes or reads rebalances.
///
/// # Errors
/// [`ControlError`].
pub fn command_rebalances(
    data_dir: &Path,
    command: RebalanceCommand,
) -> Result<RebalanceAnswer, ControlError> {
    let observer = ProgressObserver { step: &|_| (), cancelled: &|| false };
    match exchange(data_dir, &Request::Rebalances(command), &observer)? {
        Reply::Plan { plan } => Ok(RebalanceAnswer::Plan(plan)),
        Reply::Rebalances { rebalances } => Ok(RebalanceAnswer::Rebalances(rebalances)),
        reply @ (Reply::Done { .. }
        | Reply::Changed { .. }
        | Reply::SlotsChanged { .. }
        | Reply::ShardChanged { .. }
        | Reply::Moves { .. }
        | Reply::Refused { .. }
        | Reply::Error { .. }
        | Reply::Step(_)) => Err(failure(reply)),
    }
}

/// Sends a request for a backup, and waits for the manifest of the copy. After a cancellation it
/// waits until the backup has ended.
///
/// # Errors
/// [`ControlError`].
pub fn request_backup(
    data_dir: &Path,
    request: &Request,
    observer: &ProgressObserver<'_>,
) -> Result<Manifest, ControlError> {
    match exchange(data_dir, request, observer)? {
        Reply::Done { done } => Ok(done),
        reply @ (Reply::Changed { .. }
        | Reply::SlotsChanged { .. }
        | Reply::ShardChanged { .. }
        | Reply::Moves { .. }
        | Reply::Plan { .. }
        | Reply::Rebalances { .. }
        | Reply::Refused { .. }
        | Reply::Error { .. }
        | Reply::Step(_)) => Err(failure(reply)),
    }
}

/// Converts the reply to a command that did not succeed to an error.
fn failure(reply: Reply) -> ControlError {
    match reply {
        Reply::Error { error } => ControlError::Refused(error),
        Reply::Done { .. }
        | Reply::Changed { .. }
        | Reply::SlotsChanged { .. }
        | Reply::ShardChanged { .. }
        | Reply::Moves { .. }
        | Reply::Plan { .. }
        | Reply::Rebalances { .. }
        | Reply::Refused { .. }
        | Reply::Step(_) => ControlError::Broken(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends a command and returns the last reply.
fn exchange(
    data_dir: &Path,
    request: &Request,
    observer: &ProgressObserver<'_>,
) -> Result<Reply, ControlError> {
    let broken = ControlError::Broken;
    let is_no_listener = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    };
    let mut stream = connect(data_dir).map_err(|error| {
        if is_no_listener(&error) {
            ControlError::NoListener
        } else {
            ControlError::Unreachable(error)
        }
    })?;
    let mut line = serde_json::to_vec(request).map_err(|error| broken(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(broken)?;
    stream.set_read_timeout(Some(LOOK)).map_err(broken)?;
    let (mut text, mut piece, mut cancelled) = (Vec::new(), vec![0; 64 << 10], false);
    loop {
        if !cancelled && (observer.cancelled)() {
            cancelled = true;
            stream.shutdown(Shutdown::Write).map_err(broken)?;
        }
        match stream.read(&mut piece) {
            Ok(0) => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => text.extend_from_slice(&piece[..read]),
            Err(error) if is_timeout(&error) => continue,
            Err(error) => return Err(broken(error)),
        }
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let reply = serde_json::from_slice(&line).map_err(|error| broken(error.into()))?;
            match reply {
                Reply::Step(step) => (observer.step)(&step),
                last @ (Reply::Done { .. }
                | Reply::Error { .. }
                | Reply::Changed { .. }
                | Reply::SlotsChanged { .. }
                | Reply::ShardChanged { .. }
                | Reply::Moves { .. }
                | Reply::Plan { .. }
                | Reply::Rebalances { .. }
                | Reply::Refused { .. }) => return Ok(last),
            }
        }
        if text.len() > ANSWER_MAX {
            return Err(broken(io::ErrorKind::InvalidData.into()));
        }
    }
}
