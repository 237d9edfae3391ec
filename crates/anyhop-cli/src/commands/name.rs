//! `name`.

use anyhop::PeerId;
use serde::Serialize;

use super::Context;
use crate::{
    api::PeerReport, args::NameCommand, error::CliError, frame::unexpected, spec::PeerSpec,
};

/// A name and whose it is.
#[derive(Debug, Serialize)]
struct Named {
    name: String,
    peer_id: String,
}

pub(super) async fn run(context: &Context, command: NameCommand) -> Result<(), CliError> {
    match command {
        NameCommand::Add { name, peer } => add(context, name, &peer).await,
        NameCommand::List => list(context),
        NameCommand::Remove { name } => remove(context, name),
    }
}

async fn add(context: &Context, name: String, peer: &PeerSpec) -> Result<(), CliError> {
    let peer = find(context, peer).await?;
    let mut names = context.state_dir.names()?;
    names.add(&name, peer)?;
    context.state_dir.save_names(&names)?;
    let peer_id = peer.to_base58();
    context.output.result(&Named { name, peer_id }, |n| {
        format!("{} is {}", n.name, n.peer_id)
    })
}

/// The peer meant; parts of an id are completed by the daemon.
async fn find(context: &Context, peer: &PeerSpec) -> Result<PeerId, CliError> {
    if let Some(peer) = peer.full() {
        return Ok(peer);
    }
    let report: PeerReport = context.client().get(&format!("/v1/resolve/{peer}")).await?;
    report
        .peer_id
        .parse()
        .map_err(|_| unexpected("no PeerId in the answer"))
}

fn list(context: &Context) -> Result<(), CliError> {
    let names = context.state_dir.names()?;
    let list: Vec<_> = names
        .iter()
        .map(|(name, peer)| Named {
            name: name.to_owned(),
            peer_id: peer.to_base58(),
        })
        .collect();
    context.output.result(&list, |list| {
        let lines: Vec<_> = list
            .iter()
            .map(|n| format!("{} {}", n.name, n.peer_id))
            .collect();
        lines.join("\n")
    })
}

fn remove(context: &Context, name: String) -> Result<(), CliError> {
    let mut names = context.state_dir.names()?;
    let Some(peer) = names.remove(&name) else {
        return Err(CliError::usage(format!("there is no name {name:?}"))
            .hint("`anyhop name list` prints them all"));
    };
    context.state_dir.save_names(&names)?;
    let peer_id = peer.to_base58();
    context.output.result(&Named { name, peer_id }, |n| {
        format!("{} is no longer {}", n.name, n.peer_id)
    })
}
