//! The listening side of `forward`.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhop::{Node, PeerId, RecvStream, SendStream};
use bytes::Bytes;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use super::{MAX_FLOWS, Service, Wanted, tcp, udp};
use crate::{
    api::Notice,
    client::{Reader, Writer},
    error::{CliError, Code},
};

/// Datagrams of one flow that wait for its stream; more are dropped.
const FLOW_QUEUE: usize = 256;
/// Pause after a failed accept, which is out of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A local socket whose connections go to a peer.
pub(in crate::daemon) struct Forward {
    way: Way,
    socket: Socket,
    local: SocketAddr,
}

/// Where connections go.
#[derive(Debug, Clone)]
struct Way {
    node: Node,
    peer: PeerId,
    service: Service,
}

enum Socket {
    Tcp(TcpListener),
    Udp(Arc<UdpSocket>),
}

impl Way {
    /// A stream to the service, agreed to by the peer.
    async fn open(&self) -> Result<(SendStream, RecvStream), CliError> {
        let wanted = Wanted::Service(self.service.clone());
        super::open(&self.node, self.peer, &wanted).await
    }
}

impl Forward {
    /// Binds the local socket.
    pub(in crate::daemon) async fn bind(
        node: Node,
        peer: PeerId,
        service: Service,
        local: SocketAddr,
    ) -> Result<Self, CliError> {
        let bound = if service.udp {
            UdpSocket::bind(local)
                .await
                .and_then(|s| Ok((s.local_addr()?, Socket::Udp(Arc::new(s)))))
        } else {
            TcpListener::bind(local)
                .await
                .and_then(|s| Ok((s.local_addr()?, Socket::Tcp(s))))
        };
        let (local, socket) = bound.map_err(|e| {
            CliError::new(
                Code::Failed,
                format!("cannot listen on {local} to forward: {e}"),
            )
            .hint("choose another local port; 0 takes any")
        })?;
        Ok(Self {
            way: Way {
                node,
                peer,
                service,
            },
            socket,
            local,
        })
    }

    /// Forwards until the command leaves; its connections end with it.
    pub(in crate::daemon) async fn run(self, reader: Reader, writer: Writer) {
        let work = |notices| async {
            match self.socket {
                Socket::Tcp(listener) => forward_tcp(self.way, listener, notices).await,
                Socket::Udp(socket) => forward_udp(self.way, socket, notices).await,
            }
        };
        super::tell_work(self.local, reader, writer, work).await;
    }
}

fn tell(notices: &mpsc::Sender<Notice>, client: SocketAddr, error: CliError) {
    tracing::debug!(%client, "not forwarded: {error}");
    let client = client.to_string();
    // A full queue loses a line of text, not a connection.
    let _ = notices.try_send(Notice::Failed { client, error });
}

async fn forward_tcp(
    way: Way,
    listener: TcpListener,
    notices: mpsc::Sender<Notice>,
) -> Result<(), CliError> {
    let permits = Arc::new(Semaphore::new(MAX_FLOWS));
    let mut connections = JoinSet::new();
    loop {
        // At the limit, more connections wait in the listen queue.
        let permit = Arc::clone(&permits)
            .acquire_owned()
            .await
            .expect("this semaphore is never closed");
        while connections.try_join_next().is_some() {}
        let (tcp, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::warn!("cannot accept a connection to forward: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (way, notices) = (way.clone(), notices.clone());
        connections.spawn(async move {
            if let Err(e) = forward_connection(&way, tcp).await {
                tell(&notices, client, e);
            }
            drop(permit);
        });
    }
}

async fn forward_connection(way: &Way, tcp: TcpStream) -> Result<(), CliError> {
    match way.open().await {
        Ok((send, recv)) => tcp::splice(tcp, send, recv).await,
        Err(e) => {
            // A reset, not an empty answer.
            let _ = tcp.set_zero_linger();
            Err(e)
        }
    }
}

async fn forward_udp(
    way: Way,
    socket: Arc<UdpSocket>,
    notices: mpsc::Sender<Notice>,
) -> Result<(), CliError> {
    let mut flows: HashMap<SocketAddr, mpsc::Sender<Bytes>> = HashMap::new();
    let mut running = JoinSet::new();
    let mut buf = vec![0; udp::MAX_DATAGRAM];
    loop {
        let (len, client) = tokio::select! {
            received = socket.recv_from(&mut buf) => match received {
                Ok(received) => received,
                // An answer to a datagram sent to a client that left.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(e) => {
                    return Err(CliError::new(Code::Failed, format!("cannot receive datagrams to forward: {e}")));
                }
            },
            Some(ended) = running.join_next() => {
                if let Ok((client, result)) = ended {
                    flows.remove(&client);
                    if let Err(e) = result {
                        tell(&notices, client, e);
                    }
                }
                continue;
            }
        };
        if !flows.contains_key(&client) {
            if flows.len() >= MAX_FLOWS {
                let error = CliError::new(
                    Code::Limit,
                    format!("its datagram was dropped: the limit of {MAX_FLOWS} flows is reached"),
                );
                tell(&notices, client, error);
                continue;
            }
            let (queue, due) = mpsc::channel(FLOW_QUEUE);
            flows.insert(client, queue);
            let (way, socket) = (way.clone(), Arc::clone(&socket));
            running.spawn(async move { (client, flow(&way, &socket, client, due).await) });
        }
        if let Some(queue) = flows.get(&client) {
            // A full queue drops the datagram, as a full queue of a router would.
            let _ = queue.try_send(Bytes::copy_from_slice(&buf[..len]));
        }
    }
}

/// One client's datagrams, until nothing moved for a while.
async fn flow(
    way: &Way,
    socket: &UdpSocket,
    client: SocketAddr,
    mut due: mpsc::Receiver<Bytes>,
) -> Result<(), CliError> {
    let (mut send, mut recv) = way.open().await?;
    let activity = udp::Activity::new();
    let lost = |e: io::Error| CliError::new(Code::Lost, format!("the flow was lost: {e}"));
    let out = async {
        while let Some(datagram) = due.recv().await {
            activity.touch();
            udp::write(&mut send, &datagram).await.map_err(lost)?;
        }
        Ok(())
    };
    let back = async {
        let mut buf = Vec::new();
        while let Some(datagram) = udp::read(&mut recv, &mut buf).await.map_err(lost)? {
            activity.touch();
            // A client that left loses its answer.
            let _ = socket.send_to(datagram, client).await;
        }
        Ok(())
    };
    tokio::select! {
        result = out => result,
        result = back => result,
        () = activity.idle() => Ok(()),
    }
}
