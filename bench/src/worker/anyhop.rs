//! The contender that this project is.

use std::time::Duration;

use anyhop::{Config, Incoming, Keypair, Message, Node, PathKind, PeerAddr, PeerId};
use bytes::Bytes;
use tokio::time::Instant;

use super::{Contender, Session};
use crate::{
    error::{BenchError, Result},
    wire::{Setup, Target},
};

/// Protocol of the streams that are read to their end and counted.
const SINK: &str = "sink/1";
/// How long a reply may take.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at whether a node is attached.
const ATTACH_POLL: Duration = Duration::from_millis(20);

#[derive(Clone)]
pub(super) struct AnyhopNode(Node);

#[derive(Clone)]
pub(super) struct AnyhopSession {
    node: Node,
    peer: PeerId,
}

impl Contender for AnyhopNode {
    type Session = AnyhopSession;

    async fn start(setup: &Setup) -> Result<Self> {
        let mut config = Config {
            listen: setup.listen.clone(),
            // What is measured stays on the path it began on.
            direct_paths: setup.bootstrap.is_none(),
            ..Config::default()
        };
        if let Some(relay) = &setup.bootstrap {
            config.bootstrap = addresses(relay, &setup.listen)?;
        }
        let node = Node::start(Keypair::generate_ed25519(), config).await;
        let node = node.map_err(BenchError::while_("starting a node"))?;
        node.handle(SINK, |incoming| async {
            // A stream that fails here fails at its sender, which reports it.
            let _ = sink(incoming).await;
        })
        .map_err(BenchError::while_("serving"))?;
        tokio::spawn(reply(node.clone()));
        Ok(Self(node))
    }

    fn target(&self) -> Target {
        let addrs = self.0.addresses();
        let addrs = addrs.iter().filter_map(|a| PeerAddr::try_from(a).ok());
        Target {
            peer: self.0.peer_id().to_string(),
            addrs: addrs.filter_map(|a| a.addr.udp()).collect(),
        }
    }

    async fn connect(&self, target: Target) -> Result<AnyhopSession> {
        let peer = peer_id(&target)?;
        for addr in addresses(&target, &[])? {
            self.0.add_address(&addr);
        }
        let session = self.0.connect(peer).await;
        session.map_err(BenchError::while_("dialling"))?;
        Ok(AnyhopSession {
            node: self.0.clone(),
            peer,
        })
    }

    async fn attach(&self) -> Result<()> {
        while self.0.status().attachments.is_empty() {
            tokio::time::sleep(ATTACH_POLL).await;
        }
        Ok(())
    }

    fn counts(&self) -> (usize, u64) {
        let status = self.0.status();
        (status.sessions, status.relay.forwarded_bytes)
    }
}

impl Session for AnyhopSession {
    async fn send_until(&self, chunk: Bytes, end: Instant) -> Result<u64> {
        let sent = async {
            let (mut send, mut recv) = self.node.open_bi(self.peer, SINK).await?;
            while Instant::now() < end {
                send.write_chunk(chunk.clone()).await?;
            }
            send.finish()?;
            let mut count = [0; 8];
            recv.read_exact(&mut count).await?;
            Ok::<_, anyhop::StreamError>(u64::from_be_bytes(count))
        };
        sent.await.map_err(BenchError::while_("sending"))
    }

    async fn ask(&self, body: Bytes) -> Result<()> {
        let message = Message::binary("bench", body);
        let reply = self.node.request(self.peer, message, REPLY_TIMEOUT).await;
        reply.map(drop).map_err(BenchError::while_("requesting"))
    }

    fn path(&self) -> Option<String> {
        let info = self.node.session_info(self.peer)?;
        let selected = info.paths.iter().find(|p| p.selected)?;
        let kind = match selected.kind {
            PathKind::Direct => "direct",
            PathKind::Circuit => "circuit",
        };
        Some(kind.to_owned())
    }
}

fn peer_id(target: &Target) -> Result<PeerId> {
    let peer = target.peer.parse();
    peer.map_err(BenchError::while_("reading a PeerId"))
}

/// The addresses of a target, of the families in `listen` (all, if that is empty).
fn addresses(target: &Target, listen: &[std::net::SocketAddr]) -> Result<Vec<PeerAddr>> {
    let peer = peer_id(target)?;
    let usable = target.addrs.iter().filter(|addr| {
        listen.is_empty() || listen.iter().any(|own| own.is_ipv4() == addr.is_ipv4())
    });
    usable
        .map(|addr| PeerAddr::new(peer, *addr))
        .collect::<std::result::Result<_, _>>()
        .map_err(BenchError::while_("reading an address"))
}

/// Reads a stream to its end and answers how long it was.
async fn sink(mut incoming: Incoming) -> std::result::Result<(), anyhop::StreamError> {
    let mut count = 0_u64;
    while let Some(chunk) = incoming.recv.read_chunk(usize::MAX).await? {
        count += chunk.len() as u64;
    }
    if let Some(mut send) = incoming.send {
        send.write_all(&count.to_be_bytes()).await?;
        send.finish()?;
    }
    Ok(())
}

/// Answers every request with its own body.
async fn reply(node: Node) {
    while let Some(received) = node.recv().await {
        if let Some(responder) = received.reply {
            // A requester that gave up reports that itself.
            let _ = responder.reply(received.message).await;
        }
    }
}
