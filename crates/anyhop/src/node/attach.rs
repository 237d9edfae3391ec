//! Staying connected to the bootstrap peers, and telling others to come through them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhop_base::{Endpoint, PeerId};
use anyhop_proto::control::{Attached, MAX_CONTROL_FRAME};
use tokio::time::Instant;

use super::{Inner, protocols};
use crate::{
    DialError,
    session::Conn,
    stream::{malformed, read_frame},
};

/// First wait before a lost bootstrap peer is dialled again; doubles up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(500);
/// Longest wait.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// An attachment that held this long starts the waits anew.
const STABLE: Duration = Duration::from_secs(30);

impl Inner {
    /// Starts to keep links to all bootstrap peers.
    pub(super) fn stay_with_bootstraps(self: &Arc<Self>) {
        let mut bootstraps: BTreeMap<PeerId, Vec<Endpoint>> = BTreeMap::new();
        for bootstrap in self.config.bootstrap.iter().filter(|b| b.peer != self.me) {
            let known = bootstraps.entry(bootstrap.peer).or_default();
            known.push(bootstrap.addr);
        }
        for (peer, addresses) in bootstraps {
            self.spawn(Arc::clone(self).keep_attached(peer, addresses));
        }
    }

    /// Keeps a link to a bootstrap peer, known at these addresses, and an attachment if it
    /// relays.
    pub(super) async fn keep_attached(self: Arc<Self>, peer: PeerId, addresses: Vec<Endpoint>) {
        let mut wait = RETRY;
        loop {
            let started = Instant::now();
            match self.connect_quietly(peer).await {
                Ok(conn) => self.stay_attached(&conn, addresses.clone()).await,
                Err(e @ DialError::WrongPeer { .. }) => {
                    tracing::warn!(error = %e, "bootstrap peer not reached: check its address");
                }
                Err(e) => {
                    tracing::info!(%peer, error = %e, "bootstrap peer not reached");
                }
            }
            if started.elapsed() >= STABLE {
                wait = RETRY;
            }
            if self.moved_within(wait).await {
                wait = RETRY;
            } else {
                wait = (wait * 2).min(RETRY_MAX);
            }
        }
    }

    /// Attaches and waits until the session is lost.
    async fn stay_attached(&self, conn: &Conn, addresses: Vec<Endpoint>) {
        if let Err(e) = self.attach(conn, addresses).await {
            tracing::debug!(peer = %conn.peer, error = %e, "not attached");
        }
        self.set_attachment(conn.peer, None);
        conn.quic.closed().await;
    }

    /// Attaches to a relay, to be dialled at `addresses`: the open stream is the
    /// attachment. Returns when it ends, and at once when the peer does not relay.
    pub(super) async fn attach(
        &self,
        conn: &Conn,
        addresses: Vec<Endpoint>,
    ) -> Result<(), crate::StreamError> {
        let protocol = self.protocol(protocols::ATTACH);
        let (_send, mut recv) = conn.open_bi(&protocol, protocols::ATTACH).await?;
        let frame = read_frame(&mut recv, MAX_CONTROL_FRAME).await?;
        let attached = Attached::decode(&frame).map_err(|_| malformed(&mut recv))?;
        if !attached.relays {
            return Ok(());
        }
        let mut paths = conn.paths.subscribe();
        let mut told = false;
        let mut rest = [0; 16];
        loop {
            // Circuits are built on links: a relay reached over others is none.
            let is_link = paths.borrow_and_update().is_link();
            if is_link != told {
                told = is_link;
                self.set_attachment(conn.peer, told.then(|| addresses.clone()));
            }
            tokio::select! {
                read = recv.read(&mut rest) => {
                    if read?.is_none() {
                        return Ok(());
                    }
                }
                changed = paths.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Waits until some bootstrap peer is connected, if there are any to wait for.
    pub(super) async fn bootstrapped(&self) {
        loop {
            let changed = self.session_changed.notified();
            let peers: Vec<PeerId> = self.config.bootstrap.iter().map(|b| b.peer).collect();
            if peers.is_empty() || peers.iter().any(|p| self.current(*p).is_some()) {
                return;
            }
            changed.await;
        }
    }
}
