//! The POST code port: the guest's init writes 0x41 there to say that user space is reached.
use std::sync::Arc;

use crate::{
    bus::{Outcome, Registers},
    timeline::{Phase, Timeline},
};

const USER_SPACE: u8 = 0x41;

/// Port 0x80. Linux also writes to it to pass time (`outb_p`): every other value is ignored.
#[derive(Debug)]
pub struct Marker(pub Arc<Timeline>);

impl Registers for Marker {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}

    fn write(&self, _offset: u64, data: &[u8]) -> Outcome {
        if data == [USER_SPACE] {
            self.0.mark(Phase::UserSpace);
        }
        Outcome::Nothing
    }
}
