//! Access: keys, roles and denials of a cluster of servers, which any router may change.
//!
//! **Not here:** the transactions (`catalog`), changes by other routers (`catalog_follower`).

use access::audit::AuditSecret;
use access::audit::chain::AuditHead;
use access::unix_time::UnixTime;
use engine::EngineFuture;
use engine::access_store::{
    AccessChange, AccessError, AccessFeed, AccessMode, AccessState, AccessStore, ChangeAuthor,
    UsageFlush, now,
};
use futures_util::future::BoxFuture;
use model::error::Error;

use super::{ANSWER_MAX, Servers};
use crate::catalog::{Catalog, unavailable};
use crate::term::Term;

impl Servers {
    /// Works on a session with the catalog's primary. Fails if another node becomes the primary
    /// meanwhile, or the catalog does not answer in time.
    async fn with_catalog<T, E: From<Error>>(
        &self,
        work: impl AsyncFnOnce(Catalog, Term) -> Result<T, E>,
    ) -> Result<T, E> {
        let worked = async {
            let connected = self.follower.connect("access").await;
            let (catalog, term) = connected.map_err(|error| unavailable(&error))?;
            tokio::select! {
                biased;
                worked = work(catalog, term) => worked,
                () = self.follower.catalog.terms().ended(term) => {
                    Err(unavailable(&"another node is its primary now").into())
                }
            }
        };
        let worked = tokio::time::timeout(ANSWER_MAX, worked).await;
        worked.unwrap_or_else(|_elapsed| Err(unavailable(&"it does not answer").into()))
    }
}

impl AccessStore for Servers {
    fn mode(&self) -> EngineFuture<'_, AccessMode> {
        Box::pin(self.with_catalog(async |catalog, _| {
            catalog.access().mode().await.map_err(|error| unavailable(&error))
        }))
    }

    fn load(&self) -> EngineFuture<'_, AccessState> {
        Box::pin(self.with_catalog(async |catalog, Term { timeline, .. }| {
            let read = self.follower.access.begin_read();
            let state =
                catalog.access().state(timeline).await.map_err(|error| unavailable(&error))?;
            if self.follower.access.is_watched() {
                self.follower.access.publish(&read, state.clone(), now());
            }
            Ok(state)
        }))
    }

    fn change<'a>(
        &'a self,
        change: &'a AccessChange,
        author: &'a ChangeAuthor,
        now: UnixTime,
    ) -> BoxFuture<'a, Result<u64, AccessError>> {
        Box::pin(self.with_catalog(async move |catalog, Term { timeline, .. }| {
            let generation = catalog.access().change(change, (author, now), timeline).await?;
            if self.follower.access.is_watched() {
                let read = self.follower.access.begin_read();
                let state = catalog.access().state_after(timeline, read.base.as_deref()).await;
                let state = state.map_err(|error| unavailable(&error))?;
                self.follower.access.publish(&read, state, now);
            }
            Ok(generation)
        }))
    }

    fn add_usage<'a>(&'a self, flush: &'a UsageFlush) -> EngineFuture<'a, ()> {
        Box::pin(self.with_catalog(async move |catalog, _| {
            catalog.access().add_usage(flush).await.map_err(|error| unavailable(&error))
        }))
    }

    fn usage(&self, day: u32) -> EngineFuture<'_, Vec<(String, u64)>> {
        Box::pin(self.with_catalog(async move |catalog, _| {
            catalog.access().usage(day).await.map_err(|error| unavailable(&error))
        }))
    }

    fn feed(&self) -> &AccessFeed {
        &self.follower.access
    }

    fn confirmed_at(&self, _: UnixTime) -> Option<UnixTime> {
        self.follower.access.confirmed_at()
    }
    fn audit_secret(&self) -> EngineFuture<'_, AuditSecret> {
        Box::pin(self.with_catalog(async |catalog, _| {
            catalog.access().audit_secret().await.map_err(|error| unavailable(&error))
        }))
    }

    fn keep_audit_head(&self, head: AuditHead, now: UnixTime) -> EngineFuture<'_, ()> {
        Box::pin(self.with_catalog(async move |catalog, _| {
            catalog.access().keep_audit_head(&head, now).await.map_err(|error| unavailable(&error))
        }))
    }
}
