//! The control socket: who may connect, how many at once, and upgrades.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    serve::Listener,
};
use nix::sys::stat::{Mode, umask};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{Daemon, Tasks, api};
use crate::{
    client::{Reader, Writer, framed},
    error::{CliError, Code},
    frame::UPGRADE,
};

/// Control connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 512;
/// Pause after a failed accept, which is out of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The socket's file, removed when this is dropped.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), "the control socket was not removed: {e}");
        }
    }
}

/// Binds the socket. The caller holds the state directory's lock, so a file at `path`
/// was left by a daemon that did not end well.
pub(super) fn bind(path: &Path) -> Result<(SocketFile, UnixListener), CliError> {
    let failed = |e: io::Error| {
        CliError::new(
            Code::StateDir,
            format!("cannot open the control socket {}: {e}", path.display()),
        )
        .hint("check the directory's owner and permissions, or choose another --state-dir")
    };
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    // For the moment between bind and chmod, in a directory that is open to others.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.map_err(failed)?;
    let file = SocketFile(path.to_owned());
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok((file, listener))
}

/// Answers on the socket until the daemon stops.
pub(super) fn serve(daemon: &Arc<Daemon>, listener: UnixListener) {
    let listener = Limited {
        listener,
        permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
    };
    let router = api::router(Arc::clone(daemon));
    let stopped = daemon.tasks.stop.clone().cancelled_owned();
    daemon.tasks.tracker.spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(stopped);
        if let Err(e) = served.await {
            tracing::error!("the control API ended: {e}");
        }
    });
}

/// Switches a request to frames and runs `work` on them, as one of `tasks`.
pub(super) fn upgrade<F, Fut>(
    tasks: &Tasks,
    mut request: Request,
    work: F,
) -> Result<Response, CliError>
where
    F: FnOnce(Reader, Writer) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let asked = request.headers().get(header::UPGRADE);
    if asked.is_none_or(|v| v != UPGRADE) {
        return Err(CliError::usage(format!(
            "this is answered over an upgraded connection only: `Upgrade: {UPGRADE}`"
        )));
    }
    let upgraded = hyper::upgrade::on(&mut request);
    tasks.spawn(async move {
        match upgraded.await {
            Ok(upgraded) => {
                let (reader, writer) = framed(upgraded);
                work(reader, writer).await;
            }
            Err(e) => tracing::debug!("a command left before its connection was upgraded: {e}"),
        }
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static(UPGRADE)),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// A listener with a limit on connections; upgraded ones count until they close.
struct Limited {
    listener: UnixListener,
    permits: Arc<Semaphore>,
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .expect("this semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, addr)) => {
                    let connection = Connection {
                        stream,
                        _permit: permit,
                    };
                    return (connection, addr);
                }
                Err(e) => {
                    tracing::warn!("cannot accept a control connection: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A control connection that counts.
struct Connection {
    stream: UnixStream,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
