//! Circuits: chains of links over which two nodes exchange datagrams.
//!
//! **Set-up** is hop by hop. Each hop is one stream between neighbours: the opener sends
//! [`Open`] with the label it wants to receive under, the other side extends the circuit
//! towards the target, then answers [`Answer::Opened`] with its own label, or a typed
//! [`Refusal`]. [`RelayBook`] decides who may.
//!
//! **Steady state**: a datagram carries the receiver's label; [`Switch`] swaps it for the
//! next hop's and names the address to send to, as far as the relay's [`Capacity`] goes. No second encryption: what travels is a
//! QUIC packet between the ends.
//!
//! **End**: the streams are the circuit. When either side ends its stream, or a link
//! under it dies, every hop removes its labels and ends the next stream.

mod rate;
mod relay;
mod share;
mod switch;
mod wire;

pub use relay::{Admission, OPEN_BURST, OPEN_INTERVAL, RelayBook, RelayLimits};
pub use share::{Capacity, Standing};
pub use switch::{CircuitId, DropReason, Hop, LinkId, Switch};
pub use wire::{Answer, MAX_HOPS, MAX_OPEN_FRAME, Open, Refusal, RefusalReason};
