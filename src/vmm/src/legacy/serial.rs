//! The first serial port: vm-superio's 16550A, made patient.
//!
//! What the guest writes goes to a bounded [`Wire`]; while that is nearly full the transmitter reports itself busy,
//! so a guest waits as it would for a slow line, and no vCPU thread ever does. What the host sends waits outside until
//! the guest's driver listens, and goes back there when it stops: a driver that starts, stops or looks for ports throws
//! away what lies in the receiver.
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use vm_superio::{
    Trigger,
    serial::{NoEvents, Serial, SerialState},
};
use vmm_sys_util::eventfd::EventFd;

use crate::{
    bus::{Outcome, Registers},
    irq::Line,
    timeline::{Phase, Timeline},
};

const DATA: u8 = 0;
const INTERRUPT_ENABLE: u8 = 1;
const LINE_CONTROL: u8 = 3;
const MODEM_CONTROL: u8 = 4;
const LINE_STATUS: u8 = 5;

const RECEIVE_INTERRUPT: u8 = 1;
const DIVISOR_LATCH: u8 = 1 << 7;
/// What the driver sends comes back to it.
const LOOPBACK: u8 = 1 << 4;
/// Transmitter holding register empty, transmitter empty.
const TRANSMITTER_IDLE: u8 = (1 << 5) | (1 << 6);

/// Bytes of output that wait for the host.
const OUTPUT_CAPACITY: usize = 16 << 10;
/// Bytes that a driver may write after one look at the line status: more than any FIFO it believes in.
const OUTPUT_HEADROOM: usize = 256;
/// Bytes that the receiver holds.
const RECEIVER_CAPACITY: usize = 64;
/// Reads of the line status, with nothing between, after which a driver is known to poll for input.
const POLLS_THAT_LISTEN: u8 = 16;

/// The host's end of the line. It outlives the port: a machine that powers on again gets a new port on the same wire.
///
/// Holds the bytes on their way from the guest to the host: bounded, written by vCPUs, emptied by the machine's thread.
#[derive(Debug)]
pub struct Wire {
    bytes: Mutex<VecDeque<u8>>,
    /// Readable when there are bytes from the guest after there were none.
    pub ready: EventFd,
    /// Readable when there is room for input after somebody found none.
    pub room: EventFd,
    room_wanted: AtomicBool,
    lost: AtomicU64,
    timeline: Arc<Timeline>,
}

impl Wire {
    /// A silent one.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn new(timeline: Arc<Timeline>) -> io::Result<Self> {
        Ok(Self {
            bytes: Mutex::new(VecDeque::with_capacity(OUTPUT_CAPACITY)),
            ready: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            room: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            room_wanted: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            timeline,
        })
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a driver should wait before it writes more.
    fn is_nearly_full(&self) -> bool {
        self.lock().len() + OUTPUT_HEADROOM > OUTPUT_CAPACITY
    }

    fn push(&self, byte: u8) {
        let mut bytes = self.lock();
        if bytes.len() == OUTPUT_CAPACITY {
            // The driver did not look at the line status: a real transmitter overruns too.
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        bytes.push_back(byte);
        if bytes.len() == 1 {
            self.timeline.mark(Phase::FirstConsoleByte);
            // Fails only when the counter is at its limit, and then it is readable already.
            let _ = self.ready.write(1);
        }
    }

    /// Copies the first waiting bytes to `chunk`, and says how many. They wait on until they are [consumed].
    ///
    /// [consumed]: Self::consume
    pub fn peek(&self, chunk: &mut [u8]) -> usize {
        let bytes = self.lock();
        let count = bytes.len().min(chunk.len());
        for (to, from) in chunk.iter_mut().zip(bytes.iter()) {
            *to = *from;
        }
        count
    }

    /// Takes away the first `count` bytes.
    pub fn consume(&self, count: usize) {
        let mut bytes = self.lock();
        let count = count.min(bytes.len());
        bytes.drain(..count);
        if bytes.is_empty() {
            // An empty ring starts over at its beginning: a fast reader keeps it within one page.
            bytes.clear();
        }
    }

    /// Whether no bytes wait.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Bytes lost because a driver wrote without looking whether there was room.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// The transmitter's end of a [`Wire`].
struct Transmitter(Arc<Wire>);

impl io::Write for Transmitter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            self.0.push(byte);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Interrupt(Line);

impl Trigger for Interrupt {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.trigger();
        Ok(())
    }
}

/// The serial port's state, version 1: the UART's registers and the bytes in its receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialPortState {
    divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    receiver: Vec<u8>,
    recalled: Vec<u8>,
    listening: bool,
}

struct Uart {
    serial: Serial<Interrupt, NoEvents, Transmitter>,
    /// The driver's interrupt-enable register and divisor latch, as it last wrote them.
    interrupt_enable: u8,
    divisor_latch: bool,
    /// Whether the driver takes what it is sent.
    listening: bool,
    /// What it was sent and had not read when it stopped listening: as much as the receiver holds, at most.
    recalled: VecDeque<u8>,
    polls: u8,
    /// The transmitter was reported busy: the driver waits for an interrupt when there is room.
    reported_busy: bool,
}

/// The serial port.
pub struct SerialPort {
    uart: Mutex<Uart>,
    wire: Arc<Wire>,
}

impl SerialPort {
    /// A port in its state after a reset, interrupting on `line`.
    pub fn new(line: Line, wire: Arc<Wire>) -> Self {
        let uart = Uart {
            serial: Serial::new(Interrupt(line), Transmitter(wire.clone())),
            interrupt_enable: 0,
            divisor_latch: false,
            listening: false,
            recalled: VecDeque::new(),
            polls: 0,
            reported_busy: false,
        };
        Self {
            uart: Mutex::new(uart),
            wire,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Uart> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the guest as many of `bytes` as it has room for now, and says how many. When that is not all of them,
    /// [`Wire::room`] becomes readable once there is room again.
    pub fn send(&self, bytes: &[u8]) -> usize {
        let mut uart = self.lock();
        // Takes nothing, or fails, when the FIFO is full or the driver tests itself in loopback mode.
        let taken = match uart.takes_more() {
            true => uart.serial.enqueue_raw_bytes(bytes).unwrap_or(0),
            false => 0,
        };
        if taken < bytes.len() {
            self.wire.room_wanted.store(true, Ordering::Relaxed);
        }
        taken
    }

    /// To be called when the output has room again: a driver that was told to wait is woken.
    pub fn output_drained(&self) {
        let mut uart = self.lock();
        if uart.reported_busy && !self.wire.is_nearly_full() {
            uart.reported_busy = false;
            // The UART raises "transmitter empty" anew when it is enabled anew.
            if !uart.divisor_latch {
                let enabled = uart.interrupt_enable;
                let _ = uart.serial.write(INTERRUPT_ENABLE, enabled);
            }
        }
    }

    fn announce_room(&self, uart: &Uart) {
        if uart.takes_more()
            && uart.serial.fifo_capacity() > 0
            && self.wire.room_wanted.swap(false, Ordering::Relaxed)
        {
            let _ = self.wire.room.write(1);
        }
    }

    /// The state as it is now. Bytes of output belong to the host already.
    pub fn save(&self) -> SerialPortState {
        let uart = self.lock();
        let state = uart.serial.state();
        SerialPortState {
            divisor: [state.baud_divisor_low, state.baud_divisor_high],
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            receiver: state.in_buffer,
            recalled: uart.recalled.iter().copied().collect(),
            listening: uart.listening,
        }
    }

    /// Takes over a saved state, interrupting on `line`. False, and nothing changes, when no UART can be in that state.
    pub fn restore(&self, saved: &SerialPortState, line: Line) -> bool {
        let state = SerialState {
            baud_divisor_low: saved.divisor[0],
            baud_divisor_high: saved.divisor[1],
            interrupt_enable: saved.interrupt_enable,
            interrupt_identification: saved.interrupt_identification,
            line_control: saved.line_control,
            line_status: saved.line_status,
            modem_control: saved.modem_control,
            modem_status: saved.modem_status,
            scratch: saved.scratch,
            in_buffer: saved.receiver.clone(),
        };
        let transmitter = Transmitter(self.wire.clone());
        let Ok(serial) = Serial::from_state(&state, Interrupt(line), NoEvents, transmitter) else {
            return false;
        };
        if saved.recalled.len() > RECEIVER_CAPACITY {
            return false;
        }
        let mut uart = self.lock();
        uart.serial = serial;
        uart.interrupt_enable = saved.interrupt_enable;
        uart.divisor_latch = saved.line_control & DIVISOR_LATCH != 0;
        uart.listening = saved.listening;
        uart.recalled = saved.recalled.clone().into();
        // A driver that was told to wait before the save is told to look again.
        uart.reported_busy = true;
        true
    }
}

impl Uart {
    /// Learns from a write whether the driver listens.
    fn note_write(&mut self, register: u8, value: u8) {
        self.polls = 0;
        match register {
            LINE_CONTROL => self.divisor_latch = value & DIVISOR_LATCH != 0,
            INTERRUPT_ENABLE if !self.divisor_latch => {
                self.interrupt_enable = value;
                let listened = self.listening;
                self.listening = value & RECEIVE_INTERRUPT != 0;
                if listened && !self.listening {
                    self.recall();
                }
            }
            _ => {}
        }
    }

    /// Takes back what the driver was sent and has not read. What it sent itself, in loopback mode, is its own.
    fn recall(&mut self) {
        if self.serial.read(MODEM_CONTROL) & LOOPBACK == 0 {
            // Bytes of its own that a driver left from loopback mode are told from none here: without a bound, they would
            // add up.
            let room = RECEIVER_CAPACITY.saturating_sub(self.recalled.len());
            for _ in 0..self.serial.state().in_buffer.len().min(room) {
                let byte = self.serial.read(DATA);
                self.recalled.push_back(byte);
            }
        }
    }

    /// Sends again what was taken back, to a driver that listens again.
    fn send_recalled(&mut self) {
        if self.listening && !self.recalled.is_empty() {
            let bytes = self.recalled.make_contiguous();
            let sent = self.serial.enqueue_raw_bytes(bytes).unwrap_or(0);
            self.recalled.drain(..sent);
        }
    }

    /// Whether the driver may be sent something new.
    fn takes_more(&self) -> bool {
        self.listening && self.recalled.is_empty()
    }

    /// Learns from a read of the line status, which gave `status`, whether the driver polls for input.
    fn note_poll(&mut self, status: u8) {
        if status & TRANSMITTER_IDLE != 0 {
            self.polls = self.polls.saturating_add(1);
            self.listening |= self.polls >= POLLS_THAT_LISTEN;
        }
    }

    fn read(&mut self, register: u8, wire: &Wire) -> u8 {
        let mut value = self.serial.read(register);
        if register == LINE_STATUS {
            if wire.is_nearly_full() {
                value &= !TRANSMITTER_IDLE;
                self.reported_busy = true;
            }
            self.note_poll(value);
        } else {
            self.polls = 0;
        }
        value
    }
}

impl Registers for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        // The registers are bytes: wider reads see the first and ones beyond.
        if let (Ok(register), [first, ..]) = (u8::try_from(offset), data) {
            let mut uart = self.lock();
            *first = uart.read(register, &self.wire);
            uart.send_recalled();
            self.announce_room(&uart);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Outcome {
        if let (Ok(register), &[value, ..]) = (u8::try_from(offset), data) {
            let mut uart = self.lock();
            uart.note_write(register, value);
            // Its only errors are of the interrupt line and the transmitter, neither of which can fail.
            let _ = uart.serial.write(register, value);
            uart.send_recalled();
            self.announce_room(&uart);
        }
        Outcome::Nothing
    }
}
