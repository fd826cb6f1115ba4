//! A port between a driver and a host that are both made up.
use proptest::prelude::*;

use super::*;
use crate::{irq::MessageSender, legacy::ioapic::Ioapic};

#[derive(Default)]
struct Interrupts(AtomicU64);
impl MessageSender for Interrupts {
    fn send(&self, _: u32, _: u32) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Rig {
    interrupts: Arc<Interrupts>,
    line: Line,
    wire: Arc<Wire>,
    port: SerialPort,
}

impl Rig {
    fn new() -> Self {
        let interrupts = Arc::new(Interrupts::default());
        let ioapic = Arc::new(Ioapic::new(0..5, interrupts.clone()));
        let _ = ioapic.write(0, &0x18u32.to_le_bytes());
        let _ = ioapic.write(0x10, &0x24u32.to_le_bytes());
        let line = Line::new(ioapic, 4);
        let wire = Arc::new(Wire::new(Arc::new(Timeline::since_exec())).unwrap());
        let port = SerialPort::new(line.clone(), wire.clone());
        Self {
            interrupts,
            line,
            wire,
            port,
        }
    }

    fn write(&self, register: u8, value: u8) {
        let _ = self.port.write(u64::from(register), &[value]);
    }

    fn read(&self, register: u8) -> u8 {
        let mut data = [0xff];
        self.port.read(u64::from(register), &mut data);
        data[0]
    }

    fn drained(&self) -> Vec<u8> {
        let mut all = vec![0; OUTPUT_CAPACITY + 1];
        let count = self.wire.peek(&mut all);
        self.wire.consume(count);
        all.truncate(count);
        all
    }

    fn interrupts(&self) -> u64 {
        self.interrupts.0.load(Ordering::Relaxed)
    }
}

#[test]
fn what_the_guest_writes_reaches_the_host() {
    let rig = Rig::new();
    for byte in b"hello" {
        rig.write(0, *byte);
    }
    assert_eq!(rig.wire.ready.read().unwrap(), 1);
    assert_eq!(rig.drained(), b"hello");
    assert!(rig.wire.is_empty());
}

#[test]
fn input_waits_until_the_driver_listens() {
    let rig = Rig::new();
    assert_eq!(rig.port.send(b"early"), 0);
    assert!(rig.wire.room.read().is_err());
    rig.write(INTERRUPT_ENABLE, RECEIVE_INTERRUPT);
    assert_eq!(rig.wire.room.read().unwrap(), 1);
    assert_eq!(rig.port.send(b"early"), 5);
    assert_eq!(rig.interrupts(), 1);
    assert_eq!(rig.read(LINE_STATUS) & 1, 1);
    assert_eq!((0..5).map(|_| rig.read(0)).collect::<Vec<_>>(), b"early");
}

#[test]
fn a_driver_that_only_tries_its_registers_loses_no_input() {
    const ALL_INTERRUPTS: u8 = 0xf;
    let rig = Rig::new();
    rig.write(INTERRUPT_ENABLE, ALL_INTERRUPTS);
    assert_eq!(rig.port.send(b"early"), 5);
    rig.write(INTERRUPT_ENABLE, 0);
    // As Linux does before it listens: whatever lies there must be stale.
    assert_eq!((rig.read(LINE_STATUS) & 1, rig.read(DATA)), (0, 0));
    assert_eq!(rig.port.send(b" bird"), 0);
    let before = rig.interrupts();
    rig.write(INTERRUPT_ENABLE, RECEIVE_INTERRUPT);
    assert_eq!(rig.interrupts(), before + 1);
    assert_eq!(rig.port.send(b" bird"), 5);
    let read: Vec<_> = (0..10).map(|_| rig.read(DATA)).collect();
    assert_eq!(read, b"early bird");
}

#[test]
fn what_was_taken_back_is_saved() {
    let first = Rig::new();
    first.write(INTERRUPT_ENABLE, RECEIVE_INTERRUPT);
    first.port.send(b"ab");
    first.write(INTERRUPT_ENABLE, 0);
    let second = Rig::new();
    assert!(second.port.restore(&first.port.save(), second.line.clone()));
    second.write(INTERRUPT_ENABLE, RECEIVE_INTERRUPT);
    assert_eq!([second.read(DATA), second.read(DATA)], *b"ab");
}

#[test]
fn what_a_driver_sends_itself_stays_its_own() {
    let rig = Rig::new();
    rig.write(INTERRUPT_ENABLE, RECEIVE_INTERRUPT);
    rig.write(MODEM_CONTROL, LOOPBACK);
    rig.write(DATA, b'x');
    rig.write(INTERRUPT_ENABLE, 0);
    assert_eq!(rig.read(DATA), b'x');
}

#[test]
fn input_beyond_the_fifo_waits_and_is_announced_once_there_is_room() {
    let rig = Rig::new();
    rig.write(INTERRUPT_ENABLE, RECEIVE_INTERRUPT);
    assert_eq!(rig.port.send(&[b'x'; 100]), 64);
    assert_eq!(rig.port.send(&[b'x'; 36]), 0);
    rig.read(0);
    assert_eq!(rig.wire.room.read().unwrap(), 1);
    assert_eq!(rig.port.send(&[b'x'; 36]), 1);
}

#[test]
fn a_driver_that_polls_without_interrupts_gets_input() {
    let rig = Rig::new();
    assert_eq!(rig.port.send(b"a"), 0);
    (0..POLLS_THAT_LISTEN).for_each(|_| _ = rig.read(LINE_STATUS));
    assert_eq!(rig.port.send(b"a"), 1);
    assert_eq!(rig.read(0), b'a');
}

#[test]
fn printing_by_polling_is_not_listening() {
    let rig = Rig::new();
    for _ in 0..1000 {
        rig.read(LINE_STATUS);
        rig.write(0, b'.');
    }
    assert_eq!(rig.port.send(b"a"), 0);
}

#[test]
fn a_slow_reader_makes_the_transmitter_busy_and_a_reader_that_returns_wakes_the_driver() {
    const TRANSMIT_INTERRUPT: u8 = 2;
    let rig = Rig::new();
    let mut written = 0;
    while rig.read(LINE_STATUS) & TRANSMITTER_IDLE != 0 {
        rig.write(0, b'x');
        written += 1;
    }
    assert!(written <= OUTPUT_CAPACITY);
    rig.write(INTERRUPT_ENABLE, TRANSMIT_INTERRUPT);
    // The driver is told what interrupted it, sees a busy transmitter and waits.
    rig.read(2);
    let before = rig.interrupts();
    rig.port.output_drained();
    assert_eq!(rig.interrupts(), before);
    assert_eq!(rig.drained().len(), written);
    rig.port.output_drained();
    assert_eq!(rig.interrupts(), before + 1);
    assert_eq!(rig.read(2) & 0xf, 2);
    assert_ne!(rig.read(LINE_STATUS) & TRANSMITTER_IDLE, 0);
}

#[test]
fn a_driver_that_never_looks_loses_bytes_and_they_are_counted() {
    let rig = Rig::new();
    (0..OUTPUT_CAPACITY + 7).for_each(|_| rig.write(0, b'x'));
    assert_eq!(rig.wire.lost(), 7);
    assert_eq!(rig.drained().len(), OUTPUT_CAPACITY);
}

#[test]
fn a_restored_port_goes_on_where_the_saved_one_stood() {
    let first = Rig::new();
    first.write(7, 0x5a);
    first.write(INTERRUPT_ENABLE, RECEIVE_INTERRUPT);
    first.port.send(b"ab");
    first.read(0);
    let json = serde_json::to_string(&first.port.save()).unwrap();
    let second = Rig::new();
    let saved = serde_json::from_str(&json).unwrap();
    assert!(second.port.restore(&saved, second.line.clone()));
    assert_eq!(second.read(7), 0x5a);
    assert_eq!(second.read(0), b'b');
    assert_eq!(second.port.send(b"c"), 1);
}

#[test]
fn a_state_that_no_port_can_be_in_is_refused() {
    let rig = Rig::new();
    let mut saved = rig.port.save();
    saved.receiver = vec![0; 65];
    assert!(!rig.port.restore(&saved, rig.line.clone()));
}

#[test]
fn what_is_taken_back_does_not_grow_with_what_a_driver_sends_itself() {
    let rig = Rig::new();
    for _ in 0..10 {
        rig.write(MODEM_CONTROL, LOOPBACK);
        (0..RECEIVER_CAPACITY).for_each(|_| rig.write(DATA, b'x'));
        rig.write(MODEM_CONTROL, 0);
        rig.write(INTERRUPT_ENABLE, RECEIVE_INTERRUPT);
        rig.write(INTERRUPT_ENABLE, 0);
    }
    let saved = rig.port.save();
    assert!(saved.recalled.len() <= RECEIVER_CAPACITY);
    assert!(rig.port.restore(&saved, rig.line.clone()));
}

proptest! {
    #[test]
    fn any_register_traffic_is_answered(
        accesses in proptest::collection::vec((0u64..9, proptest::collection::vec(any::<u8>(), 0..5)), 0..200),
    ) {
        let rig = Rig::new();
        for (offset, mut data) in accesses {
            let _ = rig.port.write(offset, &data);
            rig.port.read(offset, &mut data);
            rig.port.send(&data);
            rig.port.output_drained();
        }
    }
}
