//! `socks`: a proxy through which programs reach members by name, without root.
//!
//! - **Start**: a listening socket that takes SOCKS 5 and HTTP `CONNECT` alike, which are told
//!   apart by their first byte (`anyhop_proto::proxy`).
//! - **Steady state**: `<member>.<network>.anyhop`, a PeerId and a member's overlay address
//!   are that member: a stream to what it exposes at the port that is asked for. Anything else is
//!   connected to by the exit that was named, if one was.
//! - **Failure**: the client gets the reply that its protocol has for it, the command a line.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhop::{PeerId, RecvStream, SendStream};
use anyhop_proto::proxy::{
    Greeting, MAX_HTTP_HEAD, Outcome, Parsed, ProxyError, ProxyHost, ProxyRequest, SOCKS_UNWELCOME,
    SOCKS_WELCOME, greeting, http_reply, http_request, socks_reply, socks_request,
};
use anyhop_vpn::{TOP_DOMAIN, dns_label};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Presence,
    forward::{self, Wanted},
};
use crate::{
    api::Notice,
    client::{Reader, Writer},
    error::{CliError, Code},
};

/// Connections at once; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 1024;
/// Time to say what is wanted.
const ASK_TIME: Duration = Duration::from_secs(10);
/// Pause after a failed accept, which is out of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A listening proxy.
pub(super) struct Proxy {
    presence: Arc<Presence>,
    exit: Option<PeerId>,
    listener: TcpListener,
    local: SocketAddr,
}

/// Whom a request leads to.
struct Way {
    presence: Arc<Presence>,
    peer: PeerId,
    wanted: Wanted,
}

/// A client that said what it wants.
struct Client {
    stream: TcpStream,
    speaks: Greeting,
    /// What came after its request, for whom it connects to.
    early: Vec<u8>,
}

impl Proxy {
    /// Binds the local socket.
    pub(super) async fn bind(
        presence: Arc<Presence>,
        exit: Option<PeerId>,
        local: SocketAddr,
    ) -> Result<Self, CliError> {
        let bound = TcpListener::bind(local)
            .await
            .and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (local, listener) = bound.map_err(|e| {
            let message = format!("cannot listen on {local} as a proxy: {e}");
            CliError::new(Code::Failed, message).hint("choose another --listen; port 0 takes any")
        })?;
        Ok(Self {
            presence,
            exit,
            listener,
            local,
        })
    }

    /// Serves until the command leaves; its connections end with it.
    pub(super) async fn run(self, reader: Reader, writer: Writer) {
        let local = self.local;
        let work = |notices| async {
            self.serve(notices).await;
            Ok(())
        };
        forward::tell_work(local, reader, writer, work).await;
    }

    async fn serve(self, notices: mpsc::Sender<Notice>) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let permit = Arc::clone(&permits).acquire_owned().await;
            let permit = permit.expect("this semaphore is never closed");
            while connections.try_join_next().is_some() {}
            let (stream, client) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(e) => {
                    tracing::warn!("cannot accept a connection to the proxy: {e}");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (presence, exit) = (Arc::clone(&self.presence), self.exit);
            let notices = notices.clone();
            connections.spawn(async move {
                if let Err(error) = serve_client(presence, exit, stream).await {
                    tracing::debug!(%client, "not connected: {error}");
                    let client = client.to_string();
                    // A full queue loses a line of text, not a connection.
                    let _ = notices.try_send(Notice::Failed { client, error });
                }
                drop(permit);
            });
        }
    }
}

async fn serve_client(
    presence: Arc<Presence>,
    exit: Option<PeerId>,
    stream: TcpStream,
) -> Result<(), CliError> {
    let read = timeout(ASK_TIME, read_request(stream)).await;
    let read = read.map_err(|_| CliError::new(Code::Timeout, "the client asked for nothing"))?;
    let Some((mut client, request)) = read? else {
        return Ok(());
    };
    let opened = match find(&presence, exit, &request) {
        Ok(way) => open(&way).await,
        Err(e) => Err(e),
    };
    let (mut send, recv) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            let error = error.context(&request.to_string());
            let _ = client.answer(outcome(&error), &error.message).await;
            return Err(error);
        }
    };
    client
        .answer(Outcome::Connected, "")
        .await
        .map_err(|e| client_lost(&e))?;
    if !client.early.is_empty() {
        send.write_all(&client.early).await?;
    }
    forward::splice(client.stream, send, recv).await
}

async fn open(way: &Way) -> Result<(SendStream, RecvStream), CliError> {
    forward::open(&way.presence.node, way.peer, &way.wanted).await
}

/// What the client wants; `None` when it left without a word.
async fn read_request(stream: TcpStream) -> Result<Option<(Client, ProxyRequest)>, CliError> {
    let mut client = Client {
        stream,
        speaks: Greeting::Http,
        early: Vec::new(),
    };
    let Some(speaks) = client.read(greeting).await? else {
        return Ok(None);
    };
    client.speaks = speaks;
    let request = match speaks {
        Greeting::Socks => {
            let welcome = client.stream.write_all(&SOCKS_WELCOME).await;
            welcome.map_err(|e| client_lost(&e))?;
            client.read(socks_request).await?
        }
        Greeting::Http => client.read(http_request).await?,
    };
    Ok(request.map(|request| (client, request)))
}

impl Client {
    /// Reads until there is what `parse` looks for, and takes it; tells the client what is
    /// wrong with it.
    async fn read<T>(&mut self, parse: fn(&[u8]) -> Parsed<T>) -> Result<Option<T>, CliError> {
        loop {
            match parse(&self.early) {
                Ok(Some((parsed, len))) => {
                    self.early.drain(..len);
                    return Ok(Some(parsed));
                }
                Ok(None) => {}
                Err(e) => {
                    let _ = match e {
                        ProxyError::Authentication => self.stream.write_all(&SOCKS_UNWELCOME).await,
                        ProxyError::Protocol => Ok(()),
                        ProxyError::Command => {
                            let why = "this proxy makes TCP connections and nothing else";
                            self.answer(Outcome::NotSupported, why).await
                        }
                        _ => self.answer(Outcome::Failed, &e.to_string()).await,
                    };
                    let message = format!("the client was not understood: {e}");
                    return Err(CliError::new(Code::Failed, message)
                        .hint("have it use SOCKS 5 with names resolved by the proxy, such as `socks5h://`, or HTTP CONNECT"));
                }
            }
            let mut chunk = [0; 4096];
            let room = chunk.len().min(MAX_HTTP_HEAD + 1 - self.early.len());
            let read = self.stream.read(&mut chunk[..room]).await;
            match read.map_err(|e| client_lost(&e))? {
                0 => return Ok(None),
                n => self.early.extend_from_slice(&chunk[..n]),
            }
        }
    }

    async fn answer(&mut self, outcome: Outcome, why: &str) -> io::Result<()> {
        match self.speaks {
            Greeting::Socks => self.stream.write_all(&socks_reply(outcome)).await,
            Greeting::Http => {
                let reply = http_reply(outcome, why);
                self.stream.write_all(reply.as_bytes()).await
            }
        }
    }
}

/// Who has the host.
fn find(
    presence: &Arc<Presence>,
    exit: Option<PeerId>,
    request: &ProxyRequest,
) -> Result<Way, CliError> {
    let to = |(presence, peer)| Way {
        presence,
        peer,
        wanted: Wanted::Port(request.port),
    };
    let found = match &request.host {
        ProxyHost::Ip(ip) => presence.with_address(*ip),
        ProxyHost::Name(name) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            let lower = name.to_ascii_lowercase();
            match lower
                .strip_suffix(TOP_DOMAIN)
                .and_then(|n| n.strip_suffix('.'))
            {
                Some(inner) => {
                    let found = presence.with_name(inner);
                    return found.map(to).ok_or_else(|| {
                        let message = format!("{name} is no member of a network of this daemon");
                        CliError::new(Code::Unreachable, message)
                            .hint("`anyhop network members` lists the members, whose names are MEMBER.NETWORK.anyhop")
                    });
                }
                None => presence.with_id(name),
            }
        }
    };
    if let Some(found) = found {
        return Ok(to(found));
    }
    let Some(peer) = exit else {
        let message = "it is no member, and no exit was named";
        return Err(CliError::new(Code::Refused, message)
            .hint("`anyhop socks --exit MEMBER` has a member connect to what is outside"));
    };
    let target = request.to_string().parse()?;
    Ok(Way {
        presence: Arc::clone(presence),
        peer,
        wanted: Wanted::Exit(target),
    })
}

/// What a client is told of an error.
fn outcome(error: &CliError) -> Outcome {
    match error.code {
        Code::Refused | Code::Limit | Code::Usage => Outcome::NotAllowed,
        Code::Unreachable | Code::WrongPeer | Code::NoNetwork => Outcome::Unreachable,
        Code::Timeout => Outcome::Timeout,
        Code::Failed | Code::Lost => Outcome::Refused,
        _ => Outcome::Failed,
    }
}

fn client_lost(e: &io::Error) -> CliError {
    CliError::new(Code::Lost, format!("the client was lost: {e}"))
}

impl Presence {
    /// The private networks of this daemon, this one first.
    fn private_ones(self: &Arc<Self>) -> Vec<Arc<Self>> {
        let all = self.others().into_iter().filter(|p| p.id() != self.id());
        let all = [Arc::clone(self)].into_iter().chain(all);
        all.filter(|p| p.node.private_network().is_some()).collect()
    }

    /// The member of `<member>.<network>`, in lower case.
    fn with_name(self: &Arc<Self>, name: &str) -> Option<(Arc<Self>, PeerId)> {
        let (member, network) = name.split_once('.')?;
        let networks = self.private_ones().into_iter();
        let mut networks = networks.filter(|p| dns_label(&p.name()) == network);
        networks.find_map(|presence| {
            let mut members = presence.members().into_iter();
            let found = members.find(|(name, peer)| {
                dns_label(name) == member || peer.to_base58().eq_ignore_ascii_case(member)
            });
            found.map(|(_, peer)| (presence, peer))
        })
    }

    /// The peer with an id, whose case clients may have lost.
    fn with_id(self: &Arc<Self>, id: &str) -> Option<(Arc<Self>, PeerId)> {
        let mut known = self.node.known_peers().into_iter();
        let known = known.find(|peer| peer.to_base58().eq_ignore_ascii_case(id));
        let typed = || id.parse::<crate::spec::PeerSpec>().ok()?.full();
        let peer = known.or_else(typed)?;
        Some((Arc::clone(self), peer))
    }

    /// The member with an overlay address.
    fn with_address(self: &Arc<Self>, ip: std::net::IpAddr) -> Option<(Arc<Self>, PeerId)> {
        self.private_ones().into_iter().find_map(|presence| {
            let network = presence.node.private_network()?;
            let peer = network.overlay_owner(ip)?;
            Some((presence, peer))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_why_in_their_protocol_s_words() {
        let table = [
            (Code::Refused, Outcome::NotAllowed),
            (Code::Unreachable, Outcome::Unreachable),
            (Code::Timeout, Outcome::Timeout),
            (Code::Failed, Outcome::Refused),
            (Code::StateDir, Outcome::Failed),
        ];
        for (code, expected) in table {
            assert_eq!(outcome(&CliError::new(code, "x")), expected, "{code:?}");
        }
    }
}
