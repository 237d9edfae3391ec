//! `connect`.

use super::{Context, paths_text};
use crate::{
    api::{ConnectAsk, PathReport},
    error::CliError,
    output,
    spec::PeerOrAddr,
};

pub(super) async fn run(context: &Context, peer: &PeerOrAddr) -> Result<(), CliError> {
    let (ask, what) = match peer {
        PeerOrAddr::Peer(peer) => (
            ConnectAsk {
                peer: Some(peer.to_string()),
                address: None,
            },
            peer.to_string(),
        ),
        PeerOrAddr::Addr(addr) => (
            ConnectAsk {
                peer: None,
                address: Some(addr.to_string()),
            },
            addr.to_string(),
        ),
    };
    let bar = output::spinner(format!("connecting to {what}"));
    let report: Result<PathReport, _> = context.client().post("/v1/connect", &ask).await;
    bar.finish_and_clear();
    context
        .output
        .result(&report?, |r| format!("connected to {}", paths_text(r)))
}
