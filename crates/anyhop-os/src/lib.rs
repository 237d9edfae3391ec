//! What Anyhop asks of the operating system.
//!
//! This crate knows no peers, keys or sessions; what it returns are plain values of the
//! standard library. It will be the one crate that may hold `unsafe` code (batched UDP,
//! TUN devices); so far none is needed, and none is allowed.

mod dnssd;
mod interfaces;
mod kernel;
mod lock;
mod process;
mod routes;
mod ttl;
mod watch;

pub use dnssd::{DnsSd, DnsSdError, LocalService, Sighting};
pub use interfaces::interface_addresses;
pub use kernel::{SocketBufferLimits, interface_mtus, socket_buffer_limits, source_address};
pub use lock::{LOCK_FILE, LockError, StateDirLock};
pub use process::{is_root, process_cpu_time};
pub use routes::{Gateway, default_gateways};
pub use ttl::send_with_ttl;
pub use watch::{NetworkWatch, netlink_events};
