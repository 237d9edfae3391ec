//! Private networks: who belongs to one, and how it keeps quiet towards everybody else.
//!
//! | module | what it decides |
//! |---|---|
//! | [`swarm`] | the swarm key and its epochs: which packets a node takes notice of |
//! | [`membership`] | who is a member, from all statements together |
//! | [`statement`] | what the authority and its admins sign, and whether it is believed |

mod charter;
pub mod membership;
pub mod statement;
pub mod swarm;

pub use charter::{BadAuthority, Charter};
pub use membership::Membership;
