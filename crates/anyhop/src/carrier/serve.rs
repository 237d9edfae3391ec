//! The server side: an ordinary HTTP site on a TCP port, at one path of which a WebSocket
//! is served.
//!
//! Whoever connects is a stranger until a session's handshake inside the WebSocket proves
//! a key. Each connection has a [place](super::limit), a time for its TLS handshake, a
//! time and a size for each request's head, and a time for its whole visit; only an
//! upgraded one stays, as long as a session uses it. In a private network the WebSocket is
//! there only for requests that show a [pass](super::pass) of its swarm key.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhop_proto::websocket::Sender;
use aws_lc_rs::digest;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{
        CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
    server::conn::http1,
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::{
    Carriers, PATH, SUBPROTOCOL, Site,
    limit::{Place, Places},
    pass::shows_pass,
    pump::Upgraded,
    tls,
};
use crate::{
    StartError, WebSocketConfig, WebSocketTls,
    engine::Swarm,
    net::{BoxStream, Host, StreamListener},
};

/// Time for the TLS handshake.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the head of each request, the wait for the next request included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a whole visit to the site.
const VISIT: Duration = Duration::from_secs(60);
/// Longest head of a request, bytes.
const MAX_HEAD: usize = 8 << 10;
/// Most headers of a request.
const MAX_HEADERS: usize = 64;
/// A WebSocket that no session uses for this long is closed: a handshake has this time.
const UNUSED: Duration = Duration::from_secs(15);
/// Wait before the next connection when one could not be accepted, such as for want of
/// file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// What a server appends to a client's key (RFC 6455 section 1.3).
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Serves one listening socket.
pub(crate) struct Server {
    listener: Box<dyn StreamListener>,
    addr: SocketAddr,
    tls: Option<TlsAcceptor>,
    site: Arc<Site>,
    swarm: Option<Arc<Swarm>>,
    places: Arc<Places>,
}

/// A connection that came in, with its place.
pub(crate) struct Visitor {
    stream: BoxStream,
    remote: SocketAddr,
    tls: Option<TlsAcceptor>,
    site: Arc<Site>,
    swarm: Option<Arc<Swarm>>,
    _place: Place,
}

impl Server {
    /// Listens on all addresses of a configuration.
    ///
    /// # Errors
    /// When one cannot be bound, or the certificate is unusable.
    pub(crate) fn listen(
        host: &dyn Host,
        config: &WebSocketConfig,
        swarm: Option<&Arc<Swarm>>,
    ) -> Result<Vec<Self>, StartError> {
        if config.listen.is_empty() {
            return Ok(Vec::new());
        }
        let tls = match &config.tls {
            WebSocketTls::SelfMade => Some(tls::self_made()?),
            WebSocketTls::Pem { chain, key } => Some(tls::from_pem(chain, key)?),
            WebSocketTls::Plain => None,
        };
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let site = Arc::new(config.site.clone());
        let places = Arc::default();
        let listen = config.listen.iter().map(|addr| {
            let bound = host.listen_tcp(*addr).and_then(|listener| {
                let addr = listener.local_addr()?;
                Ok((listener, addr))
            });
            let (listener, addr) = bound.map_err(|source| StartError::BindWebSocket {
                addr: *addr,
                source,
            })?;
            Ok(Self {
                listener,
                addr,
                tls: tls.clone(),
                site: Arc::clone(&site),
                swarm: swarm.cloned(),
                places: Arc::clone(&places),
            })
        });
        listen.collect()
    }

    /// The bound address.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection for which there is a place.
    pub(crate) async fn accept(&self) -> Visitor {
        loop {
            let (stream, remote) = match self.accept_one().await {
                Ok(accepted) => accepted,
                Err(e) => {
                    tracing::debug!(listener = %self.addr, error = %e, "no connection accepted");
                    sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let Some(place) = self.places.take(remote.ip()) else {
                tracing::debug!(%remote, "connection refused: its limit is reached");
                continue;
            };
            return Visitor {
                stream,
                remote,
                tls: self.tls.clone(),
                site: Arc::clone(&self.site),
                swarm: self.swarm.clone(),
                _place: place,
            };
        }
    }

    async fn accept_one(&self) -> io::Result<(BoxStream, SocketAddr)> {
        poll_fn(|cx| self.listener.poll_accept(cx)).await
    }
}

impl Visitor {
    /// Serves the site to it, or a WebSocket until that ends.
    pub(crate) async fn serve(self, carriers: Arc<Carriers>) {
        let Self {
            stream,
            remote,
            tls,
            site,
            swarm,
            _place,
        } = self;
        let visit = timeout(VISIT, visit(stream, tls, site, swarm)).await;
        let upgraded = match visit {
            Ok(Ok(Some(upgraded))) => upgraded,
            Ok(Ok(None)) => return,
            Ok(Err(reason)) => {
                tracing::debug!(%remote, reason, "visit ended");
                return;
            }
            Err(_) => {
                tracing::debug!(%remote, "visit took too long");
                return;
            }
        };
        let Some(held) = carriers.add(remote, Sender::Client) else {
            tracing::debug!(%remote, "WebSocket refused: their limit is reached");
            return;
        };
        tracing::debug!(%remote, "WebSocket accepted");
        let carrier = Arc::clone(held.carrier());
        drop(held);
        carriers.run(carrier, upgraded, UNUSED).await;
    }
}

/// Answers requests until the visitor leaves or upgrades.
async fn visit(
    stream: BoxStream,
    tls: Option<TlsAcceptor>,
    site: Arc<Site>,
    swarm: Option<Arc<Swarm>>,
) -> Result<Option<Upgraded>, String> {
    let stream: BoxStream = match tls {
        None => stream,
        Some(tls) => {
            let shaken = timeout(TLS_TIMEOUT, tls.accept(stream)).await;
            let shaken = shaken.map_err(|_| "no TLS handshake in time".to_owned())?;
            Box::new(shaken.map_err(|e| format!("TLS: {e}"))?)
        }
    };
    let upgrade = Mutex::new(None);
    let service = service_fn(|request| {
        let response = answer(request, &site, swarm.as_deref(), &upgrade);
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
        .map_err(|e| format!("HTTP: {e}"))?;
    match upgrade.into_inner().expect("no holder panics") {
        None => Ok(None),
        Some(on) => upgraded(on).await.map(Some),
    }
}

/// The connection below an upgrade.
pub(super) async fn upgraded(on: OnUpgrade) -> Result<Upgraded, String> {
    let upgraded = on.await.map_err(|e| format!("upgrade: {e}"))?;
    let parts = upgraded.downcast::<TokioIo<BoxStream>>();
    let parts = parts.map_err(|_| "upgrade: an unexpected stream".to_owned())?;
    Ok(Upgraded {
        stream: parts.io.into_inner(),
        early: parts.read_buf,
    })
}

/// Answers one request; one that asks for the WebSocket leaves its upgrade.
fn answer(
    mut request: Request<Incoming>,
    site: &Site,
    swarm: Option<&Swarm>,
    upgrade: &Mutex<Option<OnUpgrade>>,
) -> Response<Full<Bytes>> {
    let key = accept_key(&request);
    match key.filter(|_| swarm.is_none_or(|swarm| shows_pass(request.headers(), swarm))) {
        None => site.answer(request.method(), request.uri().path()),
        Some(accept) => {
            let on = hyper::upgrade::on(&mut request);
            *upgrade.lock().expect("no holder panics") = Some(on);
            switching(&accept)
        }
    }
}

/// Checks a request for the WebSocket (RFC 6455 section 4.2.1); the answer to its key.
/// Whatever else asks at the path is shown what it would see anywhere.
fn accept_key<B>(request: &Request<B>) -> Option<String> {
    let headers = request.headers();
    let asks = request.method() == Method::GET
        && request.uri().path() == PATH
        && lists(headers, &UPGRADE, "websocket")
        && lists(headers, &CONNECTION, "upgrade")
        && lists(headers, &SEC_WEBSOCKET_VERSION, "13")
        && lists(headers, &SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    let key = headers.get(SEC_WEBSOCKET_KEY)?.to_str().ok()?;
    let nonce = BASE64_STANDARD.decode(key).ok()?;
    (asks && nonce.len() == 16).then(|| answer_to_key(key))
}

/// Whether a header's comma-separated values hold one, in any case.
pub(super) fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    values
        .flat_map(|v| v.split(','))
        .any(|v| v.trim().eq_ignore_ascii_case(wanted))
}

/// What a server answers to a client's key (RFC 6455 section 4.2.2). It shows that the
/// server speaks WebSocket, and nothing else: SHA-1 is good enough for that.
pub(super) fn answer_to_key(key: &str) -> String {
    let text = format!("{key}{ACCEPT_GUID}");
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    BASE64_STANDARD.encode(hash)
}

fn switching(accept: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let protocol = HeaderValue::from_static(SUBPROTOCOL);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    let accept = HeaderValue::from_str(accept).expect("base64 is a header value");
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_that_of_rfc_6455() {
        assert_eq!(
            answer_to_key("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn only_a_whole_request_for_the_websocket_is_one() {
        let request = |change: fn(&mut Request<()>)| {
            let mut request = Request::builder()
                .uri(PATH)
                .header(UPGRADE, "WebSocket")
                .header(CONNECTION, "keep-alive, Upgrade")
                .header(SEC_WEBSOCKET_VERSION, "13")
                .header(SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")
                .header(SEC_WEBSOCKET_PROTOCOL, format!("chat, {SUBPROTOCOL}"))
                .body(())
                .unwrap();
            change(&mut request);
            accept_key(&request).is_some()
        };
        assert!(request(|_| {}));
        assert!(!request(|r| *r.method_mut() = Method::POST));
        assert!(!request(|r| *r.uri_mut() = "/other".parse().unwrap()));
        for name in [
            UPGRADE,
            CONNECTION,
            SEC_WEBSOCKET_VERSION,
            SEC_WEBSOCKET_KEY,
            SEC_WEBSOCKET_PROTOCOL,
        ] {
            let whole = Request::builder().uri(PATH);
            let mut whole = whole.body(()).unwrap();
            let complete: [(HeaderName, &str); 5] = [
                (UPGRADE, "websocket"),
                (CONNECTION, "upgrade"),
                (SEC_WEBSOCKET_VERSION, "13"),
                (SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
                (SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL),
            ];
            for (header, value) in complete {
                if header != name {
                    whole.headers_mut().insert(header, value.parse().unwrap());
                }
            }
            assert_eq!(accept_key(&whole), None, "without {name}");
        }
        assert!(!request(|r| {
            let short = HeaderValue::from_static("c2hvcnQ=");
            r.headers_mut().insert(SEC_WEBSOCKET_KEY, short);
        }));
    }
}
