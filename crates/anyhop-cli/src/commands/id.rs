//! `id`.

use super::Context;
use crate::{api::PeerReport, error::CliError};

pub(super) fn run(context: &Context) -> Result<(), CliError> {
    let peer_id = context
        .state_dir
        .keypair()?
        .public()
        .to_peer_id()
        .to_base58();
    context
        .output
        .result(&PeerReport { peer_id }, |r| r.peer_id.clone())
}
