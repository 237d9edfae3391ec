//! Agreeing on an attempt at a direct path: both sides tell where they may be reached and
//! what their NATs are like, over the session, then ping at one time.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhop_base::Endpoint;
use anyhop_proto::{
    is_virtual,
    nat::{Allocation, Family, Profile},
    path::{
        AFTER_OPENERS, BEFORE_GUESSES, Candidate, CandidateKind, MAX_CANDIDATES, MAX_OFFER_FRAME,
        Offer, Prediction, PunchPlan, Step, Technique, birthday_ports,
        ladder::{BIRTHDAY_SOCKETS, Choice, PREDICTION_GUESSES, plan},
    },
};
use rand::RngExt;
use tokio::time::timeout;

use super::{Inner, protocols};
use crate::{
    StreamError,
    engine::AuxSet,
    session::{Command, Conn},
    stream::{RecvStream, SendStream, malformed, read_frame},
};

/// How long the exchange may take, the peer's measurements included.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of a peer that a socket of our own is opened towards: each costs a
/// foreseen port.
const MAX_AIMED: usize = 3;
/// Hops beyond our own NATs that a low-TTL opener travels.
const TTL_BEYOND: u8 = 2;

/// What both sides agreed on, and what this side got ready for it.
#[derive(Debug)]
pub(crate) struct Agreed {
    /// The technique, and the family it is for.
    pub(crate) choice: Choice,
    /// The peer's part.
    pub(crate) peer: Offer,
    /// Our auxiliary sockets.
    pub(crate) aux: Option<AuxSet>,
}

/// What one side needs before it can tell its part.
#[derive(Debug, Default)]
struct Ready {
    aux: Option<AuxSet>,
    prediction: Option<Prediction>,
}

/// Client side: proposes a technique. Answers what the peer told, if it told anything,
/// and the agreement or why there is none.
pub(crate) async fn propose(
    node: &Arc<Inner>,
    conn: &Arc<Conn>,
    choice: Choice,
) -> (Option<Offer>, Result<Agreed, String>) {
    let ready = match node.get_ready(choice).await {
        Ok(ready) => ready,
        Err(why) => return (None, Err(why)),
    };
    let offer = node.offer(choice, ready.prediction);
    let peer = match timeout(EXCHANGE_TIMEOUT, exchange(node, conn, &offer)).await {
        Err(_) => return (None, Err("the peer did not answer in time".to_owned())),
        Ok(Err(e)) => return (None, Err(e.to_string())),
        Ok(Ok(peer)) => peer,
    };
    if !peer.consent {
        let why = format!("the peer refused: {}", peer.reason);
        return (Some(peer), Err(why));
    }
    let agreed = Agreed {
        choice,
        peer: peer.clone(),
        aux: ready.aux,
    };
    (Some(peer), Ok(agreed))
}

async fn exchange(
    node: &Arc<Inner>,
    conn: &Arc<Conn>,
    offer: &Offer,
) -> Result<Offer, StreamError> {
    let protocol = node.protocol(protocols::PUNCH);
    let (mut send, mut recv) = conn.open_bi(&protocol, protocols::PUNCH).await?;
    send.write_all(&offer.encode()).await?;
    send.finish()?;
    read_offer(&mut recv).await
}

/// Server side: answers with our part and starts to ping the peer's addresses.
pub(crate) async fn serve(
    node: Arc<Inner>,
    conn: Arc<Conn>,
    mut send: SendStream,
    mut recv: RecvStream,
) -> Result<(), StreamError> {
    let peer = read_offer(&mut recv).await?;
    let choice = (peer.technique, peer.family);
    let ready = match node.consents(&conn, &peer) {
        Ok(()) => node.get_ready(choice).await,
        Err(why) => Err(why),
    };
    let (answer, ready) = match ready {
        Ok(ready) => (node.offer(choice, ready.prediction), Some(ready)),
        Err(reason) => {
            let refusal = Offer {
                consent: false,
                reason,
                ..node.offer(choice, None)
            };
            (refusal, None)
        }
    };
    send.write_all(&answer.encode()).await?;
    send.finish()?;
    if let Some(Ready { aux, .. }) = ready {
        let agreed = Agreed { choice, peer, aux };
        // A full queue drops the attempt; the client tries again.
        let _ = conn.commands.try_send(Command::Punch(Box::new(agreed)));
    }
    Ok(())
}

async fn read_offer(recv: &mut RecvStream) -> Result<Offer, StreamError> {
    let frame = read_frame(recv, MAX_OFFER_FRAME).await?;
    Offer::decode(&frame).map_err(|_| malformed(recv))
}

/// The families of a peer's candidates.
pub(crate) fn families_of(candidates: &[Candidate]) -> Vec<Family> {
    let has = |f: &Family| candidates.iter().any(|c| Family::of(&c.addr) == *f);
    [Family::V4, Family::V6].into_iter().filter(has).collect()
}

impl Agreed {
    /// What this side does, from `now` on; `rtt_half` is how long our answer takes to
    /// reach the peer (zero for the client).
    pub(crate) fn plan(
        &self,
        node: &Inner,
        client: bool,
        now: Instant,
        rtt_half: Duration,
    ) -> Result<PunchPlan, String> {
        let (technique, family) = self.choice;
        let own = *node.nat.profiles().of(family);
        let seed = rand::rng().random();
        let sockets = self.aux.as_ref().map_or(0, |_| match technique {
            Technique::Birthday => BIRTHDAY_SOCKETS,
            _ => 1,
        });
        let opener = match technique {
            Technique::LowTtlServer => Some(!client),
            Technique::LowTtlClient => Some(client),
            _ => None,
        };
        let delay = match (technique, opener) {
            (_, Some(false)) => AFTER_OPENERS,
            (Technique::Birthday, _) if sockets == 0 => BEFORE_GUESSES,
            _ => Duration::ZERO,
        };
        Ok(PunchPlan {
            technique,
            client,
            start: now + rtt_half + delay,
            targets: self.targets(node, sockets > 0, seed)?,
            sockets,
            ttl: (opener == Some(true)).then(|| own.layers.unwrap_or(1) + TTL_BEYOND),
            seed,
        })
    }

    /// Whom to ping. Guesses are made only at an address that the peer itself named, and at
    /// no port of it that somebody has pinged from: an earlier mapping, no new one, and what
    /// may go there before it answers is spent.
    fn targets(&self, node: &Inner, many: bool, seed: u64) -> Result<Vec<SocketAddr>, String> {
        let (technique, family) = self.choice;
        let candidates = self.peer.candidates.iter().map(|c| c.addr);
        let usable: Vec<_> = candidates.filter(|c| node.may_probe(c)).collect();
        if !technique.is_of_family() {
            return Ok(usable);
        }
        let mut outside: Vec<_> = usable
            .iter()
            .copied()
            .filter(|a| Family::of(a) == family && !is_private(a.ip()))
            .collect();
        let nowhere = || "the peer has no public address".to_owned();
        if let Some(prediction) = &self.peer.prediction {
            if !outside.iter().any(|a| a.ip() == prediction.ip) {
                return Err(format!(
                    "the peer foretells ports of {}, which is none of its addresses",
                    prediction.ip
                ));
            }
            return Ok(node.unspoken(prediction.addresses()));
        }
        if !technique.guesses() {
            let of_family = usable.into_iter().filter(|a| Family::of(a) == family);
            return Ok(of_family.collect());
        }
        let ip = outside.first().ok_or_else(nowhere)?.ip();
        if technique == Technique::Birthday && !many {
            let ports = birthday_ports(seed).into_iter();
            let guesses = ports.map(|port| SocketAddr::new(ip, port)).collect();
            return Ok(node.unspoken(guesses));
        }
        outside.truncate(MAX_AIMED);
        Ok(outside)
    }
}

impl Inner {
    /// Our part of an agreement.
    fn offer(&self, (technique, family): Choice, prediction: Option<Prediction>) -> Offer {
        Offer {
            technique,
            family,
            consent: true,
            reason: String::new(),
            candidates: if self.config.direct_paths {
                self.candidates()
            } else {
                Vec::new()
            },
            profiles: self.nat.profiles(),
            prediction,
        }
    }

    /// Whether to take part in what a peer proposes.
    fn consents(&self, conn: &Conn, peer: &Offer) -> Result<(), String> {
        if !self.config.direct_paths {
            return Err("direct paths are switched off here".to_owned());
        }
        let choice = (peer.technique, peer.family);
        let theirs = families_of(&peer.candidates);
        let mut families = self.families();
        families.retain(|f| theirs.contains(f));
        let steps = plan(&families, &peer.profiles, &self.nat.profiles());
        let hopeless = steps.iter().find_map(|s| match s {
            Step::Skip(_, why) => Some(*why),
            Step::Try(_) => None,
        });
        let same = |c: &Choice| c.0 == choice.0 && (c.1 == choice.1 || !c.0.is_of_family());
        if !steps.iter().any(|s| matches!(s, Step::Try(c) if same(c))) {
            let why = hopeless.unwrap_or("another technique suits the two NATs better");
            return Err(why.to_owned());
        }
        if choice.0.guesses() {
            self.nat.admit_guesses(conn.peer, choice.0)?;
        }
        Ok(())
    }

    /// Opens the sockets and takes the measurements that our part needs.
    async fn get_ready(self: &Arc<Self>, (technique, family): Choice) -> Result<Ready, String> {
        let own = *self.nat.profiles().of(family);
        let open = |count| {
            AuxSet::open(&*self.host, &self.fabric, family == Family::V4, count)
                .map_err(|e| format!("{count} auxiliary sockets cannot be opened: {e}"))
        };
        if matches!(technique, Technique::LowTtlServer | Technique::LowTtlClient) {
            return Ok(self.freshen(family, open(1)?).await);
        }
        if !technique.guesses() || !own.is_hard() {
            return Ok(Ready::default());
        }
        if technique == Technique::Birthday {
            let aux = Some(open(BIRTHDAY_SOCKETS)?);
            return Ok(Ready {
                aux,
                prediction: None,
            });
        }
        self.nat.keep_quiet();
        let mut aux = open(1)?;
        let prediction = Some(self.foresee(&own, family, &mut aux).await?);
        let aux = Some(aux);
        Ok(Ready { aux, prediction })
    }

    /// Shows a fresh socket to a peer that can tell where it is seen. Without one the main
    /// socket has to do.
    async fn freshen(&self, family: Family, mut aux: AuxSet) -> Ready {
        match self.external_of(&mut aux, 0, family).await {
            Ok(external) => Ready {
                aux: Some(aux),
                prediction: Some(Prediction {
                    ip: external.ip(),
                    first: external.port(),
                    step: 1,
                    count: 1,
                }),
            },
            Err(reason) => {
                tracing::debug!(reason, "no fresh socket for low-TTL openers");
                Ready::default()
            }
        }
    }

    /// Which external port the next mapping of a fresh socket will have.
    async fn foresee(
        self: &Arc<Self>,
        own: &Profile,
        family: Family,
        aux: &mut AuxSet,
    ) -> Result<Prediction, String> {
        match own.allocation {
            Some(Allocation::Sequential { step }) => {
                let last = self.external_of(aux, 0, family).await?;
                let first = i32::from(last.port()) + i32::from(step);
                let first = u16::try_from(first).ok().filter(|p| *p != 0);
                Ok(Prediction {
                    ip: last.ip(),
                    first: first.ok_or("the NAT's ports begin anew: no telling where")?,
                    step,
                    count: PREDICTION_GUESSES,
                })
            }
            // The socket must not have sent before: only its first mapping has its port.
            Some(Allocation::Preserving) => {
                let local = aux.socket(0).and_then(|s| s.local_addr().ok());
                let external = own.external.or_else(|| {
                    let mut observed = self.observed_addrs().into_iter();
                    observed.find(|a| Family::of(a) == family)
                });
                Ok(Prediction {
                    ip: external.ok_or("nobody has told our external address")?.ip(),
                    first: local.ok_or("the socket has no address")?.port(),
                    step: 1,
                    count: 1,
                })
            }
            _ => Err("this side's NAT cannot be foreseen".to_owned()),
        }
    }

    /// The addresses that no connected peer has pinged this node from.
    fn unspoken(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let conns = self.current_conns();
        let spoken: BTreeSet<_> = conns.iter().flat_map(|c| c.spoken_for()).collect();
        addresses.retain(|a| !spoken.contains(a));
        addresses
    }

    /// The families that this node may be reached over.
    pub(crate) fn families(&self) -> Vec<Family> {
        families_of(&self.candidates())
    }

    /// Where this node may be reached: as others see it, then its own interfaces.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        let observed = self.observed_addrs();
        let mut out: Vec<Candidate> = Vec::new();
        let mut add = |addr, kind| {
            if out.len() < MAX_CANDIDATES && !out.iter().any(|c| c.addr == addr) {
                out.push(Candidate { addr, kind });
            }
        };
        for addr in &observed {
            add(*addr, CandidateKind::Observed);
        }
        for addr in self.mapped_endpoints().iter().filter_map(Endpoint::udp) {
            add(addr, CandidateKind::Mapped);
        }
        for addr in self.listen_addrs() {
            if !is_loopback_only(&addr, &observed) {
                add(addr, CandidateKind::Interface);
            }
        }
        out
    }

    /// Whether an address is in a private network of ours.
    pub(crate) fn is_lan(&self, addr: &SocketAddr) -> bool {
        let own = self.listen_addrs();
        is_private(addr.ip()) && own.iter().any(|o| near(o.ip(), addr.ip()))
    }

    /// Whether to send to an address a peer told. A private one may belong to somebody
    /// else where we are, unless we are seen near it.
    pub(crate) fn may_probe(&self, addr: &SocketAddr) -> bool {
        self.fabric.can_reach(addr) && self.is_near_or_public(addr)
    }

    /// Whether this node has a socket for an endpoint. TCP finds its own.
    pub(super) fn can_reach(&self, endpoint: &Endpoint) -> bool {
        let addr = endpoint.addr();
        match endpoint {
            Endpoint::Udp(_) => self.fabric.can_reach(&addr),
            Endpoint::Ws { .. } => !is_virtual(&addr),
        }
    }

    /// Whether an address means the same host here as where it was told.
    pub(super) fn is_near_or_public(&self, addr: &SocketAddr) -> bool {
        let mut own = self.observed_addrs();
        own.extend(self.listen_addrs());
        !is_private(addr.ip()) || own.iter().any(|o| near(o.ip(), addr.ip()))
    }
}

/// Whether two addresses may be in one private network: the same /16, or /48 for IPv6.
pub(super) fn near(a: IpAddr, b: IpAddr) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.octets()[..2] == b.octets()[..2],
        (IpAddr::V6(a), IpAddr::V6(b)) => a.segments()[..3] == b.segments()[..3],
        _ => false,
    }
}

/// Addresses that name different hosts in different places.
pub(super) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            // 100.64.0.0/10 is a carrier's inside (RFC 6598).
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

/// Loopback is a candidate only for a node that nobody sees elsewhere.
fn is_loopback_only(addr: &SocketAddr, observed: &[SocketAddr]) -> bool {
    let is_loopback = |ip: IpAddr| ip.is_loopback();
    is_loopback(addr.ip()) && observed.iter().any(|o| !is_loopback(o.ip()))
}
