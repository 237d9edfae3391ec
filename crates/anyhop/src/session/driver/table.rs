//! What others see of a connection's paths: the path table, and the addresses of the link.

use std::net::SocketAddr;

use anyhop_proto::{carrier::CarrierId, circuit::CircuitId};

use super::{Driver, OpenPath, is_circuit};
use crate::{Carrier, PathInfo, PathKind, session::PathTable};

impl Driver {
    pub(super) fn path_info(&self, open: &OpenPath, selected: bool) -> PathInfo {
        let circuit = CircuitId::from_address(&open.remote);
        let first_hop = match circuit {
            Some(circuit) => self.node.first_hop(circuit),
            None => Some(open.remote),
        };
        let websocket = first_hop.and_then(|a| CarrierId::from_address(&a));
        let shown = match websocket {
            Some(carrier) => self.node.fabric.carriers.remote(carrier),
            None => first_hop,
        };
        PathInfo {
            kind: circuit.map_or(PathKind::Direct, |_| PathKind::Circuit),
            carrier: match first_hop {
                _ if websocket.is_some() => Carrier::Ws,
                Some(SocketAddr::V6(_)) => Carrier::Udp6,
                _ => Carrier::Udp4,
            },
            remote: shown.map_or_else(|| "gone".to_owned(), |a| a.to_string()),
            via: circuit.map_or_else(Vec::new, |c| {
                let via = self.node.circuits.via(c);
                via.iter().map(ToString::to_string).collect()
            }),
            rtt_ms: open.rtt.as_secs_f64() * 1e3,
            mtu: open.mtu,
            selected,
        }
    }

    /// Tells others about the paths: the path table, and the link's addresses.
    pub(super) fn publish(&mut self) {
        let selected = self.agent.selected();
        // A dead one is kept for the engine's sake; unless there is no other.
        let stalled = self.agent.stalled();
        let mut paths: Vec<_> = self
            .paths
            .iter()
            .filter(|(key, _)| stalled || self.agent.alive(**key))
            .map(|(key, open)| self.path_info(open, Some(*key) == selected))
            .collect();
        paths.sort_by_key(|p| !p.selected);
        let addresses = self.link_addresses();
        let leads = selected.and_then(|key| self.paths.get(&key));
        let leads = leads.map(|open| (open.remote, open.mtu));
        let before = self.conn.paths.send_replace(PathTable {
            paths,
            direct: addresses.clone(),
            selected: leads,
            stalled,
            loss: self.link_loss(),
        });
        if before.selected != leads {
            self.node.links_changed.notify_one();
        }
        self.node.paths_changed(&self.conn);
        self.publish_plan();
        if addresses != self.published_link {
            self.node.set_link(self.conn.id, addresses.clone());
            self.published_link = addresses;
        }
    }

    /// Addresses of the direct paths, the one to send to first. What others send over this
    /// node goes only where the peer has answered; from where it shows itself it is taken.
    fn link_addresses(&self) -> Vec<SocketAddr> {
        let selected = self.agent.selected();
        let mut direct: Vec<_> = self
            .paths
            .iter()
            .filter(|(_, open)| !is_circuit(open.remote))
            .map(|(key, open)| (Some(*key) != selected, open))
            .collect();
        direct.sort_by_key(|(other, _)| *other);
        let proven = direct.iter().map(|(_, open)| open.proven);
        let shown = direct.iter().filter(|(_, open)| open.remote != open.proven);
        proven.chain(shown.map(|(_, open)| open.remote)).collect()
    }

    /// Loss on the direct path to send to first.
    fn link_loss(&self) -> f64 {
        let selected = self.agent.selected();
        let direct = self.paths.iter().filter(|(_, o)| !is_circuit(o.remote));
        let best = direct.min_by_key(|(key, _)| Some(**key) != selected);
        best.map_or(0.0, |(_, open)| open.loss)
    }
}
