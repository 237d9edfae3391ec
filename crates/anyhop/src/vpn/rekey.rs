//! New keys for a session that lasts (`rekey/1`): a handshake over a stream of it, in which
//! two bytes of each side say how far it is with them; see `anyhop_vpn::Keyring`.

use std::{sync::Arc, time::Duration};

use anyhop_vpn::REKEY_INTERVAL;
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

use super::links::Links;
use crate::{
    StreamError,
    engine::RekeyError,
    node::{Inner, protocols},
    session::Conn,
    stream::{RecvStream, SendStream, malformed},
};

/// Longest time that a handshake may take: one over a path that is changing waits for that.
const PATIENCE: Duration = Duration::from_secs(20);
/// This side opens with the new keys.
const OPENS: u8 = 1;
/// This side seals with them.
const SEALS: u8 = 2;

/// Why the keys are still the former ones.
#[derive(Debug, Error)]
enum Failed {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Handshake(#[from] RekeyError),
    #[error("the peer went away: {0}")]
    Gone(#[from] std::io::Error),
    #[error("it took too long")]
    TooLong,
    #[error("the peer said something unknown")]
    Unknown,
}

impl Links {
    /// Makes new keys of a connection with the peer.
    pub(super) async fn rekey(&self, conn: &Conn) {
        let made = timeout(PATIENCE, async {
            let protocol = self.node.protocol(protocols::REKEY);
            let (send, recv) = conn.open_bi(&protocol, protocols::REKEY).await?;
            self.exchange(conn, true, send, recv).await
        });
        let made = made.await.unwrap_or(Err(Failed::TooLong));
        if let Err(e) = made {
            tracing::debug!(peer = %conn.peer, error = %e, "no new keys for packets");
        }
    }

    async fn exchange(
        &self,
        conn: &Conn,
        begins: bool,
        send: SendStream,
        recv: RecvStream,
    ) -> Result<(), Failed> {
        let stream = tokio::io::join(recv, send);
        let fresh = self
            .node
            .engine
            .fresh_packet_keys(conn.peer, begins, stream);
        let (keys, mut stream) = fresh.await?;
        let Some(index) = conn.with_keyring(|ring| ring.add(keys)) else {
            return Ok(());
        };
        self.open_with_keys_of(conn);
        stream.write_all(&[OPENS]).await?;
        stream.flush().await?;
        expect(&mut stream, OPENS).await?;
        let now = Instant::now().into_std();
        conn.with_keyring(|ring| ring.promote(index, now));
        self.node.links_changed.notify_one();
        stream.write_all(&[SEALS]).await?;
        stream.flush().await?;
        expect(&mut stream, SEALS).await?;
        let now = Instant::now().into_std();
        conn.with_keyring(|ring| ring.outdate_before(index, now));
        // The peer has all it needs; how the stream ends changes nothing.
        let _ = stream.shutdown().await;
        Ok(())
    }
}

async fn expect(stream: &mut (impl AsyncReadExt + Unpin), byte: u8) -> Result<(), Failed> {
    match stream.read_u8().await? {
        said if said == byte => Ok(()),
        _ => Err(Failed::Unknown),
    }
}

/// Makes new keys when the peer wants some; a node that carries no packets refuses.
pub(crate) async fn serve(
    node: Arc<Inner>,
    conn: Arc<Conn>,
    send: SendStream,
    mut recv: RecvStream,
) -> Result<(), StreamError> {
    let links = node.packet_links();
    let begun = conn.with_keyring(|ring| ring.begin(Instant::now().into_std()));
    let Some(links) = links.filter(|links| links.knows(conn.peer) && begun == Some(true)) else {
        let interval = REKEY_INTERVAL;
        tracing::debug!(peer = %conn.peer, ?interval, "new keys refused: no plane, or too soon");
        return Err(malformed(&mut recv));
    };
    let made = timeout(PATIENCE, links.exchange(&conn, false, send, recv)).await;
    if let Err(e) = made.unwrap_or(Err(Failed::TooLong)) {
        tracing::debug!(peer = %conn.peer, error = %e, "no new keys for packets");
    }
    Ok(())
}
