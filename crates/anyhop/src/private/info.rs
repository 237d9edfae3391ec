//! What a private network tells about itself: plain values, ready to be serialised.

use serde::{Deserialize, Serialize};

/// Who may be in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum NetworkKind {
    /// Everybody who knows its name.
    Public,
    /// Members.
    Private,
}

/// A network that a node is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetworkInfo {
    /// Its name.
    pub network: String,
    /// Its id, hex.
    pub id: String,
    /// Who may be in it.
    pub kind: NetworkKind,
    /// The current epoch of its swarm key; 0 before there is one.
    pub epoch: u32,
    /// What this node may do: `owner`, `admin` or `member`; `joining` until it is one,
    /// `none` when it is none any more.
    pub role: String,
    /// Where this node may be dialled, each ending in `/p2p/<PeerId>`.
    pub addresses: Vec<String>,
}

/// A member of a private network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemberInfo {
    /// Who, base58.
    pub peer_id: String,
    /// Its name, unlike all others'.
    pub name: String,
    /// What it may do: `owner`, `admin` or `member`.
    pub role: String,
    /// Whether this node has a session with it.
    pub online: bool,
    /// When its certificate ends, seconds since the Unix epoch.
    pub expires: u64,
    /// Its addresses in the overlay.
    #[serde(default)]
    pub overlay: Vec<String>,
    /// It forwards nothing for others.
    #[serde(default)]
    pub no_relaying: bool,
    /// It does not help others to find each other.
    #[serde(default)]
    pub no_signalling: bool,
    /// It is listed to itself and to who administers the network only.
    #[serde(default)]
    pub stealth: bool,
}

/// Who waits to be admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RequestInfo {
    /// Who, base58.
    pub peer_id: String,
    /// The name it would like; empty for none.
    pub name: String,
    /// Since when, seconds since the Unix epoch.
    pub since: u64,
}

/// An invitation that was given out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Invited {
    /// The text to hand over. Whoever has it can join.
    pub invite: String,
    /// When it ends, seconds since the Unix epoch.
    pub expires: u64,
    /// How often it can be redeemed.
    pub uses: u32,
}
