//! `up`.

use anyhop::{Config, RelayConfig};

use super::Context;
use crate::{args::UpArgs, daemon, error::CliError};

pub(super) async fn run(context: Context, args: UpArgs) -> Result<(), CliError> {
    let mut config = Config {
        listen: args.listen,
        bootstrap: args.bootstrap,
        direct_paths: !args.no_direct,
        ..Config::default()
    };
    if let Some(network) = args.network {
        config.network = network;
    }
    config.relay = RelayConfig {
        enabled: !args.no_relay,
        max_circuits: args.max_circuits.unwrap_or(config.relay.max_circuits),
        ..config.relay
    };
    daemon::run(
        context.state_dir,
        config,
        context.output,
        context.verbose > 0,
    )
    .await
}
