//! WebSocket frames (RFC 6455 section 5), as far as one binary message for each datagram
//! needs them.
//!
//! Written for batches: frames are put behind each other into one buffer, and decoded in
//! place out of whatever a read brought, without an allocation for each. Fragmented
//! messages, which an intermediary may make of whole ones, are put together again up to
//! the decoder's limit.
//!
//! ```text
//!  +-----+--------------+----------------------+------------------+---------+
//!  | op  | mask, length | length, 0, 2 or 8    | mask key, 0 or 4 | payload |
//!  +-----+--------------+----------------------+------------------+---------+
//! ```

use thiserror::Error;

/// Longest header in front of a payload, bytes.
pub const MAX_FRAME_HEADER: usize = 14;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// Longest payload of a control frame (section 5.5).
const MAX_CONTROL: usize = 125;
const LEN_16: u8 = 126;
const LEN_64: u8 = 127;

/// What a frame that is sent is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// A whole binary message.
    Message,
    /// The end of the connection.
    Close,
    /// The answer to a ping, with its payload.
    Pong,
}

/// A key that a client masks its frames with; a server sends none (section 5.1).
pub type Mask = Option<[u8; 4]>;

/// Length of a frame around `len` bytes of payload.
#[must_use]
pub fn frame_len(len: usize, masked: bool) -> usize {
    let extended = match len {
        0..=125 => 0,
        126..=0xffff => 2,
        _ => 8,
    };
    2 + extended + if masked { 4 } else { 0 } + len
}

/// Appends one frame to `out`. A control frame's payload is cut at 125 bytes.
pub fn put_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: Mask) {
    let (code, payload) = match opcode {
        Opcode::Message => (BINARY, payload),
        Opcode::Close => (CLOSE, &payload[..payload.len().min(MAX_CONTROL)]),
        Opcode::Pong => (PONG, &payload[..payload.len().min(MAX_CONTROL)]),
    };
    out.push(FIN | code);
    let masked = if mask.is_some() { MASKED } else { 0 };
    match payload.len() {
        len @ 0..=125 => out.push(masked | len as u8),
        len @ 126..=0xffff => {
            out.push(masked | LEN_16);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(masked | LEN_64);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    if let Some(key) = mask {
        out.extend_from_slice(&key);
    }
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = mask {
        apply_mask(&mut out[start..], key);
    }
}

/// Which side's frames a [`Decoder`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The client's, which must be masked.
    Client,
    /// The server's, which must not be.
    Server,
}

/// A frame that came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A whole message, the last fragment of one included.
    Message(&'a [u8]),
    /// A fragment of a message that goes on.
    Fragment,
    /// To be answered with [`Opcode::Pong`] and these bytes.
    Ping(&'a [u8]),
    /// An answer, asked for or not.
    Pong,
    /// The other side ends the connection.
    Close,
}

/// Why a connection's frames cannot be followed any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WebSocketError {
    /// A message or frame above the decoder's limit.
    #[error("a message of {len} bytes is longer than the {limit} bytes allowed")]
    TooLong {
        /// Its length so far.
        len: u64,
        /// The limit.
        limit: usize,
    },
    /// A frame masked by a server, or not masked by a client.
    #[error("a frame is masked the wrong way round")]
    Masking,
    /// A frame with bits or an opcode that nothing was agreed for, text among them.
    #[error("a frame of an unknown or unwanted kind ({0:#04x})")]
    Kind(u8),
    /// A fragmented or overlong control frame, or fragments out of order.
    #[error("frames out of order")]
    Order,
}

/// Reads the frames of one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    sender: Sender,
    limit: usize,
    /// The fragments so far of a message that goes on.
    partial: Vec<u8>,
    in_message: bool,
    /// `partial` was handed out and is empty from the next call on.
    handed_out: bool,
}

impl Decoder {
    /// For frames of `sender`, with messages of at most `limit` bytes.
    #[must_use]
    pub fn new(sender: Sender, limit: usize) -> Self {
        Self {
            sender,
            limit,
            partial: Vec::new(),
            in_message: false,
            handed_out: false,
        }
    }

    /// Takes the first frame of `buf`, unmasking it in place; tells its length as well.
    /// `None` when it is not complete: call again with the same bytes and more.
    ///
    /// # Errors
    /// When the connection must end, see [`WebSocketError`].
    pub fn take<'a>(
        &'a mut self,
        buf: &'a mut [u8],
    ) -> Result<Option<(usize, Frame<'a>)>, WebSocketError> {
        if std::mem::take(&mut self.handed_out) {
            self.partial.clear();
        }
        let Some(head) = Head::read(buf) else {
            return Ok(None);
        };
        self.check(&head)?;
        let len = head.payload as usize;
        let end = head.len + len;
        if buf.len() < end {
            return Ok(None);
        }
        let payload = &mut buf[head.len..end];
        if let Some(key) = head.mask {
            apply_mask(payload, key);
        }
        let frame = match head.opcode {
            PING => Frame::Ping(payload),
            PONG => Frame::Pong,
            CLOSE => Frame::Close,
            BINARY if head.fin => Frame::Message(payload),
            _ => {
                self.partial.extend_from_slice(payload);
                self.in_message = !head.fin;
                self.handed_out = head.fin;
                if head.fin {
                    Frame::Message(&self.partial)
                } else {
                    Frame::Fragment
                }
            }
        };
        Ok(Some((end, frame)))
    }

    /// Checks a header, before its payload is waited for.
    fn check(&self, head: &Head) -> Result<(), WebSocketError> {
        let control = matches!(head.opcode, PING | PONG | CLOSE);
        let known = control || matches!(head.opcode, BINARY | CONTINUATION);
        if !known || head.reserved {
            return Err(WebSocketError::Kind(head.first));
        }
        if head.mask.is_some() != (self.sender == Sender::Client) {
            return Err(WebSocketError::Masking);
        }
        if control {
            let whole = head.fin && head.payload <= MAX_CONTROL as u64;
            return whole.then_some(()).ok_or(WebSocketError::Order);
        }
        if (head.opcode == CONTINUATION) != self.in_message {
            return Err(WebSocketError::Order);
        }
        let len = head.payload.saturating_add(self.partial.len() as u64);
        if len > self.limit as u64 {
            let limit = self.limit;
            return Err(WebSocketError::TooLong { len, limit });
        }
        Ok(())
    }
}

/// A frame's header.
struct Head {
    first: u8,
    fin: bool,
    reserved: bool,
    opcode: u8,
    mask: Mask,
    payload: u64,
    /// Its own length.
    len: usize,
}

impl Head {
    fn read(buf: &[u8]) -> Option<Self> {
        let [first, second, rest @ ..] = buf else {
            return None;
        };
        let (payload, rest) = match second & !MASKED {
            LEN_16 => {
                let (len, rest) = rest.split_first_chunk()?;
                (u64::from(u16::from_be_bytes(*len)), rest)
            }
            LEN_64 => {
                let (len, rest) = rest.split_first_chunk()?;
                (u64::from_be_bytes(*len), rest)
            }
            len => (u64::from(len), rest),
        };
        let (mask, rest) = if second & MASKED == 0 {
            (None, rest)
        } else {
            let (key, rest) = rest.split_first_chunk()?;
            (Some(*key), rest)
        };
        Some(Self {
            first: *first,
            fin: first & FIN != 0,
            reserved: first & RESERVED != 0,
            opcode: first & 0x0f,
            mask,
            payload,
            len: buf.len() - rest.len(),
        })
    }
}

/// Masks or unmasks (section 5.3), eight bytes at a time.
fn apply_mask(payload: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = payload.chunks_exact_mut(8);
    for word in &mut words {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        word.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ wide).to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= key;
    }
}

#[cfg(test)]
#[path = "websocket_tests.rs"]
mod tests;
