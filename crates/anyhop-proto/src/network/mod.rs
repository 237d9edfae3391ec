//! Private networks: who belongs to one, and how it keeps quiet towards everybody else.
//!
//! | module | what it decides |
//! |---|---|
//! | [`swarm`] | the swarm key and its epochs: which packets a node takes notice of |
//! | [`membership`] | who is a member, from all statements together |
//! | [`gossip`] | how statements and keys spread among connected members |
//! | [`admission`] | whether a new connection is a member's |
//! | [`statement`] | what the authority and its admins sign, and whether it is believed |

pub mod admission;
mod charter;
pub mod gossip;
pub mod membership;
pub mod statement;
pub mod swarm;

pub use charter::{BadAuthority, Charter};
pub use gossip::Gossip;
pub use membership::Membership;
