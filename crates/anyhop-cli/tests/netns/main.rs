//! The real binary on the real kernel: a public relay, cone and symmetric NATs made of
//! nftables in network namespaces. Needs root, `ip` and `nft`; says `skipped:` and why
//! where it cannot run.
//!
//! ```text
//!                 203.0.113.0/24
//!   ┌───────┬──────────┼──────────┬───────────┐
//!   R     cone       cone     symmetric   symmetric
//!           │          │          │           │
//!           A          B          S           T
//! ```

mod blocked;
mod chain;
mod cone;
mod families;
mod firewall;
mod flow;
mod killed_relay;
mod lan;
mod mapping;
mod matrix;
mod moving;
mod names;
mod networks;
mod node;
mod ports;
mod routes;
mod socks;
mod symmetric;
mod transfer;
mod vpn;
mod vpn_hard;
mod vpn_keys;
mod vpn_members;
mod vpn_paths;
mod vpn_switch;
mod watched;
mod world;

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

/// How long anything that has to happen may take before a test says that it did not.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of one transfer.
const TRANSFER: u64 = 200_000_000;

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Waits for the other tests of this file, which would disturb each other's timing.
/// `None`, with the reason printed, where namespaces cannot be made.
async fn turn() -> Option<MutexGuard<'static, ()>> {
    if let Some(reason) = anyhop_lab::netns::skip_reason() {
        println!("skipped: {reason}");
        return None;
    }
    Some(ONE_AT_A_TIME.lock().await)
}
