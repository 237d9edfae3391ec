//! Ways over relays: how they are searched when nothing known leads to a peer.
//!
//! A *route* is a source route: the relays to cross, nearest first. Whoever offers one may
//! lie; a wrong route costs an attempt and nothing else, since the ends of a circuit prove
//! who they are.
//!
//! **Plan**: own links and the attachments that records tell make a graph; [`plan()`] offers
//! the best ways through it.
//!
//! **Search** (`find/1`): the originator asks its links, they ask theirs, within a hop
//! limit that grows from ring to ring ([`Search`]). Each node answers for what lies behind
//! it ([`SearchBook`], [`Gather`]): the first way found, or how far it went and who
//! refused. A node follows one ring of one search once (by its nonce), again only if the
//! request comes with more hops left; each level of the search keeps a share of the time
//! for itself, so that a silent node costs its neighbour's patience and not everybody's.
//!
//! **Attachments**: [`Keeper`] decides which relays a node keeps links to, so that there are
//! ways to it, and learns of them from neighbours (`peers/1`).
//!
//! **Trace** (`trace/1`): each relay of a way measures its link to the next, by probes.
//!
//! Bounds: one ring crosses a link at most [`MAX_HOPS`](crate::circuit::MAX_HOPS) times
//! each way, usually once; requests are limited for each neighbour and in total. Searches
//! run inside authenticated sessions only.

mod keeper;
mod limit;
mod plan;
mod sample;
mod search;
mod trace;
mod wire;

pub use keeper::{ATTACHMENTS, Candidate, Keeper, KeeperAction, MAX_CANDIDATES, Prefix};
pub use limit::PerNeighbour;
pub use plan::{KnownNode, MAX_DEPTH, MAX_ROUTES, OwnLink, needed, plan};
pub use sample::{Known, MAX_SAMPLE, MAX_SAMPLE_FRAME, SAMPLE_BURST, SAMPLE_INTERVAL, Sample};
pub use search::{
    Admission, EndReason, FIND_BURST, FIND_INTERVAL, FORWARD_BURST, FORWARD_INTERVAL, Forward,
    Gather, MAX_FANOUT, Neighbour, RINGS, Report, Ring, Search, SearchBook,
};
pub use trace::{
    LinkReport, MAX_TRACE_FRAME, Measured, TRACE_BURST, TRACE_INTERVAL, Trace, TraceAnswer,
};
pub use wire::{
    Find, FindAnswer, Found, MAX_AVOID, MAX_FIND_FRAME, MAX_FOUND_FRAME, MAX_REFUSALS, Nothing,
};
