//! Tests of the state machine of alerts, which uses no clock.

use analytics::Window;
use analytics::service::alerts::{
    AlertState, Alerts, Change, Kind, Limits, Notice, Phase, RECENT_MAX, Reading, Rule,
    SUBJECTS_MAX, Subject,
};
use proptest::prelude::*;

fn limits() -> impl Strategy<Value = Limits> {
    (0.0..=100.0_f64, 0.0..=1.0_f64, 0..20_u64, 0..20_u64).prop_map(
        |(raise, part, for_s, clear_for_s)| Limits {
            raise,
            clear: raise * part,
            for_s,
            clear_for_s,
        },
    )
}

/// Returns a strategy for series of measurements: the seconds between them, and the values, which
/// lie around the thresholds or are missing.
fn measured() -> impl Strategy<Value = Vec<(u64, Option<f64>)>> {
    let value = prop_oneof![1 => Just(None), 8 => (0.0..150.0_f64).prop_map(Some)];
    prop::collection::vec((0..8_u64, value), 1..120)
}

fn is_bad(limits: &Limits, value: Option<f64>) -> bool {
    value.is_some_and(|value| value >= limits.raise)
}

fn is_well(limits: &Limits, value: Option<f64>) -> bool {
    value.is_some_and(|value| value <= limits.clear && value < limits.raise)
}

proptest! {
    #[test]
    fn an_alert_fires_only_after_the_value_was_bad_for_the_full_duration(
        limits in limits(), measured in measured(),
    ) {
        let (mut alert_state, mut at, mut firing) = (AlertState::default(), 1_000, false);
        let (mut bad_since, mut well_since) = (None, None);
        for (pause, value) in measured {
            at += pause;
            bad_since = if is_bad(&limits, value) { bad_since.or(Some(at)) } else { None };
            well_since = if is_well(&limits, value) { well_since.or(Some(at)) } else { None };
            let change = alert_state.step(at, value, &limits);
            let long = |since: Option<u64>, for_s| since.is_some_and(|since| at - since >= for_s);
            if firing {
                let over = long(well_since, limits.clear_for_s);
                prop_assert_eq!(matches!(change, Some(Change::Resolved { .. })), over);
                firing = !over;
                if over {
                    bad_since = None;
                }
            } else {
                let fires = long(bad_since, limits.for_s);
                prop_assert_eq!(change == Some(Change::Fired), fires);
                let resolved = matches!(change, Some(Change::Resolved { .. }));
                prop_assert!(!resolved);
                firing = fires;
                if fires {
                    well_since = None;
                }
            }
            prop_assert_eq!(matches!(alert_state.phase, Phase::Firing { .. }), firing);
        }
    }

    #[test]
    fn between_the_thresholds_nothing_ever_changes(
        limits in limits(), before in measured(), part in 0.0..1.0_f64, seconds in 1..500_u64,
    ) {
        let between = limits.clear + (limits.raise - limits.clear) * part;
        prop_assume!(between > limits.clear && between < limits.raise);
        let (mut alert_state, mut at) = (AlertState::default(), 0);
        for (pause, value) in before {
            at += pause;
            alert_state.step(at, value, &limits);
        }
        let fired = matches!(alert_state.phase, Phase::Firing { .. });
        for _ in 0..seconds {
            at += 1;
            prop_assert_eq!(alert_state.step(at, Some(between), &limits), None);
        }
        prop_assert_eq!(matches!(alert_state.phase, Phase::Firing { .. }), fired);
    }

    #[test]
    fn clock_jumps_break_nothing(
        limits in limits(), measured in prop::collection::vec((any::<u64>(), 0.0..150.0_f64), 1..50),
    ) {
        let mut alert_state = AlertState::default();
        let mut fires = 0_i32;
        for (at, value) in measured {
            match alert_state.step(at, Some(value), &limits) {
                Some(Change::Fired) => fires += 1,
                Some(Change::Resolved { since, fired_at }) => {
                    prop_assert!(since <= fired_at);
                    fires -= 1;
                }
                None => {}
            }
            prop_assert!(fires == 0 || fires == 1);
        }
    }
}

fn rule(kind: Kind, for_s: u64) -> Rule {
    let limits = Limits { raise: 1.0, clear: 0.0, for_s, clear_for_s: 0 };
    let window = Window::default();
    Rule { name: kind.name().to_owned(), kind, limits, window, shard: None, router: None }
}

fn shard(rule: usize, name: &str, value: Option<f64>) -> Reading {
    let subject = Subject { shard: Some(name.to_owned()), router: None };
    Reading { rule, subject, value }
}

fn states(notices: &[Notice]) -> Vec<(&str, bool)> {
    let name = |notice: &Notice| notice.resolved_at.is_some();
    notices.iter().map(|notice| (notice.subject.shard.as_deref().unwrap(), name(notice))).collect()
}

#[test]
fn each_shard_of_a_rule_has_its_own_alert() {
    let mut alerts = Alerts::new(vec![rule(Kind::ShardDown, 5)]);
    let (down, up) = (Some(1.0), Some(0.0));
    assert!(alerts.step(10, &[shard(0, "shard1", down), shard(0, "shard2", up)]).is_empty());
    assert!(alerts.step(13, &[shard(0, "shard1", down), shard(0, "shard2", down)]).is_empty());
    let notices = alerts.step(15, &[shard(0, "shard1", down), shard(0, "shard2", down)]);
    assert_eq!(states(&notices), [("shard1", false)]);
    assert_eq!((notices[0].since, notices[0].fired_at), (10, 15));
    let notices = alerts.step(18, &[shard(0, "shard1", up), shard(0, "shard2", down)]);
    assert_eq!(states(&notices), [("shard1", true), ("shard2", false)]);
    assert_eq!(alerts.active().count(), 1);
    assert_eq!(alerts.recent().count(), 1);
}

#[test]
fn an_alert_without_measurements_keeps_firing_and_one_of_a_removed_shard_ends() {
    let mut alerts = Alerts::new(vec![rule(Kind::Lag, 0)]);
    assert_eq!(states(&alerts.step(1, &[shard(0, "shard1", Some(2.0))])), [("shard1", false)]);
    assert!(alerts.step(100, &[shard(0, "shard1", None)]).is_empty());
    assert_eq!(alerts.active().count(), 1);
    assert_eq!(states(&alerts.step(101, &[])), [("shard1", true)]);
    assert_eq!(alerts.active().count(), 0);
}

#[test]
fn the_number_of_remembered_alerts_is_bounded() {
    let mut alerts = Alerts::new(vec![rule(Kind::ShardDown, 0)]);
    for round in 0..4 {
        let value = Some(if round % 2 == 0 { 1.0 } else { 0.0 });
        let names = (0..SUBJECTS_MAX + 100).map(|number| format!("shard{number}"));
        let readings: Vec<_> = names.map(|name| shard(0, &name, value)).collect();
        assert_eq!(alerts.step(round, &readings).len(), SUBJECTS_MAX);
        assert!(alerts.active().count() <= SUBJECTS_MAX);
    }
    assert_eq!(alerts.recent().count(), RECENT_MAX);
    // A reading of an unknown rule must not cause a panic.
    assert!(alerts.step(9, &[shard(7, "shard1", Some(1.0))]).is_empty());
}
