//! ACPI sleep and reset registers of a hardware-reduced machine (ACPI 6.5 §4.8.3.7).
use crate::{
    arch::x86_64::layout::power::{RESET, RESET_VALUE, S5_TYPE, SLEEP_CONTROL},
    bus::{Outcome, Registers},
};

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
