//! The frame of a `peers/1` stream: relays that a neighbour is connected to, and nodes that may be some. The asker
//! sends nothing.

use std::time::Duration;

use crate::frame::{FrameError, decode, encode_frame};

/// Largest frame, bytes.
pub const MAX_SAMPLE_FRAME: usize = 8 * 1024;
/// Peers in one [`Sample`].
pub const MAX_SAMPLE: usize = 8;
/// Samples a neighbour may ask for at once after a pause.
pub const SAMPLE_BURST: u32 = 4;
/// Time after which it may ask for one more.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);

mod pb {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Sample {
        #[prost(message, repeated, tag = "1")]
        pub(super) peers: Vec<Known>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Known {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) record: Vec<u8>,
        #[prost(uint32, tag = "2")]
        pub(super) known_s: u32,
    }
}

/// A relay that the sender is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its encoded `SignedRecord`.
    pub record: Vec<u8>,
    /// For how long, seconds: the sender's word.
    pub known_s: u32,
}

/// Some of the relays that the sender is connected to, chosen at random.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sample {
    /// At most [`MAX_SAMPLE`].
    pub peers: Vec<Known>,
}

impl Sample {
    /// Its frame. Peers beyond [`MAX_SAMPLE`], and those for which there is no room in
    /// [`MAX_SAMPLE_FRAME`], are left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut room = MAX_SAMPLE_FRAME;
        let fitting = self.peers.iter().take(MAX_SAMPLE).filter(|known| {
            // Tags, lengths and the time take less than 16 bytes.
            let size = known.record.len() + 16;
            let fits = size <= room;
            room -= if fits { size } else { 0 };
            fits
        });
        let known = |known: &Known| pb::Known {
            record: known.record.clone(),
            known_s: known.known_s,
        };
        encode_frame(&pb::Sample {
            peers: fitting.map(known).collect(),
        })
    }

    /// Reads a frame's content; peers beyond [`MAX_SAMPLE`] are left out.
    ///
    /// # Errors
    /// When it is no such message.
    pub fn decode(content: &[u8]) -> Result<Self, FrameError> {
        let pb::Sample { peers } = decode(content)?;
        let known = |known: pb::Known| Known {
            record: known.record,
            known_s: known.known_s,
        };
        Ok(Self {
            peers: peers.into_iter().take(MAX_SAMPLE).map(known).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::take_frame;

    fn known(record: Vec<u8>) -> Known {
        Known {
            record,
            known_s: 300,
        }
    }

    fn content(frame: &[u8]) -> Vec<u8> {
        let content = take_frame(&mut &frame[..], MAX_SAMPLE_FRAME);
        content.unwrap().unwrap().to_vec()
    }

    #[test]
    fn a_sample_has_these_bytes() {
        let sample = Sample {
            peers: vec![known(vec![7, 8])],
        };
        let frame = sample.encode();
        assert_eq!(frame, [9, 0x0a, 7, 0x0a, 2, 7, 8, 0x10, 0xac, 0x02]);
        assert_eq!(Sample::decode(&content(&frame)), Ok(sample));
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let large = Sample {
            peers: vec![known(vec![1; 3000]); MAX_SAMPLE],
        };
        let read = Sample::decode(&content(&large.encode())).unwrap();
        assert_eq!(read.peers.len(), 2);
        let many = Sample {
            peers: vec![known(vec![1; 30]); MAX_SAMPLE + 3],
        };
        let read = Sample::decode(&content(&many.encode())).unwrap();
        assert_eq!(read.peers.len(), MAX_SAMPLE);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Sample::decode(&bytes);
        }
    }
}
