//! Frames on control streams: a varint length, then a protobuf message.

use anyhop_base::codec::{put_varint, take_varint};
use prost::Message;
use thiserror::Error;

/// Why a frame could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// It announces more than the protocol allows.
    #[error("a frame of {len} bytes is announced, {max} are allowed")]
    TooLong {
        /// Announced length, bytes.
        len: u64,
        /// The protocol's limit, bytes.
        max: usize,
    },
    /// Its length or content is not what the protocol says.
    #[error("malformed frame: {0}")]
    Malformed(String),
    /// The stream ended inside a frame, or before it.
    #[error("the stream ended before the frame was complete")]
    Truncated,
}

impl FrameError {
    /// What is not as the protocol says.
    pub(crate) fn malformed(why: &str) -> Self {
        Self::Malformed(why.to_owned())
    }
}

/// Encodes a message with its length in front.
pub(crate) fn encode_frame(message: &impl Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.encoded_len() + 4);
    put_varint(&mut out, message.encoded_len() as u64);
    message.encode_raw(&mut out);
    out
}

/// Splits the first frame's content off `input`; `None` when more bytes are needed.
///
/// # Errors
/// When the length is malformed or above `max`.
pub fn take_frame<'a>(input: &mut &'a [u8], max: usize) -> Result<Option<&'a [u8]>, FrameError> {
    let mut rest = *input;
    let len = match take_varint(&mut rest) {
        Ok(Some(len)) => len,
        Ok(None) => return Ok(None),
        Err(e) => return Err(FrameError::Malformed(e.to_string())),
    };
    let wanted = usize::try_from(len)
        .ok()
        .filter(|&l| l <= max)
        .ok_or(FrameError::TooLong { len, max })?;
    if rest.len() < wanted {
        return Ok(None);
    }
    let (content, rest) = rest.split_at(wanted);
    *input = rest;
    Ok(Some(content))
}

pub(crate) fn decode<M: Message + Default>(content: &[u8]) -> Result<M, FrameError> {
    M::decode(content).map_err(|e| FrameError::Malformed(e.to_string()))
}

pub(crate) fn peer_id(bytes: &[u8]) -> Result<anyhop_base::PeerId, FrameError> {
    anyhop_base::PeerId::from_bytes(bytes)
        .map_err(|e| FrameError::Malformed(format!("not a PeerId: {e}")))
}
