//! Simulation of moves: databases with logs, primaries and replicas, failovers that lose
//! unconfirmed changes, deposed primaries, several movers, late and lost messages, clocks that
//! jump, writers, sessions and scatter reads. The seed determines everything.
//!
//! Each run has two phases: first faults happen, then they stop and the move must end. The world is
//! checked after every event. The message of a failure contains the seed:
//! `MOVES_SEED=7 cargo test -p moves every_seed_holds -- --nocapture` prints the events of this
//! seed, and `MOVES_SEEDS=10000000` in its place runs that many seeds.
//!
//! Each world has one move. In the worlds of `two_hops` a slot moves twice, between three shards.

mod checks;
mod coverage;
mod database;
mod mover_process;
mod parties;
mod random;
mod reader_rules;
mod router;
mod scatter;
mod scenario;
mod session;
mod shard;
mod two_hops;
mod without_a_rule;
mod world;
mod writers;

use crate::identity::MoveSide;
use crate::observation::MoveGoal;
use crate::request_context::MoveEffect;

use coverage::{Coverage, CoverageSum, Occurrence};
use scenario::Scenario;
use world::{Answer, Catalog, Late, Violation, World};

/// Number of seeds in a run of the tests.
const SEEDS: u64 = 100_000;
/// Number of events within which a move must end once the faults have stopped.
const EVENTS_TO_END: usize = 4_000;
/// One hour in milliseconds, by which clocks jump.
const HOUR: i64 = 3_600_000;

/// Event with its weight in the random choice.
type Event = (u32, fn(&mut World));

/// Runs a seed. Returns the first fault that the checks find, and the events that occurred.
fn run(seed: u64, scenario: Scenario, is_printed: bool) -> (Option<Violation>, Coverage) {
    let mut world = World::new(seed, scenario);
    world.is_printed = is_printed;
    for _ in 0..scenario.events {
        disturb(&mut world);
        checks::always(&mut world);
        if world.violation.is_some() {
            return (world.violation, world.coverage);
        }
    }
    settle(&mut world);
    (world.violation, world.coverage)
}

/// Lets a random event of the first phase happen. The event may be a fault.
fn disturb(world: &mut World) {
    let odds = world.scenario;
    let events: [Event; 17] = [
        (100, act),
        (odds.replication, replicate),
        (odds.failover, fail_over),
        (odds.catalog_failover, catalog_fails_over),
        (odds.clock, jump),
        (odds.clock, pass_time),
        (odds.new_mover, mover_process::start),
        (odds.goal, change_goal),
        (odds.copy_again, |world| world.must_copy_again = true),
        (odds.router_activation, router::activate),
        (odds.write, writers::begin),
        (odds.write, writers::commit_any),
        (odds.write / 4, writers::confirm),
        (odds.read, session::read),
        (odds.poll, poll),
        (odds.scatter, scatter::step),
        (odds.delivery, deliver),
    ];
    let event = world.random.weighted(&events);
    event(world);
}

/// Runs the second phase: no more faults happen, and the move must end.
fn settle(world: &mut World) {
    world.note(|| "--- the faults stop".to_owned());
    let faults = world.scenario;
    world.scenario =
        Scenario { deposed: 0, rejoin: 1_000, lag: 0, late: 0, lost_answers: 0, ..faults };
    world.must_copy_again = false;
    world.is_keeping = false;
    let nodes = world.shards.iter_mut().flat_map(|shard| shard.nodes.iter_mut());
    nodes.for_each(|node| node.clock = 0);
    // All movers die, or all except the last.
    let survivors = if world.random.chance(500) { 1 } else { 0 };
    let dying = world.movers.len() - survivors;
    world.movers[..dying].iter_mut().for_each(|mover| mover.is_stopped = true);
    let last = world.catalog();
    world.catalog.push(Catalog { is_paused: false, ..last });
    for _ in 0..EVENTS_TO_END {
        if world.movers.iter().all(|mover| mover.is_stopped) {
            mover_process::start(world);
        }
        let last = world.catalog();
        if world.is_keeping && last.goal != MoveGoal::Settle {
            world.catalog.push(Catalog { goal: MoveGoal::Settle, ..last });
        }
        match world.random.below(8) {
            0 | 1 => replicate(world),
            2 => deliver(world),
            3 => writers::commit_any(world),
            4 => session::read(world),
            _ => act(world),
        }
        checks::always(world);
        let has_ended = world.catalog().has_ended
            && world.late.is_empty()
            && world.shards.iter().all(|shard| shard.running.is_empty())
            && !checks::has_rest(world);
        if has_ended {
            checks::finally(world);
        }
        if has_ended || world.violation.is_some() {
            return;
        }
    }
    world.fail(Violation::NeverEnds);
}

fn act(world: &mut World) {
    let index = world.random.below(world.movers.len());
    // The last mover holds the lock; earlier movers may still act at the same time.
    let index = if world.random.chance(600) { world.movers.len() - 1 } else { index };
    if !world.movers[index].is_stopped {
        mover_process::act(world, index);
    }
}

fn any_side(world: &mut World) -> MoveSide {
    if world.random.chance(500) { MoveSide::Origin } else { MoveSide::Destination }
}

fn replicate(world: &mut World) {
    let side = any_side(world);
    let node = world.random.below(world.shard(side).nodes.len());
    let World { random, shards, scenario, .. } = world;
    shards[side.index()].replicate(node, random, (scenario.rejoin, scenario.lag));
}

fn fail_over(world: &mut World) {
    let side = any_side(world);
    writers::confirm(world);
    let before = world.shard(side).database().clone();
    let World { random, shards, .. } = &mut *world;
    if !shards[side.index()].fail_over(random) {
        return;
    }
    let World { shards, plan, coverage, .. } = &mut *world;
    let shard = &shards[side.index()];
    let pair = (&before.metadata, &shard.database().metadata);
    coverage.note_failover(pair, (plan.id, &plan.slots), shard.nodes.len());
    let node = shard.primary;
    world.note(|| format!("{side:?} fails over to node {node}"));
    writers::lose(world, side);
}

/// Makes the catalog fail over, so that it loses its last changes. Movers check again a move that
/// the catalog shows as ended, because the lost changes may include that the move began again.
fn catalog_fails_over(world: &mut World) {
    let left = world.catalog.len().saturating_sub(world.random.below(4)).max(1);
    let before = world.catalog();
    world.catalog.truncate(left);
    world.catalog_timeline += 1;
    let left = world.catalog();
    world.catalog.push(Catalog { has_ended: false, ..left });
    world.coverage.note_if(left.epoch < before.epoch, Occurrence::PublicationLost);
    world.coverage.note_if(left.goal != before.goal, Occurrence::GoalLost);
    world.coverage.note_if(before.has_ended && !left.has_ended, Occurrence::EndLost);
    world.note(|| format!("the catalog fails over to epoch {}, {:?}", left.epoch, left.goal));
}

fn jump(world: &mut World) {
    let side = any_side(world);
    let node = world.random.below(world.shard(side).nodes.len());
    let clock = [-HOUR, 0, HOUR][world.random.below(3)];
    world.shard_mut(side).nodes[node].clock = clock;
}

/// Lets a router read the catalog.
fn poll(world: &mut World) {
    let index = world.random.below(2);
    router::refresh(world, index);
}

fn pass_time(world: &mut World) {
    world.now += [50, 700, 2_500][world.random.below(3)];
}

fn change_goal(world: &mut World) {
    let goals = [MoveGoal::Forward, MoveGoal::Back, MoveGoal::Settle];
    let (goal, is_paused) = (goals[world.random.below(3)], world.random.chance(200));
    // The goal is `Settle` only once the slots have reached a side, whose former owner is kept.
    if goal != MoveGoal::Settle || world.is_keeping {
        let last = world.catalog();
        world.note(|| format!("goal {goal:?}, paused {is_paused}"));
        world.catalog.push(Catalog { goal, is_paused, ..last });
        world.is_keeping = false;
    }
}

/// Delivers a late message.
fn deliver(world: &mut World) {
    if world.late.is_empty() {
        return;
    }
    let index = world.random.below(world.late.len());
    match world.late.swap_remove(index) {
        Late::Request { side, node, request, rows } => {
            world.note(|| "late:".to_owned());
            let answer = world.execute((side, node), &request, &rows);
            if let Answer::Done(MoveEffect::Changed(_)) = answer {
                world.coverage.note_late(&request);
            }
        }
        Late::Publish { expected, side, floor } => world.publish(expected, side, floor),
    }
}

/// Runs seeds until a fault is found, and returns the seed and the fault. Adds the events of these
/// seeds to the sum.
fn find(
    mut seeds: std::ops::Range<u64>,
    scenario: impl Fn(u64) -> Scenario,
    sum: &mut CoverageSum,
) -> Option<(u64, Violation)> {
    seeds.find_map(|seed| {
        let (violation, coverage) = run(seed, scenario(seed), false);
        sum.add(coverage);
        Some((seed, violation?))
    })
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[test]
fn every_seed_holds() {
    if let Some(seed) = number("MOVES_SEED") {
        assert_eq!(run(seed, Scenario::of(seed), true).0, None);
        return;
    }
    let (seeds, mut sum) = (number("MOVES_SEEDS").unwrap_or(SEEDS), CoverageSum::default());
    let found = find(0..seeds, Scenario::of, &mut sum);
    assert!(
        found.is_none(),
        "{found:?}: MOVES_SEED={} cargo test -p moves every_seed_holds -- --nocapture",
        found.map_or(0, |(seed, _)| seed)
    );
    assert_eq!(sum.below(seeds / 10_000), [], "events that hardly occur, with their seeds");
}
