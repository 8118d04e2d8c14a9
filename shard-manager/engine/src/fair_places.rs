//! Fair places: shares the connections of a pool among the reads of several tenants.
//!
//! A place is the right to use one connection. A read gets a free place at once. If reads wait, a
//! place that becomes free goes to the next tenant in turn that has less than half of all places.
//! While no other tenant waits, one tenant may have all of them.
//!
//! **Invariant:** a tenant that has half of the places gets no more while a tenant with fewer
//! places is waiting. Reads of one tenant get their places in the order in which they came.
//! **Not here:** the connections (the engines). Reads of clients that are not distinguished
//! (without access control) need no place.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use model::fair_share::FairShare;
use tokio::sync::oneshot;

/// Places of one pool.
#[derive(Clone, Debug)]
pub struct FairPlaces(Arc<Mutex<Places>>);

#[derive(Debug)]
struct Places {
    all: usize,
    free: usize,
    waiting: usize,
    /// Tenants that have places or wait, in the order of their turns.
    tenants: VecDeque<Tenant>,
}

#[derive(Debug)]
struct Tenant {
    number: u64,
    held: usize,
    waiting: VecDeque<oneshot::Sender<ReadPermit>>,
}

/// Permit to use one place. When it is dropped, the place goes to the next read that waits.
#[derive(Debug)]
pub struct ReadPermit {
    places: FairPlaces,
    /// Tenant that has the place; `None` if it was given back already.
    number: Option<u64>,
}

impl FairPlaces {
    /// Creates this many free places.
    pub fn new(all: usize) -> Self {
        let tenants = VecDeque::new();
        Self(Arc::new(Mutex::new(Places { all, free: all, waiting: 0, tenants })))
    }

    /// Waits for a place, at most until `deadline`; returns `None` after it. Clients that are not
    /// distinguished get `Some(None)` at once.
    ///
    /// Cancel safety: a dropped future has no place.
    pub async fn enter(&self, share: FairShare, deadline: Instant) -> Option<Option<ReadPermit>> {
        if share.is_common() {
            return Some(None);
        }
        let answer = match self.lock().enter(share.number()) {
            None => return Some(Some(self.place(share.number()))),
            Some(answer) => answer,
        };
        let given = tokio::time::timeout_at(deadline.into(), answer).await;
        given.ok()?.ok().map(Some)
    }

    /// Returns the number of reads that wait.
    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }

    fn place(&self, number: u64) -> ReadPermit {
        ReadPermit { places: self.clone(), number: Some(number) }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the place of a tenant to the next read that still waits.
    fn pass_on(&self, mut number: u64) {
        loop {
            let Some((next, read)) = self.lock().pass_on(number) else { return };
            let Err(mut place) = read.send(self.place(next)) else { return };
            // The read has given up.
            place.number = None;
            number = next;
        }
    }
}

impl Drop for ReadPermit {
    fn drop(&mut self) {
        if let Some(number) = self.number.take() {
            self.places.pass_on(number);
        }
    }
}

impl Places {
    /// Takes a free place, and returns `None`. If no place is free, returns the channel that will
    /// deliver a place to the read.
    fn enter(&mut self, number: u64) -> Option<oneshot::Receiver<ReadPermit>> {
        let known = self.tenants.iter().position(|tenant| tenant.number == number);
        let index = known.unwrap_or_else(|| {
            self.tenants.push_back(Tenant { number, held: 0, waiting: VecDeque::new() });
            self.tenants.len() - 1
        });
        let tenant = &mut self.tenants[index];
        if self.free > 0 {
            self.free -= 1;
            tenant.held += 1;
            return None;
        }
        let (read, answer) = oneshot::channel();
        // Reads that have given up are removed here too, because places may be held for a long
        // time.
        while tenant.waiting.front().is_some_and(oneshot::Sender::is_closed) {
            tenant.waiting.pop_front();
            self.waiting -= 1;
        }
        tenant.waiting.push_back(read);
        self.waiting += 1;
        Some(answer)
    }

    /// Takes a place back from a tenant, and assigns it to the next read that waits. Returns the
    /// tenant and the channel of that read.
    fn pass_on(&mut self, number: u64) -> Option<(u64, oneshot::Sender<ReadPermit>)> {
        if let Some(index) = self.tenants.iter().position(|tenant| tenant.number == number) {
            self.tenants[index].held -= 1;
            self.forget_if_idle(index);
        }
        let half = (self.all / 2).max(1);
        let waits = |tenant: &Tenant| !tenant.waiting.is_empty();
        let below = self.tenants.iter().position(|tenant| waits(tenant) && tenant.held < half);
        let Some(index) = below.or_else(|| self.tenants.iter().position(waits)) else {
            self.free += 1;
            return None;
        };
        let mut tenant = self.tenants.remove(index)?;
        let read = tenant.waiting.pop_front()?;
        self.waiting -= 1;
        tenant.held += 1;
        let number = tenant.number;
        self.tenants.push_back(tenant);
        Some((number, read))
    }

    fn forget_if_idle(&mut self, index: usize) {
        let tenant = &self.tenants[index];
        if tenant.held == 0 && tenant.waiting.is_empty() {
            self.tenants.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use futures_util::future::LocalBoxFuture;
    use std::time::Duration;

    fn tenant(number: u64) -> FairShare {
        FairShare::new(number, 1)
    }

    /// Requests a place at once, and returns a future that yields it.
    fn ask(
        places: &FairPlaces,
        number: u64,
    ) -> LocalBoxFuture<'static, Option<Option<ReadPermit>>> {
        let places = places.clone();
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut asked: LocalBoxFuture<'static, _> =
            Box::pin(async move { places.enter(tenant(number), deadline).await });
        match (&mut asked).now_or_never() {
            Some(answer) => Box::pin(std::future::ready(answer)),
            None => asked,
        }
    }

    fn given(
        asked: &mut LocalBoxFuture<'static, Option<Option<ReadPermit>>>,
    ) -> Option<ReadPermit> {
        asked.now_or_never().flatten().flatten()
    }

    #[tokio::test]
    async fn a_tenant_alone_has_all_places_and_half_of_them_while_another_waits() {
        let places = FairPlaces::new(4);
        let mut held: Vec<ReadPermit> =
            (0..4).filter_map(|_| given(&mut ask(&places, 1))).collect();
        assert_eq!(held.len(), 4);
        let mut more: Vec<_> = (0..4).map(|_| ask(&places, 1)).collect();
        let mut others: Vec<_> = (0..4).map(|_| ask(&places, 2)).collect();
        assert_eq!(places.waiting(), 8);
        let mut of_others = Vec::new();
        for other in others.iter_mut().take(2) {
            held.pop();
            of_others.push(given(other).expect("a place of the one with over half"));
            assert!(given(&mut more[0]).is_none());
        }
        // Both have half: each gets what it gives back.
        of_others.pop();
        of_others.push(given(&mut others[2]).expect("a place"));
        held.pop();
        held.push(given(&mut more[0]).expect("a place"));
        drop((of_others, held, more, others));
        assert_eq!((places.waiting(), places.lock().free), (0, 4));
        assert!(places.lock().tenants.is_empty(), "nothing is kept of tenants that left");
    }

    #[tokio::test]
    async fn a_read_that_gave_up_keeps_no_place() {
        let places = FairPlaces::new(1);
        let held = given(&mut ask(&places, 1));
        drop((0..1_000).map(|_| ask(&places, 2)).collect::<Vec<_>>());
        let mut next = ask(&places, 3);
        assert!(places.enter(tenant(4), Instant::now()).await.is_none(), "its deadline has passed");
        drop(held);
        assert!(given(&mut next).is_some());
    }

    #[tokio::test]
    async fn a_place_that_was_sent_to_a_read_that_left_is_free_again() {
        let places = FairPlaces::new(1);
        let held = given(&mut ask(&places, 1));
        let waits = ask(&places, 2);
        drop(held);
        assert_eq!(places.lock().free, 0, "it was sent");
        drop(waits);
        assert_eq!(places.lock().free, 1);
    }

    #[tokio::test]
    async fn callers_without_a_tenant_need_no_place() {
        let places = FairPlaces::new(0);
        let entered = places.enter(FairShare::COMMON, Instant::now()).await;
        assert!(entered.is_some_and(|place| place.is_none()));
    }
}
