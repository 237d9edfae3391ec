//! Errors of private networks.

use std::{io, path::PathBuf};

use anyhop_base::PeerId;
use anyhop_proto::network::{
    backup::BackupError,
    book::{GiveError, RedeemRefusal},
    invitation::InvitationError,
    membership::MembershipError,
    state::StateError,
    statement::StatementError,
};
use thiserror::Error;

use crate::ErrorKind;

/// Why something about a private network was not done. Nothing was changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// This node is not one of its admins.
    #[error("this node administers the network no more, or never did: ask its owner or an admin")]
    NotAnAdmin,
    /// This node does not hold the authority's key.
    #[error("only the owner of the network can do this, on the node that holds its authority")]
    NotTheOwner,
    /// The node is not a member yet.
    #[error("this node is not a member of the network yet: its invitation has not been redeemed")]
    NotJoined,
    /// It cannot be said about that member.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// It cannot be signed.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The invitation is of no use.
    #[error(transparent)]
    Invitation(#[from] InvitationError),
    /// An invitation cannot be given out.
    #[error(transparent)]
    Give(#[from] GiveError),
    /// Nobody of this id waits.
    #[error("{0} has no open request to join this network")]
    NoRequest(PeerId),
    /// The backup cannot be made or opened.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// What was done cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The content is not what it should be.
    #[error("{0}")]
    Unusable(String),
}

impl NetworkError {
    /// The class of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotAnAdmin
            | Self::NotTheOwner
            | Self::NotJoined
            | Self::Invitation(InvitationError::Expired { .. }) => ErrorKind::Refused,
            Self::Membership(MembershipError::Full { .. })
            | Self::Give(GiveError::TooMany)
            | Self::Statement(
                StatementError::LastEpoch
                | StatementError::TooLarge { .. }
                | StatementError::TooManyRules { .. },
            ) => ErrorKind::Limit,
            Self::Store(_) => ErrorKind::System,
            _ => ErrorKind::InvalidInput,
        }
    }
}

/// Why a network cannot be kept, or what is kept of it cannot be read.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A network of this id is there already.
    #[error("the network is in {} already", path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// The file or folder cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file or folder cannot be written.
    #[error("cannot write {}: {reason}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Others than the owner may read or write the file.
    #[error(
        "{} has mode {mode:04o}, so others may use the keys in it: run `chmod 600 {}`",
        path.display(), path.display()
    )]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is there, but of no use.
    #[error("{} is unusable: {fault}. It was left as it is", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        fault: StateError,
    },
}

impl StoreError {
    pub(super) fn read(path: PathBuf, error: &io::Error) -> Self {
        let reason = error.to_string();
        Self::Read { path, reason }
    }

    pub(super) fn write(path: PathBuf, error: &io::Error) -> Self {
        let reason = error.to_string();
        Self::Write { path, reason }
    }
}

/// Why a node has not become a member.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The inviter said no.
    #[error("{inviter} does not admit this node: {refusal}")]
    Refused {
        /// Who.
        inviter: PeerId,
        /// Why.
        refusal: RedeemRefusal,
    },
    /// The invitation's time is over, and the inviter was not reached before.
    #[error("the invitation expired before {inviter} could be reached ({last})")]
    Expired {
        /// Who was to redeem it.
        inviter: PeerId,
        /// What the last attempt came to.
        last: String,
    },
    /// What came back was not what a member of the network gives.
    #[error("{inviter} answered what is no admission to the network: {reason}")]
    Untrue {
        /// Who.
        inviter: PeerId,
        /// How.
        reason: String,
    },
    /// The node was closed.
    #[error("the node was closed before it was a member")]
    Closed,
    /// What was given cannot be kept; the invitation can be redeemed again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl JoinError {
    /// The class of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused {
                refusal: RedeemRefusal::Busy,
                ..
            } => ErrorKind::Limit,
            Self::Refused { .. } => ErrorKind::Refused,
            Self::Expired { .. } => ErrorKind::Timeout,
            Self::Untrue { .. } => ErrorKind::WrongPeer,
            Self::Closed => ErrorKind::Lost,
            Self::Store(_) => ErrorKind::System,
        }
    }
}
