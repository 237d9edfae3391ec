//! The WebSockets of a connection: those its driver opens, and those the peer did.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhop_proto::{carrier::CarrierId, is_virtual, path::Role, probe::Probe};
use rand::RngExt;

use super::{Driver, Job, open_path};
use crate::{carrier::CarrierUse, node::Inner, session::Conn};

/// WebSockets of one session, dead ones included, above which those of the peer are left
/// alone.
const MAX_WEBSOCKETS: usize = 2;
/// Addresses of closed direct paths that are kept in mind.
const MAX_LEFT: usize = 4;
/// Pings that tell the client of a WebSocket it can open a path over.
const INVITATIONS: u32 = 15;
/// Time between them.
const INVITATION_INTERVAL: Duration = Duration::from_millis(200);

impl Driver {
    /// Opens a WebSocket to the peer and a path over it. A server cannot open the path: it
    /// has the client do so by pinging it over the WebSocket.
    pub(super) fn start_websocket(&mut self) {
        let (node, conn) = (Arc::clone(&self.node), Arc::clone(&self.conn));
        self.jobs.spawn(async move {
            let opened = async {
                let held = node.websocket_to(conn.peer).await?;
                match conn.role {
                    Role::Client => open_path(&conn, held.address()).await,
                    Role::Server => invite(&node, &conn, &held).await,
                }
            };
            Job::WebSocketPath(opened.await)
        });
    }

    /// Keeps in mind where a closed path led.
    pub(super) fn remember_left(&mut self, remote: SocketAddr) {
        if is_virtual(&remote) {
            return;
        }
        self.left.retain(|addr| *addr != remote);
        self.left.push_front(remote);
        self.left.truncate(MAX_LEFT);
    }

    /// Nothing lives, so that no punch can be agreed on: UDP may be back where it was. Both
    /// sides ask, which opens their NATs, and the client opens a path to what answers.
    pub(super) fn look_back(&mut self) {
        for addr in self.left.clone() {
            self.probing.check(addr);
        }
    }

    /// The peer pinged over a WebSocket: one that it opened becomes a path.
    pub(super) fn join_websocket(&mut self, carrier: CarrierId) {
        let addr = carrier.address();
        let known = self.paths.values().any(|open| open.remote == addr);
        let over_websockets = self.paths.values().map(|open| &open.remote);
        let over_websockets = over_websockets.filter_map(CarrierId::from_address);
        let enough = over_websockets.count() + self.joining.len() >= MAX_WEBSOCKETS;
        if self.conn.role == Role::Server || known || enough || !self.joining.insert(carrier) {
            return;
        }
        let (held, conn) = (hold(&self.node, addr), Arc::clone(&self.conn));
        self.jobs.spawn(async move {
            let opened = open_path(&conn, addr).await;
            drop(held);
            Job::PeersWebSocketPath(carrier, opened)
        });
    }
}

/// Keeps the WebSocket behind an address open, if it is one's.
pub(super) fn hold(node: &Inner, remote: SocketAddr) -> Option<CarrierUse> {
    node.fabric.carriers.hold(CarrierId::from_address(&remote)?)
}

/// Pings the client over a WebSocket until it has made it a path.
async fn invite(node: &Inner, conn: &Conn, held: &CarrierUse) -> Result<(), String> {
    for _ in 0..INVITATIONS {
        if held.is_shared() {
            return Ok(());
        }
        let nonce = rand::rng().random();
        let ping = conn.keys.seal(Probe::ping(nonce));
        node.fabric.send_datagram(held.address(), &ping);
        tokio::time::sleep(INVITATION_INTERVAL).await;
    }
    Err("the peer opened no path over the WebSocket".to_owned())
}
