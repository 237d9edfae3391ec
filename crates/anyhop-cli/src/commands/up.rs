//! `up`.

use std::{collections::BTreeSet, fs, path::Path};

use anyhop::{Config, NetworkName, RelayConfig, Site, WebSocketConfig, WebSocketTls};

use crate::{
    args::UpArgs,
    daemon::{self, Settings},
    environment,
    error::CliError,
    output::Output,
    site,
    state::StateDir,
};

pub(super) async fn run(
    state_dir: StateDir,
    mut networks: Vec<NetworkName>,
    output: Output,
    tell: bool,
    args: UpArgs,
) -> Result<(), CliError> {
    let websocket = websocket(&args)?;
    let mut config = Config {
        websocket,
        listen: args.listen,
        bootstrap: args.bootstrap,
        direct_paths: !args.no_direct,
        port_mapping: !args.no_port_mapping,
        mdns: !args.no_mdns,
        signalling: !args.no_signalling,
        ..Config::default()
    };
    config.relay = RelayConfig {
        enabled: !args.no_relay,
        max_circuits: args.max_circuits.unwrap_or(config.relay.max_circuits),
        ..config.relay
    };
    let mut named = BTreeSet::new();
    networks.retain(|name| named.insert(name.clone()));
    let settings = Settings {
        networks,
        config,
        vpn: args.vpn,
        dns: !args.no_dns,
    };
    daemon::run(state_dir, settings, output, tell).await
}

fn websocket(args: &UpArgs) -> Result<WebSocketConfig, CliError> {
    Ok(WebSocketConfig {
        listen: args.listen_ws.clone(),
        tls: match (&args.ws_cert, &args.ws_key) {
            _ if args.ws_plain => WebSocketTls::Plain,
            (Some(cert), Some(key)) => WebSocketTls::Pem {
                chain: read(cert, "--ws-cert")?,
                key: read(key, "--ws-key")?,
            },
            _ => WebSocketTls::SelfMade,
        },
        site: match &args.ws_site {
            Some(dir) => site::read(dir)?,
            None => Site::default(),
        },
        proxies: environment::proxies_used(),
    })
}

fn read(file: &Path, option: &str) -> Result<Vec<u8>, CliError> {
    fs::read(file).map_err(|e| {
        CliError::usage(format!("cannot read {option} {}: {e}", file.display()))
            .hint("give a PEM file that this user may read")
    })
}
