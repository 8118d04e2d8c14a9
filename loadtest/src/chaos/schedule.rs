//! Schedule: the order of faults, and the pauses between them.

use std::time::Duration;

use tokio::sync::watch;

use crate::fault_kind::FaultKind;
use crate::random::Random;

/// Shortest and longest pause between two faults, in milliseconds.
const PAUSE_MS: (u32, u32) = (500, 2_500);
/// Shortest and longest time between a kill and the next start, in milliseconds. The longest is
/// long enough for clients to stop repeating a request.
const DOWN_MS: (u32, u32) = (0, 1_500);
/// Shortest and longest duration of a freeze, in milliseconds. The longest is longer than clients
/// wait for a response.
const FROZEN_MS: (u32, u32) = (50, 4_500);
/// Shortest and longest delay of bytes on a slow connection, in milliseconds.
const SLOW_MS: (u32, u32) = (5, 200);
/// Minimum and maximum number of slots that are fenced together.
const FENCED: (u32, u32) = (1, SLOTS / 2);
/// Divisor of the pauses before moves, joins and drains. These run beside the other faults, and
/// follow each other faster.
const MOVES_SOONER: u32 = 4;
/// Minimum and maximum number of slots that move together.
const MOVED: (u32, u32) = (16, 64);
/// Minimum and maximum time for which the source of a move keeps its copy of the slots, in seconds.
const KEPT_S: (u32, u32) = (0, 6);
/// Number of moves or rebalances of which one is cancelled, on average.
const CANCELLED_EVERY: u32 = 5;
/// Minimum and maximum time after which a move is cancelled, in milliseconds.
const CANCELLED_MS: (u32, u32) = (0, 400);
/// Minimum and maximum weight of a shard that joins; the other shards have weight 48.
const NEW_WEIGHT: (u32, u32) = (1, 2);
/// Minimum and maximum time after which a rebalance is cancelled, in milliseconds.
const GROWTH_CANCELLED_MS: (u32, u32) = (0, 1_500);
/// Number of slots of every cluster.
const SLOTS: u32 = 16_384;
/// Minimum and maximum number of responses that are lost in succession.
const LOST: (u32, u32) = (1, 8);

/// Fault of the router, of a node or of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The router is killed (SIGKILL), and started again after `down`.
    Kill { down: Duration },
    /// The router is frozen (SIGSTOP), and continued (SIGCONT) after `lasts`.
    Freeze { lasts: Duration },
    /// The router is asked to end (SIGTERM), and started again once its process has ended.
    Restart,
    /// One node is stopped, frozen or badly connected for the time `lasts`.
    Node { node: usize, action: FaultAction, lasts: Duration },
    /// The primary of a shard loses the responses to this many writes.
    LostAnswers { shard: usize, count: u32, lasts: Duration },
    /// The primary of a shard is stopped or frozen for the time `lasts`; after half of it, a
    /// replica is promoted.
    Promote { shard: usize, gone: FaultAction, lasts: Duration },
    /// Writes to consecutive slots wait until their fence ends.
    Fence { first: u32, last: u32, lasts: Duration },
    /// Slots move or move back, while the other faults go on.
    Move { action: MoveAction },
    /// A shard joins or is drained, while the other faults go on.
    Grow { action: GrowAction },
    /// The cache is emptied, frozen or killed.
    Redis { action: RedisAction },
}

/// Beginning or rollback of a move of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MoveAction {
    /// Slots move to another shard.
    Begin(MovePlan),
    /// A move is rolled back; the seed determines the choice of the move.
    RollBack { seed: u32 },
}

/// Parameters of a move that is to begin, drawn from the seed of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MovePlan {
    /// Seed for the choice of shards and slots.
    pub(super) seed: u32,
    /// Number of slots.
    pub(super) slots: u32,
    /// Time for which the source keeps its copy of the slots, in seconds.
    pub(super) keep: u32,
    /// Time after which it is cancelled; `None` if it is not.
    pub(super) cancelled: Option<Duration>,
}

/// Growth action: a shard joins or is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrowAction {
    /// A new shard joins and takes its share of the slots.
    Join(GrowthPlan),
    /// The new shard is emptied and retires.
    Drain(GrowthPlan),
}

/// Parameters of a rebalance that is to begin, drawn from the seed of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GrowthPlan {
    /// Weight of the new shard.
    pub(super) weight: u32,
    /// Time after which it is cancelled; `None` if it is not.
    pub(super) cancelled: Option<Duration>,
}

/// Fault of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RedisAction {
    Empty,
    Freeze { lasts: Duration },
    Kill { down: Duration },
}

/// Fault of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultAction {
    Stop,
    Freeze,
    Cut,
    HalfOpen,
    Slow(Duration),
}

impl Fault {
    /// Returns the fault in words, with nodes and shards by their names.
    pub(super) fn describe(&self, nodes: &[String], shards: &[String]) -> String {
        let node = |number: usize| nodes.get(number).map_or("a node", String::as_str);
        let shard = |number: usize| shards.get(number).map_or("a shard", String::as_str);
        match *self {
            Self::Kill { down } => format!("kill -9, down for {} ms", down.as_millis()),
            Self::Freeze { lasts } => format!("SIGSTOP for {} ms", lasts.as_millis()),
            Self::Restart => "SIGTERM and restart".to_owned(),
            Self::Node { node: at, action, lasts } => {
                format!("{} {} for {} ms", node(at), action.describe(), lasts.as_millis())
            }
            Self::LostAnswers { shard: at, count, lasts } => format!(
                "the primary of {} loses {count} answers to writes, for at most {} ms",
                shard(at),
                lasts.as_millis()
            ),
            Self::Promote { shard: at, gone, lasts } => format!(
                "promotion in {}: its primary {} for {} ms",
                shard(at),
                gone.describe(),
                lasts.as_millis()
            ),
            Self::Fence { first, last, lasts } => {
                format!("slots {first}-{last} fenced for {} ms", lasts.as_millis())
            }
            Self::Move { action } => match action {
                MoveAction::Begin(plan) => format!("a move of {} slots", plan.slots),
                MoveAction::RollBack { .. } => "a rollback of a move".to_owned(),
            },
            Self::Grow { action } => match action {
                GrowAction::Join(_) => "a new shard that takes its share".to_owned(),
                GrowAction::Drain(_) => "a drain of the new shard".to_owned(),
            },
            Self::Redis { action } => match action {
                RedisAction::Empty => "Redis emptied".to_owned(),
                RedisAction::Freeze { lasts } => {
                    format!("Redis frozen for {} ms", lasts.as_millis())
                }
                RedisAction::Kill { down } => {
                    format!("Redis killed, down for {} ms", down.as_millis())
                }
            },
        }
    }
}

impl FaultAction {
    fn describe(self) -> String {
        match self {
            Self::Stop => "stopped at once".to_owned(),
            Self::Freeze => "frozen".to_owned(),
            Self::Cut => "cut off".to_owned(),
            Self::HalfOpen => "half open".to_owned(),
            Self::Slow(by) => format!("slow by {} ms each way", by.as_millis()),
        }
    }
}

/// Sequence of faults, which a seed determines.
#[derive(Debug)]
pub(super) struct Schedule {
    random: Random,
    kinds: Vec<FaultKind>,
    nodes: u32,
    shards: u32,
}

impl Schedule {
    /// Creates the schedule of faults of the given kinds, for a cluster with the given numbers of
    /// nodes and shards.
    pub(super) fn new(seed: u64, kinds: &[FaultKind], nodes: usize, shards: usize) -> Self {
        let random = Random::of_user(seed, usize::MAX / 2);
        Self { random, kinds: kinds.to_vec(), nodes: nodes as u32, shards: shards as u32 }
    }

    /// Waits for the pause before the next fault, and returns the fault. Returns `None` if the run
    /// is stopped meanwhile or the schedule has ended.
    pub(super) async fn due(&mut self, stopped: &mut watch::Receiver<bool>) -> Option<Fault> {
        let (pause, fault) = self.next()?;
        tokio::select! {
            biased;
            _ = stopped.changed() => None,
            () = tokio::time::sleep(pause) => Some(fault),
        }
    }

    fn between(&mut self, (least, most): (u32, u32)) -> Duration {
        Duration::from_millis(u64::from(self.number((least, most))))
    }

    fn number(&mut self, (least, most): (u32, u32)) -> u32 {
        least + self.random.below(most - least + 1)
    }

    fn kind(&mut self) -> Option<FaultKind> {
        let all = self.kinds.iter().map(|kind| kind.weight()).sum();
        let mut drawn = self.random.below(all);
        for kind in &self.kinds {
            match drawn.checked_sub(kind.weight()) {
                Some(left) => drawn = left,
                None => return Some(*kind),
            }
        }
        None
    }

    fn fence(&mut self) -> Fault {
        let count = self.number(FENCED);
        let first = self.random.below(SLOTS - count + 1);
        Fault::Fence { first, last: first + count - 1, lasts: self.between(FROZEN_MS) }
    }

    fn slot_move(&mut self) -> Fault {
        let is_cancelled = self.random.below(CANCELLED_EVERY) == 0;
        let plan = MovePlan {
            seed: self.random.below(u32::MAX),
            slots: self.number(MOVED),
            keep: self.number(KEPT_S),
            cancelled: is_cancelled.then(|| self.between(CANCELLED_MS)),
        };
        Fault::Move { action: MoveAction::Begin(plan) }
    }

    fn growth(&mut self) -> GrowthPlan {
        let is_cancelled = self.random.below(CANCELLED_EVERY) == 0;
        let weight = self.number(NEW_WEIGHT);
        let cancelled = is_cancelled.then(|| self.between(GROWTH_CANCELLED_MS));
        GrowthPlan { weight, cancelled }
    }

    fn node(&mut self, action: FaultAction) -> Fault {
        let node = self.random.below(self.nodes) as usize;
        Fault::Node { node, action, lasts: self.between(FROZEN_MS) }
    }
}

impl Iterator for Schedule {
    type Item = (Duration, Fault);

    fn next(&mut self) -> Option<Self::Item> {
        let pause = self.between(PAUSE_MS);
        let fault = match self.kind()? {
            FaultKind::RouterKill => Fault::Kill { down: self.between(DOWN_MS) },
            FaultKind::RouterFreeze => Fault::Freeze { lasts: self.between(FROZEN_MS) },
            FaultKind::RouterRestart => Fault::Restart,
            FaultKind::Stop => self.node(FaultAction::Stop),
            FaultKind::Freeze => self.node(FaultAction::Freeze),
            FaultKind::Cut => self.node(FaultAction::Cut),
            FaultKind::HalfOpen => self.node(FaultAction::HalfOpen),
            FaultKind::Delay => {
                let by = self.between(SLOW_MS);
                self.node(FaultAction::Slow(by))
            }
            FaultKind::LostAnswer => Fault::LostAnswers {
                shard: self.random.below(self.shards) as usize,
                count: self.number(LOST),
                lasts: self.between(DOWN_MS),
            },
            FaultKind::Promote => Fault::Promote {
                shard: self.random.below(self.shards) as usize,
                gone: if self.random.below(2) == 0 {
                    FaultAction::Stop
                } else {
                    FaultAction::Freeze
                },
                lasts: self.between(FROZEN_MS),
            },
            FaultKind::Fence => self.fence(),
            FaultKind::Move => self.slot_move(),
            FaultKind::Rollback => {
                let seed = self.random.below(u32::MAX);
                Fault::Move { action: MoveAction::RollBack { seed } }
            }
            FaultKind::Join => Fault::Grow { action: GrowAction::Join(self.growth()) },
            FaultKind::Drain => Fault::Grow { action: GrowAction::Drain(self.growth()) },
            FaultKind::RedisFlush => Fault::Redis { action: RedisAction::Empty },
            FaultKind::RedisFreeze => {
                Fault::Redis { action: RedisAction::Freeze { lasts: self.between(FROZEN_MS) } }
            }
            FaultKind::RedisKill => {
                Fault::Redis { action: RedisAction::Kill { down: self.between(DOWN_MS) } }
            }
        };
        let is_sooner = matches!(fault, Fault::Move { .. } | Fault::Grow { .. });
        Some((if is_sooner { pause / MOVES_SOONER } else { pause }, fault))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_schedule_with_faults_of_every_kind() {
        let of =
            |seed| Schedule::new(seed, &FaultKind::OF_ROUTER, 0, 0).take(100).collect::<Vec<_>>();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        let faults = of(1);
        assert!(faults.iter().any(|(_, fault)| matches!(fault, Fault::Kill { .. })));
        assert!(faults.iter().any(|(_, fault)| matches!(fault, Fault::Freeze { .. })));
        assert!(faults.iter().any(|(_, fault)| *fault == Fault::Restart));
    }

    #[tokio::test]
    async fn no_fault_of_a_schedule_is_due_once_the_run_is_stopped() {
        let (end, mut stopped) = watch::channel(false);
        let mut schedule = Schedule::new(1, &FaultKind::OF_ROUTER, 0, 0);
        end.send(true).expect("a receiver");
        assert_eq!(schedule.due(&mut stopped).await, None);
        let mut nothing = Schedule::new(1, &[], 0, 0);
        let (_end, mut running) = watch::channel(false);
        assert_eq!(nothing.due(&mut running).await, None, "it has ended");
    }

    #[test]
    fn fences_are_of_slots_that_exist() {
        let faults: Vec<_> = Schedule::new(7, &[FaultKind::Fence], 0, 0).take(200).collect();
        for (_, fault) in &faults {
            let Fault::Fence { first, last, lasts } = *fault else { panic!("{fault:?}") };
            assert!(first <= last && last < SLOTS && !lasts.is_zero(), "{fault:?}");
        }
        let fault = Fault::Fence { first: 3, last: 9, lasts: Duration::from_millis(20) };
        assert_eq!(fault.describe(&[], &[]), "slots 3-9 fenced for 20 ms");
    }

    #[test]
    fn moves_are_within_their_bounds_and_some_are_cancelled_or_rolled_back() {
        let kinds = [FaultKind::Move, FaultKind::Rollback];
        let faults: Vec<_> = Schedule::new(7, &kinds, 0, 0).take(200).collect();
        let (mut cancelled, mut rolled_back) = (0, 0);
        for (_, fault) in &faults {
            let Fault::Move { action } = *fault else { panic!("{fault:?}") };
            match action {
                MoveAction::Begin(plan) => {
                    assert!((16..=64).contains(&plan.slots) && plan.keep <= 6, "{plan:?}");
                    cancelled += usize::from(plan.cancelled.is_some());
                }
                MoveAction::RollBack { .. } => rolled_back += 1,
            }
        }
        assert!(cancelled > 0 && rolled_back > 0 && cancelled + rolled_back < 150);
    }

    #[test]
    fn shards_come_and_go_in_about_equal_numbers_and_some_rebalances_are_cancelled() {
        let kinds = [FaultKind::Join, FaultKind::Drain];
        let faults: Vec<_> = Schedule::new(7, &kinds, 0, 0).take(200).collect();
        let (mut joins, mut cancelled) = (0, 0);
        for (_, fault) in &faults {
            let Fault::Grow { action } = *fault else { panic!("{fault:?}") };
            let (GrowAction::Join(plan) | GrowAction::Drain(plan)) = action;
            assert!((1..=2).contains(&plan.weight), "{plan:?}");
            joins += usize::from(matches!(action, GrowAction::Join(_)));
            cancelled += usize::from(plan.cancelled.is_some());
        }
        assert!((60..140).contains(&joins) && (10..80).contains(&cancelled));
    }

    #[test]
    fn faults_of_a_cluster_meet_every_node_and_nothing_else() {
        let kinds = [FaultKind::Stop, FaultKind::Delay, FaultKind::Promote, FaultKind::LostAnswer];
        let faults: Vec<_> = Schedule::new(7, &kinds, 6, 2).take(200).collect();
        let mut met = [false; 6];
        for (_, fault) in &faults {
            match fault {
                Fault::Node { node, action, .. } => {
                    assert!(
                        matches!(action, FaultAction::Stop | FaultAction::Slow(_)),
                        "{fault:?}"
                    );
                    met[*node] = true;
                }
                Fault::LostAnswers { shard, count, .. } => assert!(*shard < 2 && *count > 0),
                Fault::Promote { shard, .. } => assert!(*shard < 2),
                Fault::Kill { .. }
                | Fault::Freeze { .. }
                | Fault::Restart
                | Fault::Fence { .. }
                | Fault::Move { .. }
                | Fault::Grow { .. }
                | Fault::Redis { .. } => panic!("{fault:?}"),
            }
        }
        assert_eq!(met, [true; 6]);
        let names = ["a", "b"].map(str::to_owned);
        let fault =
            Fault::Node { node: 1, action: FaultAction::Cut, lasts: Duration::from_millis(20) };
        assert_eq!(fault.describe(&names, &[]), "b cut off for 20 ms");
    }
}
