//! The frames of `natcheck/1`: asking a peer to be pinged from somewhere, one
//! [`Request`] and one [`Response`] on a stream.
//!
//! A peer that is asked sends only to where it has seen the asker itself: to an address
//! that an authenticated ping of this session came from, or, to find out whether
//! strangers are let in, to a port of the asker's choice at the very IP address that the
//! session runs over. Each ping is as large as the one it answers, their number is
//! limited for each request, and requests for each session.

use std::net::SocketAddr;

use crate::{
    frame::{FrameError, decode, encode_frame},
    path::{get_socket, put_ip},
};

/// Largest frame, bytes.
pub const MAX_CHECK_FRAME: usize = 512;
/// Pings that one request is answered with. With the answer to the ping by which the asker
/// showed itself these are three times what it had sent.
pub const CHECK_PINGS: u32 = 2;
/// Longest reason, bytes.
const MAX_REASON: usize = 256;

/// From where the asker wants to be pinged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum From {
    /// The socket that the session runs over.
    SamePort,
    /// A socket with another port, open until the stream ends, which answers pings too.
    OtherPort,
    /// The session's socket, towards an address that has sent nothing to it: of the
    /// address only the port counts.
    Unasked,
}

/// Asks to be pinged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// From where.
    pub from: From,
    /// Where the asker wants it.
    pub at: SocketAddr,
}

impl Request {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_frame(&wire::Request {
            from: match self.from {
                From::SamePort => 1,
                From::OtherPort => 2,
                From::Unasked => 3,
            },
            ip: put_ip(self.at.ip()),
            port: u32::from(self.at.port()),
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message, or asks for what cannot be sent.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let request: wire::Request = decode(content)?;
        let malformed = |what: &str| FrameError::Malformed(what.to_owned());
        Ok(Self {
            from: match request.from {
                1 => From::SamePort,
                2 => From::OtherPort,
                3 => From::Unasked,
                _ => return Err(malformed("unknown kind of check")),
            },
            at: get_socket(&request.ip, request.port).ok_or_else(|| malformed("no address"))?,
        })
    }
}

/// What the asked peer does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// It pings now, from this port of its own.
    Pinging {
        /// The other port; 0 for the session's.
        port: u16,
    },
    /// It does not.
    Refused(String),
}

impl Response {
    /// Its frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (pinging, port, reason) = match self {
            Self::Pinging { port } => (true, u32::from(*port), ""),
            Self::Refused(reason) => (false, 0, &**reason),
        };
        let reason = reason[..reason.floor_char_boundary(MAX_REASON)].to_owned();
        encode_frame(&wire::Response {
            pinging,
            port,
            reason,
        })
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// When it is no such message.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let mut response: wire::Response = decode(content)?;
        if response.pinging {
            let port = u16::try_from(response.port);
            let port = port.map_err(|_| FrameError::Malformed("no port".to_owned()))?;
            return Ok(Self::Pinging { port });
        }
        let end = response.reason.floor_char_boundary(MAX_REASON);
        response.reason.truncate(end);
        Ok(Self::Refused(response.reason))
    }
}

mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Request {
        #[prost(uint32, tag = "1")]
        pub(super) from: u32,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) ip: Vec<u8>,
        #[prost(uint32, tag = "3")]
        pub(super) port: u32,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Response {
        #[prost(bool, tag = "1")]
        pub(super) pinging: bool,
        #[prost(uint32, tag = "2")]
        pub(super) port: u32,
        #[prost(string, tag = "3")]
        pub(super) reason: String,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::take_frame;

    fn content(frame: &[u8]) -> Vec<u8> {
        let content = take_frame(&mut &frame[..], MAX_CHECK_FRAME);
        content.unwrap().unwrap().to_vec()
    }

    #[test]
    fn frames_have_these_bytes() {
        let request = Request {
            from: From::OtherPort,
            at: "192.0.2.1:4001".parse().unwrap(),
        };
        assert_eq!(
            request.encode(),
            [11, 0x08, 2, 0x12, 4, 192, 0, 2, 1, 0x18, 0xa1, 0x1f]
        );
        assert_eq!(
            Response::Pinging { port: 5000 }.encode(),
            [5, 0x08, 1, 0x10, 0x88, 0x27]
        );
        assert_eq!(
            Response::Refused("no".to_owned()).encode(),
            [4, 0x1a, 2, b'n', b'o']
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert!(request.at.port() != 0);
                prop_assert_eq!(Request::decode(&content(&request.encode())), Ok(request));
            }
            if let Ok(response) = Response::decode(&bytes) {
                prop_assert_eq!(Response::decode(&content(&response.encode())), Ok(response));
            }
        }
    }
}
