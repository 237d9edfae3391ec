//! The yardstick: noq as it is, set to what Anyhop sets where that shows in a figure.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhop::{KEEP_ALIVE, PeerId};
use bytes::Bytes;
use noq::{
    Connection, Endpoint, EndpointConfig, IdleTimeout, RecvStream, SendStream, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::Instant;

use super::{BODY, Contender, Session, tls::Identity};
use crate::{
    error::{BenchError, Result},
    wire::{Setup, Target},
};

/// As in Anyhop's engine.
const STREAM_WINDOW: u32 = 2_400_000;
const CONNECTION_WINDOW: u32 = 64 << 20;
const SEND_WINDOW: u64 = 8 << 20;
const MAX_IDLE: Duration = Duration::from_secs(30);
const MAX_STREAMS: u32 = 1024;
const SOCKET_BUFFER: usize = 4 << 20;

/// First byte of a stream: what is to be done with it.
const SINK: u8 = 1;
const ECHO: u8 = 2;

type AnyError = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = std::result::Result<T, AnyError>;

#[derive(Clone)]
pub(super) struct PlainNode {
    endpoint: Endpoint,
    identity: Arc<Identity>,
    transport: Arc<TransportConfig>,
    accepted: Arc<AtomicUsize>,
}

#[derive(Clone)]
pub(super) struct PlainSession(Connection);

impl Contender for PlainNode {
    type Session = PlainSession;

    async fn start(setup: &Setup) -> Result<Self> {
        start(setup).map_err(BenchError::while_("starting an endpoint"))
    }

    fn target(&self) -> Target {
        Target {
            peer: self.identity.peer.to_string(),
            addrs: self.endpoint.local_addr().into_iter().collect(),
        }
    }

    async fn connect(&self, target: Target) -> Result<PlainSession> {
        let connection = self.dial(&target).await;
        connection
            .map(PlainSession)
            .map_err(BenchError::while_("dialling"))
    }

    async fn attach(&self) -> Result<()> {
        Err(BenchError::Worker("has no relays to attach to".to_owned()))
    }

    fn counts(&self) -> (usize, u64) {
        (self.accepted.load(Ordering::Relaxed), 0)
    }
}

impl PlainNode {
    async fn dial(&self, target: &Target) -> Outcome<Connection> {
        let addr = *target.addrs.first().ok_or("the target has no address")?;
        let crypto = self.identity.client(target.peer.parse::<PeerId>()?)?;
        let crypto = QuicClientConfig::try_from(crypto)?;
        let mut config = noq::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::clone(&self.transport));
        let connecting = self.endpoint.connect_with(config, addr, "bench")?;
        Ok(connecting.await?)
    }
}

impl Session for PlainSession {
    async fn send_until(&self, chunk: Bytes, end: Instant) -> Result<u64> {
        let sent = async {
            let (mut send, mut recv) = self.0.open_bi().await?;
            send.write_all(&[SINK]).await?;
            while Instant::now() < end {
                send.write_chunk(chunk.clone()).await?;
            }
            send.finish()?;
            let mut count = [0; 8];
            recv.read_exact(&mut count).await?;
            Ok::<_, AnyError>(u64::from_be_bytes(count))
        };
        sent.await.map_err(BenchError::while_("sending"))
    }

    async fn ask(&self, body: Bytes) -> Result<()> {
        let asked = async {
            let (mut send, mut recv) = self.0.open_bi().await?;
            send.write_all(&[ECHO]).await?;
            send.write_chunk(body).await?;
            send.finish()?;
            recv.read_to_end(BODY).await?;
            Ok::<_, AnyError>(())
        };
        asked.await.map_err(BenchError::while_("requesting"))
    }

    fn path(&self) -> Option<String> {
        None
    }
}

fn start(setup: &Setup) -> Outcome<PlainNode> {
    let identity = Arc::new(Identity::generate()?);
    let transport = Arc::new(transport()?);
    let crypto = QuicServerConfig::try_from(identity.server()?)?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(Arc::clone(&transport));
    let addr = *setup.listen.first().ok_or("no address to listen on")?;
    let endpoint = Endpoint::new(
        EndpointConfig::default(),
        Some(server),
        bind(addr)?,
        Arc::new(TokioRuntime),
    )?;
    let accepted = Arc::<AtomicUsize>::default();
    tokio::spawn(serve(endpoint.clone(), Arc::clone(&accepted)));
    Ok(PlainNode {
        endpoint,
        identity,
        transport,
        accepted,
    })
}

fn bind(addr: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    // Best effort, as in Anyhop.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

fn transport() -> Outcome<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_STREAMS))
        .max_idle_timeout(Some(IdleTimeout::try_from(MAX_IDLE)?))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None);
    Ok(transport)
}

async fn serve(endpoint: Endpoint, accepted: Arc<AtomicUsize>) {
    while let Some(incoming) = endpoint.accept().await {
        let accepted = Arc::clone(&accepted);
        tokio::spawn(async move {
            // A handshake or stream that fails here fails at the other end, which
            // reports it.
            let Ok(connection) = incoming.await else {
                return;
            };
            accepted.fetch_add(1, Ordering::Relaxed);
            while let Ok((send, recv)) = connection.accept_bi().await {
                tokio::spawn(serve_stream(send, recv));
            }
        });
    }
}

async fn serve_stream(mut send: SendStream, mut recv: RecvStream) -> Outcome<()> {
    let mut kind = [0];
    recv.read_exact(&mut kind).await?;
    if kind[0] == SINK {
        let mut count = 0_u64;
        while let Some(chunk) = recv.read_chunk(usize::MAX).await? {
            count += chunk.len() as u64;
        }
        send.write_all(&count.to_be_bytes()).await?;
    } else {
        let body = recv.read_to_end(BODY).await?;
        send.write_chunk(body.into()).await?;
    }
    send.finish()?;
    Ok(())
}
