//! An I/O APIC (Intel 82093AA) in user space: KVM keeps the local APICs only.
//!
//! Every line of this machine is edge triggered, as the DSDT says, so an interrupt is one message to a local APIC and
//! needs no end-of-interrupt. It has exactly as many pins as the machine has lines: a kernel pays a dozen exits per pin.
use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    bus::{Outcome, Registers},
    irq::{Controller, MessageSender},
};

const SELECT: u64 = 0x00;
/// Size of the first register, which has no effect of its own: it says which one the second is.
pub const SELECT_BYTES: u32 = 4;
const WINDOW: u64 = 0x10;

const REGISTER_ID: u8 = 0x00;
const REGISTER_VERSION: u8 = 0x01;
const REGISTER_TABLE: u8 = 0x10;
/// 82093AA, which has no end-of-interrupt register.
const VERSION: u32 = 0x11;

const MASKED: u64 = 1 << 16;
/// Delivery status and remote IRR, which only the device changes; both stay zero with edge-triggered lines.
const READ_ONLY: u64 = (1 << 12) | (1 << 14);
const MESSAGE_ADDRESS: u32 = 0xfee0_0000;

/// One redirection table entry, and whether an edge came while it was masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pin {
    entry: u64,
    pending: bool,
}

/// The I/O APIC's state, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoapicState {
    id: u32,
    select: u8,
    pins: Vec<Pin>,
}

/// The device: registers for the guest, lines for our devices.
pub struct Ioapic {
    /// The global system interrupt of pin 0.
    first_gsi: u8,
    sender: Arc<dyn MessageSender>,
    state: Mutex<IoapicState>,
}

impl Ioapic {
    /// An I/O APIC with a pin for each of `gsis`, all masked, as after a reset.
    pub fn new(gsis: Range<u8>, sender: Arc<dyn MessageSender>) -> Self {
        let pin = Pin {
            entry: MASKED,
            pending: false,
        };
        let state = IoapicState {
            id: 0,
            select: 0,
            pins: vec![pin; gsis.len()],
        };
        Self {
            first_gsi: gsis.start,
            sender,
            state: Mutex::new(state),
        }
    }

    /// The state as it is now.
    pub fn save(&self) -> IoapicState {
        self.lock().clone()
    }

    /// Takes over a saved state. The number of pins must agree; else nothing changes and false comes back.
    pub fn restore(&self, saved: &IoapicState) -> bool {
        let mut state = self.lock();
        let fits = state.pins.len() == saved.pins.len();
        if fits {
            *state = saved.clone();
        }
        fits
    }

    fn lock(&self) -> MutexGuard<'_, IoapicState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, pin: &mut Pin) {
        if pin.pending && pin.entry & MASKED == 0 {
            pin.pending = false;
            let (address, data) = message(pin.entry);
            self.sender.send(address, data);
        }
    }

    fn read_register(state: &IoapicState) -> u32 {
        let last = u32::try_from(state.pins.len().saturating_sub(1)).unwrap_or(0);
        match state.select {
            REGISTER_ID => state.id,
            REGISTER_VERSION => VERSION | (last << 16),
            select => table_slot(select)
                .and_then(|(pin, high)| state.pins.get(pin).map(|pin| half(pin.entry, high)))
                .unwrap_or(0),
        }
    }

    fn write_register(&self, state: &mut IoapicState, value: u32) {
        if state.select == REGISTER_ID {
            state.id = value & 0x0f00_0000;
        } else if let Some((pin, high)) = table_slot(state.select)
            && let Some(pin) = state.pins.get_mut(pin)
        {
            let value = u64::from(value);
            pin.entry = if high {
                (pin.entry & 0xffff_ffff) | (value << 32)
            } else {
                (pin.entry & !0xffff_ffff) | (value & !READ_ONLY)
            };
            self.deliver(pin);
        }
    }
}

/// Which pin's entry a register number names, and whether it is the upper half.
fn table_slot(select: u8) -> Option<(usize, bool)> {
    let slot = select.checked_sub(REGISTER_TABLE)?;
    Some((usize::from(slot / 2), slot % 2 == 1))
}

fn half(entry: u64, high: bool) -> u32 {
    let bytes = entry.to_le_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    u32::from_le_bytes(if high { [e, f, g, h] } else { [a, b, c, d] })
}

/// The message that a redirection table entry stands for: destination and mode in the address, vector, delivery mode
/// and trigger mode in the data, at the same bits as in the entry.
fn message(entry: u64) -> (u32, u32) {
    let destination = half(entry, true) >> 24;
    let low = half(entry, false);
    let logical = (low >> 11) & 1;
    let address = MESSAGE_ADDRESS | (destination << 12) | (logical << 2);
    // Vector (7:0) and delivery mode (10:8).
    (address, low & 0x7ff)
}

impl Controller for Ioapic {
    /// While the pin is masked the edge waits, so that none is lost.
    fn trigger(&self, gsi: u8) {
        let Some(index) = gsi.checked_sub(self.first_gsi) else {
            return;
        };
        if let Some(pin) = self.lock().pins.get_mut(usize::from(index)) {
            pin.pending = true;
            self.deliver(pin);
        }
    }
}

impl Registers for Ioapic {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let state = self.lock();
        let value = match offset {
            SELECT => u32::from(state.select),
            WINDOW => Self::read_register(&state),
            _ => 0,
        };
        for (byte, value) in data
            .iter_mut()
            .zip(value.to_le_bytes().into_iter().chain(std::iter::repeat(0)))
        {
            *byte = value;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Outcome {
        // Only whole 32-bit writes count, as in hardware.
        if let Ok(bytes) = <[u8; 4]>::try_from(data) {
            let mut state = self.lock();
            match offset {
                SELECT => state.select = bytes[0],
                WINDOW => self.write_register(&mut state, u32::from_le_bytes(bytes)),
                _ => {}
            }
        }
        Outcome::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Sent(Mutex<Vec<(u32, u32)>>);
    impl MessageSender for Sent {
        fn send(&self, address: u32, data: u32) {
            self.0.lock().unwrap().push((address, data));
        }
    }

    fn ioapic() -> (Arc<Sent>, Ioapic) {
        let sent = Arc::new(Sent::default());
        (sent.clone(), Ioapic::new(2..8, sent))
    }

    fn write(ioapic: &Ioapic, register: u8, value: u32) {
        let _ = ioapic.write(SELECT, &u32::from(register).to_le_bytes());
        let _ = ioapic.write(WINDOW, &value.to_le_bytes());
    }

    fn read(ioapic: &Ioapic, register: u8) -> u32 {
        let _ = ioapic.write(SELECT, &u32::from(register).to_le_bytes());
        let mut data = [0; 4];
        ioapic.read(WINDOW, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn an_edge_on_an_open_pin_becomes_a_message() {
        let (sent, ioapic) = ioapic();
        write(&ioapic, 0x19, 3 << 24);
        write(&ioapic, 0x18, 0x24);
        ioapic.trigger(6);
        assert_eq!(*sent.0.lock().unwrap(), [(0xfee0_3000, 0x24)]);
    }

    #[test]
    fn an_edge_on_a_masked_pin_is_delivered_once_when_it_opens() {
        let (sent, ioapic) = ioapic();
        ioapic.trigger(6);
        ioapic.trigger(6);
        assert!(sent.0.lock().unwrap().is_empty());
        write(&ioapic, 0x18, 0x30);
        write(&ioapic, 0x18, 0x30);
        assert_eq!(sent.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn interrupts_that_are_not_its_own_are_ignored() {
        let (sent, ioapic) = ioapic();
        for pin in 0..6 {
            write(&ioapic, 0x10 + 2 * pin, 0x20);
        }
        for gsi in [0, 1, 8, 255] {
            ioapic.trigger(gsi);
        }
        assert!(sent.0.lock().unwrap().is_empty());
    }

    #[test]
    fn the_version_register_tells_the_pins() {
        let (_, ioapic) = ioapic();
        assert_eq!(read(&ioapic, 1), (5 << 16) | 0x11);
        assert_eq!(read(&ioapic, 0x10), 1 << 16);
    }

    #[test]
    fn a_restored_device_goes_on_where_the_saved_one_stood() {
        let (_, first) = ioapic();
        write(&first, 0x12, 0x41);
        first.trigger(4);
        let json = serde_json::to_string(&first.save()).unwrap();
        let (sent, second) = ioapic();
        assert!(second.restore(&serde_json::from_str(&json).unwrap()));
        assert_eq!(read(&second, 0x12), 0x41);
        write(&second, 0x14, 0x42);
        assert_eq!(*sent.0.lock().unwrap(), [(0xfee0_0000, 0x42)]);
        assert!(!Ioapic::new(2..5, sent).restore(&first.save()));
    }

    proptest! {
        #[test]
        fn any_register_traffic_is_answered(accesses: Vec<(u64, Vec<u8>, u8)>) {
            let (_, ioapic) = ioapic();
            for (offset, mut data, gsi) in accesses {
                let _ = ioapic.write(offset % 0x40, &data);
                ioapic.read(offset % 0x40, &mut data);
                ioapic.trigger(gsi);
            }
        }
    }
}
