//! Running the tests of `anyhop_proto::nat::classify` against connected peers, and being
//! the peer that others test against (`natcheck/1`).
//!
//! A node classifies its NATs as soon as it has a link to a peer that is not behind a NAT
//! itself, again in another network and when a second such peer makes more tests
//! possible, and every half hour. Afterwards it measures once per network how long its
//! mappings live, which takes minutes and ten sockets that mostly do nothing.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhop_proto::{
    is_virtual,
    nat::{
        Family, Mapping, Profile,
        check::{CHECK_PINGS, From, MAX_CHECK_FRAME, Request, Response},
        classify::{Classifier, Outcome, TEST_SOCKETS, Test},
    },
    probe::Probe,
};
use rand::RngExt;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Inner, nat::ask_external, protocols};
use crate::{
    StreamError,
    engine::{AuxSet, ProbePacket},
    session::Conn,
    stream::{RecvStream, SendStream, malformed, read_frame},
};

/// Longest wait for a responder's answer to a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long pings that were asked for are waited for on top of two round trips, and at most.
const PINGS_WAIT: Duration = Duration::from_millis(250);
/// See [`PINGS_WAIT`].
const PINGS_WAIT_MAX: Duration = Duration::from_millis(700);
/// Time between the pings that a request is answered with.
const PING_INTERVAL: Duration = Duration::from_millis(80);
/// How long another port stays open for one request.
const OTHER_PORT_OPEN: Duration = Duration::from_secs(10);
/// Wait before the NATs of the same network are looked at again.
const RECHECK: Duration = Duration::from_secs(1800);
/// The same when nothing could be found out.
const RECHECK_FAILED: Duration = Duration::from_secs(60);
/// Longest wait between looks for a responder.
const RESPONDER_POLL: Duration = Duration::from_secs(5);
/// After which silences a mapping is tried, seconds. The common timers lie between:
/// 30 s of netfilter's unreplied flows, 120 s of RFC 4787 REQ-5, 300 s as it recommends.
const SILENCES_S: [u64; 10] = [10, 20, 28, 40, 58, 85, 115, 150, 200, 290];

impl Inner {
    /// Keeps known what the NATs towards one family are like, as long as the node lives.
    pub(super) async fn keep_nat_known(self: Arc<Self>, family: Family) {
        let mut network = self.network();
        loop {
            let changes = network.borrow_and_update().changes;
            let responders = self.wait_for_responder(family).await;
            let found = self.classify(family).await;
            let wait = match found {
                Some(_) => RECHECK,
                None => RECHECK_FAILED,
            };
            let lifetime = async {
                if let Some(profile) = found {
                    self.measure_lifetime(family, &profile).await;
                }
                sleep(wait).await;
            };
            tokio::select! {
                changed = network.wait_for(|n| n.changes != changes) => {
                    self.nat.forget(family);
                    if changed.is_err() {
                        return;
                    }
                }
                () = self.more_responders(family, responders) => {}
                () = lifetime => {}
            }
        }
    }

    /// Waits until there is a peer to test against; answers how many there are at
    /// different addresses, two at most.
    async fn wait_for_responder(&self, family: Family) -> usize {
        loop {
            let changed = self.session_changed.notified();
            let responders = self.apart(family).len();
            if responders > 0 {
                return responders;
            }
            let _ = timeout(RESPONDER_POLL, changed).await;
        }
    }

    /// Waits until tests can find out more than `before` responders could.
    async fn more_responders(&self, family: Family, before: usize) {
        if before >= 2 {
            return std::future::pending().await;
        }
        while self.apart(family).len() <= before {
            let changed = self.session_changed.notified();
            let _ = timeout(RESPONDER_POLL, changed).await;
        }
    }

    /// Up to two responders at different addresses.
    fn apart(&self, family: Family) -> Vec<(Arc<Conn>, SocketAddr)> {
        let mut all = self.responders(family);
        let Some(first) = all.first().map(|(_, addr)| addr.ip()) else {
            return all;
        };
        let second = all.iter().position(|(_, addr)| addr.ip() != first);
        if let Some(second) = second {
            all.swap(1, second);
        }
        all.truncate(1 + usize::from(second.is_some()));
        all
    }

    /// Makes one run of tests and keeps what it shows. `None` when nobody answered.
    async fn classify(self: &Arc<Self>, family: Family) -> Option<Profile> {
        let responders = self.apart(family);
        let v4 = family == Family::V4;
        let aux = match AuxSet::open(&*self.host, &self.fabric, v4, TEST_SOCKETS) {
            Ok(aux) => aux,
            Err(e) => {
                tracing::debug!(error = %e, "no sockets to test the NAT with");
                return None;
            }
        };
        let local = (0..TEST_SOCKETS).filter_map(|n| aux.socket(n)?.local_addr().ok());
        let ports = local.map(|a| a.port()).collect();
        let own = self.host.interface_addresses().unwrap_or_default();
        let mut classifier = Classifier::new(responders.len(), own, ports);
        let mut run = Run {
            node: self,
            responders,
            aux,
            external: None,
            other: None,
        };
        while let Some(test) = classifier.test() {
            if matches!(test, Test::Hairpin { .. }) {
                // What comes now takes a while, and no ladder asks for it.
                self.nat.learn(family, classifier.profile());
                self.nat.quiet().await;
            }
            let outcome = run.perform(test).await;
            tracing::trace!(?test, ?outcome, "NAT test");
            classifier.handle_outcome(outcome);
        }
        let profile = classifier.profile();
        profile.mapping?;
        self.nat.learn(family, profile);
        tracing::debug!(?family, ?profile, "NAT classified");
        self.nat_changed();
        Some(profile)
    }

    /// Finds out how long a mapping lives that nothing is sent over: one socket for each
    /// silence, all at once. Once known for a network it is not measured again.
    async fn measure_lifetime(self: &Arc<Self>, family: Family, profile: &Profile) {
        let known = self.nat.profiles().of(family).lifetime.is_some();
        if known || profile.mapping == Some(Mapping::None) {
            return;
        }
        let (v4, count) = (family == Family::V4, SILENCES_S.len() as u16);
        let Some((conn, addr)) = self.apart(family).into_iter().next() else {
            return;
        };
        let Ok(mut aux) = AuxSet::open(&*self.host, &self.fabric, v4, count) else {
            return;
        };
        let began = Instant::now();
        let mut seen = Vec::new();
        for n in 0..count {
            self.nat.quiet().await;
            match ask_external(&conn, addr, &mut aux, n).await {
                Some(external) => seen.push((external, Instant::now())),
                None => return,
            }
        }
        let mut lived = None;
        for ((n, silence), (at, since)) in (0..).zip(SILENCES_S).zip(seen) {
            let silence = Duration::from_secs(silence);
            sleep_until(since + silence).await;
            match self.still_mapped(&conn, at, &mut aux, n).await {
                Some(true) => lived = Some(silence),
                Some(false) => break,
                None => return,
            }
        }
        tracing::debug!(?family, ?lived, took = ?began.elapsed(), "mapping lifetime measured");
        self.nat.set_lifetime(family, lived);
        self.nat_changed();
    }

    /// Whether a responder's ping still arrives at a mapping. `None` when it cannot be
    /// asked. A ping that gets lost must not pass for a dead mapping: more than one is
    /// sent.
    async fn still_mapped(
        &self,
        conn: &Arc<Conn>,
        at: SocketAddr,
        aux: &mut AuxSet,
        n: u16,
    ) -> Option<bool> {
        let from = From::SamePort;
        let (_send, _recv, _) = self.ask_for_pings(conn, Request { from, at }).await?;
        Some(arrives(aux, n, patience(conn), |packet| is_ping(conn, packet)).await)
    }

    /// Asks a peer to ping us. Answers the stream that keeps its other port open, and that
    /// port.
    async fn ask_for_pings(
        &self,
        conn: &Arc<Conn>,
        request: Request,
    ) -> Option<(SendStream, RecvStream, u16)> {
        let ask = async {
            let protocol = self.protocol(protocols::NATCHECK);
            let (mut send, mut recv) = conn.open_bi(&protocol, protocols::NATCHECK).await?;
            send.write_all(&request.encode()).await?;
            let frame = read_frame(&mut recv, MAX_CHECK_FRAME).await?;
            let response = Response::decode(&frame).map_err(|_| malformed(&mut recv))?;
            Ok::<_, StreamError>((send, recv, response))
        };
        match timeout(REQUEST_TIMEOUT, ask).await {
            Ok(Ok((send, recv, Response::Pinging { port }))) => Some((send, recv, port)),
            Ok(Ok((_, _, Response::Refused(reason)))) => {
                tracing::debug!(peer = %conn.peer, ?request, reason, "no test with it");
                None
            }
            Ok(Err(e)) => {
                tracing::debug!(peer = %conn.peer, error = %e, "no test with it");
                None
            }
            Err(_) => None,
        }
    }

    /// Pings a peer that asks for it, where it has shown itself.
    pub(super) async fn serve_natcheck(
        self: &Arc<Self>,
        conn: &Arc<Conn>,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), StreamError> {
        let frame = read_frame(&mut recv, MAX_CHECK_FRAME).await?;
        let request = Request::decode(&frame).map_err(|_| malformed(&mut recv))?;
        let target = self.admit_check(conn, request);
        let other = match (&target, request.from) {
            (Ok(at), From::OtherPort) => {
                let aux = AuxSet::open(&*self.host, &self.fabric, at.is_ipv4(), 1);
                Some(aux.map_err(|e| format!("no other port: {e}")))
            }
            _ => None,
        };
        let (at, mut other) = match (target, other.transpose()) {
            (Ok(at), Ok(other)) => (at, other),
            (Err(reason), _) | (_, Err(reason)) => {
                send.write_all(&Response::Refused(reason).encode()).await?;
                return send.finish();
            }
        };
        let local = other
            .as_ref()
            .and_then(|aux| aux.socket(0)?.local_addr().ok());
        let port = local.map_or(0, |a| a.port());
        send.write_all(&Response::Pinging { port }.encode()).await?;
        for _ in 0..CHECK_PINGS {
            let ping = conn.keys.seal(Probe::ping(rand::rng().random()));
            match &other {
                None => self.fabric.send_datagram(at, &ping),
                Some(aux) => aux.send(0, at, &ping, None),
            }
            sleep(PING_INTERVAL).await;
        }
        if let Some(aux) = &mut other {
            // Until the asker ends the stream.
            let mut rest = [0; 16];
            let _ = timeout(OTHER_PORT_OPEN, async {
                tokio::select! {
                    () = answer_pings(conn, aux) => {}
                    _ = recv.read(&mut rest) => {}
                }
            })
            .await;
        }
        send.finish()
    }

    /// Where to ping a peer that asks, or why not.
    fn admit_check(&self, conn: &Conn, request: Request) -> Result<SocketAddr, String> {
        let at = match request.from {
            From::SamePort | From::OtherPort if conn.has_shown_itself_at(request.at) => request.at,
            From::SamePort | From::OtherPort => {
                return Err(format!("{} has not pinged this node", request.at));
            }
            From::Unasked => {
                let paths = conn.paths.borrow();
                let mut direct = paths.direct.iter().filter(|a| !is_virtual(a));
                let at = direct.find(|a| a.ip() == request.at.ip());
                let at = at.ok_or("the session does not run over that address")?;
                SocketAddr::new(at.ip(), request.at.port())
            }
        };
        if !conn.may_check(at) {
            return Err("too many checks within a minute, or no ping since the last".to_owned());
        }
        Ok(at)
    }
}

/// A run of tests.
struct Run<'a> {
    node: &'a Arc<Inner>,
    responders: Vec<(Arc<Conn>, SocketAddr)>,
    aux: AuxSet,
    external: Option<SocketAddr>,
    /// Keeps the first responder's other port open.
    other: Option<(SendStream, RecvStream, u16)>,
}

impl Run<'_> {
    async fn perform(&mut self, test: Test) -> Outcome {
        let (first, first_addr) = self.responders[0].clone();
        match test {
            Test::Seen { socket, responder } => {
                let (conn, addr) = self.responders[responder].clone();
                let seen = ask_external(&conn, addr, &mut self.aux, socket).await;
                if (socket, responder) == (0, 0) {
                    self.external = seen;
                }
                Outcome::Seen(seen)
            }
            Test::OtherPort => {
                let Some(at) = self.external else {
                    return Outcome::Arrived(None);
                };
                let from = From::OtherPort;
                self.other = self.node.ask_for_pings(&first, Request { from, at }).await;
                if self.other.is_none() {
                    return Outcome::Arrived(None);
                }
                let wanted = |packet: &ProbePacket| {
                    is_ping(&first, packet)
                        && packet.from.ip() == first_addr.ip()
                        && packet.from.port() != first_addr.port()
                };
                Outcome::Arrived(Some(
                    arrives(&mut self.aux, 0, patience(&first), wanted).await,
                ))
            }
            Test::SeenByOtherPort => {
                let Some((.., port)) = self.other else {
                    return Outcome::Seen(None);
                };
                let addr = SocketAddr::new(first_addr.ip(), port);
                Outcome::Seen(ask_external(&first, addr, &mut self.aux, 0).await)
            }
            Test::Unasked {
                socket,
                responder,
                at,
            } => {
                let (conn, _) = self.responders[responder].clone();
                let from = From::Unasked;
                let asked = self.node.ask_for_pings(&conn, Request { from, at }).await;
                if asked.is_none() {
                    return Outcome::Arrived(None);
                }
                let wanted = |packet: &ProbePacket| is_ping(&conn, packet);
                Outcome::Arrived(Some(
                    arrives(&mut self.aux, socket, patience(&conn), wanted).await,
                ))
            }
            Test::Hairpin { at, back } => {
                let bytes = first.keys.seal(Probe::ping(rand::rng().random()));
                if let Some(back) = back {
                    self.aux.send(0, back, &bytes, None);
                    sleep(PING_INTERVAL).await;
                }
                self.aux.send(1, at, &bytes, None);
                let wanted = |packet: &ProbePacket| packet.bytes == bytes;
                Outcome::Arrived(Some(
                    arrives(&mut self.aux, 0, patience(&first), wanted).await,
                ))
            }
        }
    }
}

fn is_ping(conn: &Conn, packet: &ProbePacket) -> bool {
    let probe = conn.keys.open(&packet.bytes);
    matches!(probe, Some(Probe::Ping { .. }))
}

/// How long a peer's pings may take: both leave at once, and the answer that they do comes
/// over the session.
fn patience(conn: &Conn) -> Duration {
    let rtt = conn.paths.borrow().paths.first().map_or(0.0, |p| p.rtt_ms);
    let rtt = Duration::try_from_secs_f64(rtt / 1e3).unwrap_or_default();
    (PINGS_WAIT + 2 * rtt).min(PINGS_WAIT_MAX)
}

/// Waits for a probe of a kind on one socket.
async fn arrives(
    aux: &mut AuxSet,
    n: u16,
    patience: Duration,
    wanted: impl Fn(&ProbePacket) -> bool,
) -> bool {
    let waiting = async {
        while let Some(packet) = aux.recv().await {
            let on = packet.via.as_ref().and_then(|via| aux.number_of(via));
            if on == Some(n) && wanted(&packet) {
                return true;
            }
        }
        false
    };
    timeout(patience, waiting).await.unwrap_or(false)
}

/// Answers the pings that come in on another port.
async fn answer_pings(conn: &Conn, aux: &mut AuxSet) {
    while let Some(packet) = aux.recv().await {
        if let Some(Probe::Ping { nonce, .. }) = conn.keys.open(&packet.bytes) {
            conn.shows_itself_at(packet.from);
            let observed = packet.from;
            let pong = conn.keys.seal(Probe::Pong { nonce, observed });
            aux.send(0, packet.from, &pong, None);
        }
    }
}
