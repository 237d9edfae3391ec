//! Prefixes behind members: what this host forwards to for others, and what it reaches over
//! others.
//!
//! - **Start**: a member says in its record what it forwards to, and another one names it and
//!   a prefix that it accepts.
//! - **Steady state**: packets of the host for an accepted prefix come to the interface, and
//!   go to the member as long as that offers it; packets from there are taken of it.
//! - **Failure**: while the member does not offer it, or nothing is known of it, packets for
//!   the prefix are dropped: they do not go another way. Members that are named and not known
//!   are dialled again and again.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use anyhop_base::PeerId;
use anyhop_vpn::Prefix;
use tokio::time::Instant;

use super::{Links, MAX_ROUTES_PER_PEER, Vpn, plane::Plane};
use crate::{NetworkHandle, node::Node};

/// Most prefixes accepted of all members.
pub const MAX_ACCEPTED: usize = MAX_ROUTES_PER_PEER;
/// The table of routes that has the way to an exit node.
pub const EXIT_TABLE: u32 = 8296;
/// The kernel's ordinary table.
const MAIN_TABLE: u32 = 254;
/// Between two dials of a member that is not known.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// A prefix that is to be reached over a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AcceptedRoute {
    /// The prefix; of length 0 for an exit node.
    pub prefix: Prefix,
    /// The member.
    pub from: PeerId,
}

/// What is accepted, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Accepted {
    routes: Vec<AcceptedRoute>,
    /// Routes of the kernel that lead to the interface, and why one does not.
    installed: BTreeMap<Prefix, Option<String>>,
    /// When members were dialled to hear of their offers.
    asked: BTreeMap<PeerId, Instant>,
}

impl NetworkHandle {
    /// Where the network's overlay addresses are: IPv4's, then IPv6's.
    #[must_use]
    pub fn overlay_prefixes(&self) -> [Prefix; 2] {
        self.overlay().prefixes()
    }

    /// What members say that they forward to, as far as they are known here.
    #[must_use]
    pub fn offers(&self) -> Vec<(PeerId, Prefix)> {
        let others = self.overlay().others.into_iter();
        let offers = others.flat_map(|member| {
            let offers = self.0.offers_of(member.peer).unwrap_or_default();
            let offers = offers
                .into_iter()
                .filter_map(|(ip, len)| Prefix::new(ip, len));
            offers.map(move |prefix| (member.peer, prefix))
        });
        offers.collect()
    }
}

impl Vpn {
    /// Forwards packets of members to these prefixes, and to no others, and tells them so. At
    /// most [`MAX_OFFERS`](anyhop_base::record::MAX_OFFERS); that the kernel forwards is up to the caller.
    pub fn set_offers(&self, offers: &[Prefix]) {
        self.links.set_offers(offers);
    }

    /// Reaches these prefixes over members, and no others. Default routes are put into the table
    /// [`EXIT_TABLE`]; that it counts is up to the caller.
    pub fn set_accepted(&self, routes: Vec<AcceptedRoute>) {
        self.links.set_accepted(routes);
    }

    /// Why packets for an accepted prefix do not go to the member; `None` when they do.
    #[must_use]
    pub fn route_problem(&self, route: &AcceptedRoute) -> Option<String> {
        self.links.route_problem(route)
    }
}

impl Links {
    pub(super) fn set_offers(&self, offers: &[Prefix]) {
        let Some(plane) = self.plane() else { return };
        plane.inbound().ingress.set_offered(offers.to_vec());
        let offers = offers.iter().map(|p| (p.first(), p.len()));
        self.node.set_offers(offers.collect());
    }

    fn set_accepted(&self, routes: Vec<AcceptedRoute>) {
        let Some(plane) = self.plane() else { return };
        {
            let mut accepted = self.accepted();
            let wanted = |p: &Prefix| routes.iter().any(|r| r.prefix == *p);
            accepted.installed.retain(|prefix, problem| {
                let keep = wanted(prefix) && problem.is_none();
                if !keep && problem.is_none() {
                    let _ = plane
                        .tun
                        .remove_route((prefix.first(), prefix.len()), table(*prefix));
                }
                keep
            });
            for route in &routes {
                let installed = &mut accepted.installed;
                let prefix = route.prefix;
                installed
                    .entry(prefix)
                    .or_insert_with(|| install(&plane, prefix));
            }
            accepted.asked.clear();
            accepted.routes = routes;
        }
        self.apply_accepted(&plane);
        self.node.links_changed.notify_one();
    }

    /// Has packets go to the members that offer what is accepted of them.
    pub(super) fn apply_accepted(&self, plane: &Plane) {
        let routes = self.accepted().routes.clone();
        let mut peers = self.peers();
        let members: Vec<_> = peers.iter().map(|e| e.peer.peer).collect();
        let mut changed = false;
        for peer in members {
            let of_peer = routes
                .iter()
                .filter(|r| r.from == peer && self.is_offered(r));
            let prefixes: Vec<_> = of_peer.map(|r| r.prefix).collect();
            changed |= peers.set_accepted(peer, &prefixes);
        }
        if changed {
            super::links::apply_routes(plane, &peers);
        }
    }

    /// Members whose offers are waited for.
    pub(super) fn ask_for_offers(self: &Arc<Self>, now: Instant) {
        let due: Vec<PeerId> = {
            let mut accepted = self.accepted();
            let froms: Vec<_> = accepted.routes.iter().map(|r| r.from).collect();
            let unknown = froms
                .into_iter()
                .filter(|p| self.node.offers_of(*p).is_none());
            let mut due: Vec<_> = unknown
                .filter(|peer| {
                    let asked = accepted.asked.get(peer);
                    asked.is_none_or(|at| now >= *at + ASK_AGAIN)
                })
                .collect();
            due.dedup();
            accepted.asked.extend(due.iter().map(|peer| (*peer, now)));
            due
        };
        for peer in due {
            let this = Arc::clone(self);
            self.node.spawn(async move {
                // What it offers comes with its record.
                let dialled = Node(Arc::clone(&this.node)).connect(peer).await;
                if let Err(e) = dialled {
                    tracing::debug!(%peer, error = %e, "what it offers is not known");
                }
                this.node.links_changed.notify_one();
            });
        }
    }

    fn is_offered(&self, route: &AcceptedRoute) -> bool {
        let offers = self.node.offers_of(route.from).unwrap_or_default();
        let mut offers = offers
            .into_iter()
            .filter_map(|(ip, len)| Prefix::new(ip, len));
        offers.any(|p| p.len() <= route.prefix.len() && p.contains(route.prefix.first()))
    }

    fn route_problem(&self, route: &AcceptedRoute) -> Option<String> {
        if !self.knows(route.from) {
            return Some("it is no member of the network".to_owned());
        }
        let installed = self.accepted().installed.get(&route.prefix).cloned();
        match installed {
            None => return Some("it is not accepted".to_owned()),
            Some(Some(problem)) => return Some(problem),
            Some(None) => {}
        }
        match self.node.offers_of(route.from) {
            None => Some("the member was not reached yet".to_owned()),
            Some(_) if !self.is_offered(route) => Some("the member does not offer it".to_owned()),
            Some(_) => None,
        }
    }
}

fn table(prefix: Prefix) -> u32 {
    match prefix.len() {
        0 => EXIT_TABLE,
        _ => MAIN_TABLE,
    }
}

/// Has the host send packets for a prefix to the interface; why it does not.
fn install(plane: &Plane, prefix: Prefix) -> Option<String> {
    let raw = (prefix.first(), prefix.len());
    if prefix.len() > 0 && anyhop_os::routed_prefixes().contains(&raw) {
        return Some(format!("this host has a route to {prefix} of its own"));
    }
    match plane.tun.add_route(raw, table(prefix)) {
        Ok(()) => None,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && prefix.len() == 0 => {
            Some("another network of this host has an exit node".to_owned())
        }
        Err(e) => Some(format!("the kernel takes no route to {prefix}: {e}")),
    }
}
