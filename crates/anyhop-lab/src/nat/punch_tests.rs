//! Two punchers over two boxes that block whom they did not expect: which technique gets
//! through depends on who sends first, and on whose opener goes far enough.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhop_proto::path::{PunchAction, PunchPlan, Puncher, Technique};

use super::{Nat, NatConfig};

const MS: Duration = Duration::from_millis(1);
/// From one box to the other.
const LATENCY: Duration = Duration::from_millis(10);
/// Longer than an attempt.
const END: Duration = Duration::from_secs(4);

fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[derive(Debug, Clone, Copy)]
enum Says {
    Ping { nonce: u64, nominate: bool },
    Pong { nonce: u64 },
}

struct Side {
    inside: SocketAddr,
    outside: SocketAddr,
    nat: Nat,
    puncher: Puncher,
    reached: bool,
}

impl Side {
    /// `late` is how much after the other side it starts; `ttl` counts its openers' hops.
    fn new(
        now: Instant,
        n: u8,
        technique: Technique,
        config: NatConfig,
        late: Duration,
        ttl: Option<u8>,
    ) -> Self {
        let inside = SocketAddr::from(([10, 0, n, 2], 4001));
        let wan = [198, 51, 100, n].into();
        let other = SocketAddr::from(([198, 51, 100, 3 - n], 4001));
        let plan = PunchPlan {
            technique,
            client: n == 1,
            start: now + late,
            targets: vec![other],
            sockets: 0,
            ttl,
            seed: u64::from(n),
        };
        Self {
            inside,
            outside: SocketAddr::new(wan, 4001),
            nat: Nat::new(config, &[wan], 1),
            puncher: Puncher::new(now, plan),
            reached: false,
        }
    }
}

/// A packet that arrives outside of side `to` at a time.
type Flight = (Instant, usize, SocketAddr, Says);

/// Plays until the client has got there or all is over; answers whether it has.
fn connects(start: Instant, mut sides: [Side; 2]) -> bool {
    let mut flights: Vec<Flight> = Vec::new();
    let mut now = start;
    while now < start + END && !sides[0].reached {
        let (arrived, on) = flights.into_iter().partition(|f| f.0 <= now);
        flights = on;
        let arrived: Vec<Flight> = arrived;
        for (_, to, src, says) in arrived {
            let side = &mut sides[to];
            if side.nat.inbound(now, src, side.outside) != Ok(side.inside) {
                continue;
            }
            match says {
                Says::Ping { nonce, nominate } => {
                    side.puncher
                        .handle_ping(anyhop_proto::path::Local::Main, src, nominate);
                    let pong = Says::Pong { nonce };
                    flights.extend(leave(side, now, 1 - to, src, pong, None));
                }
                Says::Pong { nonce } => side.puncher.handle_pong(now, src, nonce),
            }
        }
        for (n, side) in sides.iter_mut().enumerate() {
            side.puncher.handle_timeout(now);
            while let Some(action) = side.puncher.poll_action() {
                match action {
                    PunchAction::Ping {
                        to,
                        nonce,
                        nominate,
                        ttl,
                        ..
                    } => {
                        let ping = Says::Ping { nonce, nominate };
                        flights.extend(leave(side, now, 1 - n, to, ping, ttl));
                    }
                    PunchAction::Reached { .. } => side.reached = true,
                    PunchAction::Failed => {}
                }
            }
        }
        now += MS;
    }
    sides[0].reached
}

/// One hop is the side's own box, which a packet must have left to open it; openers never
/// come as far as the other one.
fn leave(
    side: &mut Side,
    now: Instant,
    to: usize,
    dst: SocketAddr,
    says: Says,
    ttl: Option<u8>,
) -> Option<Flight> {
    if ttl.is_some_and(|ttl| ttl < 2) {
        return None;
    }
    let src = side.nat.outbound(now, side.inside, dst).ok()?;
    ttl.is_none().then_some((now + LATENCY, to, src, says))
}

#[test]
fn low_ttl_openers_get_through_where_a_plain_punch_does_not() {
    use Technique::{LowTtlClient, LowTtlServer, Punch};
    let strict = NatConfig::port_restricted_cone;
    let blocking = || strict().with_unsolicited_blocked(Duration::from_secs(60));
    let (enough, too_few) = (3, 1);
    let table = [
        // Technique, client's box, server's box, client later than server, hops, connects.
        (Punch, strict(), strict(), 0, enough, true),
        (Punch, strict(), strict(), 50, enough, true),
        (Punch, blocking(), blocking(), 0, enough, true),
        // Later than a packet takes: what comes in before the box has sent blocks the rest.
        (Punch, blocking(), strict(), 50, enough, false),
        (Punch, strict(), blocking(), 50, enough, true),
        (LowTtlServer, blocking(), strict(), 50, enough, true),
        (LowTtlServer, strict(), blocking(), 50, enough, true),
        (LowTtlServer, blocking(), blocking(), 50, enough, true),
        // An opener that does not leave its own box leaves it as shut as before.
        (LowTtlServer, strict(), blocking(), 0, too_few, false),
        (LowTtlClient, strict(), blocking(), 0, enough, true),
        (LowTtlClient, blocking(), blocking(), 0, enough, true),
    ];
    for (technique, client, server, late_ms, ttl, expected) in table {
        let what = format!("{technique:?} {late_ms} ms later, {ttl} hops: {client:?} {server:?}");
        let now = start();
        let late = MS * late_ms;
        let after = anyhop_proto::path::AFTER_OPENERS;
        let (client_waits, server_waits) = match technique {
            LowTtlServer => (after, Duration::ZERO),
            LowTtlClient => (Duration::ZERO, after),
            _ => (Duration::ZERO, Duration::ZERO),
        };
        let ttl_of = |opener| (technique == opener).then_some(ttl);
        let sides = [
            Side::new(
                now,
                1,
                technique,
                client,
                late + client_waits,
                ttl_of(LowTtlClient),
            ),
            Side::new(
                now,
                2,
                technique,
                server,
                server_waits,
                ttl_of(LowTtlServer),
            ),
        ];
        assert_eq!(connects(now, sides), expected, "{what}");
    }
}
