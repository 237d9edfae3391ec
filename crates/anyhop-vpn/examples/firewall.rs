//! What the firewall costs for each packet: of a flow that is known, of flows in turn, and of
//! new ones under many rules. `cargo run --release -p anyhop-vpn --example firewall`

#![expect(clippy::disallowed_methods, reason = "it measures real time")]

use std::time::Instant;

use anyhop_base::{Direction, Keypair};
use anyhop_vpn::firewall::{Caller, Firewall, MAX_LOCAL_RULES, RuleSet, Rules};

const PACKETS: u32 = 5_000_000;
const SLOT: u32 = 1;

/// A UDP packet to this host, from this port.
fn packet(port: u16) -> [u8; 28] {
    let mut packet = [0; 28];
    packet[0] = 0x45;
    (packet[3], packet[9]) = (28, 17);
    packet[12..20].copy_from_slice(&[100, 64, 0, 2, 100, 64, 0, 1]);
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet
}

fn measure(what: &str, rules: usize, flows: u32) {
    let deny = "deny in name:nobody udp 53".parse().expect("a rule");
    let local = RuleSet {
        default: None,
        rules: vec![(1, deny); rules],
    };
    let mut firewall = Firewall::new(Rules {
        local,
        ..Rules::default()
    });
    let key = Keypair::generate_ed25519();
    let caller = Caller {
        peer: key.public().to_peer_id(),
        name: "laptop".to_owned(),
        role: None,
    };
    firewall.set_peer(SLOT, caller);
    let packets: Vec<_> = (0..flows).map(|n| packet(n as u16)).collect();
    let (now, mut passed) = (Instant::now(), 0);
    for packet in packets.iter().cycle().take(PACKETS as usize) {
        passed += u32::from(firewall.admits(now, Direction::In, SLOT, packet));
    }
    let ns = now.elapsed().as_nanos() as f64 / f64::from(PACKETS);
    assert_eq!(passed, PACKETS);
    println!("{what:<44} {ns:6.1} ns a packet");
}

fn main() {
    measure("one flow", 0, 1);
    measure("4096 flows in turn", 0, 4096);
    measure("new flows, the oldest evicted each time", 0, 65_536);
    measure("new flows, under the most rules", MAX_LOCAL_RULES, 65_536);
}
