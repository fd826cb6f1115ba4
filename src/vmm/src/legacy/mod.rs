//! Devices that every PC kernel expects: a serial port, an I/O APIC, power registers, a stub of the keyboard controller.
pub mod events;
pub mod i8042;
pub mod ioapic;
pub mod marker;
pub mod power;
pub mod serial;
