//! Discovery: finds the routers, from a list of addresses and by resolving DNS names.
//!
//! A cluster's catalog has no list of the routers, which may start and stop at any time. A DNS name
//! that stands for several routers, such as that of a headless service of Kubernetes, is resolved
//! every [`LOOK_EVERY`].
//!
//! A router with both an IPv4 and an IPv6 address would be counted twice, so only one family of a
//! name's addresses is used: IPv4, unless only IPv6 addresses respond. The family does not change
//! while any router responds at its addresses, or while the name still has addresses of the family
//! and a router there has responded before.
//!
//! **Invariant:** if routers respond at addresses of both families, those at IPv6 addresses are
//! dropped at the next resolution, even if the resolution fails.
//! **Invariant:** apart from that, a router that has responded is dropped only when the name no
//! longer resolves to its address and the router is unreachable. Then it is dropped after seven
//! days, or earlier if its place is needed for a new router.
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
/// Number of routers that each DNS name is assumed to stand for when the memory for histories is
/// divided among the routers.
const ADDRESSES_USUAL: usize = 8;
/// Longest wait for the resolution of a name.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// State of the routers at a name's addresses of one family (IPv4 or IPv6).
#[derive(Clone, Copy, Debug, Default)]
struct Family {
    /// True if the name has addresses of the family.
    is_listed: bool,
    /// True if any of these routers responds, even if it refuses the service's key.
    is_up: bool,
    /// True if any of these routers has responded since the service started.
    has_answered: bool,
    /// True if routers at these addresses are known, and the last request to each of them failed.
    has_failed: bool,
}

/// Decides which families of addresses are used, in the order IPv4, IPv6. Both are used only while
/// no router is known to respond.
fn used_families(families: [Family; 2]) -> [bool; 2] {
    let up = families.iter().position(|family| family.is_up);
    let known = families.iter().position(|family| family.is_listed && family.has_answered);
    match up.or(known) {
        Some(place) => [place == 0, place == 1],
        None => [true, !families[0].is_listed || families[0].has_failed],
    }
}

/// Returns the address of a router if the router was found under this name.
fn address_of(member: &Member, name: &Target) -> Option<IpAddr> {
    let target = &member.target;
    target.address.filter(|_| target.host == name.host && target.port == name.port)
}

/// Finds routers and starts collecting from them.
pub(crate) struct Discovery {
    fleet: Arc<Fleet>,
    collecting: Collecting,
    names: Vec<Target>,
    /// Number of routers among which the memory for histories is divided.
    share: usize,
    found: Vec<(Arc<Member>, JoinHandle<()>)>,
    /// Names for which a failure was logged.
    reported: HashSet<String>,
}

impl Discovery {
    /// Starts to collect from the routers of the configured list. It must be called within the
    /// runtime that collects.
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
                let addresses: BTreeSet<IpAddr> =
                    found.map(|address| address.ip().to_canonical()).collect();
                self.reported.remove(&name.host);
                return self.take(name, &addresses);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", LOOK_MAX.as_secs()),
        };
        // Known routers are kept when a name cannot be resolved, because an outage of the name
        // server says nothing about them.
        let listed = self.found.iter().filter(|(member, _)| member.is_listed());
        let listed: BTreeSet<IpAddr> =
            listed.filter_map(|(member, _)| address_of(member, name)).collect();
        self.of_used_families(name, &listed);
        if self.reported.insert(name.host.clone()) {
            tracing::warn!("the addresses of {} are unknown: {cause}", name.host);
        }
    }

    /// Returns the state of the routers of a name at its addresses of one family.
    fn family(
        &self,
        name: &Target,
        addresses: &BTreeSet<IpAddr>,
        is_of: fn(&IpAddr) -> bool,
    ) -> Family {
        let is_listed = addresses.iter().any(is_of);
        let mut family = Family { is_listed, has_failed: true, ..Family::default() };
        let mut has_routers = false;
        for (member, _) in &self.found {
            if address_of(member, name).is_none_or(|address| !is_of(&address)) {
                continue;
            }
            let seen = member.seen();
            family.is_up |= seen.is_up || seen.is_unauthorized;
            family.has_answered |= seen.at_ms.is_some();
            family.has_failed &= seen.error.is_some();
            has_routers = true;
        }
        family.has_failed &= has_routers;
        family
    }

    /// Returns the addresses of the used families, and stops collecting from routers at the other
    /// addresses.
    fn of_used_families(
        &mut self,
        name: &Target,
        addresses: &BTreeSet<IpAddr>,
    ) -> BTreeSet<IpAddr> {
        let families: [fn(&IpAddr) -> bool; 2] = [IpAddr::is_ipv4, IpAddr::is_ipv6];
        let [has_ipv4, has_ipv6] =
            used_families(families.map(|is_of| self.family(name, addresses, is_of)));
        let is_used = |address: &IpAddr| if address.is_ipv4() { has_ipv4 } else { has_ipv6 };
        let (used, unused): (BTreeSet<_>, BTreeSet<_>) =
            addresses.iter().copied().partition(is_used);
        let fleet = &self.fleet;
        self.found.retain(|(member, task)| {
            let address = address_of(member, name);
            let is_unused = address.is_some_and(|address| unused.contains(&address));
            if is_unused {
                task.abort();
                fleet.remove(member);
                tracing::info!(
                    router = %member.name,
                    "not collecting from it: {} leads to its routers by the other family of addresses",
                    name.host
                );
            }
            !is_unused
        });
        used
    }

    fn take(&mut self, name: &Target, addresses: &BTreeSet<IpAddr>) {
        let addresses = self.of_used_families(name, addresses);
        for (member, _) in &self.found {
            if let Some(address) = address_of(member, name) {
                member.set_listed(addresses.contains(&address));
            }
        }
        for address in &addresses {
            let target = name.at(*address);
            match self.found.iter_mut().find(|(member, _)| member.target == target) {
                None => self.add(target.label(), target),
                Some((member, task)) if task.is_finished() => {
                    // The router's task ended while the router was gone. Its address is listed
                    // again, so a new task is started.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router_key::RouterKey;

    /// Creates a discovery of the routers of a name. A test that never awaits runs no tasks, so no
    /// router is contacted.
    fn discovery() -> (Discovery, Target) {
        let name: Target = "http://routers:3000".parse().expect("a target");
        let address = RouterAddress::EachAddress(name.clone());
        let source = RouterSource { name: name.label(), address };
        let router_key = RouterKey::default();
        let collecting = Collecting { history_writer: None, tls: None, router_key };
        (Discovery::start(Arc::default(), &[source], collecting), name)
    }

    fn names(discovery: &Discovery) -> Vec<String> {
        discovery.fleet.members().iter().map(|member| member.name.clone()).collect()
    }

    fn find(discovery: &Discovery, name: &str) -> Arc<Member> {
        discovery.fleet.find(name).expect("a router of this name")
    }

    fn addresses<const N: usize>(texts: [&str; N]) -> BTreeSet<IpAddr> {
        texts.map(|text| text.parse::<IpAddr>().expect("an address")).into()
    }

    #[tokio::test]
    async fn a_router_with_an_ipv4_and_an_ipv6_address_is_one_router() {
        let (mut discovery, name) = discovery();
        let both = addresses(["10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2"]);
        discovery.take(&name, &both);
        assert_eq!(names(&discovery), ["10.0.0.1:3000", "10.0.0.2:3000"]);
        let first = find(&discovery, "10.0.0.1:3000");
        first.seen().at_ms = Some(1);
        // Neither an outage nor a DNS response without IPv4 addresses adds the routers again.
        for member in discovery.fleet.members().iter() {
            member.seen().error = Some("it does not respond".to_owned());
        }
        discovery.take(&name, &both);
        first.seen().is_up = true;
        discovery.take(&name, &addresses(["fd00::1", "fd00::2"]));
        discovery.take(&name, &both);
        assert_eq!(names(&discovery), ["10.0.0.1:3000", "10.0.0.2:3000"]);
        assert!(first.is_listed());
    }

    #[tokio::test]
    async fn routers_that_answer_only_at_ipv6_addresses_are_found_there() {
        let (mut discovery, name) = discovery();
        let both = addresses(["127.0.0.1", "::1"]);
        discovery.take(&name, &both);
        assert_eq!(names(&discovery), ["127.0.0.1:3000"]);
        find(&discovery, "127.0.0.1:3000").seen().error = Some("it refuses".to_owned());
        discovery.take(&name, &both);
        assert_eq!(names(&discovery), ["127.0.0.1:3000", "[::1]:3000"]);
        let other = find(&discovery, "[::1]:3000");
        other.seen().is_up = true;
        other.seen().at_ms = Some(1);
        discovery.take(&name, &both);
        assert_eq!(names(&discovery), ["[::1]:3000"]);
        other.seen().is_up = false;
        discovery.take(&name, &both);
        assert_eq!(names(&discovery), ["[::1]:3000"], "it stays while it is down");
    }

    #[tokio::test]
    async fn a_router_that_refuses_the_key_is_listed_once() {
        let (mut discovery, name) = discovery();
        let both = addresses(["127.0.0.1", "::1"]);
        discovery.take(&name, &both);
        let refusing = find(&discovery, "127.0.0.1:3000");
        refusing.seen().error = Some("it needs an API key".to_owned());
        refusing.seen().is_unauthorized = true;
        for _ in 0..2 {
            discovery.take(&name, &both);
            assert_eq!(names(&discovery), ["127.0.0.1:3000"]);
        }
    }

    #[tokio::test]
    async fn a_name_with_only_ipv6_addresses_has_its_routers_there() {
        let (mut discovery, name) = discovery();
        discovery.take(&name, &addresses(["fd00::1", "fd00::2"]));
        assert_eq!(names(&discovery), ["[fd00::1]:3000", "[fd00::2]:3000"]);
    }
}
