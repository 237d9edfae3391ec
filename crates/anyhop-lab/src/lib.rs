//! The lab that proves Anyhop: everything here stands in for a piece of the real
//! world, so that tests and the demo run anywhere and repeatably.
//!
//! - [`nat`]: a NAT box as a pure machine, described in the words of RFC 4787.
//! - [`net`]: a virtual network of hosts, NATs and links; its hosts are what
//!   [`anyhop::Node::start_on`] takes.
//! - [`netns`]: the same shapes in the real kernel: namespaces, veth pairs and nftables.
//! - [`meter`]: how much arrived, and how long nothing did.
//! - [`matrix`]: every kind of NAT with each, and what the model says of them.
//! - [`scenario`]: networks, faults and traffic written down in a file, and [`chaos`], one
//!   made at random.
//! - [`broadcast`]: thousands of machines, and how far and how fast posts reach them.
//! - [`rotation`]: what a new swarm key takes and costs in a network of many members.
//! - [`clock`]: virtual time.
//! - [`demo`]: four nodes on a virtual network show what Anyhop does.

pub mod broadcast;
pub mod chaos;
pub mod clock;
pub mod demo;
pub mod matrix;
pub mod meter;
pub mod nat;
pub mod net;
pub mod netns;
pub mod rotation;
pub mod scenario;
