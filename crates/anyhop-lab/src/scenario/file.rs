//! A scenario as a TOML document. What is wrong with one is told with its line, its key
//! and what to write instead.

use std::{net::IpAddr, ops::Range, time::Duration};

use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;

use super::spec::{
    Action, Event, Expect, HostSpec, NatSpec, PlaceRef, Scenario, Traffic, TrafficKind,
};
use crate::{
    matrix::Kind,
    nat::{Filtering, NatConfig},
    net::{Link, Traffic as Blocked},
};

/// Hosts, NATs, events and traffics of one scenario, each.
const MAX_ITEMS: usize = 10_000;

/// Most bytes of one transfer.
const MAX_TRANSFER: u64 = 1 << 40;

/// What is wrong with a scenario's document.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {message}")]
pub struct ScenarioError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong there; names the key.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    seed: u64,
    #[serde(default = "default_duration")]
    duration_s: f64,
    #[serde(default)]
    nat: Vec<NatItem>,
    #[serde(default)]
    host: Vec<HostItem>,
    #[serde(default)]
    event: Vec<EventItem>,
    #[serde(default)]
    traffic: Vec<TrafficItem>,
    #[serde(default)]
    expect: ExpectItem,
}

fn default_duration() -> f64 {
    600.0
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NatItem {
    name: Spanned<String>,
    kind: Spanned<String>,
    addresses: Spanned<Vec<IpAddr>>,
    behind: Option<Spanned<String>>,
    #[serde(default)]
    link: LinkItem,
    lifetime_s: Option<f64>,
    #[serde(default)]
    hairpin: bool,
    #[serde(default)]
    ipv6_firewall: bool,
    unsolicited_blocked_s: Option<f64>,
    #[serde(default)]
    other_traffic_per_s: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostItem {
    name: Spanned<String>,
    addresses: Spanned<Vec<IpAddr>>,
    behind: Option<Spanned<String>>,
    #[serde(default)]
    link: LinkItem,
    #[serde(default)]
    relay: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkItem {
    #[serde(default)]
    latency_ms: f64,
    #[serde(default)]
    loss: f64,
    mtu: Option<usize>,
    bytes_per_s: Option<u64>,
    queue_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventItem {
    at_s: f64,
    #[serde(rename = "do")]
    action: Spanned<String>,
    on: Spanned<String>,
    and: Option<Spanned<String>>,
    family: Option<Spanned<String>>,
    addresses: Option<Spanned<Vec<IpAddr>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrafficItem {
    #[serde(default)]
    at_s: f64,
    from: Spanned<String>,
    to: Spanned<String>,
    transfer_bytes: Option<Spanned<u64>>,
    ping_every_s: Option<Spanned<f64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectItem {
    connected_within_s: Option<f64>,
    direct_within_s: Option<f64>,
    longest_stall_below_s: Option<f64>,
}

impl Scenario {
    /// Reads a document.
    ///
    /// # Errors
    /// What is wrong with it, the first thing only.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let document: Document = toml::from_str(text).map_err(|e| {
            let at = e.span().unwrap_or(0..0);
            let message = e.message().trim().replace('\n', " ");
            error(
                text,
                at,
                message,
                "docs/scenarios in the project has examples of every key",
            )
        })?;
        Reader {
            text,
            nats: names(&document.nat, |nat| &nat.name),
            hosts: names(&document.host, |host| &host.name),
        }
        .read(&document)
    }
}

fn names<T>(items: &[T], name: impl Fn(&T) -> &Spanned<String>) -> Vec<String> {
    items.iter().map(|i| name(i).get_ref().clone()).collect()
}

fn error(text: &str, at: Range<usize>, message: String, hint: &str) -> ScenarioError {
    let before = text.get(..at.start).unwrap_or(text);
    ScenarioError {
        line: before.matches('\n').count() + 1,
        message,
        hint: hint.to_owned(),
    }
}

struct Reader<'a> {
    text: &'a str,
    nats: Vec<String>,
    hosts: Vec<String>,
}

impl Reader<'_> {
    fn wrong<T>(&self, at: &Spanned<T>, message: String, hint: &str) -> ScenarioError {
        error(self.text, at.span(), message, hint)
    }

    fn whole(&self, message: &str, hint: &str) -> ScenarioError {
        error(self.text, 0..0, message.to_owned(), hint)
    }

    fn read(&self, document: &Document) -> Result<Scenario, ScenarioError> {
        let counts = [
            document.nat.len(),
            document.host.len(),
            document.event.len(),
            document.traffic.len(),
        ];
        if counts.iter().any(|n| *n > MAX_ITEMS) {
            let message = format!("more than {MAX_ITEMS} items of one kind");
            return Err(self.whole(&message, "make it smaller"));
        }
        let all: Vec<_> = (document.nat.iter().map(|n| &n.name))
            .chain(document.host.iter().map(|h| &h.name))
            .collect();
        for (i, name) in all.iter().enumerate() {
            if all[..i].iter().any(|n| n.get_ref() == name.get_ref()) {
                let message = format!("name = {:?} is taken", name.get_ref());
                return Err(self.wrong(name, message, "give each host and NAT its own name"));
            }
        }
        let nats = document.nat.iter().enumerate();
        let nats = nats
            .map(|(i, nat)| self.nat(i, nat))
            .collect::<Result<_, _>>()?;
        let hosts = document.host.iter().map(|host| self.host(host));
        let hosts = hosts.collect::<Result<_, _>>()?;
        let events = document.event.iter().map(|event| self.event(event));
        let mut events: Vec<_> = events.collect::<Result<_, _>>()?;
        events.sort_by_key(|event| event.at);
        let traffic = document.traffic.iter().map(|traffic| self.traffic(traffic));
        let traffic: Vec<_> = traffic.collect::<Result<_, _>>()?;
        if traffic.is_empty() {
            let hint = "add [[traffic]] with from, to and transfer_bytes or ping_every_s";
            return Err(self.whole("no traffic: nothing would be seen", hint));
        }
        let some = |s: Option<f64>| s.map(seconds);
        Ok(Scenario {
            seed: document.seed,
            duration: seconds(document.duration_s),
            nats,
            hosts,
            events,
            traffic,
            expect: Expect {
                connected_within: some(document.expect.connected_within_s),
                direct_within: some(document.expect.direct_within_s),
                longest_stall_below: some(document.expect.longest_stall_below_s),
            },
        })
    }

    fn nat(&self, index: usize, item: &NatItem) -> Result<NatSpec, ScenarioError> {
        let kind = item.kind.get_ref();
        let config = match kind.as_str() {
            "carrier-grade" => Some(NatConfig::carrier_grade()),
            _ => kind.parse::<Kind>().ok().and_then(|kind| match kind {
                Kind::Public | Kind::CgnatCone | Kind::UdpBlocked => None,
                kind => kind.layers().pop(),
            }),
        };
        let mut config = config.ok_or_else(|| {
            self.wrong(
                &item.kind,
                format!("kind = {kind:?} is no kind of NAT"),
                "use full-cone, restricted, port-restricted, symmetric-sequential, \
                 symmetric-random or carrier-grade",
            )
        })?;
        if let Some(lifetime) = item.lifetime_s {
            config.lifetime = seconds(lifetime);
        }
        config.unsolicited_blocked = item.unsolicited_blocked_s.map(seconds);
        config.hairpin = item.hairpin;
        config.other_traffic = item.other_traffic_per_s;
        if item.ipv6_firewall {
            config.ipv6_firewall = Some(Filtering::AddressAndPortDependent);
        }
        let behind = self.behind(item.behind.as_ref())?;
        if behind.is_some_and(|outer| outer >= index) {
            let at = item.behind.as_ref().unwrap_or(&item.name);
            let message = format!("behind = {:?} comes later", at.get_ref());
            return Err(self.wrong(at, message, "write the outer NAT first"));
        }
        Ok(NatSpec {
            name: item.name.get_ref().clone(),
            addresses: self.addresses(&item.addresses)?,
            config,
            behind,
            link: link(&item.link),
        })
    }

    fn host(&self, item: &HostItem) -> Result<HostSpec, ScenarioError> {
        if item.relay && item.behind.is_some() {
            let hint = "relays are what the others reach first: put it on the internet";
            let message = "relay = true behind a NAT".to_owned();
            return Err(self.wrong(&item.name, message, hint));
        }
        Ok(HostSpec {
            name: item.name.get_ref().clone(),
            addresses: self.addresses(&item.addresses)?,
            behind: self.behind(item.behind.as_ref())?,
            link: link(&item.link),
            relay: item.relay,
        })
    }

    fn addresses(&self, item: &Spanned<Vec<IpAddr>>) -> Result<Vec<IpAddr>, ScenarioError> {
        let addresses = item.get_ref();
        let twice = (1..addresses.len()).any(|i| addresses[..i].contains(&addresses[i]));
        if addresses.is_empty() || twice {
            let message = "addresses is empty or has one twice".to_owned();
            let hint = "give one address, or one of each family";
            return Err(self.wrong(item, message, hint));
        }
        Ok(addresses.clone())
    }

    fn behind(&self, name: Option<&Spanned<String>>) -> Result<Option<usize>, ScenarioError> {
        name.map(|name| self.find(&self.nats, name, "behind", "NAT"))
            .transpose()
    }

    fn find(
        &self,
        among: &[String],
        name: &Spanned<String>,
        key: &str,
        what: &str,
    ) -> Result<usize, ScenarioError> {
        let place = among.iter().position(|n| n == name.get_ref());
        place.ok_or_else(|| {
            let message = format!("{key} = {:?} names no {what}", name.get_ref());
            let hint = match among {
                [] => format!("there is no {what} here; write one"),
                _ => format!("there are: {}", among.join(", ")),
            };
            self.wrong(name, message, &hint)
        })
    }

    fn place(&self, name: &Spanned<String>, key: &str) -> Result<PlaceRef, ScenarioError> {
        let host = self.hosts.iter().position(|n| n == name.get_ref());
        if let Some(host) = host {
            return Ok(PlaceRef::Host(host));
        }
        let nat = self.nats.iter().position(|n| n == name.get_ref());
        nat.map(PlaceRef::Nat).ok_or_else(|| {
            let all = [&self.hosts[..], &self.nats[..]].concat();
            let message = format!("{key} = {:?} names no host and no NAT", name.get_ref());
            self.wrong(name, message, &format!("there are: {}", all.join(", ")))
        })
    }

    fn event(&self, item: &EventItem) -> Result<Event, ScenarioError> {
        let host = || self.find(&self.hosts, &item.on, "on", "host");
        let action = match item.action.get_ref().as_str() {
            "block" => Action::Block(self.place(&item.on, "on")?, self.other(item)?),
            "unblock" => Action::Unblock(self.place(&item.on, "on")?, self.other(item)?),
            "cut" => Action::Cut(host()?),
            "restore" => Action::Restore(host()?),
            "udp_block" => Action::Drop(self.place(&item.on, "on")?, Blocked::Udp),
            "udp_unblock" => Action::Pass(self.place(&item.on, "on")?, Blocked::Udp),
            "family_loss" => Action::Drop(self.place(&item.on, "on")?, self.family(item)?),
            "family_restore" => Action::Pass(self.place(&item.on, "on")?, self.family(item)?),
            "reset_nat" => Action::ResetNat(self.find(&self.nats, &item.on, "on", "NAT")?),
            "renumber" => {
                let addresses = item.addresses.as_ref().ok_or_else(|| {
                    let message = "renumber without addresses".to_owned();
                    self.wrong(&item.action, message, "add addresses = [\"10.0.0.9\"]")
                })?;
                Action::Renumber(self.place(&item.on, "on")?, self.addresses(addresses)?)
            }
            "kill" => Action::Kill(host()?),
            "start" => Action::Start(host()?),
            other => {
                let message = format!("do = {other:?} is nothing that can happen");
                let hint = "use block, unblock, cut, restore, udp_block, udp_unblock, \
                            family_loss, family_restore, reset_nat, renumber, kill or start";
                return Err(self.wrong(&item.action, message, hint));
            }
        };
        Ok(Event {
            at: seconds(item.at_s),
            action,
        })
    }

    fn other(&self, item: &EventItem) -> Result<PlaceRef, ScenarioError> {
        let and = item.and.as_ref().ok_or_else(|| {
            let message = format!("{} has one end only", item.action.get_ref());
            self.wrong(&item.action, message, "add and = \"NAME\" of the other end")
        })?;
        self.place(and, "and")
    }

    fn family(&self, item: &EventItem) -> Result<Blocked, ScenarioError> {
        match item.family.as_ref().map(|f| (f, f.get_ref().as_str())) {
            Some((_, "v4")) => Ok(Blocked::Ipv4),
            Some((_, "v6")) => Ok(Blocked::Ipv6),
            Some((at, other)) => {
                let message = format!("family = {other:?} is no IP family");
                Err(self.wrong(at, message, "use v4 or v6"))
            }
            None => {
                let message = format!("{} without a family", item.action.get_ref());
                Err(self.wrong(&item.action, message, "add family = \"v4\" or \"v6\""))
            }
        }
    }

    fn traffic(&self, item: &TrafficItem) -> Result<Traffic, ScenarioError> {
        let from = self.find(&self.hosts, &item.from, "from", "host")?;
        let to = self.find(&self.hosts, &item.to, "to", "host")?;
        if from == to {
            let message = format!("to = {:?} is where it comes from", item.to.get_ref());
            return Err(self.wrong(&item.to, message, "name another host"));
        }
        let kind = match (&item.transfer_bytes, &item.ping_every_s) {
            (Some(bytes), None) if (1..=MAX_TRANSFER).contains(bytes.get_ref()) => {
                TrafficKind::Transfer(*bytes.get_ref())
            }
            (None, Some(every)) if *every.get_ref() >= 0.001 => {
                TrafficKind::Ping(seconds(*every.get_ref()))
            }
            _ => {
                let message = "traffic is either transfer_bytes or ping_every_s".to_owned();
                let hint = "give one of the two: bytes from 1 to 2^40, or seconds from 0.001";
                return Err(self.wrong(&item.from, message, hint));
            }
        };
        Ok(Traffic {
            at: seconds(item.at_s),
            from,
            to,
            kind,
        })
    }
}

fn link(item: &LinkItem) -> Link {
    let mut link = Link::with_latency(seconds(item.latency_ms / 1000.0)).loss(item.loss.max(0.0));
    if let Some(mtu) = item.mtu {
        link = link.mtu(mtu);
    }
    if let Some(rate) = item.bytes_per_s {
        // 100 ms of the rate, unless said otherwise.
        link = link.bandwidth(rate, item.queue_bytes.unwrap_or(rate / 10));
    }
    link
}

/// Seconds as a duration; what is negative or no number is zero, what is too much a year.
fn seconds(s: f64) -> Duration {
    const YEAR: f64 = 365.0 * 86_400.0;
    Duration::try_from_secs_f64(s.clamp(0.0, YEAR)).unwrap_or_default()
}
