//! The keyboard controller's reset line, and nothing else of it.
//!
//! Kernels that were told `reboot=k` pulse it. The status register reads zero (no byte waits, none is being taken), so
//! that no kernel's `kb_wait` spins; absent registers would read as ones and cost it seconds.
use crate::bus::{Outcome, Registers};

const COMMAND: u64 = 4;
const PULSE_RESET: u8 = 0xfe;

/// Ports 0x60 to 0x64.
#[derive(Debug, Default)]
pub struct ResetOnly;

impl Registers for ResetOnly {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Outcome {
        if offset == COMMAND && data == [PULSE_RESET] {
            Outcome::Reset
        } else {
            Outcome::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pulse_on_the_command_port_resets() {
        assert_eq!(ResetOnly.write(4, &[0xfe]), Outcome::Reset);
        assert_eq!(ResetOnly.write(4, &[0xd1]), Outcome::Nothing);
        assert_eq!(ResetOnly.write(0, &[0xfe]), Outcome::Nothing);
        let mut status = [0xff];
        ResetOnly.read(4, &mut status);
        assert_eq!(status, [0]);
    }
}
