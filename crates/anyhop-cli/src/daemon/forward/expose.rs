//! What this node exposes, and serving it.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhop::{Incoming, Listener, PeerId, RecvStream, SendStream};
use tokio::{
    net::{TcpStream, UdpSocket, lookup_host},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    MAX_FLOWS, Reach, Service, Wanted,
    exit::{self, ExitError},
    tcp, udp, wire,
};
use crate::{
    api::Notice,
    client::{Reader, Writer},
    error::{CliError, Code},
    spec::Target,
};

/// Services exposed at once.
const MAX_SERVICES: usize = 256;
/// Time to say which service is wanted.
const ASK_TIME: Duration = Duration::from_secs(10);
/// Time to connect to an exposed service.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(10);

/// What is exposed; nothing by default.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Exposed {
    services: Mutex<HashMap<Service, CancellationToken>>,
    /// How far peers get from here, if this node is an exit.
    exit: Mutex<Option<(Reach, CancellationToken)>>,
}

impl Exposed {
    fn services(&self) -> MutexGuard<'_, HashMap<Service, CancellationToken>> {
        // The map is whole after every single operation on it.
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Exposes a service for as long as the returned value lives.
    pub(in crate::daemon) fn add(self: &Arc<Self>, service: Service) -> Result<Exposure, CliError> {
        let mut services = self.services();
        if services.contains_key(&service) {
            return Err(CliError::new(
                Code::Refused,
                format!("{service} is already exposed by this daemon"),
            )
            .hint("end the other `anyhop expose` first"));
        }
        if services.len() >= MAX_SERVICES {
            return Err(CliError::new(
                Code::Limit,
                format!("cannot expose {service}: the limit of {MAX_SERVICES} services is reached"),
            )
            .hint("end an `anyhop expose` that is no longer needed"));
        }
        services.insert(service.clone(), CancellationToken::new());
        Ok(Exposure {
            exposed: Arc::clone(self),
            what: What::Service(service),
        })
    }

    /// Is an exit for as long as the returned value lives.
    pub(in crate::daemon) fn add_exit(
        self: &Arc<Self>,
        reach: Reach,
    ) -> Result<Exposure, CliError> {
        let mut exit = self.exit();
        if exit.is_some() {
            let message = "this daemon is an exit already";
            return Err(CliError::new(Code::Refused, message)
                .hint("end the other `anyhop expose --exit` first"));
        }
        *exit = Some((reach, CancellationToken::new()));
        Ok(Exposure {
            exposed: Arc::clone(self),
            what: What::Exit,
        })
    }

    fn exit(&self) -> MutexGuard<'_, Option<(Reach, CancellationToken)>> {
        // A single value: it is whole.
        self.exit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, service: &Service) -> Option<CancellationToken> {
        self.services().get(service).cloned()
    }

    /// What is exposed over TCP at a port; of several, what this host itself serves.
    fn find_port(&self, port: u16) -> Option<(Service, CancellationToken)> {
        let services = self.services();
        let at_port = services
            .iter()
            .filter(|(s, _)| !s.udp && s.target.port() == port);
        let first = at_port.min_by_key(|(service, _)| {
            let host = service.target.host();
            let local = matches!(host, "localhost" | "127.0.0.1" | "::1");
            (!local, host.to_owned())
        });
        first.map(|(service, token)| (service.clone(), token.clone()))
    }
}

/// A service is exposed as long as this lives; then its connections are cut.
#[derive(Debug)]
pub(in crate::daemon) struct Exposure {
    exposed: Arc<Exposed>,
    what: What,
}

#[derive(Debug)]
enum What {
    Service(Service),
    Exit,
}

impl Drop for Exposure {
    fn drop(&mut self) {
        let connections = match &self.what {
            What::Service(service) => self.exposed.services().remove(service),
            What::Exit => self
                .exposed
                .exit()
                .take()
                .map(|(_, connections)| connections),
        };
        if let Some(connections) = connections {
            connections.cancel();
        }
    }
}

/// Keeps a service exposed until the command leaves.
pub(in crate::daemon) async fn expose(exposure: Exposure, mut reader: Reader, mut writer: Writer) {
    let ready = Notice::Ready {
        exposed: Some(match &exposure.what {
            What::Service(service) => service.target.to_string(),
            What::Exit => "exit".to_owned(),
        }),
        local: None,
    };
    if writer.json(&ready).await.is_ok() {
        // The command says nothing: what comes is its end.
        let _ = reader.next().await;
    }
}

/// Serves peers until the node closes.
pub(in crate::daemon) async fn serve(exposed: Arc<Exposed>, mut listener: Listener) {
    let permits = Arc::new(Semaphore::new(MAX_FLOWS));
    let mut serving = JoinSet::new();
    while let Some(incoming) = listener.next().await {
        while serving.try_join_next().is_some() {}
        // Dropping the stream refuses it: over twice the limit even saying so is work.
        if serving.len() >= 2 * MAX_FLOWS {
            continue;
        }
        let exposed = Arc::clone(&exposed);
        let permits = Arc::clone(&permits);
        serving.spawn(async move {
            let peer = incoming.peer;
            let permit = permits.try_acquire_owned().ok();
            if let Err(e) = serve_stream(&exposed, incoming, permit.is_some()).await {
                tracing::debug!(%peer, "a forwarded stream ended: {e}");
            }
        });
    }
}

async fn serve_stream(exposed: &Exposed, incoming: Incoming, room: bool) -> io::Result<()> {
    let Incoming {
        peer,
        mut recv,
        send: Some(send),
    } = incoming
    else {
        return Err(io::Error::other("it is one-way"));
    };
    let asked = timeout(ASK_TIME, wire::read_ask(&mut recv)).await??;
    let Some(wanted) = asked else {
        return refuse(send, wire::Refusal::Bad, "").await;
    };
    let found = match &wanted {
        Wanted::Exit(target) => return serve_exit(exposed, target, (peer, room), send, recv).await,
        Wanted::Service(service) => exposed.find(service).map(|token| (service.clone(), token)),
        Wanted::Port(port) => exposed.find_port(*port),
    };
    let Some((service, withdrawn)) = found else {
        tracing::info!(%peer, "refused a connection to {wanted}, which is not exposed");
        return refuse(send, wire::Refusal::NotExposed, "").await;
    };
    if !room {
        return refuse(send, wire::Refusal::Limit, "").await;
    }
    tracing::debug!(%peer, "forwarding to {service}");
    let work = if service.udp {
        futures_util::future::Either::Left(serve_udp(&service, send, recv))
    } else {
        futures_util::future::Either::Right(serve_tcp(&service, peer, send, recv))
    };
    match withdrawn.run_until_cancelled(work).await {
        Some(result) => result,
        None => Err(io::Error::other("the service is no longer exposed")),
    }
}

async fn serve_exit(
    exposed: &Exposed,
    target: &Target,
    (peer, room): (PeerId, bool),
    mut send: SendStream,
    recv: RecvStream,
) -> io::Result<()> {
    let exit = exposed.exit().clone();
    let Some((reach, withdrawn)) = exit else {
        tracing::info!(%peer, "refused a connection to {target}: this node is no exit");
        return refuse(send, wire::Refusal::NoExit, "it is no exit").await;
    };
    if !room {
        return refuse(send, wire::Refusal::Limit, "").await;
    }
    let work = async {
        let tcp = match exit::connect(target, reach).await {
            Ok(tcp) => tcp,
            Err(ExitError::NotAllowed) => {
                tracing::info!(%peer, "refused a connection to {target}: it is of this host's own networks");
                let why = "it is no exit to its own host and networks";
                return refuse(send, wire::Refusal::NoExit, why).await;
            }
            Err(ExitError::Failed(why)) => return connect_failed(send, &why).await,
        };
        tracing::debug!(%peer, "connected to {target} as an exit");
        wire::write_go(&mut send).await?;
        tcp::splice(tcp, send, recv).await.map_err(io::Error::other)
    };
    match withdrawn.run_until_cancelled(work).await {
        Some(result) => result,
        None => Err(io::Error::other("this node is no longer an exit")),
    }
}

async fn refuse(mut send: SendStream, refusal: wire::Refusal, reason: &str) -> io::Result<()> {
    wire::write_refusal(&mut send, refusal, reason).await?;
    send.finish().map_err(io::Error::other)?;
    // Dropped only when it has arrived, or the peer is gone.
    let _ = send.stopped().await;
    Ok(())
}

async fn serve_tcp(
    service: &Service,
    peer: PeerId,
    mut send: SendStream,
    recv: RecvStream,
) -> io::Result<()> {
    let connecting = TcpStream::connect((service.target.host(), service.target.port()));
    let tcp = match timeout(CONNECT_TIME, connecting).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(e)) => return connect_failed(send, &e.to_string()).await,
        Err(_) => return connect_failed(send, "no connection in time").await,
    };
    wire::write_go(&mut send).await?;
    let result = tcp::splice(tcp, send, recv).await;
    tracing::debug!(%peer, "forwarding to {service} ended");
    result.map_err(io::Error::other)
}

async fn connect_failed(send: SendStream, reason: &str) -> io::Result<()> {
    refuse(
        send,
        wire::Refusal::ConnectFailed,
        &format!("connecting failed: {reason}"),
    )
    .await
}

async fn serve_udp(
    service: &Service,
    mut send: SendStream,
    mut recv: RecvStream,
) -> io::Result<()> {
    let socket = match timeout(CONNECT_TIME, udp_socket(service)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(e)) => return connect_failed(send, &e.to_string()).await,
        Err(_) => return connect_failed(send, "the name was not resolved in time").await,
    };
    wire::write_go(&mut send).await?;
    let activity = udp::Activity::new();
    let out = async {
        let mut buf = Vec::new();
        while let Some(datagram) = udp::read(&mut recv, &mut buf).await? {
            activity.touch();
            // A closed port answers with an error on the next call: as lost as ever.
            let _ = socket.send(datagram).await;
        }
        Ok::<_, io::Error>(())
    };
    let back = async {
        let mut buf = vec![0; udp::MAX_DATAGRAM];
        loop {
            match socket.recv(&mut buf).await {
                Ok(n) => {
                    activity.touch();
                    udp::write(&mut send, &buf[..n]).await?;
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(e) => return Err::<(), _>(e),
            }
        }
    };
    let result = tokio::select! {
        result = out => result,
        result = back => result,
        () = activity.idle() => Ok(()),
    };
    let _ = send.finish();
    result
}

async fn udp_socket(service: &Service) -> io::Result<UdpSocket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for addr in lookup_host((service.target.host(), service.target.port())).await? {
        let any: SocketAddr = match addr {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).await?;
        match socket.connect(addr).await {
            Ok(()) => return Ok(socket),
            Err(e) => last = e,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(port: u16, udp: bool) -> Service {
        Service::new(format!("h:{port}").parse().expect("valid"), udp)
    }

    #[test]
    fn only_exactly_what_is_exposed_is_found_and_only_as_long() {
        let exposed = Arc::new(Exposed::default());
        let exposure = exposed.add(service(1, false)).expect("room");
        let connections = exposed.find(&service(1, false)).expect("exposed");
        assert!(exposed.find(&service(2, false)).is_none());
        assert!(exposed.find(&service(1, true)).is_none());
        assert_eq!(
            exposed.add(service(1, false)).map_err(|e| e.code).err(),
            Some(Code::Refused)
        );
        drop(exposure);
        assert!(connections.is_cancelled());
        assert!(exposed.find(&service(1, false)).is_none());
    }

    #[test]
    fn a_port_is_found_whatever_its_host_and_this_host_s_own_first() {
        let exposed = Arc::new(Exposed::default());
        assert!(exposed.find_port(22).is_none());
        let of = |host: &str| Service::new(format!("{host}:22").parse().expect("valid"), false);
        let exposures: Vec<_> = ["nas", "localhost", "camera"]
            .map(|host| exposed.add(of(host)).expect("room"))
            .into();
        let _udp = exposed.add(service(22, true)).expect("room");
        let found = exposed.find_port(22).map(|(service, _)| service);
        assert_eq!(found, Some(of("localhost")));
        drop(exposures);
        assert!(exposed.find_port(22).is_none(), "UDP is another port");
    }

    #[test]
    fn there_is_no_exit_but_one_and_only_as_long_as_it_is_exposed() {
        let exposed = Arc::new(Exposed::default());
        assert!(exposed.exit().is_none());
        let exposure = exposed.add_exit(Reach::Public).expect("none yet");
        let again = exposed.add_exit(Reach::All).map_err(|e| e.code);
        assert_eq!(again.err(), Some(Code::Refused));
        let (reach, connections) = exposed.exit().clone().expect("exposed");
        assert_eq!(reach, Reach::Public);
        drop(exposure);
        assert!(connections.is_cancelled() && exposed.exit().is_none());
    }

    #[test]
    fn services_are_limited() {
        let exposed = Arc::new(Exposed::default());
        let all: Vec<_> = (1..=MAX_SERVICES)
            .map(|p| exposed.add(service(p as u16, false)).expect("room"))
            .collect();
        assert_eq!(
            exposed.add(service(1, true)).map_err(|e| e.code).err(),
            Some(Code::Limit)
        );
        drop(all);
        assert!(exposed.add(service(1, true)).is_ok());
    }
}
