//! Listed moves: the moves in the catalog of a cluster of servers, the right of one router to carry
//! them out, and the sessions with the catalog, which the list of indexes uses as well.
//!
//! **Invariant:** a session is used only in the term of the catalog's primary in which it was
//! opened, and by one request at a time.
//! **Not here:** the transactions and the lock (`catalog`), the steps of a move (`cluster`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engine::EngineFuture;
use engine::move_catalog::change::ListedMoveChange;
use engine::move_catalog::{MoveCatalog, MoveListError, MoveReport};
use engine::move_record::{MoveOrder, MoveRecord};
use engine::rebalance_catalog::change::RebalanceChange;
use engine::rebalance_catalog::{RebalanceCatalog, RebalanceListError, RebalanceReport};
use engine::rebalance_record::{RebalanceId, RebalanceOrder, RebalanceRecord};
use futures_util::future::BoxFuture;
use model::error::Error;
use moves::identity::MoveId;
use tokio::sync::Mutex;

use super::ANSWER_MAX;
use crate::catalog::{
    Catalog, LeadLock, MoveTables, PLACE, RebalanceTables, older_routers, unavailable,
};
use crate::catalog_follower::CatalogFollower;
use crate::term::Term;

/// Time limit for a response on a session that was used before.
const PROOF_MAX: Duration = Duration::from_secs(2);
/// Time limit for connecting and taking the lock.
const LEAD_MAX: Duration = Duration::from_secs(5);
/// Time for which a request waits for the kept session while another request uses it: about as long
/// as it takes to open a session. After that, the request opens a new session.
const SPARE_WAIT: Duration = Duration::from_millis(50);

/// Lists of moves, rebalances and indexes in a catalog that routers share.
pub(super) struct ServerMoves {
    follower: Arc<CatalogFollower>,
    /// Session of the last request, kept for the next one. While a request uses the session, this
    /// is locked and empty, so that dropping the request ends the session.
    spare: Mutex<Option<(Catalog, Term)>>,
    /// Session that has the lock or tries to take it. Empty during a call, so that dropping the
    /// call ends the session and releases the lock.
    lead: Mutex<Option<LeadSession>>,
    /// True if the lock was lost and no call of `lead` has reported the loss yet.
    has_unreported_loss: AtomicBool,
}

/// Session that has the lock of the leading router, or tries to take it.
struct LeadSession {
    catalog: Catalog,
    term: Term,
    has_lock: bool,
}

impl ServerMoves {
    /// Creates the lists of the catalog that is followed.
    pub(super) fn new(follower: &Arc<CatalogFollower>) -> Self {
        let follower = Arc::clone(follower);
        Self {
            follower,
            spare: Mutex::default(),
            lead: Mutex::default(),
            has_unreported_loss: AtomicBool::new(false),
        }
    }

    /// Ends the sessions, so that another router can lead at once.
    pub(super) fn close(&self) {
        // A call in progress will see that the router is closing, and keeps no session.
        if let Ok(mut spare) = self.spare.try_lock() {
            spare.take();
        }
        if let Ok(mut lead) = self.lead.try_lock() {
            lead.take();
        }
    }

    fn is_closed(&self) -> bool {
        self.follower.closed.load(Ordering::Acquire)
    }

    fn is_present(&self, term: Term) -> bool {
        self.follower.catalog.term() == term
    }

    /// Runs work on a session with the catalog's primary. Fails if another node becomes the primary
    /// meanwhile, or the catalog does not answer in time.
    pub(super) async fn with_catalog<T, E: From<Error>>(
        &self,
        work: impl AsyncFnOnce(&Catalog) -> Result<T, E>,
    ) -> Result<T, E> {
        self.with_session(async |catalog, _| work(catalog).await).await
    }

    /// Runs work as [`Self::with_catalog`] does. The work is given the term of its session, too.
    pub(super) async fn with_session<T, E: From<Error>>(
        &self,
        work: impl AsyncFnOnce(&Catalog, Term) -> Result<T, E>,
    ) -> Result<T, E> {
        let worked = async {
            let mut spare = tokio::time::timeout(SPARE_WAIT, self.spare.lock()).await.ok();
            let kept = spare.as_mut().and_then(|spare| spare.take());
            let (catalog, term) = self.session(kept).await?;
            let worked = tokio::select! {
                biased;
                worked = work(&catalog, term) => worked,
                () = self.follower.catalog.terms().ended(term) => {
                    Err(unavailable(&"another node is its primary now").into())
                }
            };
            if worked.is_ok()
                && !self.is_closed()
                && let Some(spare) = &mut spare
            {
                **spare = Some((catalog, term));
            }
            worked
        };
        let worked = tokio::time::timeout(ANSWER_MAX, worked).await;
        worked.unwrap_or_else(|_elapsed| Err(unavailable(&"it does not answer").into()))
    }

    /// Runs work on the listed moves, with a session of [`Self::with_catalog`].
    async fn with_tables<T, E: From<Error>>(
        &self,
        work: impl AsyncFnOnce(MoveTables<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.with_catalog(async |catalog| work(MoveTables::of(catalog)).await).await
    }

    async fn change_rebalance(
        &self,
        id: RebalanceId,
        change: RebalanceChange,
    ) -> Result<RebalanceRecord, RebalanceListError> {
        self.with_catalog(async |catalog| RebalanceTables::of(catalog).change(id, &change).await)
            .await
    }

    /// Returns the kept session if the catalog still responds on it, and otherwise a new session.
    async fn session(&self, kept: Option<(Catalog, Term)>) -> Result<(Catalog, Term), Error> {
        if let Some((catalog, term)) = kept.filter(|(_, term)| self.is_present(*term)) {
            let proof = tokio::time::timeout(PROOF_MAX, LeadLock::of(&catalog).confirm()).await;
            if matches!(proof, Ok(Ok(()))) {
                return Ok((catalog, term));
            }
        }
        self.follower.connect("moves").await.map_err(|error| unavailable(&error))
    }

    async fn change(
        &self,
        id: MoveId,
        change: ListedMoveChange,
    ) -> Result<MoveRecord, MoveListError> {
        self.with_tables(async |tables| tables.change(id, &change).await).await
    }

    async fn lead_now(&self) -> Result<bool, Error> {
        let mut lead = self.lead.lock().await;
        let before = lead.take();
        if self.is_closed() {
            return Ok(false);
        }
        let had_lock = before.as_ref().is_some_and(|session| session.has_lock)
            || self.has_unreported_loss.load(Ordering::Relaxed);
        let session = match before {
            Some(session) => self.confirm(session).await,
            None => None,
        };
        let session = match session {
            Some(session) => session,
            // The caller learns of the loss before the lock is taken again. While the catalog does
            // not respond, no other router can lead, and moves that are under way continue.
            None if had_lock => {
                self.has_unreported_loss.store(true, Ordering::Relaxed);
                self.check_reachable().await?;
                self.has_unreported_loss.store(false, Ordering::Relaxed);
                tracing::warn!("this router carries moves out no more: it has lost its lock");
                return Ok(false);
            }
            None => self.open_lead().await?,
        };
        let leads = session.has_lock;
        if leads && !had_lock {
            tracing::info!("this router carries moves out");
        }
        *lead = Some(session).filter(|_| !self.is_closed());
        Ok(leads && lead.is_some())
    }

    /// Returns the session if the catalog responds on it in the present term. The session then has
    /// the lock if it had the lock before, or if the lock was free.
    async fn confirm(&self, session: LeadSession) -> Option<LeadSession> {
        let LeadSession { catalog, term, has_lock } = session;
        let lock = LeadLock::of(&catalog);
        let answered = async {
            if has_lock { lock.confirm().await.map(|()| true) } else { lock.take().await }
        };
        let answered = tokio::time::timeout(PROOF_MAX, answered).await;
        let has_lock = answered.ok()?.ok()?;
        self.is_present(term).then_some(LeadSession { catalog, term, has_lock })
    }

    /// Connects to the catalog, and fails if it does not respond.
    async fn check_reachable(&self) -> Result<(), Error> {
        let connected = tokio::time::timeout(LEAD_MAX, self.follower.connect("lead")).await;
        let is_reachable = matches!(connected, Ok(Ok(_)));
        is_reachable
            .then_some(())
            .ok_or_else(|| Error::ShardUnavailable { shard: PLACE.to_owned() })
    }

    async fn open_lead(&self) -> Result<LeadSession, Error> {
        // Routers try every second, so nothing is logged here: the follower of the catalog logs
        // that it is unreachable.
        let unavailable_error = || Error::ShardUnavailable { shard: PLACE.to_owned() };
        let opened = async {
            let connected = self.follower.connect("lead").await;
            let (catalog, term) = connected.map_err(|_| unavailable_error())?;
            LeadLock::of(&catalog).limit_silence().await.map_err(|_| unavailable_error())?;
            let session = LeadSession { catalog, term, has_lock: false };
            self.confirm(session).await.ok_or_else(unavailable_error)
        };
        let opened = tokio::time::timeout(LEAD_MAX, opened).await;
        opened.unwrap_or_else(|_elapsed| Err(unavailable_error()))
    }
}

impl MoveCatalog for ServerMoves {
    fn lead(&self) -> EngineFuture<'_, bool> {
        Box::pin(self.lead_now())
    }

    fn older_routers(&self) -> EngineFuture<'_, u64> {
        Box::pin(self.with_catalog(async |catalog| older_routers(catalog).await))
    }

    fn list(&self) -> EngineFuture<'_, Vec<MoveRecord>> {
        Box::pin(self.with_tables(async |tables| tables.list().await))
    }

    fn get(&self, id: MoveId) -> EngineFuture<'_, Option<MoveRecord>> {
        Box::pin(self.with_tables(async move |tables| tables.get(id).await))
    }

    fn begin<'a>(
        &'a self,
        record: &'a MoveRecord,
        epoch: u64,
    ) -> BoxFuture<'a, Result<(), MoveListError>> {
        Box::pin(self.with_tables(async move |tables| tables.begin(record, epoch).await))
    }

    fn order(
        &self,
        id: MoveId,
        order: MoveOrder,
    ) -> BoxFuture<'_, Result<MoveRecord, MoveListError>> {
        Box::pin(self.change(id, ListedMoveChange::Order(order)))
    }

    fn take_over(&self, id: MoveId, known: u64) -> BoxFuture<'_, Result<u64, MoveListError>> {
        Box::pin(async move {
            let changed = self.change(id, ListedMoveChange::TakeOver { known }).await;
            changed.map(|record| record.term)
        })
    }

    fn report<'a>(
        &'a self,
        id: MoveId,
        term: u64,
        report: &'a MoveReport,
    ) -> BoxFuture<'a, Result<MoveRecord, MoveListError>> {
        Box::pin(self.change(id, ListedMoveChange::Report { term, report: report.clone() }))
    }
}

impl RebalanceCatalog for ServerMoves {
    fn list_rebalances(&self) -> EngineFuture<'_, Vec<RebalanceRecord>> {
        Box::pin(self.with_catalog(async |catalog| RebalanceTables::of(catalog).list().await))
    }

    fn open_rebalance(&self) -> EngineFuture<'_, Option<RebalanceRecord>> {
        Box::pin(self.with_catalog(async |catalog| RebalanceTables::of(catalog).open().await))
    }

    fn begin_rebalance<'a>(
        &'a self,
        record: &'a RebalanceRecord,
        epoch: u64,
    ) -> BoxFuture<'a, Result<(), RebalanceListError>> {
        Box::pin(self.with_catalog(async move |catalog| {
            RebalanceTables::of(catalog).begin(record, epoch).await
        }))
    }

    fn order_rebalance(
        &self,
        id: RebalanceId,
        order: RebalanceOrder,
    ) -> BoxFuture<'_, Result<RebalanceRecord, RebalanceListError>> {
        Box::pin(self.change_rebalance(id, RebalanceChange::Order(order)))
    }

    fn report_rebalance<'a>(
        &'a self,
        id: RebalanceId,
        report: &'a RebalanceReport,
    ) -> BoxFuture<'a, Result<RebalanceRecord, RebalanceListError>> {
        Box::pin(self.change_rebalance(id, RebalanceChange::Report(report.clone())))
    }
}
