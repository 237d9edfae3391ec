//! `network` and its commands.

use std::{net::SocketAddr, path::PathBuf};

use anyhop::{MemberName, NetworkName, PeerAddr};
use clap::{Args, Subcommand};

use super::parse_seconds;
use crate::{
    api::network::{Every, Membership},
    spec::PeerSpec,
};

/// How long an invitation lives unless something else is said.
const INVITATION_LIFETIME: &str = "1d";

/// Shortest time between epochs that start by themselves, seconds. The library lengthens
/// shorter ones, which nobody would have asked for.
const MIN_ROTATION_S: u64 = 60;

/// `network`.
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Found a private network, with this node as its owner
    Create(CreateArgs),
    /// List the networks that the daemon is in
    List,
    /// Show a network: its epoch, this node's role and addresses
    Show(NameArg),
    /// Make an invitation to a private network, redeemed by this node
    Invite(InviteArgs),
    /// Join a private network with an invitation, and wait until it is decided; or a public
    /// one by its name
    Join(JoinArgs),
    /// List who waits to be admitted
    Requests(NameArg),
    /// Admit who waits
    Approve(NamePeerArgs),
    /// Send away who waits
    Deny(NamePeerArgs),
    /// List the members
    Members(NameArg),
    /// Give a member another name
    Rename(RenameArgs),
    /// Let a member's certificate end later, or sooner
    Renew(RenewArgs),
    /// Appoint an admin, or end its term
    Admin(AdminArgs),
    /// Change what this node or another member does for others, or show it
    Set(SetArgs),
    /// End a membership, and start a new epoch of the swarm key
    Revoke(NamePeerArgs),
    /// Start a new epoch of the swarm key, or have that done by itself
    Rotate(RotateArgs),
    /// Leave a network and forget its keys
    Leave(LeaveArgs),
    /// Write a backup of a network with its authority, sealed with a passphrase
    Export(ExportArgs),
    /// Restore a network from a backup, with this node as its owner
    Import(ImportArgs),
}

/// A network alone.
#[derive(Debug, Args)]
pub(crate) struct NameArg {
    /// Name or id of the network
    #[arg(value_name = "NAME")]
    pub(crate) name: NetworkName,
}

/// A network and a peer.
#[derive(Debug, Args)]
pub(crate) struct NamePeerArgs {
    /// Name or id of the network
    #[arg(value_name = "NAME")]
    pub(crate) name: NetworkName,
    /// PeerId, unique part of one, or name
    pub(crate) peer: PeerSpec,
}

/// Where this node listens in a network.
#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    /// UDP address to listen on in this network, once for IPv4 and once for IPv6
    /// [default: any port, kept from then on, where `up` listens]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Vec<SocketAddr>,
    /// TCP address to serve WebSockets on in this network, for members whose UDP is blocked;
    /// may be given several times. With the certificate and site that `up` was told
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen_ws: Vec<SocketAddr>,
}

/// How this node is to be a member.
#[derive(Debug, Args)]
pub(crate) struct MembershipArgs {
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    /// Forward nothing for other members
    #[arg(long)]
    pub(crate) no_relaying: bool,
    /// Do not help other members to find each other
    #[arg(long)]
    pub(crate) no_signalling: bool,
    /// Do not be listed to members that do not administer the network
    #[arg(long, visible_alias = "unlisted")]
    pub(crate) stealth: bool,
}

impl MembershipArgs {
    /// As it travels to the daemon.
    pub(crate) fn ask(self, name: Option<MemberName>) -> Membership {
        Membership {
            name: name.map(|n| n.to_string()),
            listen: self.listen.listen,
            listen_ws: self.listen.listen_ws,
            no_relaying: self.no_relaying,
            no_signalling: self.no_signalling,
            stealth: self.stealth,
        }
    }
}

/// `network create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name: 1 to 64 of a-z, 0-9, `.`, `_` and `-`
    #[arg(value_name = "NAME")]
    pub(crate) network: NetworkName,
    /// This node's name among the members
    #[arg(long, value_name = "N", default_value = "owner")]
    pub(crate) name: MemberName,
    /// Begin with this swarm key, a file in libp2p's format, instead of a new one
    #[arg(long, value_name = "FILE")]
    pub(crate) swarm_key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) membership: MembershipArgs,
}

/// `network invite`.
#[derive(Debug, Args)]
pub(crate) struct InviteArgs {
    /// Name or id of the network
    #[arg(value_name = "NAME")]
    pub(crate) name: NetworkName,
    /// How often it can be redeemed
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) uses: u32,
    /// How long it lives: a number with s, m, h, d or w
    #[arg(long, value_name = "TIME", default_value = INVITATION_LIFETIME, value_parser = parse_time)]
    pub(crate) expires: u64,
    /// Ask a person about each who redeems it: `network requests`, `approve`, `deny`
    #[arg(long)]
    pub(crate) approve: bool,
}

/// `network join`.
#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// What `network invite` printed; `-` reads standard input. With --public a name
    #[arg(value_name = "INVITE")]
    pub(crate) invite: String,
    /// Be in the public network of this name, from now on with each `up`
    #[arg(long, conflicts_with_all = ["name", "timeout", "no_relaying", "no_signalling", "stealth"])]
    pub(crate) public: bool,
    /// Peer of a public network to stay connected to; may be given several times
    #[arg(long, value_name = "MULTIADDR", requires = "public")]
    pub(crate) bootstrap: Vec<PeerAddr>,
    /// This node's name among the members [default: made of its id]
    #[arg(long, value_name = "N")]
    pub(crate) name: Option<MemberName>,
    /// Seconds to wait. The daemon goes on when they are over [default: 60, and where a
    /// person is to approve until the invitation expires]
    #[arg(long, value_name = "S", value_parser = parse_seconds)]
    pub(crate) timeout: Option<f64>,
    #[command(flatten)]
    pub(crate) membership: MembershipArgs,
}

/// `network rename`.
#[derive(Debug, Args)]
pub(crate) struct RenameArgs {
    /// Name or id of the network
    #[arg(value_name = "NAME")]
    pub(crate) name: NetworkName,
    /// PeerId, unique part of one, or name
    pub(crate) peer: PeerSpec,
    /// The new name: 1 to 63 of a-z, 0-9 and `-`
    #[arg(value_name = "NEW")]
    pub(crate) new: MemberName,
}

/// `network renew`.
#[derive(Debug, Args)]
pub(crate) struct RenewArgs {
    /// Name or id of the network
    #[arg(value_name = "NAME")]
    pub(crate) name: NetworkName,
    /// PeerId, unique part of one, or name
    pub(crate) peer: PeerSpec,
    /// How long it holds from now on: a number with s, m, h, d or w
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = parse_time)]
    pub(crate) expires: u64,
}

/// `network admin`.
#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    /// Name or id of the network
    #[arg(value_name = "NAME")]
    pub(crate) name: NetworkName,
    /// Appoint, or end the term
    #[arg(value_name = "add|remove")]
    pub(crate) change: AdminChange,
    /// PeerId, unique part of one, or name
    pub(crate) peer: PeerSpec,
}

/// What to do about an admin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AdminChange {
    /// It administers the network from now on
    Add,
    /// It is an ordinary member again; what it signed holds no longer
    Remove,
}

/// `network set`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Name or id of the network
    #[arg(value_name = "NAME")]
    pub(crate) name: NetworkName,
    /// PeerId, unique part of one, or name [default: this node]
    pub(crate) peer: Option<PeerSpec>,
    /// Whether it forwards for other members
    #[arg(long, value_name = "on|off")]
    pub(crate) relaying: Option<Switch>,
    /// Whether it helps other members to find each other
    #[arg(long, value_name = "on|off")]
    pub(crate) signalling: Option<Switch>,
    /// Whether it is listed to members that do not administer the network
    #[arg(long, value_name = "on|off")]
    pub(crate) listed: Option<Switch>,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Switch {
    /// It does, or is
    On,
    /// It does not, or is not
    Off,
}

impl Switch {
    /// Whether on.
    pub(crate) fn is_on(self) -> bool {
        self == Self::On
    }
}

/// `network rotate`.
#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// Name or id of the network
    #[arg(value_name = "NAME")]
    pub(crate) name: NetworkName,
    /// From now on have this node do it so often: a number with s, m, h, d or w; `never`
    /// ends that, and starts no epoch now
    #[arg(long, value_name = "TIME", value_parser = parse_every)]
    pub(crate) every: Option<Every>,
}

/// `network leave`.
#[derive(Debug, Args)]
pub(crate) struct LeaveArgs {
    /// Name or id of the network
    #[arg(value_name = "NAME")]
    pub(crate) name: NetworkName,
    /// Do not ask on a terminal before the network's authority is lost
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Where a passphrase comes from.
#[derive(Debug, Args)]
pub(crate) struct PassphraseArg {
    /// File whose first line is the passphrase [default: ask on the terminal]
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// `network export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Name or id of the network
    #[arg(value_name = "NAME")]
    pub(crate) name: NetworkName,
    /// Write the backup to this new file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Write the current swarm key in libp2p's format instead; any member may
    #[arg(long, conflicts_with = "passphrase_file")]
    pub(crate) swarm_key: bool,
    #[command(flatten)]
    pub(crate) passphrase: PassphraseArg,
}

/// `network import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The backup; `-` reads standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// This node's name among the members, if it was none yet
    #[arg(long, value_name = "N", default_value = "owner")]
    pub(crate) name: MemberName,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    #[command(flatten)]
    pub(crate) passphrase: PassphraseArg,
}

/// Seconds of a time such as `90s`, `12h` or `7d`.
fn parse_time(text: &str) -> Result<u64, String> {
    let bad = || "not a time such as 90s, 30m, 12h, 7d or 2w".to_owned();
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        Some('w') => 7 * 86_400,
        _ => return Err(bad()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| bad())?;
    match count.checked_mul(unit) {
        Some(seconds @ 1..) => Ok(seconds),
        _ => Err(bad()),
    }
}

fn parse_every(text: &str) -> Result<Every, String> {
    match text {
        "never" => Ok(Every::Never),
        time => match parse_time(time)? {
            seconds @ MIN_ROTATION_S.. => Ok(Every::Seconds(seconds)),
            _ => Err(format!("an epoch lasts {MIN_ROTATION_S}s or more")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_and_are_not_zero() {
        for (text, seconds) in [
            ("90s", 90),
            ("30m", 1800),
            ("1d", 86_400),
            ("2w", 1_209_600),
        ] {
            assert_eq!(parse_time(text), Ok(seconds), "{text}");
        }
        for bad in [
            "",
            "d",
            "1",
            "-1d",
            "0s",
            "1.5h",
            "1y",
            "99999999999999999w",
            "1ü",
        ] {
            assert!(parse_time(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse_every("never"), Ok(Every::Never));
        assert_eq!(parse_every("1h"), Ok(Every::Seconds(3600)));
        assert!(parse_every("59s").is_err());
    }
}
