//! `network join`: how it goes, told until the end.
//!
//! The join itself is the daemon's: it goes on when the command leaves, until it is
//! admitted, refused, or the invitation's time is over.

use std::sync::Arc;

use super::Presence;
use crate::{
    api::network::{JoinReport, JoinTell},
    client::{Reader, Writer},
    error::CliError,
};

/// Tells a command how a node becomes a member.
pub(super) async fn tell(presence: Arc<Presence>, mut reader: Reader, mut writer: Writer) {
    tokio::select! {
        () = follow(&presence, &mut writer) => {}
        // The command says nothing: what comes is its end.
        _ = reader.next() => {}
    }
}

async fn follow(presence: &Presence, writer: &mut Writer) {
    let Some(network) = presence.node.private_network() else {
        return;
    };
    let name = presence.name();
    let asking = JoinTell::Asking {
        network: name.clone(),
    };
    if writer.json(&asking).await.is_err() {
        return;
    }
    let joined = network.joined();
    tokio::pin!(joined);
    let end = tokio::select! {
        end = &mut joined => end,
        () = network.asked_for_approval() => {
            if writer.json(&JoinTell::Waiting).await.is_err() {
                return;
            }
            joined.await
        }
    };
    let told = match end {
        Ok(()) => {
            let peer_id = presence.node.peer_id().to_base58();
            let report = JoinReport {
                network: name,
                peer_id,
            };
            writer.json(&JoinTell::Joined(report)).await
        }
        Err(e) => {
            let error = CliError::from(e).context(&format!("cannot join {name}"));
            writer.error(error).await
        }
    };
    if let Err(e) = told {
        tracing::debug!("the command that joins left: {e}");
    }
}
