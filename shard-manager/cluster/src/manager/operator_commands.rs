//! Operator commands: carries out the commands that an operator sends to the control socket of this
//! process.
//!
//! **Invariant:** a command to fence slots never waits behind one that lets a shard join.
//! **Not here:** the queue of commands (`engine::operator_queue`), the changes (`shard_membership`,
//! `slots`, `moves`, `rebalances`).

use std::time::Instant;

use engine::move_record::MoveRecord;
use engine::operator_queue::{
    COMMANDS_MAX, MoveAction, OperatorCommand, OperatorRequest, OperatorResponse, RebalanceAction,
    ShardAction, SlotAction,
};
use engine::rebalance_view::RebalanceBegun;
use engine::refusal_code::with_code;
use futures_util::StreamExt;
use futures_util::stream::unfold;
use model::slot_set::SlotSet;

use super::{Manager, MovesError, Rebalances, RebalancesError, ShardChangeError, SlotsError};

/// Carries out the commands of the operator until the future is dropped. Returns at once if this
/// process cannot receive commands.
pub async fn serve_commands(manager: &Manager) {
    let Some(commands) = manager.backend.operator_commands() else { return };
    let commands = unfold(commands, async |mut commands| Some((commands.recv().await?, commands)));
    commands.for_each_concurrent(COMMANDS_MAX, |command| carry_out(manager, command)).await;
}

async fn carry_out(manager: &Manager, command: OperatorCommand) {
    let deadline = Instant::now() + command.request.time_max();
    let done = match &command.request {
        OperatorRequest::Slots(slots, action) => {
            let changed = change_slots(manager, slots, *action, deadline).await;
            changed.map(|()| OperatorResponse::Changed)
        }
        OperatorRequest::Shards(action) => {
            let changed = change_shards(manager, action, deadline).await;
            changed.map(|()| OperatorResponse::Changed)
        }
        OperatorRequest::Moves(action) => {
            let records = change_moves(manager, action, deadline).await;
            records.map(|records| {
                let views = records.iter().map(|record| manager.moves().view(record));
                OperatorResponse::Moves(views.collect())
            })
        }
        OperatorRequest::Rebalances(action) => {
            let answered = change_rebalances(manager, action, deadline).await;
            answered.map_err(|error| with_code(&error, error.code()))
        }
    };
    let name = name_of(&command.request);
    match &done {
        Ok(_) => tracing::info!(command = name, "a command was carried out"),
        Err(reason) => tracing::info!(command = name, %reason, "a command was refused"),
    }
    command.answer(done);
}

/// Returns the command of a request, as `shard-manager` spells it.
fn name_of(request: &OperatorRequest) -> &'static str {
    match request {
        OperatorRequest::Slots(_, SlotAction::Fence { .. }) => "fence",
        OperatorRequest::Slots(_, SlotAction::Release) => "release",
        OperatorRequest::Shards(ShardAction::Join(_)) => "shard add",
        OperatorRequest::Shards(ShardAction::Weight { .. }) => "shard weight",
        OperatorRequest::Shards(ShardAction::Remove { .. }) => "shard remove",
        OperatorRequest::Moves(MoveAction::Begin(_)) => "move start",
        OperatorRequest::Moves(MoveAction::Order(..)) => "move order",
        OperatorRequest::Moves(MoveAction::Retry(_)) => "move retry",
        OperatorRequest::Moves(MoveAction::Show(_)) => "move show",
        OperatorRequest::Moves(MoveAction::List) => "move list",
        OperatorRequest::Rebalances(RebalanceAction::Plan(..)) => "rebalance plan",
        OperatorRequest::Rebalances(RebalanceAction::Begin(..)) => "rebalance start",
        OperatorRequest::Rebalances(RebalanceAction::Order(..)) => "rebalance order",
        OperatorRequest::Rebalances(RebalanceAction::Show(_)) => "rebalance show",
        OperatorRequest::Rebalances(RebalanceAction::List) => "rebalance list",
    }
}

async fn change_slots(
    manager: &Manager,
    slots: &SlotSet,
    action: SlotAction,
    deadline: Instant,
) -> Result<(), String> {
    let changed = match action {
        SlotAction::Fence { hold } => manager.slots().fence(slots, hold, deadline).await,
        SlotAction::Release => manager.slots().release(slots, deadline).await,
    };
    changed.map_err(slots_refused)
}

async fn change_shards(
    manager: &Manager,
    action: &ShardAction,
    deadline: Instant,
) -> Result<(), String> {
    let shards = manager.shards();
    let changed = match action {
        ShardAction::Join(shard) => shards.join(shard.clone(), None, deadline).await,
        ShardAction::Weight { name, weight } => shards.set_weight(name, *weight, None).await,
        ShardAction::Remove { name } => shards.remove(name, None).await,
    };
    changed.map(drop).map_err(shards_refused)
}

/// Carries out a request about moves, and returns the moves that it concerns.
async fn change_moves(
    manager: &Manager,
    action: &MoveAction,
    deadline: Instant,
) -> Result<Vec<MoveRecord>, String> {
    let moves = manager.moves();
    let one = match action {
        MoveAction::List => return moves.list().await.map_err(moves_refused),
        MoveAction::Begin(draft) => moves.begin_draft(draft, None, deadline).await,
        MoveAction::Order(id, order) => moves.order(*id, *order).await,
        MoveAction::Retry(id) => moves.retry(*id, None, deadline).await,
        MoveAction::Show(id) => moves.get(*id).await,
    };
    one.map(|record| vec![record]).map_err(moves_refused)
}

/// Carries out a request about rebalances, and returns the plan or the rebalances that it concerns.
async fn change_rebalances(
    manager: &Manager,
    action: &RebalanceAction,
    deadline: Instant,
) -> Result<OperatorResponse, RebalancesError> {
    let rebalances = Rebalances::of(manager);
    let one = match action {
        RebalanceAction::Plan(draft, epoch) => {
            let plan = rebalances.plan(draft, *epoch, deadline).await?;
            return Ok(OperatorResponse::Plan(Box::new(plan)));
        }
        RebalanceAction::Begin(draft, epoch) => {
            match rebalances.begin(draft, *epoch, deadline).await? {
                RebalanceBegun::Begun(view) => *view,
                RebalanceBegun::Settled(plan) => return Ok(OperatorResponse::Plan(plan)),
            }
        }
        RebalanceAction::Order(id, order) => rebalances.order(&id.name(), *order).await?,
        RebalanceAction::Show(id) => rebalances.get(&id.name()).await?,
        RebalanceAction::List => {
            return Ok(OperatorResponse::Rebalances(rebalances.list().await?));
        }
    };
    Ok(OperatorResponse::Rebalances(vec![one]))
}

fn slots_refused(error: SlotsError) -> String {
    with_code(&error, error.code())
}

fn shards_refused(error: ShardChangeError) -> String {
    with_code(&error, error.code())
}

fn moves_refused(error: MovesError) -> String {
    with_code(&error, error.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_names_a_command_without_its_options() {
        assert_eq!(name_of(&OperatorRequest::Rebalances(RebalanceAction::List)), "rebalance list");
        let remove = ShardAction::Remove { name: "shard9".to_owned() };
        assert_eq!(name_of(&OperatorRequest::Shards(remove)), "shard remove");
    }
}
