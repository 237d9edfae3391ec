//! The values of private networks. NAME is the request's `network`.
//!
//! ```text
//! GET  /v1/networks                   [NetworkReport], all of the daemon's
//! POST /v1/networks/create            CreateAsk -> NetworkReport
//! POST /v1/networks/import            ImportAsk -> NetworkReport
//! POST /v1/networks/join              JoinAsk, upgrade: JoinTell
//! POST /v1/networks/public            PublicAsk -> JoinReport
//! GET  /v1/network                    NetworkReport
//! POST /v1/network/invite             InviteAsk -> Invited
//! GET  /v1/network/requests           [RequestInfo]
//! POST /v1/network/approve, deny      PeerAsk -> MemberReport
//! GET  /v1/network/members            [MemberInfo]
//! POST /v1/network/rename             RenameAsk -> MemberReport
//! POST /v1/network/renew              RenewAsk -> MemberReport
//! POST /v1/network/admin              AdminAsk -> MemberReport
//! POST /v1/network/set                SetAsk -> SetReport
//! POST /v1/network/revoke             PeerAsk -> MemberReport
//! POST /v1/network/rotate             RotateAsk -> RotateReport
//! POST /v1/network/export             ExportAsk -> BackupReport
//! GET  /v1/network/swarm_key          SwarmKeyReport
//! POST /v1/network/leave              LeaveReport
//! ```

use std::net::SocketAddr;

use anyhop::{MemberName, NetworkKind, OptOuts};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::CliError;

/// Which network a request is about; without it the daemon's default one.
#[derive(Debug, Clone, Default, JsonSchema, Serialize, Deserialize)]
pub(crate) struct NetworkQuery {
    /// Its name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<String>,
}

/// A network that the daemon is in.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct NetworkReport {
    /// Its name.
    pub(crate) network: String,
    /// Its id, hex.
    pub(crate) id: String,
    /// Who may be in it.
    pub(crate) kind: NetworkKind,
    /// The epoch of its swarm key, 0 before there is one; public networks have none.
    pub(crate) epoch: Option<u32>,
    /// What this node may do: `owner`, `admin`, `member`, `joining` or `none`; nothing is to
    /// be told in a public network.
    pub(crate) role: Option<String>,
    /// Where this node may be dialled.
    pub(crate) addresses: Vec<String>,
    /// Whether it is the one that is meant where none is named.
    pub(crate) default: bool,
}

/// How this node is a member.
#[derive(Debug, Clone, Default, JsonSchema, Serialize, Deserialize)]
pub(crate) struct Membership {
    /// Its name among the members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// Where to listen; empty for any port where `up` listens.
    #[serde(default)]
    pub(crate) listen: Vec<SocketAddr>,
    /// Where to serve WebSockets.
    #[serde(default)]
    pub(crate) listen_ws: Vec<SocketAddr>,
    /// Forwards nothing for others.
    #[serde(default)]
    pub(crate) no_relaying: bool,
    /// Does not help others to find each other.
    #[serde(default)]
    pub(crate) no_signalling: bool,
    /// Is not listed to members.
    #[serde(default)]
    pub(crate) stealth: bool,
}

impl Membership {
    /// The name, checked.
    pub(crate) fn member_name(&self) -> Result<Option<MemberName>, CliError> {
        let name = self.name.as_ref().map(|n| n.parse());
        name.transpose()
            .map_err(|e: anyhop::BadMemberName| CliError::usage(e.to_string()))
    }

    /// What this node does not do.
    pub(crate) fn opt_outs(&self) -> OptOuts {
        OptOuts {
            no_relaying: self.no_relaying,
            no_signalling: self.no_signalling,
            stealth: self.stealth,
        }
    }
}

/// Asks to found a network.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct CreateAsk {
    /// Its name.
    pub(crate) name: String,
    /// How this node is its owner.
    pub(crate) membership: Membership,
    /// Its first swarm key, in libp2p's text format; drawn at random if there is none.
    #[serde(default)]
    pub(crate) swarm_key: Option<String>,
}

/// Asks to restore a network.
#[derive(JsonSchema, Serialize, Deserialize)]
pub(crate) struct ImportAsk {
    /// The backup's text.
    pub(crate) backup: String,
    /// What it is sealed with.
    pub(crate) passphrase: String,
    /// How this node is its owner.
    pub(crate) membership: Membership,
}

/// Asks to join a network.
#[derive(JsonSchema, Serialize, Deserialize)]
pub(crate) struct JoinAsk {
    /// The invitation's text.
    pub(crate) invite: String,
    /// How this node is to be a member.
    pub(crate) membership: Membership,
}

/// Asks to enter a public network.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct PublicAsk {
    /// Its name.
    pub(crate) name: String,
    /// Peers to stay connected to, multiaddrs ending in `/p2p/<PeerId>`.
    #[serde(default)]
    pub(crate) bootstrap: Vec<String>,
    /// Where to listen; empty for any port where `up` listens.
    #[serde(default)]
    pub(crate) listen: Vec<SocketAddr>,
    /// Where to serve WebSockets.
    #[serde(default)]
    pub(crate) listen_ws: Vec<SocketAddr>,
}

/// How joining goes. Why it came to nothing is an error frame.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum JoinTell {
    /// The inviter is being asked.
    Asking {
        /// The network's name.
        network: String,
    },
    /// A person is to decide.
    Waiting,
    /// This node is a member.
    Joined(JoinReport),
}

/// A network was joined.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct JoinReport {
    /// Its name.
    pub(crate) network: String,
    /// This node's id in it, base58.
    pub(crate) peer_id: String,
}

/// Asks for an invitation.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct InviteAsk {
    /// How often it can be redeemed.
    pub(crate) uses: u32,
    /// How long.
    pub(crate) expires_s: u64,
    /// Whether a person must approve of each.
    pub(crate) approve: bool,
}

/// Asks for something about a peer.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct PeerAsk {
    /// PeerId, part of one, or name.
    pub(crate) peer: String,
}

/// Asks for another name.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct RenameAsk {
    /// PeerId, part of one, or name.
    pub(crate) peer: String,
    /// The new name.
    pub(crate) name: String,
}

/// Asks for a certificate that ends at another time.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct RenewAsk {
    /// PeerId, part of one, or name.
    pub(crate) peer: String,
    /// How long from now.
    pub(crate) expires_s: u64,
}

/// Asks to appoint an admin, or to end its term.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct AdminAsk {
    /// PeerId, part of one, or name.
    pub(crate) peer: String,
    /// Which of the two.
    pub(crate) admin: bool,
}

/// What came of something about a peer.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct MemberReport {
    /// The network's name.
    pub(crate) network: String,
    /// The peer, base58.
    pub(crate) peer_id: String,
    /// Its name, if it is a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// What it may do, if it is a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<String>,
    /// When its certificate ends, seconds since the Unix epoch, if it is a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<u64>,
}

/// Asks for a change of what a member does; what is left out stays as it is.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct SetAsk {
    /// PeerId, part of one, or name; this node if left out.
    #[serde(default)]
    pub(crate) peer: Option<String>,
    /// Whether it forwards for others.
    #[serde(default)]
    pub(crate) relaying: Option<bool>,
    /// Whether it helps others to find each other.
    #[serde(default)]
    pub(crate) signalling: Option<bool>,
    /// Whether it is listed to ordinary members.
    #[serde(default)]
    pub(crate) listed: Option<bool>,
}

/// What a member does.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct SetReport {
    /// The network's name.
    pub(crate) network: String,
    /// The member, base58.
    pub(crate) peer_id: String,
    /// Whether it forwards for others.
    pub(crate) relaying: bool,
    /// Whether it helps others to find each other.
    pub(crate) signalling: bool,
    /// Whether it is listed to ordinary members.
    pub(crate) listed: bool,
}

/// Asks for a new epoch.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct RotateAsk {
    /// Whether one is to start now.
    pub(crate) now: bool,
    /// How often one is to start by itself; `None` leaves that as it is.
    #[serde(default)]
    pub(crate) every: Option<Every>,
}

/// How often something is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Every {
    /// Once in so many seconds.
    Seconds(u64),
    /// Not at all.
    Never,
}

/// The epoch.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct RotateReport {
    /// The network's name.
    pub(crate) network: String,
    /// The current epoch.
    pub(crate) epoch: u32,
    /// How often this node starts one by itself, seconds; nothing for never.
    pub(crate) every_s: Option<u64>,
}

/// Asks for a backup.
#[derive(JsonSchema, Serialize, Deserialize)]
pub(crate) struct ExportAsk {
    /// What to seal it with.
    pub(crate) passphrase: String,
}

/// A backup.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct BackupReport {
    /// The network's name.
    pub(crate) network: String,
    /// Its id, hex.
    pub(crate) id: String,
    /// The text to keep.
    pub(crate) backup: String,
}

/// A swarm key.
#[derive(Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct SwarmKeyReport {
    /// The network's name.
    pub(crate) network: String,
    /// Its id, hex.
    pub(crate) id: String,
    /// The key's epoch.
    pub(crate) epoch: u32,
    /// The key in libp2p's text format.
    pub(crate) swarm_key: String,
}

/// A network was left.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct LeaveReport {
    /// Its name.
    pub(crate) network: String,
    /// Its id, hex.
    pub(crate) id: String,
    /// The network that is meant from now on where none is named.
    pub(crate) default: String,
}
