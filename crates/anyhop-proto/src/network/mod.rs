//! Private networks: who belongs to one, and how it keeps quiet towards everybody else.
//!
//! | module | what it decides |
//! |---|---|
//! | [`swarm`] | the swarm key and its epochs: which packets a node takes notice of |

pub mod swarm;
