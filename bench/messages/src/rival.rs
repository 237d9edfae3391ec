//! rust-libp2p as a contender: request-response and gossipsub, with their defaults but for
//! how long an idle connection is kept.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, StreamExt as _};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder,
    gossipsub::{self, IdentTopic, MessageAuthenticity},
    noise,
    request_response::{self, Codec, OutboundRequestId, ProtocolSupport},
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    BODY, Result,
    crowd::{self, Board, Crowd},
    pair,
};

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(120);
/// Commands on their way to a swarm.
const COMMANDS: usize = 1024;
/// First byte of a request that wants a body back; of others a byte will do.
const ASK: u8 = 1;
const TELL: u8 = 2;

/// What connections run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// QUIC.
    Quic,
    /// TCP, Noise and Yamux.
    Tcp,
}

/// Bodies as they are, each on a stream of its own.
#[derive(Debug, Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Protocol = StreamProtocol;
    type Request = Bytes;
    type Response = Bytes;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Bytes>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Bytes>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        body: Bytes,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&body).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        body: Bytes,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&body).await
    }
}

async fn read<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<Bytes> {
    let mut body = Vec::with_capacity(2 * BODY);
    io.take(1 << 20).read_to_end(&mut body).await?;
    Ok(body.into())
}

type Requests = request_response::Behaviour<Raw>;

/// Two swarms with a connection.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    commands: mpsc::Sender<(Bytes, oneshot::Sender<Result<Bytes>>)>,
}

impl Pair {
    pub(crate) async fn start(transport: Transport) -> Result<Self> {
        let behaviour = || {
            let protocols = [(StreamProtocol::new("/bench/1"), ProtocolSupport::Full)];
            Requests::new(protocols, request_response::Config::default())
        };
        let mut asker = swarm(|_| Ok(behaviour()))?;
        let mut other = swarm(|_| Ok(behaviour()))?;
        let address = listen(&mut other, transport).await?;
        let peer = *other.local_peer_id();
        tokio::spawn(answer(other));
        asker.dial(address)?;
        while !asker.is_connected(&peer) {
            asker.select_next_some().await;
        }
        let (commands, orders) = mpsc::channel(COMMANDS);
        tokio::spawn(drive(asker, peer, orders));
        Ok(Self { commands })
    }

    async fn send(&self, first: u8, body: Bytes) -> Result<Bytes> {
        let mut marked = body.to_vec();
        marked[0] = first;
        let (reply, replied) = oneshot::channel();
        self.commands.send((marked.into(), reply)).await?;
        replied.await?
    }
}

impl pair::Pair for Pair {
    async fn ask(&self, body: Bytes) -> Result<()> {
        match self.send(ASK, body).await?.len() {
            BODY => Ok(()),
            len => Err(format!("a reply of {len} bytes").into()),
        }
    }

    async fn tell(&self, body: Bytes) -> Result<()> {
        self.send(TELL, body).await.map(drop)
    }
}

/// Answers requests, as long as the process lasts.
async fn answer(mut swarm: Swarm<Requests>) {
    let (long, short) = (Bytes::from(vec![0xa5; BODY]), Bytes::from_static(&[0]));
    loop {
        let event = swarm.select_next_some().await;
        let SwarmEvent::Behaviour(request_response::Event::Message { message, .. }) = event else {
            continue;
        };
        if let request_response::Message::Request {
            request, channel, ..
        } = message
        {
            let reply = match request.first() {
                Some(&ASK) => long.clone(),
                _ => short.clone(),
            };
            // The asker reports what was lost.
            let _ = swarm.behaviour_mut().send_response(channel, reply);
        }
    }
}

/// Sends what it is told to.
async fn drive(
    mut swarm: Swarm<Requests>,
    peer: PeerId,
    mut orders: mpsc::Receiver<(Bytes, oneshot::Sender<Result<Bytes>>)>,
) {
    let mut open: HashMap<OutboundRequestId, oneshot::Sender<Result<Bytes>>> = HashMap::new();
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some((body, reply)) = order else { return };
                open.insert(swarm.behaviour_mut().send_request(&peer, body), reply);
            }
            event = swarm.select_next_some() => settle(&mut open, event),
        }
    }
}

fn settle(
    open: &mut HashMap<OutboundRequestId, oneshot::Sender<Result<Bytes>>>,
    event: SwarmEvent<request_response::Event<Bytes, Bytes>>,
) {
    use request_response::{Event, Message};
    let (id, outcome) = match event {
        SwarmEvent::Behaviour(Event::Message {
            message:
                Message::Response {
                    request_id,
                    response,
                },
            ..
        }) => (request_id, Ok(response)),
        SwarmEvent::Behaviour(Event::OutboundFailure {
            request_id, error, ..
        }) => (request_id, Err(error.into())),
        _ => return,
    };
    if let Some(reply) = open.remove(&id) {
        // A worker whose time is over does not wait.
        let _ = reply.send(outcome);
    }
}

/// A hundred swarms on a topic, and one that publishes there.
pub(crate) async fn crowd(transport: Transport, readers: usize) -> Result<Topics> {
    let board = Board::new(readers);
    let mut swarms = Vec::new();
    let mut addresses = Vec::new();
    for _ in 0..=readers {
        let mut swarm = swarm(|key| {
            let config = gossipsub::ConfigBuilder::default().build()?;
            let sign = MessageAuthenticity::Signed(key.clone());
            Ok(gossipsub::Behaviour::new(sign, config)?)
        })?;
        swarm.behaviour_mut().subscribe(&IdentTopic::new("bench"))?;
        addresses.push(listen(&mut swarm, transport).await?);
        swarms.push(swarm);
    }
    for (a, b) in crowd::edges(swarms.len()) {
        swarms[a].dial(addresses[b].clone())?;
    }
    let (posts, orders) = mpsc::channel(COMMANDS);
    let mut orders = Some(orders);
    for swarm in swarms {
        match orders.take() {
            Some(orders) => tokio::spawn(publish(swarm, orders)),
            None => tokio::spawn(note(swarm, Arc::clone(&board))),
        };
    }
    Ok(Topics { posts, board })
}

/// The swarms of a topic.
pub(crate) struct Topics {
    posts: mpsc::Sender<Bytes>,
    board: Arc<Board>,
}

impl Crowd for Topics {
    async fn publish(&self, body: Bytes) -> Result<()> {
        Ok(self.posts.send(body).await?)
    }

    fn board(&self) -> &Arc<Board> {
        &self.board
    }
}

async fn publish(mut swarm: Swarm<gossipsub::Behaviour>, mut orders: mpsc::Receiver<Bytes>) {
    let topic = IdentTopic::new("bench");
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some(body) = order else { return };
                // What nobody is there for yet is published again.
                let _ = swarm.behaviour_mut().publish(topic.clone(), body);
            }
            _ = swarm.select_next_some() => {}
        }
    }
}

async fn note(mut swarm: Swarm<gossipsub::Behaviour>, board: Arc<Board>) {
    loop {
        let event = swarm.select_next_some().await;
        if let SwarmEvent::Behaviour(gossipsub::Event::Message { message, .. }) = event {
            board.arrived(&message.data);
        }
    }
}

fn swarm<B: NetworkBehaviour>(
    behaviour: impl FnOnce(&libp2p::identity::Keypair) -> Result<B>,
) -> Result<Swarm<B>> {
    let swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )?
        .with_quic()
        .with_behaviour(behaviour)
        .map_err(|e| e.to_string())?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
        .build();
    Ok(swarm)
}

/// Listens on loopback and tells where.
async fn listen<B: NetworkBehaviour>(
    swarm: &mut Swarm<B>,
    transport: Transport,
) -> Result<Multiaddr> {
    let address: Multiaddr = match transport {
        Transport::Quic => "/ip4/127.0.0.1/udp/0/quic-v1".parse()?,
        Transport::Tcp => "/ip4/127.0.0.1/tcp/0".parse()?,
    };
    swarm.listen_on(address)?;
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return Ok(address);
        }
    }
}
