//! The addresses that members of a private network have for IP packets.

use std::net::IpAddr;

use anyhop_base::PeerId;
use anyhop_proto::network::membership::{Member, Standing};
use anyhop_vpn::{Overlay, Prefix};

use super::NetworkHandle;
use crate::VpnPeer;

/// The address space of a network, and who has which part of it.
#[derive(Debug)]
pub(crate) struct NetworkOverlay {
    space: Overlay,
    /// This node; `None` while it is no member.
    pub(crate) me: Option<VpnPeer>,
    /// The other members.
    pub(crate) others: Vec<VpnPeer>,
}

impl NetworkOverlay {
    /// The network's address space, of both families.
    pub(crate) fn prefixes(&self) -> [Prefix; 2] {
        [self.space.v4(), self.space.v6()]
    }

    /// This node's addresses, each with the prefix that is routed to its interface: the
    /// network's, or for others just the address.
    pub(crate) fn own_addresses(&self, me: &VpnPeer) -> Vec<(IpAddr, Prefix)> {
        let spaces = [self.space.v4(), self.space.v6()];
        let prefix = |ip: IpAddr| {
            let around = spaces.into_iter().find(|space| space.contains(ip));
            (ip, around.unwrap_or_else(|| Prefix::host(ip)))
        };
        me.routes.iter().map(|host| prefix(host.first())).collect()
    }
}

impl NetworkHandle {
    /// The addresses of a member for IP packets, its own of the network first; none of who is
    /// no member.
    #[must_use]
    pub fn overlay_addresses(&self, peer: PeerId) -> Vec<IpAddr> {
        let overlay = self.overlay();
        let mut members = overlay.me.iter().chain(&overlay.others);
        let member = members.find(|m| m.peer == peer);
        member.map_or_else(Vec::new, |m| m.routes.iter().map(Prefix::first).collect())
    }

    /// The member that has an address for IP packets.
    #[must_use]
    pub fn overlay_owner(&self, ip: IpAddr) -> Option<PeerId> {
        let overlay = self.overlay();
        let mut members = overlay.me.iter().chain(&overlay.others);
        let has = |m: &&VpnPeer| m.routes.iter().any(|host| host.first() == ip);
        members.find(has).map(|m| m.peer)
    }

    /// Who has which addresses, as everybody in the network computes it.
    pub(crate) fn overlay(&self) -> NetworkOverlay {
        let space = Overlay::of(self.id());
        let now_unix_s = self.0.now_unix_s();
        // Who has expired keeps its place for the case that it is renewed.
        let members: Vec<(Member, Standing)> = {
            let state = self.private().state();
            let membership = state.gossip.membership();
            let members = membership.members_by_right().into_iter();
            let with_standing = members.map(|m| {
                let standing = membership.standing(m.peer, now_unix_s);
                (m, standing)
            });
            with_standing.collect()
        };
        let certified = members.iter().map(|(m, _)| (m.peer, m.overlay.clone()));
        let certified: Vec<(PeerId, Vec<IpAddr>)> = certified.collect();
        let assigned = space.assign(&certified);
        let all = assigned.iter().zip(members);
        let standing = all.filter(|(_, (_, standing))| *standing == Standing::Member);
        let peers = standing.map(|(at, (member, _))| VpnPeer {
            peer: member.peer,
            name: member.name,
            role: Some(member.role),
            address4: at.v4,
            address6: Some(at.v6),
            routes: at.addresses().map(Prefix::host).collect(),
        });
        let (mine, others): (Vec<_>, Vec<_>) = peers.partition(|p| p.peer == self.0.me);
        NetworkOverlay {
            space,
            me: mine.into_iter().next(),
            others,
        }
    }
}
