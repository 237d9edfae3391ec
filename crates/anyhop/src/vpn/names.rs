//! Answers DNS questions about the members of a network.
//!
//! - **Start**: sockets on this node's overlay addresses, UDP and TCP. A resolver that knows
//!   no domains asks one server about everything; for such a one there is an address of the
//!   loopback interface besides, where what is outside of the zone goes on to the servers
//!   that the host has.
//! - **Steady state**: the zone follows the membership. Only this host and members are
//!   answered, and only this host's outside questions go on.
//! - **Failure**: what finds no place is dropped; whoever asked asks again, or asks the next
//!   server.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhop_vpn::{Answer, NameZone, NamedMember, Prefix, Transport, refuse};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, broadcast::error::RecvError},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Event, NetworkHandle,
    node::{Inner, Node},
};

/// Where DNS is served.
pub const DNS_PORT: u16 = 53;

/// Questions of this host at once that are on their way to other servers.
const MAX_FORWARDED: usize = 128;
/// Servers that one is passed on to.
const MAX_UPSTREAM: usize = 3;
/// How long each of them may take.
const UPSTREAM_TIME: Duration = Duration::from_secs(2);
/// Connections at once.
const MAX_CONNECTIONS: usize = 64;
/// Questions on one connection.
const MAX_PER_CONNECTION: usize = 256;
/// How long a connection may be silent, and how long an answer may take to leave.
const IDLE_TIME: Duration = Duration::from_secs(10);
/// Longest question taken, bytes.
const MAX_QUESTION: usize = 4096;
/// Pause after a failure of a socket, which is out of file descriptors as a rule.
const PAUSE: Duration = Duration::from_millis(200);

/// Where questions come in.
#[derive(Debug, Clone, Default)]
pub struct NameServerConfig {
    /// This node's addresses, where members and this host may ask about the network's names.
    pub addresses: Vec<IpAddr>,
    /// An address of the loopback interface, where this host may ask about any name.
    pub local: Option<IpAddr>,
    /// Who is asked there about other names, in turn: at most three.
    pub upstream: Vec<SocketAddr>,
}

/// Answers questions until it is dropped, or the node stops.
#[derive(Debug)]
pub struct NameServer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    node: Arc<Inner>,
    served: Mutex<Arc<Served>>,
    upstream: Vec<SocketAddr>,
    forwarded: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The zone, and who may ask.
#[derive(Debug)]
struct Served {
    zone: NameZone,
    members: BTreeSet<IpAddr>,
}

/// Whose questions a socket takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audience {
    /// Members, and this host under its overlay address.
    Members,
    /// This host, about any name.
    Host,
}

impl NameServer {
    /// Starts to answer.
    ///
    /// # Errors
    /// When a socket cannot be bound: `PermissionDenied` without `CAP_NET_BIND_SERVICE`.
    pub async fn start(network: &NetworkHandle, config: NameServerConfig) -> io::Result<Self> {
        let mut sockets = Vec::new();
        let members = config.addresses.iter().map(|ip| (*ip, Audience::Members));
        let host = config.local.iter().map(|ip| (*ip, Audience::Host));
        for (ip, audience) in members.chain(host) {
            let at = SocketAddr::new(ip, DNS_PORT);
            let named = |e: io::Error| io::Error::new(e.kind(), format!("{at}: {e}"));
            let udp = UdpSocket::bind(at).await.map_err(named)?;
            let tcp = TcpListener::bind(at).await.map_err(named)?;
            sockets.push((udp, tcp, audience));
        }
        let shared = Arc::new(Shared {
            node: Arc::clone(&network.0),
            served: Mutex::new(Arc::new(Served::of(network, 1))),
            upstream: config.upstream.into_iter().take(MAX_UPSTREAM).collect(),
            forwarded: Arc::new(Semaphore::new(MAX_FORWARDED)),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        shared.spawn(Arc::clone(&shared).follow(network.clone()));
        for (udp, tcp, audience) in sockets {
            shared.spawn(Arc::clone(&shared).serve_udp(udp, audience));
            shared.spawn(Arc::clone(&shared).serve_tcp(tcp, audience));
        }
        Ok(Self(shared))
    }

    /// The domains that it answers for: the network's, such as `home.anyhop`, then those of
    /// its addresses' reverse.
    #[must_use]
    pub fn domains(&self) -> Vec<String> {
        let served = self.0.served();
        let mut domains = vec![served.zone.domain().to_owned()];
        domains.extend(served.zone.reverse_domains());
        domains
    }

    /// Ends it; its ports are free when this returns.
    pub async fn stop(self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.0.stop.cancel();
    }
}

impl Served {
    fn of(network: &NetworkHandle, serial: u32) -> Self {
        let overlay = network.overlay();
        let members = overlay.me.iter().chain(&overlay.others);
        let named = members.map(|member| NamedMember {
            peer: member.peer,
            name: member.name.clone(),
            addresses: member.routes.iter().map(Prefix::first).collect(),
        });
        let named: Vec<NamedMember> = named.collect();
        let name = network.name().to_string();
        Self {
            zone: NameZone::new(&name, &overlay.prefixes(), &named, serial),
            members: named.into_iter().flat_map(|m| m.addresses).collect(),
        }
    }

    /// Whether whoever has this address is answered.
    fn may_ask(&self, from: IpAddr, audience: Audience) -> bool {
        match audience {
            Audience::Members => self.members.contains(&from),
            Audience::Host => from.is_loopback(),
        }
    }
}

impl Shared {
    fn served(&self) -> Arc<Served> {
        Arc::clone(&self.served.lock().expect("no holder panics"))
    }

    /// Runs a task until it ends, or all are to.
    fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = this.stop.cancelled() => {}
                () = this.node.stopped() => {}
                () = task => {}
            }
        });
    }

    /// Has the zone be what the membership says.
    async fn follow(self: Arc<Self>, network: NetworkHandle) {
        let mut events = Node(Arc::clone(&self.node)).events();
        // Zero counts as older than any (RFC 1982), so it is left out.
        for serial in (1..=u32::MAX).cycle() {
            let now = Arc::new(Served::of(&network, serial));
            *self.served.lock().expect("no holder panics") = now;
            loop {
                match events.recv().await {
                    Ok(Event::MembersChanged | Event::Joined) | Err(RecvError::Lagged(_)) => break,
                    Ok(_) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        }
    }

    async fn serve_udp(self: Arc<Self>, socket: UdpSocket, audience: Audience) {
        let socket = Arc::new(socket);
        let mut bytes = vec![0; MAX_QUESTION];
        loop {
            let (len, from) = match socket.recv_from(&mut bytes).await {
                Ok(received) => received,
                Err(e) => {
                    // That an earlier answer did not arrive, or worse.
                    tracing::debug!("a DNS question was not received: {e}");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let (question, served) = (&bytes[..len], self.served());
            if !served.may_ask(from.ip(), audience) {
                tracing::trace!(%from, "asked about names, and is no member");
                continue;
            }
            let reply = match served.zone.answer(question, Transport::Udp) {
                Answer::Reply(reply) => reply,
                Answer::Nothing => continue,
                Answer::Outside if audience == Audience::Host => {
                    self.forward_datagram(&socket, question, from);
                    continue;
                }
                Answer::Outside => match refuse(question) {
                    Some(reply) => reply,
                    None => continue,
                },
            };
            // A full buffer drops it, as the way there may.
            let _ = socket.try_send_to(&reply, from);
        }
    }

    /// Passes a question on, and its answer back.
    fn forward_datagram(
        self: &Arc<Self>,
        socket: &Arc<UdpSocket>,
        question: &[u8],
        to: SocketAddr,
    ) {
        let Ok(permit) = Arc::clone(&self.forwarded).try_acquire_owned() else {
            return;
        };
        let (this, socket) = (Arc::clone(self), Arc::clone(socket));
        let question = question.to_vec();
        self.spawn(async move {
            let _permit = permit;
            for server in &this.upstream {
                match timeout(UPSTREAM_TIME, ask_datagram(*server, &question)).await {
                    Ok(Ok(reply)) => {
                        let _ = socket.try_send_to(&reply, to);
                        return;
                    }
                    Ok(Err(e)) => tracing::debug!(%server, "did not answer a question: {e}"),
                    Err(_) => tracing::debug!(%server, "did not answer a question in time"),
                }
            }
        });
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener, audience: Audience) {
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(e) => {
                    tracing::debug!("a DNS connection was not accepted: {e}");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            if !self.served().may_ask(from.ip(), audience) {
                continue;
            }
            // Dropping it tells that there is no room.
            let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
                continue;
            };
            let this = Arc::clone(&self);
            self.spawn(async move {
                let _permit = permit;
                if let Err(e) = this.serve_stream(stream, audience).await {
                    tracing::debug!(%from, "a DNS connection ended: {e}");
                }
            });
        }
    }

    async fn serve_stream(&self, mut stream: TcpStream, audience: Audience) -> io::Result<()> {
        for _ in 0..MAX_PER_CONNECTION {
            let read = read_message(&mut stream, MAX_QUESTION);
            let Some(question) = timeout(IDLE_TIME, read).await?? else {
                return Ok(());
            };
            let reply = match self.served().zone.answer(&question, Transport::Tcp) {
                Answer::Reply(reply) => Some(reply),
                Answer::Nothing => None,
                Answer::Outside if audience == Audience::Host => self.ask_upstream(&question).await,
                Answer::Outside => refuse(&question),
            };
            let Some(reply) = reply else { return Ok(()) };
            timeout(IDLE_TIME, write_message(&mut stream, &reply)).await??;
        }
        Ok(())
    }

    async fn ask_upstream(&self, question: &[u8]) -> Option<Vec<u8>> {
        for server in &self.upstream {
            let ask = async {
                let mut stream = TcpStream::connect(server).await?;
                write_message(&mut stream, question).await?;
                read_message(&mut stream, usize::from(u16::MAX)).await
            };
            match timeout(UPSTREAM_TIME, ask).await {
                Ok(Ok(Some(reply))) => return Some(reply),
                Ok(Ok(None)) => tracing::debug!(%server, "closed without an answer"),
                Ok(Err(e)) => tracing::debug!(%server, "did not answer a question: {e}"),
                Err(_) => tracing::debug!(%server, "did not answer a question in time"),
            }
        }
        None
    }
}

/// Asks a server under a number and from a port that nobody can guess.
async fn ask_datagram(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    let mut sent = question.to_vec();
    let number: [u8; 2] = rand::random();
    sent[..2].copy_from_slice(&number);
    socket.send(&sent).await?;
    let mut reply = vec![0; usize::from(u16::MAX)];
    loop {
        let len = socket.recv(&mut reply).await?;
        if reply[..len].get(..2) == Some(&number[..]) {
            reply.truncate(len);
            reply[..2].copy_from_slice(&question[..2]);
            return Ok(reply);
        }
    }
}

/// A message behind its length (RFC 1035 section 4.2.2); `None` at the end.
async fn read_message(stream: &mut TcpStream, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let len = match stream.read_u16().await {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        len => usize::from(len?),
    };
    if len > limit {
        return Err(io::Error::other(format!("a message of {len} bytes")));
    }
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(io::Error::other)?;
    let framed = [&len.to_be_bytes()[..], message].concat();
    stream.write_all(&framed).await
}
