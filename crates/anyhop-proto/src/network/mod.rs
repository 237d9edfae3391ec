//! Private networks: who belongs to one, and how it keeps quiet towards everybody else.
//!
//! | module | what it decides |
//! |---|---|
//! | [`swarm`] | the swarm key and its epochs: which packets a node takes notice of |
//! | [`membership`] | who is a member, from all statements together |
//! | [`gossip`] | how statements and keys spread among connected members |
//! | [`admission`] | whether a new connection is a member's |
//! | [`invitation`] | how one text lets somebody become a member |
//! | [`greeting`] | how a member that can be dialled redeems invitations for one that cannot |
//! | [`book`] | which invitations a node has given out, and who redeems them |
//! | [`state`] | what a node keeps of a network, as it is stored |
//! | [`backup`] | the same under a passphrase |
//! | [`statement`] | what the authority and its admins sign, and whether it is believed |

pub mod admission;
pub mod backup;
pub mod book;
mod charter;
pub mod gossip;
pub mod greeting;
pub mod invitation;
pub mod membership;
pub mod state;
pub mod statement;
pub mod swarm;
#[cfg(test)]
mod testing;

pub use charter::{BadAuthority, Charter};
pub use gossip::Gossip;
pub use membership::Membership;
