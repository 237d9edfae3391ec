//! What Anyhop asks of the operating system.
//!
//! This crate knows no peers, keys or sessions; what it returns are plain values of the
//! standard library. It is the one crate that may hold `unsafe` code, each block with a
//! `SAFETY:` line; only the making of TUN devices needs it.

mod dnssd;
mod host;
mod interfaces;
mod kernel;
mod lock;
mod netlink;
pub mod nft;
mod process;
mod resolver;
mod routes;
mod ttl;
mod tun;
mod watch;

pub use dnssd::{DnsSd, DnsSdError, LocalService, Sighting};
pub use host::{HostChange, HostError, RoutingRule, Undone, sysctl};
pub use interfaces::{INTERFACE_PREFIX, interface_addresses};
pub use kernel::{SocketBufferLimits, interface_mtus, socket_buffer_limits, source_address};
pub use lock::{LOCK_FILE, LockError, StateDirLock};
pub use process::{is_root, process_cpu_time};
pub use resolver::{Resolver, ResolverError, hook_resolved, resolver, resolver_lines};
pub use routes::{Gateway, default_gateways, routed_prefixes};
pub use ttl::send_with_ttl;
pub use tun::{MAX_INTERFACE_NAME, StopFlag, Tun, TunKind};
pub use watch::{NetworkWatch, netlink_events};
