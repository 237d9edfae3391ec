//! What nodes know of each other: signed records, told on every session and asked for
//! when a peer is to be dialled.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhop_base::{
    Attachment, Endpoint, Multiaddr, PeerAddr, PeerId, Reachability, Record, RecordError,
    SignedRecord, dialable, parse_multiaddr,
    record::{MAX_ATTACHMENT_ADDRESSES, MAX_ATTACHMENTS, MAX_RECORD_ADDRESSES},
};
use anyhop_proto::{
    circuit::LinkId,
    control::{Answer, Hello, MAX_CONTROL_FRAME, MAX_RELATED, Query},
    nat::{Family, Filtering},
    route::needed,
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    Inner, accept::refuse, clocks::Clocks, families::interleave, protocols, punch::is_private,
};
use crate::{
    Event, StreamError,
    engine::Connection,
    session::Conn,
    stream::{RecvStream, SendStream, code, encode_protocol, malformed, read_frame},
};

/// Records of others kept; the one that expires first makes room.
const MAX_RECORDS: usize = 16_384;
/// Addresses of one peer, told by hand.
const MAX_MANUAL_ADDRESSES: usize = 8;
/// Addresses told of one of our attachments.
pub(super) const MAX_ATTACHMENT_ENDPOINTS: usize = MAX_ATTACHMENT_ADDRESSES;
/// Peers with addresses told by hand.
const MAX_MANUAL_PEERS: usize = 1024;
/// WebSocket addresses in our own record.
const MAX_RECORD_WEBSOCKETS: usize = 4;
/// Lifetime of our own record; it is renewed at half of that.
pub(super) const RECORD_LIFETIME_S: u64 = 3600;
/// Changes of our record within this time go out as one.
const RECORD_DEBOUNCE: Duration = Duration::from_millis(20);
/// Peers asked for a record at once.
const MAX_ASKED: usize = 8;
/// How long a lookup may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// Times a lookup is tried while nobody answers.
const LOOKUPS: u32 = 3;
/// Observed addresses told to others, per node.
const MAX_OBSERVED: usize = 8;

/// Wall-clock time that follows tokio's clock, so that a simulated run has one time.
#[derive(Debug)]
pub(super) struct WallClock {
    system: SystemTime,
    instant: Instant,
}

impl WallClock {
    pub(super) fn new() -> Self {
        Self {
            system: SystemTime::now(),
            instant: Instant::now(),
        }
    }

    fn unix_ms(&self) -> u64 {
        let now = self.system + self.instant.elapsed();
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Everything known about where peers are.
#[derive(Debug, Default)]
pub(super) struct Book {
    records: HashMap<PeerId, SignedRecord>,
    manual: BTreeMap<PeerId, Vec<Endpoint>>,
    /// How each link's peer sees us.
    observed: BTreeMap<LinkId, SocketAddr>,
    /// Relays we keep links to, and their addresses.
    attachments: BTreeMap<PeerId, Vec<Endpoint>>,
    /// Prefixes that this node forwards to.
    offers: Vec<(IpAddr, u8)>,
    /// What records tell about the clocks of their peers.
    pub(super) clocks: Clocks,
    own: Option<SignedRecord>,
    last_seq: u64,
}

impl Book {
    pub(super) fn peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.records.keys().chain(self.manual.keys()).copied()
    }

    pub(super) fn attachments(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.attachments.keys().copied()
    }

    /// Attachments and where their relays may be dialled.
    pub(super) fn attached_at(&self) -> impl Iterator<Item = (PeerId, &[Endpoint])> + '_ {
        self.attachments.iter().map(|(peer, at)| (*peer, &**at))
    }

    /// Whether a peer relays for this node as far as is known: it says so to everybody, or let
    /// this node attach to it, or nothing is known of it.
    pub(super) fn may_relay(&self, peer: PeerId) -> bool {
        let record = self.record(peer);
        record.is_none_or(|r| r.relays_for_others) || self.attachments.contains_key(&peer)
    }

    /// What a peer said last, whether or not its time is over.
    pub(super) fn record(&self, peer: PeerId) -> Option<&Record> {
        self.records.get(&peer).map(SignedRecord::record)
    }

    /// A peer's record that still holds.
    pub(super) fn signed(&self, peer: PeerId, now_unix_s: u64) -> Option<&SignedRecord> {
        let known = self.records.get(&peer);
        known.filter(|r| r.record().expires_unix_s > now_unix_s)
    }

    /// The relays that a peer says it is attached to.
    pub(super) fn attachments_of(&self, peer: PeerId, now_unix_s: u64) -> Vec<PeerId> {
        let record = self.signed(peer, now_unix_s).map(SignedRecord::record);
        let attachments = record.map(|r| r.attachments.iter());
        attachments.into_iter().flatten().map(|a| a.relay).collect()
    }

    fn observed(&self) -> Vec<SocketAddr> {
        let mut seen: Vec<SocketAddr> = Vec::new();
        for addr in self.observed.values().rev() {
            if !seen.contains(addr) && seen.len() < MAX_OBSERVED {
                seen.push(*addr);
            }
        }
        seen
    }

    /// Keeps a record that is newer than what is known. True when it says something else.
    fn insert(&mut self, record: SignedRecord) -> bool {
        let peer = record.record().peer;
        let known = self.records.get(&peer);
        if known.is_some_and(|k| !record.is_newer_than(k)) {
            return false;
        }
        let news = known.is_none_or(|k| !k.record().says_the_same(record.record()));
        if known.is_none() && self.records.len() >= MAX_RECORDS {
            let soonest = self
                .records
                .iter()
                .min_by_key(|(_, r)| r.record().expires_unix_s)
                .map(|(peer, _)| *peer);
            if let Some(soonest) = soonest {
                self.records.remove(&soonest);
            }
        }
        self.records.insert(peer, record);
        news
    }
}

/// What is known of a peer that is to be dialled.
#[derive(Debug, Default, Clone)]
pub(super) struct Whereabouts {
    /// Addresses to dial directly, told by hand.
    pub(super) direct: Vec<Endpoint>,
    /// Addresses to dial directly, told by the peer.
    pub(super) told: Vec<Endpoint>,
    /// Relays to reach it through, with their addresses.
    pub(super) relays: Vec<(PeerId, Vec<Endpoint>)>,
    /// Whether it says it cannot be dialled directly.
    pub(super) behind_nat: bool,
}

impl Whereabouts {
    pub(super) fn add_record(&mut self, record: &Record) {
        self.behind_nat = record.reachability == Reachability::BehindNat;
        for addr in endpoints(&record.addresses) {
            if !self.told.contains(&addr) {
                self.told.push(addr);
            }
        }
        for attachment in &record.attachments {
            self.add_relay(attachment.relay, endpoints(&attachment.addresses));
        }
    }

    fn add_direct(&mut self, addr: Endpoint) {
        if !self.direct.contains(&addr) {
            self.direct.push(addr);
        }
    }

    fn add_relay(&mut self, relay: PeerId, addresses: Vec<Endpoint>) {
        match self.relays.iter_mut().find(|(peer, _)| *peer == relay) {
            Some((_, known)) if known.is_empty() => *known = addresses,
            Some(_) => {}
            None => self.relays.push((relay, addresses)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.direct.is_empty() && self.told.is_empty() && self.relays.is_empty()
    }
}

pub(super) fn endpoints(addresses: &[anyhop_base::Multiaddr]) -> Vec<Endpoint> {
    addresses
        .iter()
        .filter_map(|a| parse_multiaddr(a).ok())
        .map(|(addr, _)| addr)
        .collect()
}

impl Inner {
    pub(crate) fn now_unix_s(&self) -> u64 {
        self.clock.unix_ms() / 1000
    }

    /// Where others see this node, newest link first.
    pub(crate) fn observed_addrs(&self) -> Vec<SocketAddr> {
        self.book().observed()
    }

    /// A peer told how it sees us over a link.
    pub(crate) fn observed(&self, link: LinkId, addr: SocketAddr) {
        if dialable(addr).is_err() {
            return;
        }
        let before = {
            let mut book = self.book();
            let before = book.observed();
            book.observed.insert(link, addr);
            (before != book.observed()).then_some(())
        };
        if before.is_some() {
            self.record_changed();
        }
    }

    pub(super) fn forget_observation(&self, link: LinkId) {
        self.book().observed.remove(&link);
    }

    /// Where others saw this node when it was elsewhere.
    pub(super) fn forget_observations(&self) {
        self.book().observed.clear();
    }

    /// Remembers an address told by hand.
    pub(crate) fn remember(&self, peer: PeerId, addr: Endpoint) {
        let mut book = self.book();
        if book.manual.len() >= MAX_MANUAL_PEERS && !book.manual.contains_key(&peer) {
            book.manual.pop_first();
        }
        let known = book.manual.entry(peer).or_default();
        if !known.contains(&addr) {
            known.insert(0, addr);
            known.truncate(MAX_MANUAL_ADDRESSES);
        }
    }

    pub(super) fn set_attachment(&self, relay: PeerId, addresses: Option<Vec<Endpoint>>) {
        {
            let mut book = self.book();
            match addresses {
                Some(addresses) => book.attachments.insert(relay, addresses),
                None => book.attachments.remove(&relay),
            };
        }
        self.attachments_changed.notify_one();
        self.record_changed();
    }

    pub(crate) fn record_changed(&self) {
        self.record_dirty.notify_one();
    }

    /// Whether strangers can dial this node, as far as it shows.
    pub(crate) fn reachability(&self) -> Reachability {
        if self.has_verified_mapping() {
            return Reachability::Public;
        }
        let observed = self.observed_addrs();
        let own = self.listen_addrs();
        if observed.is_empty() {
            return Reachability::Unknown;
        }
        let own_seen = observed.iter().filter(|o| own.contains(o));
        let filters: Vec<_> = own_seen
            .map(|o| self.nat.profiles().of(Family::of(o)).filtering)
            .collect();
        // An address of our own that others see may still be behind a filter.
        if filters.contains(&Some(Filtering::None)) {
            Reachability::Public
        } else if filters.contains(&None) {
            Reachability::Unknown
        } else {
            Reachability::BehindNat
        }
    }

    /// Where connected peers that strangers can dial are, by their own word.
    pub(super) fn public_contacts(&self, max: usize) -> Vec<PeerAddr> {
        let conns = self.current_conns();
        let book = self.book();
        let records = conns.iter().filter_map(|c| book.record(c.peer));
        let public = records.filter(|r| r.reachability == Reachability::Public);
        let contacts = public.flat_map(|record| {
            let endpoints = endpoints(&record.addresses).into_iter();
            let dialable = endpoints.filter(|e| !is_private(e.addr().ip()));
            dialable.filter_map(|e| PeerAddr::at(record.peer, e).ok())
        });
        contacts.take(max).collect()
    }

    /// What a peer's record says of its reachability.
    pub(super) fn told_reachability(&self, peer: PeerId) -> Option<Reachability> {
        let book = self.book();
        let record = book.records.get(&peer)?;
        Some(record.record().reachability)
    }

    /// Our record as it would be now.
    fn make_record(&self) -> Record {
        let reachability = self.reachability();
        let own = self.listen_addrs();
        // In front of the interfaces' addresses, which may be too many for a record.
        let websockets = self.websocket_endpoints().into_iter();
        let websockets = websockets.take(MAX_RECORD_WEBSOCKETS);
        let observed = self.observed_addrs().into_iter().map(Endpoint::Udp);
        let addresses = self
            .mapped_endpoints()
            .into_iter()
            .chain(observed)
            .chain(websockets)
            .chain(own.into_iter().map(Endpoint::Udp));
        let mut known = Vec::new();
        for multiaddr in addresses.filter_map(|a| a.to_multiaddr().ok()) {
            if !known.contains(&multiaddr) && known.len() < MAX_RECORD_ADDRESSES {
                known.push(multiaddr);
            }
        }
        let attachments = self.book().attachments.clone();
        Record {
            peer: self.me,
            seq: 0,
            expires_unix_s: 0,
            addresses: known,
            attachments: attachments
                .into_iter()
                .take(MAX_ATTACHMENTS)
                .map(|(relay, dialled)| Attachment {
                    relay,
                    addresses: self.attachment_addresses(relay, dialled),
                })
                .collect(),
            reachability,
            relays_for_others: self.offers_relaying(),
            offers: self.book().offers.clone(),
        }
    }

    /// Tells others to which prefixes this node forwards.
    pub(crate) fn set_offers(&self, offers: Vec<(IpAddr, u8)>) {
        let changed = {
            let mut book = self.book();
            let changed = book.offers != offers;
            book.offers = offers;
            changed
        };
        if changed {
            self.record_changed();
        }
    }

    /// To which prefixes a peer forwards, as it says; `None` while nothing is known of it.
    pub(crate) fn offers_of(&self, peer: PeerId) -> Option<Vec<(IpAddr, u8)>> {
        let now_unix_s = self.now_unix_s();
        let book = self.book();
        Some(book.signed(peer, now_unix_s)?.record().offers.clone())
    }

    /// Where others may dial a relay of ours: where we did, and what it tells of itself that
    /// means the same elsewhere, a WebSocket before all else, since who needs one has no
    /// other way.
    fn attachment_addresses(&self, relay: PeerId, dialled: Vec<Endpoint>) -> Vec<Multiaddr> {
        let told = {
            let book = self.book();
            let record = book.records.get(&relay);
            record.map_or_else(Vec::new, |r| endpoints(&r.record().addresses))
        };
        let told = told.into_iter().filter(|e| !is_private(e.addr().ip()));
        let (udp, mut rest): (Vec<_>, Vec<_>) = told.partition(|e| e.udp().is_some());
        let udp = interleave(udp, true);
        let others = rest.split_off(rest.len().min(1));
        let mut addresses = Vec::new();
        for endpoint in dialled.into_iter().chain(rest).chain(udp).chain(others) {
            let multiaddr = endpoint.to_multiaddr().ok();
            if let Some(multiaddr) = multiaddr.filter(|m| !addresses.contains(m)) {
                addresses.push(multiaddr);
            }
        }
        addresses.truncate(MAX_ATTACHMENT_ADDRESSES);
        addresses
    }

    /// Our current record, encoded; empty when it cannot be signed.
    pub(crate) fn own_record(&self) -> Vec<u8> {
        let own = self.book().own.as_ref().map(SignedRecord::encode);
        own.or_else(|| Some(self.renew_record()?.encode()))
            .unwrap_or_default()
    }

    /// Signs a new record if ours has changed or is old; `None` when it is still good.
    pub(super) fn renew_record(&self) -> Option<SignedRecord> {
        let mut record = self.make_record();
        let now_ms = self.clock.unix_ms();
        let seq = {
            let mut book = self.book();
            let same = book.own.as_ref().is_some_and(|own| {
                let own = own.record();
                let fresh = own.expires_unix_s > now_ms / 1000 + RECORD_LIFETIME_S / 2;
                fresh && record.says_the_same(own)
            });
            if same {
                return None;
            }
            book.last_seq = now_ms.max(book.last_seq + 1);
            book.last_seq
        };
        record.seq = seq;
        record.expires_unix_s = now_ms / 1000 + RECORD_LIFETIME_S;
        match record.sign(&self.keypair, self.network_id) {
            Ok(signed) => {
                self.book().own = Some(signed.clone());
                Some(signed)
            }
            Err(e) => {
                tracing::warn!(error = %e, "cannot sign this node's record");
                None
            }
        }
    }

    /// Keeps our record current and tells every session's peer about changes.
    pub(super) async fn keep_record(self: Arc<Self>) {
        let renewal = Duration::from_secs(RECORD_LIFETIME_S / 4);
        loop {
            // Times out when it is time to renew.
            let _ = timeout(renewal, self.record_dirty.notified()).await;
            tokio::time::sleep(RECORD_DEBOUNCE).await;
            self.nat_changed();
            let Some(record) = self.renew_record() else {
                continue;
            };
            self.emit(Event::AddressesChanged);
            let hello = Hello {
                record: record.encode(),
            }
            .encode();
            for conn in self.current_conns() {
                let (node, hello) = (Arc::clone(&self), hello.clone());
                self.spawn(async move {
                    // The session's end is told elsewhere.
                    let _ = tell(&node, &conn, protocols::RECORD, &hello).await;
                });
            }
        }
    }

    /// Tells a peer our record: as the hello of a dialled connection, or as its answer.
    pub(super) async fn tell_record(&self, conn: &Conn, protocol: &str) -> Result<(), StreamError> {
        let hello = Hello {
            record: self.own_record(),
        };
        tell(self, conn, protocol, &hello.encode()).await
    }

    /// Tells this node's record on the first stream of a connection that it dialled, which
    /// makes that a session for the peer. Returns the record.
    pub(super) async fn say_hello(&self, quic: &Connection) -> Result<Vec<u8>, String> {
        let protocol = self.protocol(protocols::HELLO);
        let mut hello = encode_protocol(&protocol).map_err(|e| e.to_string())?;
        let record = self.own_record();
        let told = record.clone();
        hello.extend_from_slice(&Hello { record }.encode());
        let mut send = quic.open_uni().await.map_err(|e| e.to_string())?;
        send.write_all(&hello).await.map_err(|e| e.to_string())?;
        send.finish().map_err(|e| e.to_string())?;
        Ok(told)
    }

    /// Reads a hello or record frame and keeps what it says about its sender.
    pub(super) async fn read_hello(&self, recv: &mut RecvStream) -> Result<(), StreamError> {
        let frame = read_frame(recv, MAX_CONTROL_FRAME).await?;
        let hello = Hello::decode(&frame).map_err(|_| malformed(recv))?;
        if !hello.record.is_empty() {
            let told = self.try_learn(&hello.record);
            self.note_clock(recv.peer(), &told);
            self.peer_told(recv.peer());
        }
        Ok(())
    }

    /// Checks and keeps a record; a bad one is dropped.
    pub(super) fn learn(&self, bytes: &[u8]) -> Option<Record> {
        if bytes.is_empty() {
            return None;
        }
        self.try_learn(bytes).ok()
    }

    fn try_learn(&self, bytes: &[u8]) -> Result<Record, RecordError> {
        let decoded = SignedRecord::decode(bytes, self.network_id, self.now_unix_s());
        let signed = decoded.inspect_err(|e| tracing::debug!(error = %e, "record refused"))?;
        let record = signed.record().clone();
        let news = self.book().insert(signed);
        self.tell_identified(&record, news);
        if self.book().attachments.contains_key(&record.peer) {
            // Ours tells where it can be dialled.
            self.record_changed();
        }
        Ok(record)
    }

    /// Answers a peer that asks for somebody's record; with its own only, if it is not
    /// to help others to find each other. One that asks too often is not answered: an
    /// answer that nothing is known would be a lie.
    pub(super) async fn serve_lookup(
        &self,
        conn: &Conn,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), StreamError> {
        let allowed = {
            let mut lookups = self.lookups.lock().expect("no holder panics");
            lookups.allow(Instant::now().into_std(), conn.peer)
        };
        if !allowed {
            refuse(Some(send), &mut recv, code::BUSY);
            return Ok(());
        }
        let frame = read_frame(&mut recv, MAX_CONTROL_FRAME).await?;
        let query = Query::decode(&frame).map_err(|_| malformed(&mut recv))?;
        let now = self.now_unix_s();
        let tells = self.signals() || query.peer == self.me;
        let (record, related) = if tells {
            let book = self.book();
            let relays = needed(query.peer, |peer| book.attachments_of(peer, now));
            let encoded = |peer| book.signed(peer, now).map(SignedRecord::encode);
            let related = relays.into_iter().filter_map(encoded);
            (encoded(query.peer), related.take(MAX_RELATED).collect())
        } else {
            (None, Vec::new())
        };
        let linked = tells && self.relays() && self.link_to(query.peer).is_some();
        let answer = Answer {
            record: record.unwrap_or_default(),
            linked,
            related,
        };
        send.write_all(&answer.encode()).await?;
        send.finish()
    }

    /// What this node itself knows of a peer's whereabouts.
    pub(super) fn whereabouts(&self, peer: PeerId) -> Whereabouts {
        let now = self.now_unix_s();
        let mut found = Whereabouts::default();
        for addr in self.local_peers.addresses(peer) {
            found.add_direct(addr);
        }
        let book = self.book();
        for addr in book.manual.get(&peer).into_iter().flatten() {
            found.add_direct(*addr);
        }
        if let Some(record) = book.signed(peer, now) {
            found.add_record(record.record());
        }
        found
    }

    /// Asks connected peers about a peer, again if nobody answered at all. Returns how
    /// many were asked.
    pub(super) async fn look_up(self: &Arc<Self>, peer: PeerId, found: &mut Whereabouts) -> usize {
        let mut asked = 0;
        for _ in 0..LOOKUPS {
            let (this_time, answered) = self.look_up_once(peer, found).await;
            asked = this_time;
            if answered > 0 || asked == 0 {
                break;
            }
        }
        asked
    }

    async fn look_up_once(
        self: &Arc<Self>,
        peer: PeerId,
        found: &mut Whereabouts,
    ) -> (usize, usize) {
        let mut asked = JoinSet::new();
        for conn in self.whom_to_ask(peer, MAX_ASKED) {
            let node = Arc::clone(self);
            asked.spawn(async move {
                let answer = timeout(LOOKUP_TIMEOUT, node.ask_for(&conn, peer)).await;
                (conn.peer, answer.ok().and_then(Result::ok))
            });
        }
        let count = asked.len();
        let mut answered = 0;
        while let Some(Ok((who, answer))) = asked.join_next().await {
            let Some(answer) = answer else {
                tracing::debug!(%peer, asked = %who, "lookup not answered");
                continue;
            };
            answered += 1;
            for related in &answer.related {
                self.learn(related);
            }
            let record = self.learn(&answer.record);
            if let Some(record) = record.filter(|r| r.peer == peer) {
                found.add_record(&record);
            }
            if answer.linked {
                found.add_relay(who, Vec::new());
            }
        }
        (count, answered)
    }

    async fn ask_for(&self, conn: &Conn, peer: PeerId) -> Result<Answer, StreamError> {
        let protocol = self.protocol(protocols::LOOKUP);
        let (mut send, mut recv) = conn.open_bi(&protocol, protocols::LOOKUP).await?;
        send.write_all(&Query { peer }.encode()).await?;
        send.finish()?;
        let frame = read_frame(&mut recv, MAX_CONTROL_FRAME).await?;
        Answer::decode(&frame).map_err(|_| malformed(&mut recv))
    }
}

/// Sends one frame on a unidirectional stream of its own.
async fn tell(node: &Inner, conn: &Conn, protocol: &str, frame: &[u8]) -> Result<(), StreamError> {
    let mut send = conn.open_uni(&node.protocol(protocol), protocol).await?;
    send.write_all(frame).await?;
    send.finish()
}
