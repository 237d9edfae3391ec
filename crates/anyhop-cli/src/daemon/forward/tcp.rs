//! A TCP connection over a stream.

use anyhop::{RecvStream, SendStream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::error::{CliError, Code};

/// Read and written in chunks of this many bytes.
const BUFFER: usize = 64 << 10;

/// Carries both directions, each until its own end. When one is lost, the other is cut:
/// the TCP side sees a reset and never a clean end, the stream's side likewise.
pub(in crate::daemon) async fn splice(
    mut tcp: TcpStream,
    mut send: SendStream,
    mut recv: RecvStream,
) -> Result<(), CliError> {
    // Small writes of interactive protocols must not wait for each other.
    let _ = tcp.set_nodelay(true);
    let result = {
        let (mut from, mut to) = tcp.split();
        let out = async {
            let mut buf = vec![0; BUFFER];
            loop {
                match from.read(&mut buf).await.map_err(tcp_lost)? {
                    0 => return Ok::<_, CliError>(send.finish()?),
                    n => send.write_all(&buf[..n]).await?,
                }
            }
        };
        let back = async {
            let mut buf = vec![0; BUFFER];
            while let Some(n) = recv.read(&mut buf).await? {
                to.write_all(&buf[..n]).await.map_err(tcp_lost)?;
            }
            to.shutdown().await.map_err(tcp_lost)
        };
        tokio::try_join!(out, back)
    };
    if result.is_err() {
        let _ = tcp.set_zero_linger();
    }
    result.map(|_| ())
}

#[expect(clippy::needless_pass_by_value, reason = "goes to map_err")]
fn tcp_lost(e: std::io::Error) -> CliError {
    CliError::new(Code::Lost, format!("the TCP connection was lost: {e}"))
}
