//! `path`.

use super::{Context, paths_text};
use crate::{api::PathReport, error::CliError, output, spec::PeerSpec};

pub(super) async fn run(context: &Context, peer: &PeerSpec) -> Result<(), CliError> {
    let bar = output::spinner(format!("connecting to {peer}"));
    let report: Result<PathReport, _> = context.client().get(&format!("/v1/path/{peer}")).await;
    bar.finish_and_clear();
    context.output.result(&report?, paths_text)
}
