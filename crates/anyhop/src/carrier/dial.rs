//! The client side: TCP, perhaps through an HTTP proxy, perhaps TLS, then the upgrade.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhop_base::{Endpoint, PeerId};
use anyhop_proto::websocket::Sender;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::future::try_join;
use http_body_util::Empty;
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{
        CONNECTION, HOST, HeaderValue, PROXY_AUTHORIZATION, SEC_WEBSOCKET_ACCEPT,
        SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use hyper_util::rt::TokioIo;
use rand::RngExt;
use rustls::pki_types::ServerName;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::{
    CarrierUse, Carriers, PATH, Proxies, Proxy, SUBPROTOCOL,
    pass::show_pass,
    pump::Upgraded,
    serve::{answer_to_key, lists, upgraded},
    tls,
};
use crate::{
    StartError,
    engine::Swarm,
    net::{BoxStream, Host},
};

/// Longest head of an answer, bytes.
const MAX_HEAD: usize = 8 << 10;
/// Most headers of an answer.
const MAX_HEADERS: usize = 64;
/// Time for everything up to the upgrade.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A WebSocket that no session uses for this long is closed.
pub(super) const UNUSED: Duration = Duration::from_secs(5);
/// Addresses of a proxy that are tried.
const MAX_PROXY_ADDRESSES: usize = 4;
/// Head start of each over the next.
const STAGGER: Duration = Duration::from_millis(250);

/// Makes WebSockets of one node.
pub(crate) struct Dialer {
    host: Arc<dyn Host>,
    carriers: Arc<Carriers>,
    proxies: Proxies,
    tls: TlsConnector,
    /// In a private network.
    swarm: Option<Arc<Swarm>>,
}

impl Dialer {
    pub(crate) fn new(
        host: Arc<dyn Host>,
        carriers: Arc<Carriers>,
        proxies: Proxies,
        swarm: Option<Arc<Swarm>>,
    ) -> Result<Self, StartError> {
        Ok(Self {
            host,
            carriers,
            proxies,
            tls: TlsConnector::from(Arc::new(tls::client()?)),
            swarm,
        })
    }

    /// Opens a WebSocket, which `peer` is believed to serve. It is a carrier at once; the future that comes with it moves its
    /// data and must be spawned.
    ///
    /// # Errors
    /// What failed, on what, and why.
    pub(crate) async fn dial(
        &self,
        peer: PeerId,
        addr: SocketAddr,
        tls: bool,
    ) -> Result<(CarrierUse, impl Future<Output = ()> + Send + use<>), String> {
        let opened = timeout(TIMEOUT, self.open(peer, addr, tls)).await;
        let upgraded = opened.map_err(|_| format!("no WebSocket within {TIMEOUT:?}"))??;
        let held = self.carriers.add(addr, Sender::Server);
        let held = held.ok_or("this node's limit of WebSockets is reached")?;
        let carrier = Arc::clone(held.carrier());
        let run = Arc::clone(&self.carriers).run(carrier, upgraded, UNUSED);
        Ok((held, run))
    }

    async fn open(&self, peer: PeerId, addr: SocketAddr, tls: bool) -> Result<Upgraded, String> {
        let stream = match self.proxies.for_endpoint(&Endpoint::Ws { addr, tls }) {
            None => self.tcp(addr).await?,
            Some(proxy) => self.through(proxy, addr).await?,
        };
        let stream: BoxStream = if tls {
            // An IP address: no server name is sent.
            let name = ServerName::IpAddress(addr.ip().into());
            let shaken = self.tls.connect(name, stream).await;
            Box::new(shaken.map_err(|e| format!("TLS with {addr}: {e}"))?)
        } else {
            stream
        };
        let swarm = self.swarm.as_deref().map(|swarm| (swarm, peer));
        upgrade(stream, addr, swarm).await
    }

    async fn tcp(&self, addr: SocketAddr) -> Result<BoxStream, String> {
        let connected = self.host.connect_tcp(addr).await;
        connected.map_err(|e| match e.kind() {
            io::ErrorKind::ConnectionRefused => format!("nothing listens on TCP {addr}"),
            _ => format!("TCP {addr}: {e}"),
        })
    }

    /// A tunnel to `addr` through an HTTP proxy (RFC 9110 section 9.3.6).
    async fn through(&self, proxy: &Proxy, addr: SocketAddr) -> Result<BoxStream, String> {
        let stream = self.proxy_tcp(proxy).await;
        let stream = stream.map_err(|e| format!("proxy {proxy}: {e}"))?;
        let target = addr.to_string();
        let mut request = Request::connect(&target).header(HOST, &target);
        if let Some(credentials) = proxy.basic() {
            let mut value = HeaderValue::from_str(&credentials)
                .map_err(|_| format!("proxy {proxy}: its user name or password is unusable"))?;
            value.set_sensitive(true);
            request = request.header(PROXY_AUTHORIZATION, value);
        }
        let request = request.body(Empty::new());
        let request = request.map_err(|e| format!("proxy {proxy}: {e}"))?;
        let tunnel = exchange(stream, request, |response| match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err("it wants another user name and password (HTTP 407)".to_owned())
            }
            status => Err(format!("it refuses to connect to {target} (HTTP {status})")),
        });
        let tunnel = tunnel.await.map_err(|e| format!("proxy {proxy}: {e}"))?;
        if !tunnel.early.is_empty() {
            // A TLS or HTTP server never speaks first.
            return Err(format!("proxy {proxy}: it sent something of its own"));
        }
        Ok(tunnel.stream)
    }

    /// Connects to a proxy at whichever of its addresses answers first.
    async fn proxy_tcp(&self, proxy: &Proxy) -> Result<BoxStream, String> {
        let addresses = self.host.resolve(proxy.host(), proxy.port()).await;
        let addresses = addresses.map_err(|e| format!("its name is not known: {e}"))?;
        let mut ways = tokio::task::JoinSet::new();
        let mut delay = Duration::ZERO;
        for addr in addresses.into_iter().take(MAX_PROXY_ADDRESSES) {
            let host = Arc::clone(&self.host);
            ways.spawn(async move {
                sleep(delay).await;
                host.connect_tcp(addr).await.map_err(|e| e.to_string())
            });
            delay += STAGGER;
        }
        let mut failed = "its name has no address".to_owned();
        while let Some(way) = ways.join_next().await {
            match way {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(e)) => failed = e,
                Err(_) => {}
            }
        }
        Err(failed)
    }
}

/// Turns a connection into a WebSocket (RFC 6455 section 4.1).
async fn upgrade(
    stream: BoxStream,
    addr: SocketAddr,
    swarm: Option<(&Swarm, PeerId)>,
) -> Result<Upgraded, String> {
    let key = BASE64_STANDARD.encode(rand::rng().random::<[u8; 16]>());
    let mut request = Request::get(PATH)
        .header(HOST, addr.to_string())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
        .header(SEC_WEBSOCKET_KEY, &key)
        .body(Empty::new())
        .map_err(|e| format!("WebSocket request: {e}"))?;
    if let Some((swarm, peer)) = swarm {
        show_pass(request.headers_mut(), swarm, peer);
    }
    let accept = answer_to_key(&key);
    exchange(stream, request, |response| {
        check(response, &accept, swarm.is_some())
    })
    .await
    .map_err(|e| format!("{addr}: {e}"))
}

fn check<B>(response: &Response<B>, accept: &str, private: bool) -> Result<(), String> {
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let or = if private {
            ", or one of a network with another swarm key"
        } else {
            ""
        };
        return Err(format!(
            "a web server without Anyhop's WebSocket{or} answers there (HTTP {status})"
        ));
    }
    let headers = response.headers();
    let accepted = headers.get(SEC_WEBSOCKET_ACCEPT);
    if accepted.is_none_or(|a| a != accept) || !lists(headers, &SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
    {
        return Err("a WebSocket that is not Anyhop's answers there".to_owned());
    }
    Ok(())
}

/// Sends a request after whose answer, if `check` takes it, the connection is no HTTP any
/// more.
async fn exchange(
    stream: BoxStream,
    request: Request<Empty<Bytes>>,
    check: impl Fn(&Response<Incoming>) -> Result<(), String>,
) -> Result<Upgraded, String> {
    let http = |e: hyper::Error| format!("no HTTP answer: {e}");
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(http)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(http)?;
        check(&response)?;
        Ok(hyper::upgrade::on(response))
    };
    let connection = async { connection.with_upgrades().await.map_err(http) };
    let (on, ()) = try_join(answer, connection).await?;
    upgraded(on).await
}
