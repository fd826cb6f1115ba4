//! ACPI sleep and reset registers of a hardware-reduced machine (ACPI 6.5 §4.8.3.7), and its power button.
use crate::bus::{Outcome, Registers};

/// Offset of the sleep control register.
pub const SLEEP_CONTROL: u16 = 0;
/// Offset of the sleep status register.
pub const SLEEP_STATUS: u16 = 1;
/// Offset of the reset register.
pub const RESET: u16 = 2;
/// What a reset takes.
pub const RESET_VALUE: u8 = 1;
/// `SLP_TYP` of soft-off; the DSDT's `_S5_` package says so to the guest.
pub const S5_TYPE: u8 = 5;

const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_ENABLE: u8 = 1 << 5;

/// The three registers. They hold no state: each write is done at once.
#[derive(Debug, Default)]
pub struct Power;

impl Registers for Power {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Outcome {
        match (u16::try_from(offset), data) {
            (Ok(SLEEP_CONTROL), &[value])
                if value & SLEEP_ENABLE != 0 && (value >> SLEEP_TYPE_SHIFT) & 7 == S5_TYPE =>
            {
                Outcome::PowerOff
            }
            (Ok(RESET), &[RESET_VALUE]) => Outcome::Reset,
            _ => Outcome::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_off_and_reset_are_recognised_and_nothing_else_is() {
        let soft_off = SLEEP_ENABLE | (S5_TYPE << SLEEP_TYPE_SHIFT);
        for offset in 0..3 {
            for value in 0..=255 {
                let expected = match (offset, value) {
                    (0, v) if v & 0b0011_1100 == soft_off => Outcome::PowerOff,
                    (2, RESET_VALUE) => Outcome::Reset,
                    _ => Outcome::Nothing,
                };
                assert_eq!(
                    Power.write(offset, &[value]),
                    expected,
                    "{offset} {value:#x}"
                );
            }
        }
    }
}
