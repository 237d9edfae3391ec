//! The values that travel between commands and daemon, both ways.
//!
//! ```text
//! GET  /v1/openapi.json               all of this for programs
//! GET  /v1/status                     NodeStatus
//! GET  /v1/doctor                     Report
//! GET  /v1/peers                      [SessionInfo]
//! GET  /v1/path/{peer}                PathReport, connecting if need be
//! GET  /v1/resolve/{peer}             PeerReport
//! GET  /v1/explain/{peer}?ExplainQuery  Explanation, connecting if need be
//! GET  /v1/trace/{peer}?TraceQuery    TraceReport, connecting if need be
//! POST /v1/connect                    ConnectAsk -> PathReport
//! POST /v1/ping                       PingAsk -> Pong
//! POST /v1/send?MessageQuery          body as it is -> Sent
//! POST /v1/request?MessageQuery       body as it is -> MessageReport
//! POST /v1/recv                       upgrade: RecvAsk / RecvTell
//! GET  /v1/recv?RecvQuery             server-sent events, MessageReport in each
//! POST /v1/reply?ReplyQuery           body as it is -> Sent
//! POST /v1/publish?PublishQuery       body as it is -> PublishReport
//! POST /v1/subscribe?TopicQuery       upgrade: PostTell and the body, for each post
//! GET  /v1/subscribe?TopicQuery       server-sent events, PostReport in each
//! GET  /v1/topics                     [TopicInfo]
//! POST /v1/cat/{peer}?CatQuery        upgrade: data both ways
//! POST /v1/cat-listen?CatQuery        upgrade: data both ways
//! POST /v1/expose?ExposeQuery         upgrade: Notice, as long as it is open
//! POST /v1/forward?ForwardQuery       upgrade: Notice, as long as it is open
//! POST /v1/socks?SocksQuery           upgrade: Notice, as long as it is open
//! POST /v1/bench/{peer}?BenchQuery    upgrade: BenchTell
//! GET  /v1/vpn                        VpnReport
//! POST /v1/vpn/up                     VpnUpAsk -> VpnReport
//! POST /v1/vpn/down                   VpnReport
//! GET  /v1/ports                      [PortReport]
//! POST /v1/ports/map                  PortMapAsk -> PortReport
//! POST /v1/ports/unmap                PortAsk -> PortReport
//! ```
//!
//! Each takes `?network=NAME`; those of private networks are in [`network`], of
//! firewalls in [`firewall`], of subnet routes in [`routes`], of jobs in [`job`]. Upgraded connections
//! speak frames, see [`crate::frame`]. Errors are
//! `{"error":{"code","message","hint"}}`.

pub(crate) mod firewall;
pub(crate) mod job;
pub(crate) mod network;
pub(crate) mod routes;
pub(crate) mod topic;

use std::net::SocketAddr;

use anyhop::{Carrier, Encoding, Message, PathInfo, PeerId, VpnStatus};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{error::CliError, spec::Protocol};

/// A peer's id alone.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct PeerReport {
    /// The peer, base58.
    pub(crate) peer_id: String,
}

/// What is wanted of a VPN that is to come up.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct VpnUpAsk {
    /// Ethernet frames instead of IP packets.
    #[serde(default)]
    pub(crate) l2: bool,
    /// Age of keys at which new ones are made, seconds.
    pub(crate) rekey_after_s: f64,
    /// Whether names of members are not served.
    #[serde(default)]
    pub(crate) no_dns: bool,
}

/// The VPN of a network.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct VpnReport {
    /// The network.
    pub(crate) network: String,
    /// What it carries for whom.
    #[serde(flatten)]
    pub(crate) status: VpnStatus,
    /// Who answers for the members' names; none where nobody does.
    #[serde(default)]
    pub(crate) dns: Option<DnsReport>,
}

/// Names of members.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct DnsReport {
    /// Where they are asked for, at port 53.
    pub(crate) address: Option<String>,
    /// What they end in.
    pub(crate) domain: String,
    /// How the host's resolver finds that: `systemd-resolved`, `resolv.conf` or `none`.
    pub(crate) hook: String,
    /// Why it does not.
    #[serde(default)]
    pub(crate) note: Option<String>,
}

/// A port of this machine.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct PortAsk {
    /// Of what.
    pub(crate) protocol: Protocol,
    /// Where connections come in.
    pub(crate) listen: SocketAddr,
}

/// A port of this machine that is to be a member's.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct PortMapAsk {
    /// Of what.
    pub(crate) protocol: Protocol,
    /// Where connections come in.
    pub(crate) listen: SocketAddr,
    /// PeerId, part of one, or name.
    pub(crate) member: String,
    /// The member's port.
    pub(crate) port: u16,
}

/// A mapped port.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct PortReport {
    /// Of what.
    pub(crate) protocol: Protocol,
    /// Where connections come in.
    pub(crate) listen: SocketAddr,
    /// The member's name, if it has one here.
    pub(crate) member: Option<String>,
    /// The member, base58.
    pub(crate) peer_id: String,
    /// Its port.
    pub(crate) port: u16,
    /// Its overlay address with that.
    pub(crate) target: Option<SocketAddr>,
    /// Whether connections go there now.
    pub(crate) active: bool,
    /// Why they do not.
    pub(crate) problem: Option<String>,
}

/// A peer and the paths to it.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct PathReport {
    /// The peer, base58.
    pub(crate) peer_id: String,
    /// The session's paths, the selected one first.
    pub(crate) paths: Vec<PathInfo>,
}

/// How to explain.
#[derive(Debug, Clone, Copy, Default, JsonSchema, Serialize, Deserialize)]
pub(crate) struct ExplainQuery {
    /// Tell only what is known.
    #[serde(default)]
    pub(crate) no_dial: bool,
}

/// How to trace.
#[derive(Debug, Clone, Copy, JsonSchema, Serialize, Deserialize)]
pub(crate) struct TraceQuery {
    /// Rounds to average.
    #[serde(default = "one")]
    pub(crate) count: u16,
}

fn one() -> u16 {
    1
}

/// The way to a peer.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct TraceReport {
    /// The peer, base58.
    pub(crate) peer_id: String,
    /// The hops, nearest first; the last is the peer.
    pub(crate) hops: Vec<HopReport>,
}

/// One hop of a way.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct HopReport {
    /// Its number, from 1 on.
    pub(crate) hop: usize,
    /// Who is there, base58.
    pub(crate) peer_id: String,
    /// Its name here.
    pub(crate) name: Option<String>,
    /// What carries packets to it; known of the first hop only.
    pub(crate) carrier: Option<Carrier>,
    /// Mean round trip from here to there.
    pub(crate) rtt_ms: Option<f64>,
    /// Share of probes lost on the way there and back.
    pub(crate) loss: Option<f64>,
    /// Whether any probe was answered.
    pub(crate) answered: bool,
    /// Why none was; else empty.
    pub(crate) reason: String,
}

/// Asks for a session; exactly one of the two is given.
#[derive(Debug, Clone, Default, JsonSchema, Serialize, Deserialize)]
pub(crate) struct ConnectAsk {
    /// PeerId, part of one, or name.
    pub(crate) peer: Option<String>,
    /// Multiaddr ending in `/p2p/<PeerId>`.
    pub(crate) address: Option<String>,
}

/// Asks for one echo.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct PingAsk {
    /// PeerId, part of one, or name.
    pub(crate) peer: String,
    /// How long to wait.
    pub(crate) timeout_ms: u64,
}

/// Labels of a message whose body is the request's body.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct MessageQuery {
    /// PeerId, part of one, or name.
    pub(crate) peer: String,
    /// The message's type.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The message's encoding.
    pub(crate) encoding: Encoding,
    /// For a request: how long to wait for its reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_ms: Option<u64>,
}

/// Which messages are told as events.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct RecvQuery {
    /// Only those of this type; the others stay in the inbox.
    #[serde(rename = "type", default)]
    pub(crate) kind: Option<String>,
}

/// Labels of a reply whose body is the request's body.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct ReplyQuery {
    /// The id of the event that told the request.
    pub(crate) id: u64,
    /// The reply's type.
    #[serde(rename = "type", default = "text")]
    pub(crate) kind: String,
    /// The reply's encoding.
    #[serde(default = "utf8")]
    pub(crate) encoding: Encoding,
}

fn text() -> String {
    "text".to_owned()
}

fn utf8() -> Encoding {
    Encoding::Utf8
}

/// A message was delivered.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// To whom, base58.
    pub(crate) to: String,
    /// Size of the body.
    pub(crate) bytes: usize,
}

/// A message for people and scripts.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub(crate) struct MessageReport {
    /// Who sent it, base58.
    pub(crate) from: String,
    /// Its type.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Its encoding.
    pub(crate) encoding: Encoding,
    /// Its body: as text for `utf8` and `json`, else in base64.
    pub(crate) body: String,
    /// Whether the body is in base64.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) body_base64: bool,
    /// Whether the sender waits for a reply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) request: bool,
}

impl MessageReport {
    /// Of a message.
    pub(crate) fn new(from: PeerId, message: &Message, request: bool) -> Self {
        let (body, body_base64) = shown(message.encoding, &message.body);
        Self {
            from: from.to_base58(),
            kind: message.kind.clone(),
            encoding: message.encoding,
            body,
            body_base64,
            request,
        }
    }

    /// The body's bytes.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, CliError> {
        if !self.body_base64 {
            return Ok(self.body.clone().into_bytes());
        }
        BASE64_STANDARD
            .decode(&self.body)
            .map_err(|e| crate::frame::unexpected(&format!("body is no base64: {e}")))
    }
}

/// A body as it is shown: as text, or in base64, and which.
pub(crate) fn shown(encoding: Encoding, body: &[u8]) -> (String, bool) {
    let text = match encoding {
        Encoding::Utf8 | Encoding::Json => std::str::from_utf8(body).ok(),
        Encoding::Binary | Encoding::Protobuf => None,
    };
    match text {
        Some(text) => (text.to_owned(), false),
        None => (BASE64_STANDARD.encode(body), true),
    }
}

/// What `recv` asks of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RecvAsk {
    /// The next message; without a timeout however long it takes.
    Take {
        /// How long to wait.
        timeout_ms: Option<u64>,
        /// Only messages of this type.
        #[serde(default)]
        kind: Option<String>,
    },
    /// The message taken was printed; a request goes unanswered.
    Done,
    /// It was printed; answer it with this text.
    Reply {
        /// The answer.
        text: String,
    },
    /// It was printed; answer it with itself.
    Echo,
}

/// What the daemon answers to `recv`.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RecvTell {
    /// A message; `size` bytes of data frames with its body follow.
    Message {
        /// Who sent it, base58.
        from: String,
        /// Its type.
        kind: String,
        /// Its encoding.
        encoding: Encoding,
        /// Whether the sender waits for a reply.
        request: bool,
        /// Size of the body.
        size: usize,
    },
    /// None came in time.
    Nothing,
    /// The message taken is settled: gone from the inbox, answered if asked to.
    Settled {
        /// Why the answer did not reach the requester, if it did not.
        problem: Option<CliError>,
    },
}

impl RecvTell {
    /// Head of a message.
    pub(crate) fn message(from: PeerId, message: &Message, request: bool) -> Self {
        Self::Message {
            from: from.to_base58(),
            kind: message.kind.clone(),
            encoding: message.encoding,
            request,
            size: message.body.len(),
        }
    }

    /// The message that a head and a body make; `None` if this is none.
    pub(crate) fn report(self, body: Bytes) -> Option<MessageReport> {
        let Self::Message {
            from,
            kind,
            encoding,
            request,
            ..
        } = self
        else {
            return None;
        };
        let from = from.parse().ok()?;
        let message = Message {
            kind,
            encoding,
            body,
        };
        Some(MessageReport::new(from, &message, request))
    }
}

/// Which stream a `cat` is for.
#[derive(Debug, Clone, Default, JsonSchema, Serialize, Deserialize)]
pub(crate) struct CatQuery {
    /// Tells several listeners on one node apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
}

impl CatQuery {
    /// The protocol's name.
    pub(crate) fn protocol(&self) -> String {
        match &self.name {
            Some(name) => format!("cat/1/{name}"),
            None => "cat/1".to_owned(),
        }
    }
}

/// What to expose.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct ExposeQuery {
    /// `HOST:PORT`; none for an exit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
    /// UDP instead of TCP.
    #[serde(default)]
    pub(crate) udp: bool,
    /// Whether this is about being an exit.
    #[serde(default)]
    pub(crate) exit: bool,
    /// Whether the exit leads to this host and its own networks, too.
    #[serde(default)]
    pub(crate) allow_private: bool,
}

/// A proxy to run.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct SocksQuery {
    /// `IP:PORT` to listen on.
    pub(crate) listen: String,
    /// Who connects to what is outside: PeerId, part of one, or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exit: Option<String>,
}

/// What to forward.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct ForwardQuery {
    /// `IP:PORT` to listen on.
    pub(crate) local: String,
    /// PeerId, part of one, or name.
    pub(crate) peer: String,
    /// `HOST:PORT` that the peer exposes.
    pub(crate) target: String,
    /// UDP instead of TCP.
    #[serde(default)]
    pub(crate) udp: bool,
}

/// What happens on an `expose`, `forward`, `socks` or `cat --listen`.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Notice {
    /// It works from now on.
    Ready {
        /// `expose`: what is exposed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exposed: Option<String>,
        /// `forward`, `socks`: the address listened on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        local: Option<String>,
    },
    /// `cat`: the stream is there; data may be sent from now on.
    Opened {
        /// The peer at its other end, base58.
        peer_id: String,
    },
    /// One connection or flow could not be forwarded.
    Failed {
        /// Whose.
        client: String,
        /// Why.
        error: CliError,
    },
}

/// What to measure.
#[derive(Debug, Clone, Copy, JsonSchema, Serialize, Deserialize)]
pub(crate) struct BenchQuery {
    /// How long.
    pub(crate) seconds: u16,
    /// Over how many streams.
    pub(crate) streams: u16,
    /// From the peer to here.
    #[serde(default)]
    pub(crate) reverse: bool,
}

/// How a measurement goes.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BenchTell {
    /// So far.
    Progress {
        /// Bytes moved.
        bytes: u64,
        /// Milliseconds since it began.
        elapsed_ms: u64,
    },
    /// The result.
    Done(BenchReport),
}

/// Result of a measurement.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct BenchReport {
    /// The peer, base58.
    pub(crate) peer_id: String,
    /// Bytes that arrived, in Gbit per second over the whole run.
    pub(crate) gbit_s: f64,
    /// CPU seconds this daemon used meanwhile.
    pub(crate) cpu_s_local: f64,
    /// The path selected at the end.
    pub(crate) path: Option<PathInfo>,
    /// Bytes that arrived.
    pub(crate) bytes: u64,
    /// How long it took until the last byte was confirmed.
    pub(crate) seconds: f64,
    /// Streams used.
    pub(crate) streams: u16,
    /// Whether from the peer to here.
    pub(crate) reverse: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(encoding: Encoding, body: &'static [u8]) -> Message {
        Message {
            kind: "t".to_owned(),
            encoding,
            body: Bytes::from_static(body),
        }
    }

    #[test]
    fn text_bodies_are_shown_as_text_and_others_in_base64() {
        let table: [(Encoding, &'static [u8], &str, bool); 5] = [
            (Encoding::Utf8, "grüß".as_bytes(), "grüß", false),
            (Encoding::Json, b"{}", "{}", false),
            (Encoding::Binary, b"hi", "aGk=", true),
            (Encoding::Protobuf, b"\x08\x01", "CAE=", true),
            (Encoding::Utf8, b"\xff", "/w==", true),
        ];
        for (encoding, body, shown, base64) in table {
            let report = MessageReport::new(PeerId::random(), &message(encoding, body), false);
            assert_eq!((report.body.as_str(), report.body_base64), (shown, base64));
            assert_eq!(report.bytes().expect("own encoding"), body);
        }
    }

    #[test]
    fn a_plain_message_has_exactly_the_documented_fields() {
        let report = MessageReport::new(PeerId::random(), &message(Encoding::Utf8, b"x"), false);
        let value = serde_json::to_value(&report).expect("plain data");
        let keys: Vec<_> = value
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect();
        assert_eq!(keys, ["body", "encoding", "from", "type"]);
    }

    #[test]
    fn queries_survive_the_url_whatever_the_type_holds() {
        let query = MessageQuery {
            peer: "bob".to_owned(),
            kind: "a&b=c d%é/?#".to_owned(),
            encoding: Encoding::Protobuf,
            timeout_ms: Some(5),
        };
        let text = serde_urlencoded::to_string(&query).expect("flat");
        let back: MessageQuery = serde_urlencoded::from_str(&text).expect("just written");
        assert_eq!((back.kind, back.timeout_ms), (query.kind, query.timeout_ms));
    }
}
