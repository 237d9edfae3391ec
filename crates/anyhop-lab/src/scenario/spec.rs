//! What a scenario says, names resolved.

use std::{fmt, net::IpAddr, time::Duration};

use crate::{
    matrix::Family,
    nat::NatConfig,
    net::{Link, Traffic as Blocked},
};

/// A scenario; hosts and NATs are named by their places in these lists.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Decides keys, ports and losses.
    pub seed: u64,
    /// The end, traffic done or not.
    pub duration: Duration,
    /// NATs; one behind another comes after it.
    pub nats: Vec<NatSpec>,
    /// Hosts, each with a node.
    pub hosts: Vec<HostSpec>,
    /// What happens, in order of time.
    pub events: Vec<Event>,
    /// What the nodes do.
    pub traffic: Vec<Traffic>,
    /// What must come of it.
    pub expect: Expect,
}

/// A NAT.
#[derive(Debug, Clone, PartialEq)]
pub struct NatSpec {
    /// Its name.
    pub name: String,
    /// Its external addresses.
    pub addresses: Vec<IpAddr>,
    /// How it behaves.
    pub config: NatConfig,
    /// The NAT it is behind.
    pub behind: Option<usize>,
    /// Its uplink.
    pub link: Link,
}

/// A host and its node.
#[derive(Debug, Clone, PartialEq)]
pub struct HostSpec {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The NAT it is behind.
    pub behind: Option<usize>,
    /// Its uplink.
    pub link: Link,
    /// Whether the others know it from the start and it serves WebSockets.
    pub relay: bool,
}

/// A host or a NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceRef {
    /// One of [`Scenario::hosts`].
    Host(usize),
    /// One of [`Scenario::nats`].
    Nat(usize),
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When.
    pub at: Duration,
    /// What.
    pub action: Action,
}

/// What happens.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Nothing passes directly between two places.
    Block(PlaceRef, PlaceRef),
    /// Undoes [`Block`](Self::Block).
    Unblock(PlaceRef, PlaceRef),
    /// A host is off the network.
    Cut(usize),
    /// Undoes [`Cut`](Self::Cut).
    Restore(usize),
    /// Traffic of a kind no longer passes a place.
    Drop(PlaceRef, Blocked),
    /// Undoes [`Drop`](Self::Drop).
    Pass(PlaceRef, Blocked),
    /// A NAT forgets its mappings.
    ResetNat(usize),
    /// A place gets other addresses.
    Renumber(PlaceRef, Vec<IpAddr>),
    /// A node is gone at once, without a word.
    Kill(usize),
    /// A killed node starts again, with its old key.
    Start(usize),
}

impl Action {
    /// In words, with the names of a scenario.
    #[must_use]
    pub fn text(&self, scenario: &Scenario) -> String {
        let host = |i: &usize| scenario.hosts[*i].name.clone();
        let place = |place: &PlaceRef| match place {
            PlaceRef::Host(i) => scenario.hosts[*i].name.clone(),
            PlaceRef::Nat(i) => scenario.nats[*i].name.clone(),
        };
        match self {
            Self::Block(a, b) => format!("block {} and {}", place(a), place(b)),
            Self::Unblock(a, b) => format!("unblock {} and {}", place(a), place(b)),
            Self::Cut(i) => format!("cut {}", host(i)),
            Self::Restore(i) => format!("restore {}", host(i)),
            Self::Drop(at, what) => format!("no {what:?} at {}", place(at)),
            Self::Pass(at, what) => format!("{what:?} again at {}", place(at)),
            Self::ResetNat(i) => format!("reset {}", scenario.nats[*i].name),
            Self::Renumber(at, to) => format!("renumber {} to {to:?}", place(at)),
            Self::Kill(i) => format!("kill {}", host(i)),
            Self::Start(i) => format!("start {}", host(i)),
        }
    }
}

/// What two nodes do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traffic {
    /// When it begins.
    pub at: Duration,
    /// Who dials.
    pub from: usize,
    /// Who is dialled.
    pub to: usize,
    /// What is sent.
    pub kind: TrafficKind,
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficKind {
    /// So many bytes over one stream, as fast as they go.
    Transfer(u64),
    /// An echo each time this has passed, until the end or all transfers are done.
    Ping(Duration),
}

/// What must come of it, for each traffic.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Expect {
    /// From its beginning until the peer has answered.
    pub connected_within: Option<Duration>,
    /// From its beginning until it has a direct path.
    pub direct_within: Option<Duration>,
    /// No pause of a transfer, and no echo, may take this long.
    pub longest_stall_below: Option<Duration>,
}

impl Scenario {
    /// Families of a host's addresses.
    pub(super) fn families(&self, host: usize) -> impl Iterator<Item = Family> + '_ {
        let has = |v4| {
            let mut addresses = self.hosts[host].addresses.iter();
            addresses.any(|ip| ip.is_ipv4() == v4)
        };
        let v4 = has(true).then_some(Family::V4);
        v4.into_iter().chain(has(false).then_some(Family::V6))
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:.1} s", self.action, self.at.as_secs_f64())
    }
}
