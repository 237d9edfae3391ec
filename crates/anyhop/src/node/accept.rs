//! What others start: connections, and streams on them.

use std::{sync::Arc, time::Duration};

use anyhop_proto::control::Attached;
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{Inner, private::Admitted, protocols, punch};
use crate::{
    Incoming, ProtocolTaken, StreamError, circuit,
    engine::{self, Code, Connection, close, peer_of},
    session::Conn,
    stream::{RecvStream, SendStream, code, read_protocol},
    vpn::rekey,
};

/// How long a stranger's handshake and hello may take.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stream may take to name its protocol.
const PROTOCOL_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams waiting for a listener; more are refused as busy.
const LISTENER_QUEUE: usize = 256;

/// Streams of one protocol that peers open. Dropping it ends the protocol here.
#[derive(Debug)]
pub struct Listener {
    streams: mpsc::Receiver<Incoming>,
    node: Arc<Inner>,
    wire: String,
}

impl Listener {
    /// The next stream; `None` once the node is closed.
    pub async fn next(&mut self) -> Option<Incoming> {
        tokio::select! {
            incoming = self.streams.recv() => incoming,
            () = self.node.stop.cancelled() => None,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut protocols = self.node.protocols.lock().expect("no holder panics");
        protocols.remove(&self.wire);
    }
}

impl Inner {
    pub(super) fn listen(self: &Arc<Self>, protocol: &str) -> Result<Listener, ProtocolTaken> {
        let taken = || ProtocolTaken(protocol.to_owned());
        let wire = self.app_protocol(protocol).map_err(|_| taken())?;
        let (sender, streams) = mpsc::channel(LISTENER_QUEUE);
        let mut protocols = self.protocols.lock().expect("no holder panics");
        if protocols.contains_key(&wire) {
            return Err(taken());
        }
        protocols.insert(wire.clone(), sender);
        Ok(Listener {
            streams,
            node: Arc::clone(self),
            wire,
        })
    }

    /// Takes handshakes of others until the engine closes. Above half of the limit a
    /// stranger first proves its address (RFC 9000 section 8.1.2), at the limit it is
    /// refused.
    pub(super) async fn accept_connections(self: Arc<Self>) {
        let limit = self.config.limits.max_handshakes;
        let places = Arc::new(Semaphore::new(limit));
        while let Some(incoming) = self.engine.accept().await {
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            let crowded = places.available_permits() < limit / 2;
            let incoming = if crowded && self.engine.asks_for_proof() {
                let Some(proven) = incoming.ask_for_proof() else {
                    continue;
                };
                proven
            } else {
                incoming
            };
            let node = Arc::clone(&self);
            self.spawn(async move {
                let _place = place;
                match timeout(HELLO_TIMEOUT, node.welcome(incoming)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(reason)) => tracing::debug!(reason, "incoming connection refused"),
                    Err(_) => tracing::debug!("incoming connection said no hello in time"),
                }
            });
        }
    }

    /// Completes a stranger's handshake. Only its hello makes the connection a session:
    /// a dialler that raced several keeps one and says it there.
    async fn welcome(self: &Arc<Self>, incoming: engine::Incoming) -> Result<(), String> {
        let quic = incoming.complete().await.map_err(|e| e.to_string())?;
        let peer = peer_of(&quic).ok_or("no PeerId in the certificate")?;
        let refuse = |code: u32, why: &str| {
            quic.close(Code::from_u32(code), why.as_bytes());
            Err(format!("{peer}: {why}"))
        };
        if peer == self.me {
            return refuse(close::PROTOCOL, "a connection from this node to itself");
        }
        if !quic.is_multipath_enabled() {
            return refuse(close::PROTOCOL, "multipath is required");
        }
        if let Err(e) = self.check_session_limit(peer) {
            tracing::debug!(error = %e, "session refused");
            return refuse(close::TOO_MANY_SESSIONS, "its limit of sessions is reached");
        }
        if let Admitted::Invited = self.admit_accepted(&quic, peer).await? {
            return Ok(());
        }
        let first = quic.accept_uni().await.map_err(|e| e.to_string())?;
        self.first_stream(quic, peer, first).await
    }

    async fn first_stream(
        self: &Arc<Self>,
        quic: Connection,
        peer: anyhop_base::PeerId,
        mut first: engine::RecvStream,
    ) -> Result<(), String> {
        let hello = self.protocol(protocols::HELLO);
        if read_protocol(&mut first).await.as_deref() != Some(&*hello) {
            quic.close(Code::from_u32(close::PROTOCOL), b"hello expected");
            return Err(format!("{peer}: no hello"));
        }
        let conn = self
            .adopt(quic, peer, None)
            .ok_or("closed during the hello")?;
        let mut recv = RecvStream::new(first, conn.purpose(protocols::HELLO));
        let told = async {
            self.read_hello(&mut recv).await?;
            self.tell_record(&conn, protocols::RECORD).await
        };
        told.await.map_err(|e| e.to_string())
    }

    /// Serves a bidirectional stream the peer opened.
    pub(crate) fn serve_bi(
        self: &Arc<Self>,
        conn: &Arc<Conn>,
        (send, mut recv): (engine::SendStream, engine::RecvStream),
    ) {
        let (node, conn) = (Arc::clone(self), Arc::clone(conn));
        // Boxed before it is wrapped and moved into a task: it is copied once.
        self.spawn(Box::pin(async move {
            let name = timeout(PROTOCOL_TIMEOUT, read_protocol(&mut recv)).await;
            let name = name.ok().flatten().unwrap_or_default();
            let purpose = conn.purpose(&name);
            let send = SendStream::new(send, purpose.clone());
            let recv = RecvStream::new(recv, purpose);
            let served = node.dispatch_bi(conn, &name, send, recv).await;
            if let Err(e) = served {
                tracing::trace!(protocol = name, error = %e, "stream ended early");
            }
        }));
    }

    async fn dispatch_bi(
        self: &Arc<Self>,
        conn: Arc<Conn>,
        name: &str,
        send: SendStream,
        recv: RecvStream,
    ) -> Result<(), StreamError> {
        // Boxed but for the commonest: a task is as large as its largest branch, and
        // copied when it is spawned.
        match name.strip_prefix(&*self.prefix) {
            Some(protocols::MESSAGE) => self.serve_message(&conn, send, recv).await,
            Some(protocols::CALL) => Box::pin(self.serve_call(&conn, send, recv)).await,
            Some(protocols::PING) => echo(send, recv).await,
            Some(protocols::LOOKUP) => Box::pin(self.serve_lookup(&conn, send, recv)).await,
            Some(protocols::FIND) => Box::pin(self.serve_find(&conn, send, recv)).await,
            Some(protocols::PEERS) => Box::pin(self.serve_peers(&conn, send)).await,
            Some(protocols::TRACE) => Box::pin(self.serve_trace(&conn, send, recv)).await,
            Some(protocols::PUNCH) => {
                Box::pin(punch::serve(Arc::clone(self), conn, send, recv)).await
            }
            Some(protocols::NATCHECK) => Box::pin(self.serve_natcheck(&conn, send, recv)).await,
            Some(protocols::REACH) => Box::pin(self.serve_reach(&conn, send, recv)).await,
            Some(protocols::GREET) => Box::pin(self.serve_introduction(&conn, send, recv)).await,
            Some(protocols::REKEY) => {
                Box::pin(rekey::serve(Arc::clone(self), conn, send, recv)).await
            }
            Some(protocols::BODY) => Box::pin(self.serve_body(send, recv)).await,
            Some(protocols::ATTACH) => Box::pin(self.serve_attach(send, recv)).await,
            Some(protocols::CIRCUIT) => {
                Box::pin(circuit::serve(Arc::clone(self), conn, send, recv)).await;
                Ok(())
            }
            _ => {
                self.deliver(&conn, name, Some(send), recv);
                Ok(())
            }
        }
    }

    /// Serves a unidirectional stream the peer opened.
    pub(crate) fn serve_uni(self: &Arc<Self>, conn: &Arc<Conn>, mut recv: engine::RecvStream) {
        let (node, conn) = (Arc::clone(self), Arc::clone(conn));
        self.spawn(async move {
            let name = timeout(PROTOCOL_TIMEOUT, read_protocol(&mut recv)).await;
            let name = name.ok().flatten().unwrap_or_default();
            let mut recv = RecvStream::new(recv, conn.purpose(&name));
            if name == node.protocol(protocols::RECORD) {
                let read = timeout(HELLO_TIMEOUT, node.read_hello(&mut recv)).await;
                if !matches!(read, Ok(Ok(()))) {
                    tracing::debug!(peer = %conn.peer, "record not read");
                }
            } else if name == node.protocol(protocols::MEMBERSHIP) {
                if let Err(e) = node.serve_gossip(&conn, &mut recv).await {
                    tracing::debug!(peer = %conn.peer, error = %e, "gossip ended early");
                }
            } else if name == node.protocol(protocols::TOPICS) {
                if let Err(e) = node.serve_topics(&conn, &mut recv).await {
                    tracing::debug!(peer = %conn.peer, error = %e, "frames of topics ended early");
                }
            } else if name == node.protocol(protocols::GREET) {
                if let Err(e) = node.serve_greetings(&conn, &mut recv).await {
                    tracing::debug!(peer = %conn.peer, error = %e, "greetings not read");
                }
            } else {
                node.deliver(&conn, &name, None, recv);
            }
        });
    }

    /// Hands a stream to its listener, or ends it with the reason.
    fn deliver(&self, conn: &Conn, name: &str, send: Option<SendStream>, mut recv: RecvStream) {
        let listener = {
            let protocols = self.protocols.lock().expect("no holder panics");
            protocols.get(name).cloned()
        };
        let Some(listener) = listener else {
            return refuse(send, &mut recv, code::UNKNOWN_PROTOCOL);
        };
        let incoming = Incoming {
            peer: conn.peer,
            recv,
            send,
        };
        if let Err(e) = listener.try_send(incoming) {
            let Incoming { send, mut recv, .. } = e.into_inner();
            refuse(send, &mut recv, code::BUSY);
        }
    }

    /// Holds a peer's attachment as long as the peer keeps it.
    async fn serve_attach(
        &self,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), StreamError> {
        let relays = self.relays_for(recv.peer());
        send.write_all(&Attached { relays }.encode()).await?;
        let mut rest = [0; 16];
        let held = async {
            while recv.read(&mut rest).await?.is_some() {}
            Ok::<_, StreamError>(())
        };
        tokio::select! {
            held = held => held?,
            () = self.relaying_ended(), if relays => {}
        }
        send.finish()
    }
}

pub(super) fn refuse(send: Option<SendStream>, recv: &mut RecvStream, code: u32) {
    recv.stop(code);
    if let Some(mut send) = send {
        send.reset(code);
    }
}

/// Returns what comes in until it ends.
async fn echo(mut send: SendStream, mut recv: RecvStream) -> Result<(), StreamError> {
    let mut buf = [0; 64];
    while let Some(n) = recv.read(&mut buf).await? {
        send.write_all(&buf[..n]).await?;
    }
    send.finish()
}
