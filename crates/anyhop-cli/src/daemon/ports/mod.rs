//! `port`: ports of this machine that are members' ports.
//!
//! - **Start**: with the VPN: the maps that the network's folder has become rules of a table
//!   of ours in nftables (`rules`).
//! - **Steady state**: the table is made anew with every change of the maps, and when a
//!   mapped member's address is another one.
//! - **Failure**: the table is in the journal of host changes. A map that cannot work now, as
//!   its member has left, is listed with what is wrong with it, and kept.

mod rules;
mod store;

use std::{
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    path::PathBuf,
    sync::Arc,
};

use anyhop::{Event, PeerId, PrivateNetwork, Vpn};
use tokio::sync::{Mutex, broadcast::error::RecvError};

use self::{
    rules::Rules,
    store::{MAX_MAPS, PortMap},
};
use super::{Presence, enter::blocking};
use crate::{
    api::{PortAsk, PortMapAsk, PortReport},
    error::{CliError, Code},
    spec::Protocol,
};

/// Whose changes of the host these are.
const PURPOSE: &str = "ports";

/// The maps of one network.
#[derive(Debug, Default)]
pub(super) struct Ports(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// `None` until they are read.
    maps: Option<Vec<PortMap>>,
    /// What is in place.
    applied: Option<Rules>,
    /// Why it is not.
    problem: Option<String>,
}

impl Presence {
    /// Maps a port of this machine to one of a member.
    pub(super) async fn port_map(&self, ask: &PortMapAsk) -> Result<PortReport, CliError> {
        let vpn = self.vpn.lock().await;
        let Some(interface) = &interface_of(&vpn) else {
            return Err(self.no_vpn());
        };
        let listen = rules::check_listen(ask.listen)?;
        let peer = self.resolve(&ask.member)?;
        let map = PortMap {
            protocol: ask.protocol,
            listen,
            peer,
            port: ask.port,
        };
        if peer == self.node.peer_id() {
            return Err(CliError::usage("that member is this node itself")
                .hint("name another one; `anyhop vpn status` lists them"));
        }
        // Says what is wrong with a peer that is no member, and with a missing address.
        rules::target(&map, &self.addresses_of(peer)).map_err(|why| {
            let name = &ask.member;
            CliError::usage(format!("nothing can be mapped to {name}: {why}"))
                .hint("`anyhop vpn status` lists the members and their addresses")
        })?;
        let mut state = self.ports.0.lock().await;
        let mut maps = self.read_maps(&mut state).await?;
        check_free(&maps, &map)?;
        maps.push(map.clone());
        self.apply(&mut state, &maps, interface).await?;
        if let Err(e) = self.keep_maps(&mut state, maps).await {
            // As before, in the file and on the host.
            let kept = state.maps.clone().unwrap_or_default();
            self.apply(&mut state, &kept, interface).await?;
            return Err(e);
        }
        Ok(self.port_report(&state, &map))
    }

    /// Ends a map.
    pub(super) async fn port_unmap(&self, ask: &PortAsk) -> Result<PortReport, CliError> {
        let vpn = self.vpn.lock().await;
        let mut state = self.ports.0.lock().await;
        let mut maps = self.read_maps(&mut state).await?;
        let is_meant = |m: &PortMap| m.protocol == ask.protocol && m.listen == ask.listen;
        let Some(at) = maps.iter().position(is_meant) else {
            let (protocol, listen) = (ask.protocol, ask.listen);
            let error = CliError::usage(format!("{protocol} {listen} is not mapped"));
            return Err(error.hint(hint_of_missing(&maps, ask)));
        };
        let map = maps.remove(at);
        let report = self.port_report(&state, &map);
        self.keep_maps(&mut state, maps.clone()).await?;
        if let Some(interface) = &interface_of(&vpn) {
            self.apply(&mut state, &maps, interface).await?;
        }
        Ok(PortReport {
            active: false,
            ..report
        })
    }

    /// All maps, those of ports that are not open now among them.
    pub(super) async fn port_list(&self) -> Result<Vec<PortReport>, CliError> {
        let mut state = self.ports.0.lock().await;
        let maps = self.read_maps(&mut state).await?;
        Ok(maps.iter().map(|m| self.port_report(&state, m)).collect())
    }

    /// Opens the ports of a VPN that is up, and stays so meanwhile, or brings them up to date;
    /// what keeps them from that is told.
    pub(super) async fn ports_up(&self, interface: &str) {
        let mut state = self.ports.0.lock().await;
        let applied = match self.read_maps(&mut state).await {
            Ok(maps) => self.apply(&mut state, &maps, interface).await,
            Err(e) => Err(e),
        };
        if let Err(error) = applied {
            tracing::warn!("mapped ports are not open: {error}");
            state.problem = Some(error.to_string());
        }
    }

    /// Forgets what was in place; the journal undoes it.
    pub(super) async fn ports_down(&self) {
        self.ports.0.lock().await.applied = None;
    }

    /// The maps as they are stored.
    async fn read_maps(&self, state: &mut State) -> Result<Vec<PortMap>, CliError> {
        if let Some(maps) = &state.maps {
            return Ok(maps.clone());
        }
        let folder = self.folder();
        let maps = blocking(move || store::read(&folder)).await??;
        state.maps = Some(maps.clone());
        Ok(maps)
    }

    async fn keep_maps(&self, state: &mut State, maps: Vec<PortMap>) -> Result<(), CliError> {
        let (folder, written) = (self.folder(), maps.clone());
        blocking(move || store::write(&folder, &written)).await??;
        state.maps = Some(maps);
        Ok(())
    }

    /// Has the host do what the maps say.
    async fn apply(
        &self,
        state: &mut State,
        maps: &[PortMap],
        interface: &str,
    ) -> Result<(), CliError> {
        let addresses = |peer: PeerId| self.addresses_of(peer);
        let wanted = Rules::of(interface, maps, addresses);
        if state.applied.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let (owner, rules) = (self.host_owner(PURPOSE), wanted.clone());
        let applied = self.with_journal(move |journal| rules.apply(journal, &owner));
        // What was in place stays when this fails.
        applied.await??;
        state.applied = Some(wanted);
        state.problem = None;
        Ok(())
    }

    fn addresses_of(&self, peer: PeerId) -> Vec<IpAddr> {
        let network = self.node.private_network();
        network.map_or_else(Vec::new, |n| n.overlay_addresses(peer))
    }

    fn folder(&self) -> PathBuf {
        PrivateNetwork::folder(self.state_dir.path(), self.id())
    }

    fn port_report(&self, state: &State, map: &PortMap) -> PortReport {
        let target = rules::target(map, &self.addresses_of(map.peer));
        let active = target.is_ok() && state.applied.as_ref().is_some_and(|r| r.has(map));
        let problem = match (&target, &state.problem) {
            (Err(why), _) => Some(why.clone()),
            (_, Some(why)) => Some(why.clone()),
            (_, None) if !active => Some("the VPN is not up".to_owned()),
            _ => None,
        };
        let peer_id = map.peer.to_base58();
        PortReport {
            protocol: map.protocol,
            listen: map.listen,
            member: self.name_of(&peer_id).ok().flatten(),
            peer_id,
            port: map.port,
            target: target.ok(),
            active,
            problem,
        }
    }
}

/// Keeps ports up to date with the membership.
pub(super) async fn follow(presence: Arc<Presence>) {
    let mut events = presence.node.events();
    loop {
        match events.recv().await {
            Ok(Event::MembersChanged) | Err(RecvError::Lagged(_)) => {
                let vpn = presence.vpn.lock().await;
                if let Some(interface) = &interface_of(&vpn) {
                    presence.ports_up(interface).await;
                }
            }
            Ok(_) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

fn interface_of(vpn: &Option<Vpn>) -> Option<String> {
    vpn.as_ref().map(|vpn| vpn.status().interface)
}

/// Whether nobody else has the port: another map, or a program of this host.
fn check_free(maps: &[PortMap], map: &PortMap) -> Result<(), CliError> {
    if let Some(other) = maps.iter().find(|m| m.overlaps(map)) {
        let message = format!(
            "{} {} is mapped to port {} of {} already",
            other.protocol, other.listen, other.port, other.peer
        );
        let hint = format!("`anyhop port unmap {} {}`", other.protocol, other.listen);
        return Err(CliError::new(Code::Refused, message).hint(hint));
    }
    if maps.len() >= MAX_MAPS {
        let message = format!("at most {MAX_MAPS} ports of one network are mapped");
        return Err(CliError::new(Code::Limit, message).hint("`anyhop port list` shows them"));
    }
    let bound = match map.protocol {
        Protocol::Tcp => TcpListener::bind(map.listen).map(drop),
        Protocol::Udp => UdpSocket::bind(map.listen).map(drop),
    };
    let (protocol, listen) = (map.protocol, map.listen);
    match bound.map_err(|e| e.kind()) {
        Err(std::io::ErrorKind::AddrInUse) => {
            let message = format!("{protocol} {listen} is in use by a program of this host");
            Err(CliError::new(Code::Refused, message).hint("choose another port, or end it"))
        }
        Err(std::io::ErrorKind::AddrNotAvailable) => {
            let message = format!("{} is no address of this host", listen.ip());
            Err(CliError::usage(message).hint("0.0.0.0 and [::] stand for all that it has"))
        }
        // Ports below 1024 may be mapped by who may not listen there.
        _ => Ok(()),
    }
}

fn hint_of_missing(maps: &[PortMap], ask: &PortAsk) -> String {
    let near = |m: &&PortMap| m.listen.port() == ask.listen.port();
    match maps.iter().find(near) {
        Some(m) => format!("is {} {} meant?", m.protocol, m.listen),
        None => "`anyhop port list` shows what is mapped".to_owned(),
    }
}

impl PortMap {
    /// Whether both would take the same packets.
    fn overlaps(&self, other: &Self) -> bool {
        let (a, b): (SocketAddr, SocketAddr) = (self.listen, other.listen);
        let hosts = a.ip() == b.ip()
            || a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified());
        self.protocol == other.protocol && a.port() == b.port() && hosts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(protocol: Protocol, listen: &str) -> PortMap {
        store::map(protocol, listen, 80)
    }

    #[test]
    fn tcp_and_udp_have_ports_of_their_own_and_all_addresses_are_each() {
        let tcp = map(Protocol::Tcp, "192.0.2.1:80");
        let table = [
            (Protocol::Tcp, "192.0.2.1:80", true),
            (Protocol::Tcp, "0.0.0.0:80", true),
            (Protocol::Udp, "192.0.2.1:80", false),
            (Protocol::Tcp, "192.0.2.1:81", false),
            (Protocol::Tcp, "192.0.2.2:80", false),
            (Protocol::Tcp, "[::]:80", false),
        ];
        for (protocol, listen, expected) in table {
            let other = map(protocol, listen);
            assert_eq!(tcp.overlaps(&other), expected, "{protocol} {listen}");
            assert_eq!(other.overlaps(&tcp), expected, "{protocol} {listen}");
        }
    }

    #[test]
    fn a_port_that_somebody_has_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let listen = listener.local_addr().expect("bound").to_string();
        let taken = map(Protocol::Tcp, &listen);
        let error = check_free(&[], &taken).expect_err("taken");
        assert!(error.message.contains("in use"), "{error}");
        drop(listener);
        check_free(&[], &taken).expect("free");
        let mapped = std::slice::from_ref(&taken);
        let error = check_free(mapped, &taken).expect_err("mapped");
        let hint = error.hint.expect("has one");
        assert!(hint.contains(&format!("port unmap tcp {listen}")), "{hint}");
        let foreign = map(Protocol::Udp, "192.0.2.1:9999");
        let error = check_free(mapped, &foreign).expect_err("not this host's");
        assert_eq!(error.code, Code::Usage);
    }

    #[test]
    fn a_wrong_unmap_is_told_what_may_be_meant() {
        let maps = [map(Protocol::Tcp, "127.0.0.1:8080")];
        let ask = |listen: &str| PortAsk {
            protocol: Protocol::Udp,
            listen: listen.parse().expect("valid"),
        };
        let near = hint_of_missing(&maps, &ask("127.0.0.1:8080"));
        assert_eq!(near, "is tcp 127.0.0.1:8080 meant?");
        assert!(hint_of_missing(&maps, &ask("127.0.0.1:1")).contains("port list"));
    }
}
