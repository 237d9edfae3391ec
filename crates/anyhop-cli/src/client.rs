//! A command's connection to the daemon.

use std::io;

use axum::http::{Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{ReadHalf, WriteHalf},
    net::UnixStream,
};

use crate::{
    api::network::NetworkQuery,
    error::{CliError, Code, ErrorBody},
    frame::{FrameReader, FrameWriter, UPGRADE, broken, unexpected},
    state::StateDir,
};

/// Reading half of an upgraded connection.
pub(crate) type Reader = FrameReader<ReadHalf<TokioIo<Upgraded>>>;
/// Writing half of an upgraded connection.
pub(crate) type Writer = FrameWriter<WriteHalf<TokioIo<Upgraded>>>;

/// Splits an upgraded connection.
pub(crate) fn framed(upgraded: Upgraded) -> (Reader, Writer) {
    let (r, w) = tokio::io::split(TokioIo::new(upgraded));
    (FrameReader::new(r), FrameWriter::new(w))
}

/// Speaks to the daemon of one state directory, about one of its networks. One connection
/// for each request.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    state_dir: StateDir,
    network: NetworkQuery,
}

impl Client {
    /// For the daemon of `state_dir`; about the network of this name or id, or else the
    /// daemon's default one.
    pub(crate) fn new(state_dir: StateDir, network: Option<String>) -> Self {
        let network = NetworkQuery { network };
        Self { state_dir, network }
    }

    /// Asks for a value.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        let response = self
            .roundtrip(Method::GET, path, Bytes::new(), false)
            .await?;
        read_json(response).await
    }

    /// Asks for a value described by a query.
    pub(crate) async fn query<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &impl Serialize,
    ) -> Result<T, CliError> {
        self.get(&with_query(path, query)?).await
    }

    /// Sends a value, gets a value.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        value: &impl Serialize,
    ) -> Result<T, CliError> {
        let body = serde_json::to_vec(value).map_err(|e| unexpected(&e.to_string()))?;
        let response = self
            .roundtrip(Method::POST, path, body.into(), false)
            .await?;
        read_json(response).await
    }

    /// Sends bytes described by a query, gets a value.
    pub(crate) async fn post_bytes<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &impl Serialize,
        body: Bytes,
    ) -> Result<T, CliError> {
        let path = with_query(path, query)?;
        let response = self.roundtrip(Method::POST, &path, body, false).await?;
        read_json(response).await
    }

    /// Opens an upgraded connection.
    pub(crate) async fn upgrade(
        &self,
        path: &str,
        query: &impl Serialize,
    ) -> Result<(Reader, Writer), CliError> {
        let path = with_query(path, query)?;
        self.upgraded(&path, Bytes::new()).await
    }

    /// Opens an upgraded connection with a value.
    pub(crate) async fn upgrade_with(
        &self,
        path: &str,
        value: &impl Serialize,
    ) -> Result<(Reader, Writer), CliError> {
        let body = serde_json::to_vec(value).map_err(|e| unexpected(&e.to_string()))?;
        self.upgraded(path, body.into()).await
    }

    async fn upgraded(&self, path: &str, body: Bytes) -> Result<(Reader, Writer), CliError> {
        let response = self.roundtrip(Method::POST, path, body, true).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(read_error(response).await);
        }
        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|e| broken(&io::Error::other(e)))?;
        Ok(framed(upgraded))
    }

    async fn roundtrip(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        upgrade: bool,
    ) -> Result<Response<Incoming>, CliError> {
        let path = with_query(path, &self.network)?;
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| broken(&io::Error::other(e)))?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "anyhop");
        request = if upgrade {
            request
                .header(header::CONNECTION, "upgrade")
                .header(header::UPGRADE, UPGRADE)
        } else {
            request.header(header::CONTENT_TYPE, "application/json")
        };
        let request = request
            .body(Full::new(body))
            .map_err(|e| unexpected(&e.to_string()))?;
        sender
            .send_request(request)
            .await
            .map_err(|e| broken(&io::Error::other(e)))
    }

    async fn connect(&self) -> Result<UnixStream, CliError> {
        let path = self.state_dir.socket()?;
        UnixStream::connect(&path)
            .await
            .map_err(|e| match e.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    no_daemon(&self.state_dir)
                }
                _ => CliError::new(
                    Code::StateDir,
                    format!("cannot reach the daemon at {}: {e}", path.display()),
                )
                .hint("run this as the user who runs the daemon"),
            })
    }
}

fn no_daemon(state_dir: &StateDir) -> CliError {
    let dir = state_dir.path().display();
    CliError::new(Code::NoDaemon, format!("no daemon is running on {dir}"))
        .hint(format!("start one with: anyhop --state-dir {dir} up"))
}

fn with_query(path: &str, query: &impl Serialize) -> Result<String, CliError> {
    let query = serde_urlencoded::to_string(query).map_err(|e| unexpected(&e.to_string()))?;
    Ok(match (query.is_empty(), path.contains('?')) {
        (true, _) => path.to_owned(),
        (false, false) => format!("{path}?{query}"),
        (false, true) => format!("{path}&{query}"),
    })
}

async fn read_json<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, CliError> {
    if !response.status().is_success() {
        return Err(read_error(response).await);
    }
    let body = collect(response).await?;
    serde_json::from_slice(&body).map_err(|e| unexpected(&e.to_string()))
}

async fn read_error(response: Response<Incoming>) -> CliError {
    let status = response.status();
    match collect(response).await {
        Err(e) => e,
        Ok(body) => match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => body.error,
            Err(_) => unexpected(&format!("answer {status}")),
        },
    }
}

async fn collect(response: Response<Incoming>) -> Result<Bytes, CliError> {
    let body = response.into_body().collect().await;
    Ok(body.map_err(|e| broken(&io::Error::other(e)))?.to_bytes())
}
