//! Broadcasts among thousands of nodes: the machines of `anyhop_proto::broadcast` on a
//! simulated network of frames.
//!
//! A node is a machine, a frame takes a random time to arrive and is lost at random; nothing
//! of sessions or streams is simulated. In the library frames travel on streams and are not
//! lost while a session stands: what is shown here under loss is harder than that. Nodes join
//! one after the other, each at one that it knows. When the overlay has settled, posts are
//! published for the tree to settle, and then those that count. A neighbour's death is
//! noticed as late as the library may notice it.
//!
//! ```text
//!   sim      the world: events in order of time, machines, losses, deaths, churn
//!   report   what came of it, and the table in docs/broadcast.md
//! ```

mod report;
mod sim;

pub use report::{BEGIN_MARK, END_MARK, Report, Row, replace_between_marks};
pub use sim::{Options, Strategy, run};

/// The situations of the table: loss, killed and churn in percent.
pub const SITUATIONS: [(u8, u8, u8); 7] = [
    (0, 0, 0),
    (5, 0, 0),
    (20, 0, 0),
    (0, 10, 0),
    (0, 30, 0),
    (0, 0, 10),
    (5, 30, 10),
];

#[cfg(test)]
mod tests;
