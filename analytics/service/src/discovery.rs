//! Discovery: finds the routers, from a list of addresses and by resolving DNS names.
//!
//! The catalog of a cluster has no list of its routers, which may start and stop at any time. A
//! name that stands for several routers, such as a headless service of Kubernetes, is resolved
//! every [`LOOK_EVERY`].
//!
//! **Invariant:** a router is dropped only after its name no longer resolves to its address and the
//! router is unreachable: for another router if there are too many, else after seven days.
//! **Not here:** requests to routers (`collector`).

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::collector::{self, Collecting};
use crate::config::{RouterAddress, RouterSource};
use crate::fleet::{Fleet, Member, unix_ms};
use web_kit::http_client::Target;

/// Time between two resolutions of a name.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Number of routers that a name is assumed to have until it is resolved; the memory for histories
/// is divided by it.
const ADDRESSES_USUAL: usize = 8;
/// Longest time for resolving a name.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Finds routers and starts collecting from them.
pub(crate) struct Discovery {
    fleet: Arc<Fleet>,
    collecting: Collecting,
    names: Vec<Target>,
    /// Number of routers among which memory is divided.
    share: usize,
    found: Vec<(Arc<Member>, JoinHandle<()>)>,
    /// Names for which a failure was logged.
    reported: HashSet<String>,
}

impl Discovery {
    /// Starts with the routers of the list. Must be called within the runtime that collects.
    pub(crate) fn start(
        fleet: Arc<Fleet>,
        sources: &[RouterSource],
        collecting: Collecting,
    ) -> Self {
        let shares = sources.iter().map(|source| match source.address {
            RouterAddress::One(_) => 1,
            RouterAddress::EachAddress(_) => ADDRESSES_USUAL,
        });
        let (share, names, found) = (shares.sum(), Vec::new(), Vec::new());
        let mut discovery =
            Self { fleet, collecting, names, share, found, reported: HashSet::new() };
        for source in sources {
            match &source.address {
                RouterAddress::One(target) => discovery.add(source.name.clone(), target.clone()),
                RouterAddress::EachAddress(target) => discovery.names.push(target.clone()),
            }
        }
        discovery
    }

    /// Resolves the names periodically; returns at once if there are none.
    pub(crate) async fn run(mut self) {
        while !self.names.is_empty() {
            for name in self.names.clone() {
                self.look_up(&name).await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look_up(&mut self, name: &Target) {
        let lookup = tokio::net::lookup_host((&*name.host, name.port));
        let cause = match tokio::time::timeout(LOOK_MAX, lookup).await {
            Ok(Ok(found)) => {
                let addresses: BTreeSet<IpAddr> = found.map(|address| address.ip()).collect();
                self.reported.remove(&name.host);
                return self.take(name, &addresses);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", LOOK_MAX.as_secs()),
        };
        // Known routers stay, because a failing name server must not remove them.
        if self.reported.insert(name.host.clone()) {
            tracing::warn!("the addresses of {} are unknown: {cause}", name.host);
        }
    }

    fn take(&mut self, name: &Target, addresses: &BTreeSet<IpAddr>) {
        for (member, _) in &self.found {
            let target = &member.target;
            if let Some(address) =
                target.address.filter(|_| target.host == name.host && target.port == name.port)
            {
                member.set_listed(addresses.contains(&address));
            }
        }
        for address in addresses {
            let target = name.at(*address);
            match self.found.iter_mut().find(|(member, _)| member.target == target) {
                None => self.add(target.label(), target),
                Some((member, task)) if task.is_finished() => {
                    // Its task ended while the router was gone; now its address is listed again.
                    *task =
                        tokio::spawn(collector::follow(member.clone(), self.collecting.clone()));
                }
                Some(_) => {}
            }
        }
        self.fleet.remove_gone(Instant::now(), unix_ms() / 1_000);
        let members = self.fleet.members();
        self.found.retain(|(found, _)| members.iter().any(|member| Arc::ptr_eq(member, found)));
    }

    fn add(&mut self, name: String, target: Target) {
        let member = Arc::new(Member::new(name, target, self.share));
        if !self.fleet.add(member.clone()) {
            if self.reported.insert(member.name.clone()) {
                tracing::warn!(router = %member.name, "there are too many routers: this one is ignored");
            }
            return;
        }
        tracing::info!(router = %member.name, "collecting from {}", member.target);
        let task = tokio::spawn(collector::collect(member.clone(), self.collecting.clone()));
        self.found.push((member, task));
    }
}
