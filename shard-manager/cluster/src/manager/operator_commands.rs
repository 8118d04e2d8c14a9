//! Operator commands: carries out what the operator of this process requests by its control socket.
//!
//! **Invariant:** a fence never waits for a shard that joins.
//! **Not here:** the queue of commands (`engine::operator_desk`), the changes (`shard_change`,
//! `slots`).

use std::time::Instant;

use engine::operator_desk::{
    COMMANDS_MAX, OperatorCommand, OperatorRequest, ShardAction, SlotAction,
};
use engine::refusal_code::with_code;
use futures_util::StreamExt;
use futures_util::stream::unfold;

use super::{Manager, ShardChangeError, SlotsError};

/// Carries out the commands of the process's operator until the future is dropped. Returns at once
/// if none can come.
pub async fn serve_commands(manager: &Manager) {
    let Some(commands) = manager.backend.operator_commands() else { return };
    let commands = unfold(commands, async |mut commands| Some((commands.recv().await?, commands)));
    commands.for_each_concurrent(COMMANDS_MAX, |command| carry_out(manager, command)).await;
}

async fn carry_out(manager: &Manager, command: OperatorCommand) {
    let deadline = Instant::now() + command.request.time_max();
    let done = match &command.request {
        OperatorRequest::Slots(slots, SlotAction::Fence { hold }) => {
            manager.slots().fence(slots, *hold, deadline).await.map_err(slots_refused)
        }
        OperatorRequest::Slots(slots, SlotAction::Release) => {
            manager.slots().release(slots, deadline).await.map_err(slots_refused)
        }
        OperatorRequest::Shards(ShardAction::Join(shard)) => {
            let joined = manager.shards().join(shard.clone(), None, deadline).await;
            joined.map(drop).map_err(shards_refused)
        }
        OperatorRequest::Shards(ShardAction::Weight { name, weight }) => {
            let changed = manager.shards().set_weight(name, *weight, None).await;
            changed.map(drop).map_err(shards_refused)
        }
        OperatorRequest::Shards(ShardAction::Remove { name }) => {
            manager.shards().remove(name, None).await.map(drop).map_err(shards_refused)
        }
    };
    tracing::info!(request = ?command.request, ?done, "a command was carried out");
    command.answer(done);
}

fn slots_refused(error: SlotsError) -> String {
    with_code(&error, error.code())
}

fn shards_refused(error: ShardChangeError) -> String {
    with_code(&error, error.code())
}
