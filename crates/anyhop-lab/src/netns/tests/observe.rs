//! What a NAT does to plain UDP sockets, along the axes of RFC 4787.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{Families, NetLab, PATIENCE};
use crate::{
    nat::{Filtering, Mapping, PortAllocation},
    netns::Namespace,
};

/// The port that the first socket of a host uses.
const PORT: u16 = 4001;

/// Flows to look at for a pattern in their ports.
const FLOWS: u16 = 8;

/// How what is sent only to look at the way begins; [`Plain::next`] passes it over.
const LOOK: &str = "look";
const STRANGER: &str = "look, a stranger";
const FRIEND: &str = "look, a friend";

/// Time between two of them.
const SOON: Duration = Duration::from_millis(250);

/// Errors of a receive that say nothing about the next one.
const PASSING: [ErrorKind; 4] = [
    ErrorKind::WouldBlock,
    ErrorKind::TimedOut,
    ErrorKind::Interrupted,
    ErrorKind::ConnectionRefused,
];

/// Any IPv4 address of a host, and a port.
pub(super) fn any4(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

/// A UDP socket somewhere.
pub(super) struct Plain {
    socket: UdpSocket,
    pub(super) addr: SocketAddr,
}

impl Plain {
    /// One at an address of `host`.
    pub(super) fn new(host: &Namespace, ip: impl Into<IpAddr>, port: u16) -> Self {
        let local = SocketAddr::new(ip.into(), port);
        let deadline = Instant::now() + PATIENCE;
        let socket = loop {
            match host.udp_socket(local) {
                Ok(socket) => break socket,
                // A process that another test starts holds a closed one until it runs.
                Err(e) if e.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                Err(e) => panic!("{local} in {}: {e}", host.name()),
            }
        };
        socket.set_read_timeout(Some(SOON)).expect("set");
        let addr = socket.local_addr().expect("bound");
        Self { socket, addr }
    }

    /// One at the IPv4 address of `host`.
    pub(super) fn at(host: &Namespace, port: u16) -> Self {
        Self::new(host, host.v4().expect("IPv4"), port)
    }

    /// The same socket, known to others by another address.
    pub(super) fn known_as(&self, addr: SocketAddr) -> Self {
        let socket = self.socket.try_clone().expect("cloned");
        Self { socket, addr }
    }

    pub(super) fn send(&self, to: SocketAddr, text: &str) {
        self.socket.send_to(text.as_bytes(), to).expect("sent");
    }

    /// The next datagram: where it came from and what it says.
    pub(super) fn next(&self) -> (SocketAddr, String) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some((from, text)) = self.listen()
                && !text.starts_with(LOOK)
            {
                return (from, text);
            }
        }
        panic!("nothing came to {}", self.addr);
    }

    /// Where this socket appears to be, seen from `remote`. The first datagrams to a host
    /// that has just been plugged in may be lost, so this one is repeated.
    pub(super) fn seen_by(&self, remote: &Self) -> SocketAddr {
        static LOOKS: AtomicU32 = AtomicU32::new(0);
        let look = format!("{LOOK} {}", LOOKS.fetch_add(1, Ordering::Relaxed));
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.send(remote.addr, &look);
            while let Some((from, text)) = remote.listen() {
                if text == look {
                    return from;
                }
            }
        }
        panic!("{} is not seen by {}", self.addr, remote.addr);
    }

    /// A datagram, if one comes soon.
    fn listen(&self) -> Option<(SocketAddr, String)> {
        let mut buf = [0; 64];
        match self.socket.recv_from(&mut buf) {
            Ok((size, from)) => Some((from, String::from_utf8_lossy(&buf[..size]).into_owned())),
            // Time is up, a signal came, or an ICMP error of an earlier send.
            Err(e) if PASSING.contains(&e.kind()) => None,
            Err(e) => panic!("{} hears no more: {e}", self.addr),
        }
    }

    /// Whether what `stranger` sends to `external` arrives here. `friend` can send there
    /// and speaks after it, so that nothing has to be waited for in vain; what is lost on
    /// the way to a host that was just plugged in is repeated.
    pub(super) fn lets_in(&self, stranger: &Self, external: SocketAddr, friend: &Self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let (mut rounds, mut let_in) = (0, false);
        while rounds < 3 {
            assert!(Instant::now() < deadline, "{} hears no friend", self.addr);
            stranger.send(external, STRANGER);
            friend.send(external, FRIEND);
            while let Some((from, text)) = self.listen() {
                if text == STRANGER && from == stranger.addr {
                    let_in = true;
                } else if text == FRIEND {
                    rounds += 1;
                    break;
                }
            }
        }
        let_in
    }
}

/// How a NAT behaves.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Behaviour {
    pub(super) mapping: Mapping,
    pub(super) filtering: Filtering,
    pub(super) allocation: PortAllocation,
}

/// Two hosts on the internet with two ports each.
pub(super) struct Observatory {
    one: [Plain; 2],
    other: [Plain; 2],
}

impl Observatory {
    pub(super) fn new(lab: &mut NetLab) -> Self {
        let [one, other] = ["p", "q"].map(|name| {
            let host = lab.public_host(name, Families::V4).expect("a host");
            [PORT, PORT + 1].map(|port| Plain::at(&host, port))
        });
        Self { one, other }
    }

    /// What stands between `host` and the internet.
    pub(super) fn observe(&self, host: &Namespace) -> Behaviour {
        Behaviour {
            mapping: self.mapping(&Plain::at(host, 5000)),
            filtering: self.filtering(&Plain::at(host, 5001)),
            allocation: self.allocation(host),
        }
    }

    fn mapping(&self, inside: &Plain) -> Mapping {
        let first = inside.seen_by(&self.one[0]);
        let port = inside.seen_by(&self.one[1]) == first;
        let address = inside.seen_by(&self.other[0]) == first;
        assert_eq!(inside.seen_by(&self.one[0]), first, "not even stable");
        match (port, address) {
            (true, true) => Mapping::EndpointIndependent,
            (true, false) => Mapping::AddressDependent,
            (false, false) => Mapping::AddressAndPortDependent,
            (false, true) => panic!("depends on the port alone"),
        }
    }

    fn filtering(&self, inside: &Plain) -> Filtering {
        let external = inside.seen_by(&self.one[0]);
        let address = inside.lets_in(&self.other[0], external, &self.one[0]);
        let port = inside.lets_in(&self.one[1], external, &self.one[0]);
        match (address, port) {
            (true, true) => Filtering::EndpointIndependent,
            (false, true) => Filtering::AddressDependent,
            (false, false) => Filtering::AddressAndPortDependent,
            (true, false) => panic!("lets strangers in but not its peer's other port"),
        }
    }

    fn allocation(&self, host: &Namespace) -> PortAllocation {
        // Apart, so that one that counts up is told from one that preserves.
        let ports = (0..FLOWS).map(|i| 6000 + 10 * i);
        let pairs: Vec<_> = ports
            .map(|port| {
                let seen = Plain::at(host, port).seen_by(&self.one[0]);
                (port, seen.port())
            })
            .collect();
        if pairs.iter().all(|(inside, outside)| inside == outside) {
            return PortAllocation::Preserving;
        }
        let mut steps = pairs.windows(2).map(|two| two[1].1.wrapping_sub(two[0].1));
        if steps.all(|step| step == 1) {
            PortAllocation::Sequential
        } else {
            PortAllocation::Random
        }
    }
}
