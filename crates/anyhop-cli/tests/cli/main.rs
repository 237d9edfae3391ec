//! The real binary: daemons on 127.0.0.1 in temporary state directories, and commands
//! that use them.

mod api;
mod bench;
mod firewall;
mod forwarding;
mod harness;
mod http;
mod jobs;
mod kills;
mod messages;
mod networks;
mod reaching;
mod schema;
mod seeing;
mod service;
mod state;
mod streams;
mod topics;
mod websocket;
