//! The POST code port: the guest's init writes 0x41 there to say that user space is reached.
use crate::bus::{Outcome, Registers};

const USER_SPACE: u8 = 0x41;

/// Port 0x80. Linux also writes to it to pass time (`outb_p`): every other value is ignored.
#[derive(Debug, Default)]
pub struct Marker;

impl Registers for Marker {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}

    fn write(&self, _offset: u64, data: &[u8]) -> Outcome {
        if data == [USER_SPACE] {
            Outcome::UserSpace
        } else {
            Outcome::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_marker_means_anything() {
        assert_eq!(Marker.write(0, &[0x41]), Outcome::UserSpace);
        assert_eq!(Marker.write(0, &[0]), Outcome::Nothing);
        assert_eq!(Marker.write(0, &[0x41, 0x41]), Outcome::Nothing);
    }
}
