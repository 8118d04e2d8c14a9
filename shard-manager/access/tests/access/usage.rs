//! Tests of usage: the rows of callers with a quota are summed over all routers, each row once, and
//! the last use of a key stays known when the set of keys changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use access::key::NewApiKey;
use access::key_record::KeyRecord;
use access::limit::RoleLimits;
use access::limit::caller_limits::{CallerLimits, LimitKind};
use access::limit::limit_cells::{LimitCells, LimitSubject};
use access::limit::usage::{DAYS_KEPT, UsageBatch};
use access::snapshot::{LimitSource, Snapshot, SnapshotContents};
use access::tenant::Tenants;
use access::unix_time::UnixTime;
use proptest::prelude::*;

const DAY: u32 = 20_000;

/// Catalog of the tests: sums of rows, by day and name of the caller.
type Sums = BTreeMap<(u32, String), u64>;

fn noon(day: u32) -> UnixTime {
    UnixTime::from_seconds(u64::from(day) * 86_400 + 43_200)
}

/// Router whose callers may each use 20 rows per day.
struct Counting(LimitCells);

impl Counting {
    fn new() -> Self {
        Self(LimitCells::new([4; 16]))
    }

    fn caller(&self, tenant: &str) -> CallerLimits {
        let tenants = Tenants::parse([tenant]).unwrap();
        let subject = LimitSubject::Tenants { role: "shop", tenants: &tenants };
        let limits = RoleLimits { rows_per_day: Some(20), ..RoleLimits::default() };
        CallerLimits::new(limits, self.0.state_with_quota(&subject))
    }

    /// Collects and stores all rows, and then reads the sums.
    fn flush(&self, catalog: &mut Sums, today: u32) {
        let usage = self.0.usage();
        usage.collect(today);
        while let Some(batch) = usage.next_batch() {
            store(catalog, &batch);
            usage.confirm(&batch);
        }
        self.load(catalog, today);
    }

    fn load(&self, catalog: &Sums, today: u32) {
        let of_day = catalog.iter().filter(|((day, _), _)| *day == today);
        let sums = of_day.map(|((_, name), rows)| (name.clone(), *rows));
        self.0.usage().load(today, sums.collect());
    }
}

fn store(catalog: &mut Sums, batch: &UsageBatch) {
    for (name, rows) in &batch.rows {
        *catalog.entry((batch.day, name.to_string())).or_default() += rows;
    }
}

fn use_rows(caller: &CallerLimits, rows: u64, day: u32) {
    assert_eq!(caller.charge_rows(rows, Duration::ZERO, noon(day)), Duration::ZERO);
}

fn used(caller: &CallerLimits, day: u32) -> u64 {
    caller.state().day().used(day)
}

#[test]
fn a_quota_is_shared_by_all_routers() {
    let (one, other, mut catalog) = (Counting::new(), Counting::new(), Sums::new());
    let (here, there) = (one.caller("acme"), other.caller("acme"));
    use_rows(&here, 12, DAY);
    use_rows(&there, 9, DAY);
    use_rows(&one.caller("zeta"), 5, DAY);
    assert!(here.check_day(noon(DAY)).is_ok() && there.check_day(noon(DAY)).is_ok());
    one.flush(&mut catalog, DAY);
    other.flush(&mut catalog, DAY);
    assert_eq!((used(&here, DAY), used(&there, DAY)), (12, 21));
    one.flush(&mut catalog, DAY);
    assert_eq!(used(&here, DAY), 21, "without rows of its own it learns those of others");
    let refused = here.check_day(noon(DAY)).unwrap_err();
    assert_eq!((refused.limit, refused.retry_after.as_secs()), (LimitKind::RowsPerDay, 43_200));
    assert!(one.caller("zeta").check_day(noon(DAY)).is_ok());
    assert!(here.check_day(noon(DAY + 1)).is_ok(), "the next day begins a new one");
    let names: Vec<&str> = catalog.keys().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, [r#"tenants shop ["acme"]"#, r#"tenants shop ["zeta"]"#]);
}

#[test]
fn a_restart_does_not_reset_a_quota() {
    let (before, mut catalog) = (Counting::new(), Sums::new());
    use_rows(&before.caller("acme"), 20, DAY);
    before.flush(&mut catalog, DAY);
    let after = Counting::new();
    let early = after.caller("acme");
    after.load(&catalog, DAY);
    assert!(early.check_day(noon(DAY)).is_err());
    // A caller without counters when the sums are read gets its sum with its first request.
    let third = Counting::new();
    third.load(&catalog, DAY);
    assert!(third.caller("acme").check_day(noon(DAY)).is_err());
    assert!(third.caller("zeta").check_day(noon(DAY)).is_ok());
}

#[test]
fn rows_of_the_end_of_a_day_are_stored_for_that_day() {
    let (router, mut catalog) = (Counting::new(), Sums::new());
    let caller = router.caller("acme");
    use_rows(&caller, 3, DAY);
    router.flush(&mut catalog, DAY);
    use_rows(&caller, 4, DAY);
    use_rows(&caller, 5, DAY + 1);
    router.flush(&mut catalog, DAY + 1);
    use_rows(&caller, 6, DAY + 1);
    router.flush(&mut catalog, DAY + 1);
    router.flush(&mut catalog, DAY + 3);
    use_rows(&caller, 1, DAY + 3);
    router.flush(&mut catalog, DAY + 3);
    let rows: Vec<(u32, u64)> = catalog.iter().map(|((day, _), rows)| (*day, *rows)).collect();
    assert_eq!(rows, [(DAY, 7), (DAY + 1, 11), (DAY + 3, 1)]);
    assert_eq!(used(&caller, DAY + 3), 1);
}

#[test]
fn rows_wait_for_a_catalog_that_does_not_answer() {
    let (router, mut catalog) = (Counting::new(), Sums::new());
    let caller = router.caller("acme");
    use_rows(&caller, 3, DAY);
    router.0.usage().collect(DAY);
    let pending = router.0.usage().next_batch().unwrap();
    // The batch was stored, but the router does not know that yet, and has not read the sums again.
    store(&mut catalog, &pending);
    use_rows(&caller, 4, DAY);
    assert_eq!(used(&caller, DAY), 7, "rows are counted here meanwhile");
    router.0.usage().confirm(&pending);
    router.flush(&mut catalog, DAY);
    assert_eq!((used(&caller, DAY), catalog.values().sum()), (7, 7));
    let (first, next) = (pending.number, router.0.usage().next_batch());
    assert_eq!((first, next), (1, None));
}

#[test]
fn a_batch_has_few_callers_of_one_day() {
    let router = Counting::new();
    let callers: Vec<CallerLimits> =
        (0..2_500).map(|number| router.caller(&format!("t{number}"))).collect();
    callers.iter().for_each(|caller| use_rows(caller, 1, DAY));
    router.0.usage().collect(DAY);
    callers[..10].iter().for_each(|caller| use_rows(caller, 1, DAY + 1));
    router.0.usage().collect(DAY + 1);
    let batches: Vec<UsageBatch> = std::iter::from_fn(|| router.0.usage().next_batch()).collect();
    let shapes: Vec<_> =
        batches.iter().map(|batch| (batch.number, batch.day, batch.rows.len())).collect();
    assert_eq!(shapes, [(1, DAY, 1_000), (2, DAY, 1_000), (3, DAY, 500), (4, DAY + 1, 10)]);
    assert!(batches.iter().all(|batch| batch.rows.is_sorted()), "locks are taken in one order");
}

#[test]
fn rows_that_cannot_be_stored_for_weeks_are_dropped() {
    let router = Counting::new();
    use_rows(&router.caller("acme"), 1, DAY);
    router.0.usage().collect(DAY);
    router.0.usage().collect(DAY + DAYS_KEPT + 1);
    assert_eq!(router.0.usage().next_batch(), None);
}

#[test]
fn a_caller_without_counters_elsewhere_is_forgotten_after_its_day() {
    let router = Counting::new();
    let state = Arc::default();
    let known = router.0.usage().register("one".to_owned(), Arc::clone(&state));
    known.day().add(1, DAY);
    let again = router.0.usage().register("one".to_owned(), Arc::default());
    assert!(Arc::ptr_eq(&again, &state), "it keeps its counters");
    router.0.usage().collect(DAY);
    drop((state, known, again));
    router.0.usage().collect(DAY);
    assert_eq!(router.0.usage().callers(), 1, "it has rows of this day");
    router.0.usage().collect(DAY + 1);
    assert_eq!(router.0.usage().callers(), 0);
}

#[test]
fn addresses_are_not_summed() {
    let router = Counting::new();
    let state = router.0.state_with_quota(&LimitSubject::Address([127, 0, 0, 1].into()));
    state.day().add(1, DAY);
    router.0.usage().collect(DAY);
    assert_eq!((router.0.usage().callers(), router.0.usage().next_batch()), (0, None));
    assert_eq!(format!("{:?}", router.0.usage()), "0 callers");
}

#[test]
fn the_day_of_the_last_use_outlives_a_change_of_the_keys() {
    let key = NewApiKey::from_random(&[1; NewApiKey::RANDOM_LEN]);
    let record = |used_on| KeyRecord {
        id: key.id(),
        digest: key.digest(),
        role: "reader".into(),
        tenants: Tenants::none(),
        name: "test".into(),
        made_by: "test".into(),
        made_at: UnixTime::default(),
        expires_at: None,
        revoked_at: None,
        is_suspended: false,
        used_on,
    };
    let cells = LimitCells::new([0; 16]);
    let build = |used_on| {
        let contents = SnapshotContents { keys: vec![record(used_on)], ..Default::default() };
        Snapshot::build(contents, &LimitSource { cells: &cells, routers: 1 }).unwrap()
    };
    let first = build(None);
    assert_eq!((first.keys().used_on(key.id()), first.keys().unstored_uses(9)), (None, Vec::new()));
    first.keys().authenticate(key.reveal(), noon(DAY)).unwrap();
    let mut second = build(None);
    second.share_uses(&first);
    assert_eq!(second.keys().unstored_uses(9), [(key.id(), DAY)]);
    assert!(second.keys().unstored_uses(0).is_empty());
    // The earlier snapshot still serves a request.
    first.keys().authenticate(key.reveal(), noon(DAY + 1)).unwrap();
    second.keys().confirm_uses(&[(key.id(), DAY)]);
    assert_eq!(second.keys().unstored_uses(9), [(key.id(), DAY + 1)]);
    second.keys().confirm_uses(&[(key.id(), DAY + 1)]);
    assert!(second.keys().unstored_uses(9).is_empty());
    // Another router has recorded a later use of the key.
    let mut third = build(Some(DAY + 5));
    third.share_uses(&second);
    assert_eq!(
        (third.keys().used_on(key.id()), third.keys().unstored_uses(9)),
        (Some(DAY + 5), Vec::new())
    );
    let mut text = key.reveal().to_owned();
    text.replace_range(20..21, if &text[20..21] == "x" { "y" } else { "x" });
    assert!(third.keys().authenticate(&text, noon(DAY + 9)).is_err());
    assert_eq!(third.keys().used_on(key.id()), Some(DAY + 5), "bad credentials do not count");
}

proptest! {
    /// In any order of uses and flushes, each row is summed exactly once, and after two flushes of
    /// all routers every router knows all rows.
    #[test]
    fn no_order_of_flushes_loses_a_row(
        steps in proptest::collection::vec((0_usize..2, 0_u64..4, 0_u32..2), 1..60),
    ) {
        let (routers, mut catalog) = ([Counting::new(), Counting::new()], Sums::new());
        let callers = routers.each_ref().map(|router| router.caller("acme"));
        let (mut day, mut rows) = (DAY, BTreeMap::<u32, u64>::new());
        for (router, amount, kind) in steps {
            if amount == 0 {
                day += kind;
                routers[router].flush(&mut catalog, day);
            } else {
                use_rows(&callers[router], amount, day);
                *rows.entry(day).or_default() += amount;
            }
            // Real routers collect rows many times a day, so no day passes without it.
            routers.iter().for_each(|router| router.0.usage().collect(day));
        }
        for _ in 0..2 {
            routers.iter().for_each(|router| router.flush(&mut catalog, day));
        }
        let sums: BTreeMap<u32, u64> =
            catalog.into_iter().map(|((day, _), rows)| (day, rows)).collect();
        prop_assert_eq!(&sums, &rows);
        for caller in &callers {
            prop_assert_eq!(used(caller, day), rows.get(&day).copied().unwrap_or_default());
        }
    }
}
