//! What a UDP payload is, told by its first byte (blueprint section 4).
//!
//! QUIC sets its fixed bit (0x40, RFC 9000 section 17); Anyhop's own packets leave it
//! clear. Greasing that bit (RFC 9287) therefore stays off.

/// Length of the header in front of a datagram on a circuit, bytes.
pub const CIRCUIT_HEADER_LEN: usize = 8;

const FIXED_BIT: u8 = 0x40;
const CIRCUIT: u8 = 0x01;
const SEALED: u8 = 0x02;
pub(crate) const PROBE: u8 = 0x03;

/// The kinds of payload that share a node's UDP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A QUIC packet.
    Quic,
    /// A labelled datagram on a circuit.
    Circuit,
    /// An IP packet of the packet plane.
    Sealed,
    /// A path probe.
    Probe,
    /// Nothing of ours: dropped and counted.
    Unknown,
}

/// Tells the kind of a payload. An empty one is [`Kind::Unknown`].
#[must_use]
pub fn classify(payload: &[u8]) -> Kind {
    match payload.first() {
        Some(b) if b & FIXED_BIT != 0 => Kind::Quic,
        Some(&CIRCUIT) => Kind::Circuit,
        Some(&SEALED) => Kind::Sealed,
        Some(&PROBE) => Kind::Probe,
        _ => Kind::Unknown,
    }
}

/// Names a circuit on one link in one direction: 56 bits, given out by the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(u64);

impl Label {
    const MASK: u64 = (1 << 56) - 1;

    /// The label with the low 56 bits of `bits`.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & Self::MASK)
    }

    /// Its 56 bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The header that goes in front of a datagram: type byte, then the label in
    /// network order.
    #[must_use]
    pub const fn header(self) -> [u8; CIRCUIT_HEADER_LEN] {
        let mut header = self.0.to_be_bytes();
        header[0] = CIRCUIT;
        header
    }

    /// Reads the label of a payload of [`Kind::Circuit`]; `None` when it is too short
    /// to hold a header and at least one byte.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        if payload.len() <= CIRCUIT_HEADER_LEN || payload[0] != CIRCUIT {
            return None;
        }
        let header: [u8; CIRCUIT_HEADER_LEN] = payload[..CIRCUIT_HEADER_LEN].try_into().ok()?;
        Some(Self::from_bits(u64::from_be_bytes(header)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_byte_tells_the_kind() {
        for (first, kind) in [
            (0xc3, Kind::Quic),
            (0x40, Kind::Quic),
            (0x7f, Kind::Quic),
            (0x01, Kind::Circuit),
            (0x02, Kind::Sealed),
            (0x03, Kind::Probe),
            (0x00, Kind::Unknown),
            (0x81, Kind::Unknown),
        ] {
            assert_eq!(classify(&[first, 0, 0]), kind, "first byte {first:#x}");
        }
        assert_eq!(classify(&[]), Kind::Unknown);
    }

    #[test]
    fn circuit_header_has_these_bytes() {
        let label = Label::from_bits(0x00aa_bb11_2233_4455);
        assert_eq!(
            label.header(),
            [0x01, 0xaa, 0xbb, 0x11, 0x22, 0x33, 0x44, 0x55]
        );
        let mut payload = label.header().to_vec();
        assert_eq!(
            Label::read(&payload),
            None,
            "a header alone carries nothing"
        );
        payload.push(0x40);
        assert_eq!(Label::read(&payload), Some(label));
    }
}
