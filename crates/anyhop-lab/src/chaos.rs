//! Chaos: a transfer between two nodes while its paths change at random, as a
//! [`Scenario`] made from a seed.
//!
//! Both nodes have both families, IPv4 behind a port-restricted cone and IPv6 behind a
//! firewall, and two relays that serve WebSockets. Changes come one after the other: a
//! relay dies and starts again, a NAT forgets its mappings, a host or a NAT gets another
//! address, IPv4 or UDP stops passing and passes again. There is always a way: never more
//! than one thing is broken at a time.

use std::{net::IpAddr, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    nat::{Filtering, NatConfig},
    net::{Link, Traffic as Blocked},
    scenario::{
        Action, Event, Expect, HostSpec, NatSpec, PlaceRef, Scenario, Traffic, TrafficKind,
    },
};

/// No pause of the transfer may take this long.
pub const STALL_LIMIT: Duration = Duration::from_secs(3);

/// Time between two changes, at least and at most.
const PAUSE: std::ops::Range<f64> = 1.0..4.0;

/// How long something stays broken, at least and at most, seconds.
const HOLD: std::ops::Range<f64> = 1.0..5.0;

const FIRST_CHANGE: f64 = 3.0;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Decides what happens when.
    pub seed: u64,
    /// Changes, the undoing of one not counted.
    pub changes: u32,
    /// Bytes of the transfer. The links are as fast as makes it last until the last change.
    pub bytes: u64,
}

impl Default for Options {
    /// 50 changes during a gigabyte.
    fn default() -> Self {
        Self {
            seed: 1,
            changes: 50,
            bytes: 1_000_000_000,
        }
    }
}

const RELAYS: [usize; 2] = [0, 1];
const ENDS: [usize; 2] = [2, 3];

/// The scenario of a seed.
#[must_use]
pub fn scenario(options: Options) -> Scenario {
    let mut rng = StdRng::seed_from_u64(options.seed);
    let mut events = Vec::new();
    let mut now = FIRST_CHANGE;
    let mut at = |now: f64, action| {
        events.push(Event {
            at: Duration::from_secs_f64(now),
            action,
        });
    };
    for change in 0..options.changes {
        now += rng.random_range(PAUSE);
        let hold = rng.random_range(HOLD);
        let side = rng.random_range(0..2usize);
        let undo = match rng.random_range(0..6) {
            0 => {
                let relay = RELAYS[side];
                at(now, Action::Kill(relay));
                Some(Action::Start(relay))
            }
            1 => {
                at(now, Action::ResetNat(side));
                None
            }
            2 => {
                at(
                    now,
                    Action::Renumber(PlaceRef::Nat(side), outside(side, change + 1)),
                );
                None
            }
            3 => {
                let host = PlaceRef::Host(ENDS[side]);
                at(now, Action::Renumber(host, inside(side, change + 1)));
                None
            }
            4 => {
                let place = PlaceRef::Nat(side);
                at(now, Action::Drop(place, Blocked::Ipv4));
                Some(Action::Pass(place, Blocked::Ipv4))
            }
            _ => {
                let place = PlaceRef::Nat(side);
                at(now, Action::Drop(place, Blocked::Udp));
                Some(Action::Pass(place, Blocked::Udp))
            }
        };
        if let Some(undo) = undo {
            now += hold;
            at(now, undo);
        }
    }
    build(options, events, now)
}

fn build(options: Options, events: Vec<Event>, last: f64) -> Scenario {
    // Half of the speed is spent by stalls and slow starts; what is left is not too short.
    let rate = (options.bytes as f64 / last * 1.2) as u64 + 100_000;
    let nat = |side: usize| NatSpec {
        name: ["nat-a", "nat-b"][side].to_owned(),
        addresses: outside(side, 0),
        config: NatConfig::port_restricted_cone()
            .with_ipv6_firewall(Filtering::AddressAndPortDependent),
        behind: None,
        link: Link::with_latency(Duration::from_millis(10)).bandwidth(rate, rate / 10),
    };
    let end = |side: usize| HostSpec {
        name: ["a", "b"][side].to_owned(),
        addresses: inside(side, 0),
        behind: Some(side),
        link: Link::default(),
        relay: false,
    };
    let relay = |i: usize| HostSpec {
        name: ["relay-1", "relay-2"][i].to_owned(),
        addresses: vec![
            IpAddr::from([203, 0, 113, 1 + i as u8]),
            IpAddr::from([0x2001, 0xdb8, 0, 100 + i as u16, 0, 0, 0, 1]),
        ],
        behind: None,
        link: Link::with_latency(Duration::from_millis(10)),
        relay: true,
    };
    Scenario {
        seed: options.seed,
        duration: Duration::from_secs_f64(last * 4.0 + 120.0),
        nats: vec![nat(0), nat(1)],
        hosts: vec![relay(0), relay(1), end(0), end(1)],
        events,
        traffic: vec![Traffic {
            at: Duration::ZERO,
            from: ENDS[0],
            to: ENDS[1],
            kind: TrafficKind::Transfer(options.bytes),
        }],
        expect: Expect {
            longest_stall_below: Some(STALL_LIMIT),
            ..Expect::default()
        },
    }
}

/// External addresses of a NAT; another each `time`. IPv6 is not translated.
fn outside(side: usize, time: u32) -> Vec<IpAddr> {
    let third = [51, 52][side];
    vec![IpAddr::from([
        198,
        third,
        (time / 200) as u8,
        1 + (time % 200) as u8,
    ])]
}

/// Addresses of an end; others each `time`.
fn inside(side: usize, time: u32) -> Vec<IpAddr> {
    let net = [10, 20][side];
    let last = 2 + (time % 200) as u8;
    vec![
        IpAddr::from([10, net, (time / 200) as u8, last]),
        IpAddr::from([0x2001, 0xdb8, 0, u16::from(net), 0, 0, 0, 2 + time as u16]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_decides_what_happens_and_every_fault_is_undone() {
        let options = Options {
            seed: 3,
            ..Options::default()
        };
        let made = scenario(options);
        assert_eq!(made, scenario(options));
        assert_ne!(made, scenario(Options { seed: 4, ..options }));
        let count = |is: fn(&Action) -> bool| made.events.iter().filter(|e| is(&e.action)).count();
        assert_eq!(
            count(|a| matches!(a, Action::Drop(..))),
            count(|a| matches!(a, Action::Pass(..)))
        );
        let starts = count(|a| matches!(a, Action::Start(_)));
        assert_eq!(count(|a| matches!(a, Action::Kill(_))), starts);
        let undone = starts + count(|a| matches!(a, Action::Pass(..)));
        assert_eq!(made.events.len() - undone, 50);
        assert!(made.events.is_sorted_by_key(|e| e.at));
    }
}
