//! Any traffic of a guest on its legacy devices, while the host sends input and takes output, now and then saved and
//! restored: never a panic, and nothing grows.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vmm::{
    bus::{Bus, Registers},
    irq::{Line, MessageSender},
    legacy::{
        i8042::ResetOnly,
        ioapic::Ioapic,
        power::Power,
        serial::{SerialPort, Wire},
    },
    timeline::Timeline,
};

struct Nowhere;

impl MessageSender for Nowhere {
    fn send(&self, _: u32, _: u32) {}
}

fuzz_target!(|bytes: &[u8]| {
    let ioapic = Arc::new(Ioapic::new(2..8, Arc::new(Nowhere)));
    let line = Line::new(ioapic.clone(), 4);
    let wire = Arc::new(Wire::new(Arc::new(Timeline::since_exec())).expect("an eventfd"));
    let serial = Arc::new(SerialPort::new(line.clone(), wire.clone()));
    let mut bus = Bus::default();
    let devices: [(u64, u64, Arc<dyn Registers>); 4] = [
        (0x00, 8, serial.clone()),
        (0x10, 3, Arc::new(Power)),
        (0x20, 5, Arc::new(ResetOnly)),
        (0x40, 0x80, ioapic.clone()),
    ];
    for (start, length, device) in devices {
        bus.insert("device", start..start + length, device)
            .expect("disjoint ranges");
    }
    for operation in bytes.chunks_exact(8) {
        let [kind, address, length, data @ ..] = operation else {
            unreachable!("chunks of eight")
        };
        let mut data = data[..usize::from(*length) % 6].to_vec();
        match kind % 8 {
            0..=2 => _ = bus.write(u64::from(*address), &data),
            3 | 4 => _ = bus.read(u64::from(*address), &mut data),
            5 => assert!(serial.send(&data) <= data.len()),
            6 => {
                let mut chunk = [0; 4096];
                wire.consume(wire.peek(&mut chunk));
                serial.output_drained();
            }
            _ => {
                assert!(serial.restore(&serial.save(), line.clone()));
                assert!(ioapic.restore(&ioapic.save()));
            }
        }
    }
});
