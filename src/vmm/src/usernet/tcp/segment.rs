//! Segments: what is taken of the guest's, and how ours are made.
use smoltcp::wire::{IpProtocol, TcpOption, TcpPacket, TcpSeqNumber, checksum};

use crate::usernet::{
    frame::{Channel, Leave, Sent, feature},
    head::{Head, pseudo_sum},
    table::Key,
};

/// A header without options.
const HEADER: usize = 20;
/// Where in it the checksum is.
const CHECKSUM: u16 = 16;
/// The longest payload, whatever the headers.
pub(super) const LONGEST: u16 = 65535 - 60;

/// A segment of the guest's.
#[derive(Clone, Copy, Debug)]
pub(in crate::usernet) struct Segment<'a> {
    pub(super) seq: u32,
    pub(super) ack: Option<u32>,
    pub(super) syn: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    pub(super) window: u16,
    pub(super) mss: Option<u16>,
    pub(super) scale: Option<u8>,
    pub(super) payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// What a packet says, whose lengths are checked.
    pub(in crate::usernet) fn of(packet: &TcpPacket<&'a [u8]>) -> Self {
        let mut segment = Self {
            seq: bits(packet.seq_number()),
            ack: packet.ack().then(|| bits(packet.ack_number())),
            syn: packet.syn(),
            fin: packet.fin(),
            rst: packet.rst(),
            window: packet.window_len(),
            mss: None,
            scale: None,
            payload: packet.payload(),
        };
        // Of no other are options of interest.
        if segment.syn {
            segment.read_options(packet.options());
        }
        segment
    }

    /// An option that is malformed ends them: at most 40 bytes.
    fn read_options(&mut self, mut options: &[u8]) {
        while let Ok((rest, option)) = TcpOption::parse(options) {
            match option {
                TcpOption::EndOfList => return,
                TcpOption::MaxSegmentSize(mss) => self.mss = Some(mss),
                TcpOption::WindowScale(scale) => self.scale = Some(scale),
                _ => {}
            }
            options = rest;
        }
    }

    /// The sequence number behind it.
    pub(super) fn end(&self) -> u32 {
        let length = u32::try_from(self.payload.len()).unwrap_or(0);
        self.seq
            .wrapping_add(length)
            .wrapping_add(self.syn.into())
            .wrapping_add(self.fin.into())
    }
}

fn bits(number: TcpSeqNumber) -> u32 {
    u32::from_ne_bytes(number.0.to_ne_bytes())
}

fn number(bits: u32) -> TcpSeqNumber {
    TcpSeqNumber(i32::from_ne_bytes(bits.to_ne_bytes()))
}

/// A segment for the guest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outgoing<'a> {
    pub(super) seq: u32,
    pub(super) ack: Option<u32>,
    pub(super) syn: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    pub(super) window: u16,
    /// With a SYN.
    pub(super) mss: u16,
    /// With a SYN.
    pub(super) scale: Option<u8>,
    pub(super) payload: &'a [u8],
    /// How long pieces are to be, where the payload is longer.
    pub(super) cut: u16,
}

impl Outgoing<'_> {
    /// Sends it over the flow `key`.
    pub(super) fn send(&self, key: &Key, guest_mac: [u8; 6], channel: &mut Channel) -> Sent {
        let ends = (key.remote.0, key.guest.0);
        let options = match (self.syn, self.scale) {
            (false, _) => 0,
            (true, None) => 4,
            (true, Some(_)) => 8,
        };
        let header = HEADER + options;
        let length = header + self.payload.len();
        let head = Head::new(guest_mac, ends, IpProtocol::Tcp, header, length);
        let Some(mut head) = head else {
            return Sent::Never;
        };
        self.write(key, head.transport());
        let pseudo = pseudo_sum(ends, IpProtocol::Tcp, length);
        let mut packet = TcpPacket::new_unchecked(head.transport());
        let leave = channel.has(feature::GUEST_CSUM);
        if leave {
            packet.set_checksum(pseudo);
        } else {
            let own = checksum::data(packet.as_ref());
            packet.set_checksum(!checksum::combine(&[
                pseudo,
                own,
                checksum::data(self.payload),
            ]));
        }
        let cut = (self.payload.len() > usize::from(self.cut)).then(|| (self.cut, head.payload()));
        let leave = leave.then(|| Leave {
            start: head.start(),
            offset: CHECKSUM,
            cut,
        });
        channel.send(leave, head.bytes(), self.payload)
    }

    fn write(&self, key: &Key, header: &mut [u8]) {
        let length = u8::try_from(header.len()).unwrap_or(0);
        let mut packet = TcpPacket::new_unchecked(header);
        packet.set_src_port(key.remote.1);
        packet.set_dst_port(key.guest.1);
        packet.set_seq_number(number(self.seq));
        packet.set_ack_number(number(self.ack.unwrap_or(0)));
        packet.clear_flags();
        packet.set_header_len(length);
        packet.set_syn(self.syn);
        packet.set_fin(self.fin);
        packet.set_rst(self.rst);
        packet.set_psh(!self.payload.is_empty());
        packet.set_ack(self.ack.is_some());
        packet.set_window_len(self.window);
        packet.set_urgent_at(0);
        if self.syn {
            let rest = TcpOption::MaxSegmentSize(self.mss).emit(packet.options_mut());
            if let Some(scale) = self.scale {
                let rest = TcpOption::WindowScale(scale).emit(rest);
                TcpOption::EndOfList.emit(rest);
            }
        }
    }
}
