//! The packet plane's logic: what happens to an IP packet between the host's network
//! interface and a session's path.
//!
//! # Boundary
//!
//! This crate will hold sealing and replay windows, overlay routes, the firewall and its
//! connection tracking, address assignment, name lookup and the L2 switch, each as a
//! machine: packets, events and the current time go in; packets, events and the next
//! timeout come out. It stands on `anyhop-base` alone, and never
//!
//! - opens a socket, a TUN device or a file: that is `anyhop-os`, driven by `anyhop`;
//! - reads a clock or a random number generator: both are arguments;
//! - runs a key exchange: keys come from a session's TLS exporter;
//! - knows the QUIC engine: a path is an opaque number to it.
//!
//! It is empty until the packet plane is built. Nothing depends on it before.
