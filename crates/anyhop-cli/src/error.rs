//! What the command line reports when something fails: a code a script can decide on,
//! a message that says what failed on what and why, and a hint what to do about it.
//!
//! The same value travels over the control API as `{"error":{"code","message","hint"}}`.

use std::fmt;

use anyhop::{
    BadRule, DialError, ErrorKind, JobError, JoinError, JournalError, MembershipError,
    MessageError, NetworkError, StartError, StoreError, StreamError, TopicError, VpnError,
};
use anyhop_os::{HostError, nft::NftError};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Classes of failure. Names and exit codes are a contract, see `docs/cli.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Code {
    /// The operation failed for a reason without a code of its own.
    Failed,
    /// The peer could not be reached.
    Unreachable,
    /// An established session, stream or daemon connection ended early.
    Lost,
    /// What was typed cannot work.
    Usage,
    /// No daemon runs on the state directory.
    NoDaemon,
    /// Another daemon holds the state directory.
    InUse,
    /// The state directory or the key in it is unusable.
    StateDir,
    /// The other side, or a policy here, said no.
    Refused,
    /// A limit was hit.
    Limit,
    /// No answer in time.
    Timeout,
    /// Somebody else answered where the peer was expected.
    WrongPeer,
    /// An examination found something that fails.
    Unhealthy,
    /// The daemon is not in the network that was named.
    NoNetwork,
    /// The reader of standard output went away: ends quietly.
    OutputClosed,
}

impl Code {
    /// Exit code of the process.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Failed | Self::Unreachable | Self::Lost => 1,
            Self::Usage => 2,
            Self::NoDaemon => 3,
            Self::InUse => 4,
            Self::StateDir => 5,
            Self::Refused | Self::Limit => 6,
            Self::Timeout => 7,
            Self::WrongPeer => 8,
            Self::Unhealthy => 9,
            Self::NoNetwork => 10,
        }
    }

    /// Status of a control API answer.
    pub(crate) fn http_status(self) -> StatusCode {
        match self {
            Self::Usage => StatusCode::BAD_REQUEST,
            Self::Refused => StatusCode::FORBIDDEN,
            Self::Limit => StatusCode::TOO_MANY_REQUESTS,
            Self::InUse => StatusCode::CONFLICT,
            Self::NoNetwork => StatusCode::NOT_FOUND,
            Self::Unreachable | Self::Lost | Self::WrongPeer => StatusCode::BAD_GATEWAY,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Failed
            | Self::NoDaemon
            | Self::StateDir
            | Self::Unhealthy
            | Self::OutputClosed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<ErrorKind> for Code {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidInput => Self::Usage,
            ErrorKind::Unreachable => Self::Unreachable,
            ErrorKind::Refused => Self::Refused,
            ErrorKind::Timeout => Self::Timeout,
            ErrorKind::WrongPeer => Self::WrongPeer,
            ErrorKind::Limit => Self::Limit,
            ErrorKind::Lost => Self::Lost,
            _ => Self::Failed,
        }
    }
}

/// A failure as it is shown and sent.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub(crate) struct CliError {
    /// Its class.
    pub(crate) code: Code,
    /// What failed, on what, and why.
    pub(crate) message: String,
    /// What to do about it.
    #[serde(default)]
    pub(crate) hint: Option<String>,
    /// The exit code, where a command promises another than the class's.
    #[serde(skip)]
    pub(crate) exit: Option<u8>,
}

/// The shape of an error in JSON, on standard error and in API answers.
#[derive(Debug, JsonSchema, Serialize, Deserialize)]
pub(crate) struct ErrorBody {
    /// The error.
    pub(crate) error: CliError,
}

impl CliError {
    /// An error without a hint.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            exit: None,
        }
    }

    /// Bad input.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    /// Adds or replaces the hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts what was being done in front of the message.
    pub(crate) fn context(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Exit code of a process that ends with this.
    pub(crate) fn exit_code(&self) -> u8 {
        self.exit.unwrap_or_else(|| self.code.exit_code())
    }

    /// Wraps for JSON.
    pub(crate) fn into_body(self) -> ErrorBody {
        ErrorBody { error: self }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

impl From<DialError> for CliError {
    fn from(e: DialError) -> Self {
        let hint = dial_hint(&e);
        Self::new(e.kind().into(), e.to_string()).hint(hint)
    }
}

impl From<StreamError> for CliError {
    fn from(e: StreamError) -> Self {
        let hint = stream_hint(&e);
        let mut error = Self::new(e.kind().into(), e.to_string());
        error.hint = hint;
        error
    }
}

impl From<MessageError> for CliError {
    fn from(e: MessageError) -> Self {
        let hint = message_hint(&e);
        let mut error = Self::new(e.kind().into(), e.to_string());
        error.hint = hint;
        error
    }
}

impl From<TopicError> for CliError {
    fn from(e: TopicError) -> Self {
        let hint = match &e {
            TopicError::NameTooLong(_) => "choose a shorter name for the topic",
            TopicError::NotText => "choose another --encoding: binary takes any bytes",
            TopicError::TooLarge { .. } => {
                "send it over a stream, which has no size limit: `anyhop cat`"
            }
            _ => return Self::new(e.kind().into(), e.to_string()),
        };
        Self::new(e.kind().into(), e.to_string()).hint(hint)
    }
}

impl From<JobError> for CliError {
    fn from(e: JobError) -> Self {
        let hint = match &e {
            JobError::Topic(e) => return e.clone().into(),
            JobError::NotPlaced { source, .. } => match message_hint(source) {
                Some(hint) => return Self::new(e.kind().into(), e.to_string()).hint(hint),
                None => return Self::new(e.kind().into(), e.to_string()),
            },
            JobError::Unknown(_) => {
                "one's own are kept for ten minutes after their time; others' are known once \
                 `anyhop job watch TOPIC` has shown them"
            }
            JobError::Expired(_) => "bids are taken until a job's time is over, a day at most",
            JobError::TooMany(_) => "`anyhop job close ID` ends one",
            JobError::Format { .. } => "what is larger goes with the work: `anyhop job award`",
            _ => return Self::new(e.kind().into(), e.to_string()),
        };
        Self::new(e.kind().into(), e.to_string()).hint(hint)
    }
}

impl From<StartError> for CliError {
    fn from(e: StartError) -> Self {
        let (code, hint) = match &e {
            StartError::Bind { .. } => (
                Code::Failed,
                "choose a free address of this host with --listen IP:PORT; port 0 takes any",
            ),
            StartError::BindWebSocket { .. } => (
                Code::Failed,
                "choose a free TCP address of this host with --listen-ws IP:PORT; ports below 1024 need privileges",
            ),
            StartError::Certificate(_) => (
                Code::Usage,
                "give --ws-cert a PEM chain, the node's certificate first, and --ws-key its key in PEM",
            ),
            StartError::TwoOfOneFamily(..) => (
                Code::Usage,
                "give --listen at most once for IPv4 and once for IPv6",
            ),
            _ => (Code::Failed, "run again with -vv to see details"),
        };
        Self::new(code, format!("the node did not start: {e}")).hint(hint)
    }
}

impl From<StoreError> for CliError {
    fn from(e: StoreError) -> Self {
        let (code, hint) = match &e {
            StoreError::Exists { .. } => (
                Code::Refused,
                "`anyhop network list` shows it; leave it first to enter it anew",
            ),
            StoreError::Exposed { .. } => (Code::StateDir, "then start the daemon again"),
            StoreError::Unusable { .. } => (
                Code::StateDir,
                "restore the file from a copy, or move its folder away: an owner then imports \
                 a backup, and a member is invited anew",
            ),
            _ => (
                Code::StateDir,
                "check the directory's owner, permissions and free space",
            ),
        };
        Self::new(code, e.to_string()).hint(hint)
    }
}

impl From<NetworkError> for CliError {
    fn from(e: NetworkError) -> Self {
        let (code, hint) = match e {
            NetworkError::Store(e) => return e.into(),
            NetworkError::Invitation(_) if e.kind() == ErrorKind::Refused => (
                Code::Refused,
                "invitations live for a day unless `network invite --expires` says otherwise",
            ),
            NetworkError::Invitation(_) => (
                e.kind().into(),
                "give the whole text that `anyhop network invite` printed, as one argument",
            ),
            NetworkError::NoRequest(_) => (
                Code::Usage,
                "`anyhop network requests NAME` lists who waits",
            ),
            NetworkError::Membership(MembershipError::NoRule(_)) => (
                e.kind().into(),
                "`anyhop firewall list` shows the rules with their ids",
            ),
            NetworkError::Membership(_) => (
                e.kind().into(),
                "`anyhop network members NAME` lists who is a member, and as what",
            ),
            NetworkError::NotAnAdmin | NetworkError::NotTheOwner => (
                e.kind().into(),
                "`anyhop network show NAME` tells this node's role",
            ),
            NetworkError::NotJoined => (
                e.kind().into(),
                "wait for `anyhop network join`, or give up with `anyhop network leave NAME`",
            ),
            _ => return Self::new(e.kind().into(), e.to_string()),
        };
        Self::new(code, e.to_string()).hint(hint)
    }
}

impl From<BadRule> for CliError {
    fn from(e: BadRule) -> Self {
        Self::usage(e.to_string())
    }
}

impl From<VpnError> for CliError {
    fn from(e: VpnError) -> Self {
        let hint = match &e {
            VpnError::NotPermitted { .. } => {
                "run the daemon as root, or give its binary the capability: \
                 `setcap cap_net_admin+ep $(command -v anyhop)`"
            }
            VpnError::NoTun { .. } => "load the kernel's module: `modprobe tun`",
            VpnError::NoAddress => {
                "wait for `anyhop network join`; `anyhop network list` shows this node's role"
            }
            _ => return Self::new(e.kind().into(), e.to_string()),
        };
        Self::new(e.kind().into(), e.to_string()).hint(hint)
    }
}

impl From<JournalError> for CliError {
    fn from(e: JournalError) -> Self {
        let (code, hint) = match &e {
            JournalError::Unreadable { .. } => (
                Code::StateDir,
                "undo by hand what the file lists, then remove it",
            ),
            JournalError::Unwritable { .. } => (
                Code::StateDir,
                "check the directory's owner, permissions and free space",
            ),
            JournalError::Host(HostError::Nft(NftError::Missing { .. })) => {
                (Code::Failed, "install nftables")
            }
            JournalError::Host(HostError::Nft(NftError::NotPermitted { .. })) => (
                Code::Refused,
                "run the daemon as root, or with CAP_NET_ADMIN among its ambient \
                 capabilities, which programs that it starts have, too",
            ),
            JournalError::Limit => (Code::Limit, "undo some: `anyhop vpn down`"),
            _ => return Self::new(Code::Failed, e.to_string()),
        };
        Self::new(code, e.to_string()).hint(hint)
    }
}

impl From<JoinError> for CliError {
    fn from(e: JoinError) -> Self {
        let hint = match &e {
            JoinError::Store(e) => return e.clone().into(),
            JoinError::Refused { .. } => "ask for a new invitation; this one was not redeemed",
            JoinError::Expired { .. } => {
                "ask for a new invitation, made by a node that this one can reach"
            }
            JoinError::Untrue { .. } => {
                "do not trust this inviter; ask another admin or the owner for an invitation"
            }
            JoinError::Closed => "the network was left, or the daemon stopped",
            _ => return Self::new(e.kind().into(), e.to_string()),
        };
        Self::new(e.kind().into(), e.to_string()).hint(hint)
    }
}

fn dial_hint(e: &DialError) -> String {
    match e {
        DialError::Myself(_) => "name another node; `anyhop id` prints this one's id".to_owned(),
        DialError::Unknown { .. } => "give it an address with `anyhop connect MULTIADDR`, or \
             start both nodes with --bootstrap of a node that both can reach"
            .to_owned(),
        DialError::NoRoute { attempts, .. } if attempts.is_empty() => "check that the peer \
             runs and bootstraps from a node of this network, or give its address with \
             `anyhop connect MULTIADDR`; `anyhop explain PEER` tells all that was tried"
            .to_owned(),
        DialError::WrongPeer { actual, .. } => format!(
            "nothing was sent; check the /p2p/ part of the address, or use {actual} if that is who you mean"
        ),
        DialError::TooManySessions { .. } => {
            "close sessions that are no longer needed and try again".to_owned()
        }
        DialError::Closed(_) => "start the daemon again".to_owned(),
        _ => "check that the peer runs in this network (members of a private one answer \
             nobody else) and that a node both can reach relays for them \
             (`anyhop status` on both sides); `anyhop explain PEER` tells all that was tried, \
             `anyhop doctor` what is wrong on this side"
            .to_owned(),
    }
}

fn stream_hint(e: &StreamError) -> Option<String> {
    Some(match e {
        StreamError::Dial(e) => return Some(dial_hint(e)),
        StreamError::UnknownProtocol { protocol, .. } if protocol.starts_with("cat/") => {
            "start `anyhop cat --listen` there first, with the same --name".to_owned()
        }
        StreamError::UnknownProtocol { .. } => {
            "the peer must run an anyhop that serves this".to_owned()
        }
        StreamError::Busy { .. } => "try again in a moment".to_owned(),
        StreamError::SessionLost { .. } => {
            "the peer may have stopped; try again, a new session is made by itself".to_owned()
        }
        _ => return None,
    })
}

fn message_hint(e: &MessageError) -> Option<String> {
    Some(match e {
        MessageError::Stream(e) => return stream_hint(e),
        MessageError::TooLarge { .. } => {
            "send it over a stream, which has no size limit: `anyhop cat`".to_owned()
        }
        MessageError::Invalid(_) => {
            "choose another --encoding (binary takes any bytes) or a shorter --type".to_owned()
        }
        MessageError::InboxFull(_) => {
            "messages wait there to be taken: run `anyhop recv` on the peer".to_owned()
        }
        MessageError::NoResponder { .. } => {
            "run `anyhop recv --reply TEXT` or `anyhop recv --echo` on the peer".to_owned()
        }
        MessageError::Timeout { .. } => "allow more time with --timeout SECONDS".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use anyhop::PeerId;

    use super::*;

    #[test]
    fn every_library_error_kind_has_its_documented_exit_code() {
        let table = [
            (ErrorKind::InvalidInput, 2),
            (ErrorKind::Unreachable, 1),
            (ErrorKind::Refused, 6),
            (ErrorKind::Timeout, 7),
            (ErrorKind::WrongPeer, 8),
            (ErrorKind::Limit, 6),
            (ErrorKind::Lost, 1),
            (ErrorKind::System, 1),
        ];
        for (kind, exit) in table {
            assert_eq!(Code::from(kind).exit_code(), exit, "{kind:?}");
        }
    }

    #[test]
    fn an_error_survives_the_way_through_the_api() {
        let error = CliError::from(DialError::Myself(PeerId::random()));
        let text = serde_json::to_string(&error.clone().into_body()).expect("plain data");
        let value: serde_json::Value = serde_json::from_str(&text).expect("just written");
        assert_eq!(value["error"]["code"], "usage");
        assert!(value["error"]["hint"].is_string());
        let back: ErrorBody = serde_json::from_str(&text).expect("just written");
        assert_eq!(back.error, error);
    }

    #[test]
    fn an_unknown_cat_protocol_hints_at_starting_the_listener() {
        let error = CliError::from(StreamError::UnknownProtocol {
            peer: PeerId::random(),
            protocol: "cat/1".to_owned(),
        });
        assert_eq!(error.code, Code::Refused);
        assert!(error.hint.expect("has one").contains("cat --listen"));
    }
}
