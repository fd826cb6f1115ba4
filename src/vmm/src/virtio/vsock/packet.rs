//! The header of each packet (virtio 1.3 §5.10.6).

/// Bytes of a header.
pub(super) const HEADER: usize = 44;
/// The host's context id.
pub(super) const HOST_CID: u64 = 2;
/// The one kind of socket that there is here.
pub(super) const STREAM: u16 = 1;

/// What a packet is for.
pub(super) mod op {
    pub(in super::super) const REQUEST: u16 = 1;
    pub(in super::super) const RESPONSE: u16 = 2;
    pub(in super::super) const RST: u16 = 3;
    pub(in super::super) const SHUTDOWN: u16 = 4;
    pub(in super::super) const RW: u16 = 5;
    pub(in super::super) const CREDIT_UPDATE: u16 = 6;
    pub(in super::super) const CREDIT_REQUEST: u16 = 7;
}

/// What whoever sends a SHUTDOWN will do no more: its flags.
pub(super) mod ending {
    pub(in super::super) const RECEIVE: u32 = 1;
    pub(in super::super) const SEND: u32 = 2;
    pub(in super::super) const BOTH: u32 = RECEIVE | SEND;
}

/// The two ports by which a connection is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) guest: u32,
    pub(super) host: u32,
}

/// A packet without its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    /// Bytes of data that follow.
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    /// Bytes that the sender keeps room for.
    pub(super) buf_alloc: u32,
    /// Bytes that have left that room so far, modulo 2³².
    pub(super) fwd_cnt: u32,
}

impl Header {
    /// What `bytes` say.
    pub(super) fn parse(bytes: &[u8; HEADER]) -> Self {
        fn at<const N: usize>(bytes: &[u8; HEADER], offset: usize) -> [u8; N] {
            std::array::from_fn(|index| bytes[offset + index])
        }
        Self {
            src_cid: u64::from_le_bytes(at(bytes, 0)),
            dst_cid: u64::from_le_bytes(at(bytes, 8)),
            src_port: u32::from_le_bytes(at(bytes, 16)),
            dst_port: u32::from_le_bytes(at(bytes, 20)),
            len: u32::from_le_bytes(at(bytes, 24)),
            kind: u16::from_le_bytes(at(bytes, 28)),
            op: u16::from_le_bytes(at(bytes, 30)),
            flags: u32::from_le_bytes(at(bytes, 32)),
            buf_alloc: u32::from_le_bytes(at(bytes, 36)),
            fwd_cnt: u32::from_le_bytes(at(bytes, 40)),
        }
    }

    /// As it lies in guest memory.
    pub(super) fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &self.src_cid.to_le_bytes());
        put(8, &self.dst_cid.to_le_bytes());
        put(16, &self.src_port.to_le_bytes());
        put(20, &self.dst_port.to_le_bytes());
        put(24, &self.len.to_le_bytes());
        put(28, &self.kind.to_le_bytes());
        put(30, &self.op.to_le_bytes());
        put(32, &self.flags.to_le_bytes());
        put(36, &self.buf_alloc.to_le_bytes());
        put(40, &self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// Whose connection a packet from the guest is about.
    pub(super) fn ports(&self) -> Ports {
        Ports {
            guest: self.src_port,
            host: self.dst_port,
        }
    }

    /// A packet of the host's for the guest `cid`, without data or credit.
    pub(super) fn to_guest(cid: u32, ports: Ports, op: u16) -> Self {
        Self {
            src_cid: HOST_CID,
            dst_cid: cid.into(),
            src_port: ports.host,
            dst_port: ports.guest,
            kind: STREAM,
            op,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_header_is_what_its_bytes_say(bytes in proptest::collection::vec(any::<u8>(), HEADER)) {
            let bytes: [u8; HEADER] = bytes.try_into().unwrap();
            prop_assert_eq!(Header::parse(&bytes).bytes(), bytes);
        }
    }

    #[test]
    fn fields_stand_where_the_specification_has_them() {
        let ports = Ports {
            guest: 0x0102_0304,
            host: 5,
        };
        let header = Header {
            len: 6,
            flags: 7,
            buf_alloc: 8,
            fwd_cnt: 9,
            ..Header::to_guest(3, ports, op::RW)
        };
        let expected = [
            2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 4, 3, 2, 1, 6, 0, 0, 0, 1,
            0, 5, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0,
        ];
        assert_eq!(header.bytes(), expected);
    }
}
