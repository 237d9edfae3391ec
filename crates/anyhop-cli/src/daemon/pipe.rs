//! `cat`: one stream of a session over one upgraded control connection.
//!
//! The command waits for `Opened`, then each direction ends on its own: the command's
//! `End` finishes the stream towards the peer, the peer's finish becomes `End` to the
//! command. The command gets `Delivered` when the peer's node has acknowledged
//! everything, so that a command that ends well lost nothing on the way. A lost
//! direction ends both, with an error.

use std::io;

use anyhop::{Incoming, Listener, PeerId, RecvStream, SendStream, StreamError};
use tokio::sync::oneshot;

use crate::{
    api::Notice,
    client::{Reader, Writer},
    error::{CliError, Code},
    frame::{CHUNK, Frame, broken, parse_error, unexpected},
};

/// Code of a stream reset because the command went away or failed.
const COMMAND_GONE: u32 = 1;

/// Waits for one stream, then carries it.
pub(super) async fn listen(mut reader: Reader, mut writer: Writer, mut listener: Listener) {
    let incoming = tokio::select! {
        incoming = listener.next() => incoming,
        // The command sends nothing before `Opened`: what comes here is its end.
        _ = reader.next() => None,
    };
    drop(listener);
    match incoming {
        None => {}
        Some(Incoming {
            peer,
            recv,
            send: Some(send),
        }) => run(reader, writer, peer, send, recv).await,
        Some(Incoming { peer, .. }) => {
            let error = CliError::new(
                Code::Failed,
                format!("{peer} opened a one-way stream for a `cat`, which takes both ways"),
            );
            let _ = writer.error(error).await;
        }
    }
}

/// Carries the stream until both directions are done, one is lost, or the command left.
pub(super) async fn run(
    reader: Reader,
    mut writer: Writer,
    peer: PeerId,
    send: SendStream,
    recv: RecvStream,
) {
    let peer_id = peer.to_base58();
    if writer.json(&Notice::Opened { peer_id }).await.is_err() {
        return;
    }
    let (done, outcome) = oneshot::channel();
    let result = tokio::select! {
        result = from_peer(recv, &mut writer, outcome) => result,
        result = from_command(reader, peer, send, done) => result,
    };
    // An error here means that the command left: nobody is there to be told.
    if let Err(Ended::With(error)) = result {
        let _ = writer.error(error).await;
    }
}

/// Why the pipe ended early.
enum Ended {
    /// The command should be told.
    With(CliError),
    /// The command is gone.
    CommandGone,
}

impl From<StreamError> for Ended {
    fn from(e: StreamError) -> Self {
        Self::With(match e {
            StreamError::Stopped { peer, code } => stopped(peer, code),
            e => e.into(),
        })
    }
}

fn stopped(peer: PeerId, code: u64) -> CliError {
    let why = if code == u64::from(COMMAND_GONE) {
        "its command was cut off".to_owned()
    } else {
        format!("code {code:#x}")
    };
    CliError::new(
        Code::Lost,
        format!("{peer} ended the stream before its end: {why}"),
    )
    .hint("what was received so far is incomplete; see the other side's output")
}

/// Stream to command. Ends well when both directions are done.
async fn from_peer(
    mut recv: RecvStream,
    writer: &mut Writer,
    delivered: oneshot::Receiver<()>,
) -> Result<(), Ended> {
    let gone = |_: io::Error| Ended::CommandGone;
    let mut buf = vec![0; CHUNK];
    let mut delivered = std::pin::pin!(delivered);
    let (mut receiving, mut sending) = (true, true);
    while receiving || sending {
        tokio::select! {
            read = recv.read(&mut buf), if receiving => match read? {
                Some(n) => writer.data(&buf[..n]).await.map_err(gone)?,
                None => {
                    receiving = false;
                    writer.send(&Frame::End).await.map_err(gone)?;
                }
            },
            outcome = &mut delivered, if sending => {
                if outcome.is_err() {
                    return Err(Ended::CommandGone);
                }
                sending = false;
                writer.send(&Frame::Delivered).await.map_err(gone)?;
            }
        }
    }
    Ok(())
}

/// Command to stream; after the end of the data, watches for the command's own end.
/// Never ends well: the other direction says when all is done.
async fn from_command(
    mut reader: Reader,
    peer: PeerId,
    mut send: SendStream,
    delivered: oneshot::Sender<()>,
) -> Result<(), Ended> {
    loop {
        match reader.next().await {
            Ok(Some(Frame::Data(data))) => send.write_chunk(data).await?,
            Ok(Some(Frame::End)) => break,
            Ok(Some(Frame::Error(error))) => {
                send.reset(COMMAND_GONE);
                tracing::debug!("a cat failed on its input: {}", parse_error(&error));
                return Err(Ended::CommandGone);
            }
            Ok(Some(other)) => {
                send.reset(COMMAND_GONE);
                return Err(Ended::With(unexpected(&format!("{other:?}"))));
            }
            Ok(None) => {
                send.reset(COMMAND_GONE);
                return Err(Ended::CommandGone);
            }
            Err(e) => {
                send.reset(COMMAND_GONE);
                return Err(Ended::With(broken(&e)));
            }
        }
    }
    send.finish()?;
    if let Some(code) = send.stopped().await? {
        return Err(Ended::With(stopped(peer, code)));
    }
    if delivered.send(()).is_err() {
        return Err(Ended::CommandGone);
    }
    // Whatever comes now is the command's end.
    let _ = reader.next().await;
    Err(Ended::CommandGone)
}
