//! Scenarios: hosts, NATs and links, a timeline of things that go wrong, traffic across
//! it, and what is expected of it. Written in TOML ([`Scenario::parse`]) or made by a
//! program, run under virtual time ([`Scenario::run`]).
//!
//! ```text
//! file    a document and what may be wrong with it      spec   what it says
//! world   the network and nodes made of it, and events  run    traffic, and what came of it
//! ```
//!
//! Time zero is when every node has started and is attached to a relay, if there is one.

mod file;
mod run;
mod spec;
#[cfg(test)]
mod tests;
mod world;

pub use file::ScenarioError;
pub use run::{Progress, Report, Stall, TrafficReport};
pub use spec::{
    Action, Event, Expect, HostSpec, NatSpec, PlaceRef, Scenario, Traffic, TrafficKind,
};
