//! The common configuration structure (virtio 1.3 §4.1.4.3).
use serde::{Deserialize, Serialize};

use super::{
    super::{Negotiation, Step, set_high, set_low},
    vectors::Vectors,
};
use crate::virtio::queue::Setup;

/// Bytes of the structure, with the fields of features that nobody here offers: they are zero.
pub(super) const BYTES: usize = 0x40;

mod field {
    pub(super) const DEVICE_FEATURE_SELECT: usize = 0x00;
    pub(super) const DEVICE_FEATURE: usize = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: usize = 0x08;
    pub(super) const DRIVER_FEATURE: usize = 0x0c;
    pub(super) const CONFIG_VECTOR: usize = 0x10;
    pub(super) const QUEUES: usize = 0x12;
    pub(super) const STATUS: usize = 0x14;
    pub(super) const GENERATION: usize = 0x15;
    pub(super) const QUEUE_SELECT: usize = 0x16;
    pub(super) const QUEUE_SIZE: usize = 0x18;
    pub(super) const QUEUE_VECTOR: usize = 0x1a;
    pub(super) const QUEUE_ENABLE: usize = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFFSET: usize = 0x1e;
    pub(super) const DESCRIPTORS_LOW: usize = 0x20;
    pub(super) const DESCRIPTORS_HIGH: usize = 0x24;
    pub(super) const AVAILABLE_LOW: usize = 0x28;
    pub(super) const AVAILABLE_HIGH: usize = 0x2c;
    pub(super) const USED_LOW: usize = 0x30;
    pub(super) const USED_HIGH: usize = 0x34;
}

/// What the driver has selected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Selected {
    device_half: u32,
    driver_half: u32,
    queue: u16,
}

/// The structure as it reads now.
pub(super) fn image(
    selected: Selected,
    negotiation: &Negotiation,
    vectors: &Vectors,
) -> [u8; BYTES] {
    let mut image = [0; BYTES];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let offered = negotiation.offered(selected.device_half);
    let accepted = negotiation.accepted(selected.driver_half);
    put(
        field::DEVICE_FEATURE_SELECT,
        &selected.device_half.to_le_bytes(),
    );
    put(field::DEVICE_FEATURE, &offered.to_le_bytes());
    put(
        field::DRIVER_FEATURE_SELECT,
        &selected.driver_half.to_le_bytes(),
    );
    put(field::DRIVER_FEATURE, &accepted.to_le_bytes());
    put(
        field::CONFIG_VECTOR,
        &vectors.of_configuration().to_le_bytes(),
    );
    let queues = u16::try_from(negotiation.queues()).unwrap_or(u16::MAX);
    put(field::QUEUES, &queues.to_le_bytes());
    let [status, ..] = negotiation.status().to_le_bytes();
    // Eight bits are what there is for it.
    let [generation, ..] = negotiation.generation().to_le_bytes();
    put(field::STATUS, &[status]);
    put(field::GENERATION, &[generation]);
    put(field::QUEUE_SELECT, &selected.queue.to_le_bytes());
    let vector = vectors.of_queue(selected.queue);
    put(field::QUEUE_VECTOR, &vector.to_le_bytes());
    // A queue that is not there has the size 0.
    if let Some(queue) = negotiation.queue(selected.queue.into()) {
        put(field::QUEUE_SIZE, &queue.size.to_le_bytes());
        put(field::QUEUE_ENABLE, &u16::from(queue.ready).to_le_bytes());
        put(field::QUEUE_NOTIFY_OFFSET, &selected.queue.to_le_bytes());
        put(field::DESCRIPTORS_LOW, &queue.descriptors.to_le_bytes());
        put(field::AVAILABLE_LOW, &queue.available.to_le_bytes());
        put(field::USED_LOW, &queue.used.to_le_bytes());
    }
    image
}

/// A write of one field, or of half of one of 64 bits (§4.1.3.1). Others are lost.
pub(super) fn write(
    selected: &mut Selected,
    negotiation: &mut Negotiation,
    vectors: &Vectors,
    offset: usize,
    data: &[u8],
) -> Step {
    match *data {
        [status] if offset == field::STATUS => return negotiation.set_status(status.into()),
        [a, b] => write_half(
            selected,
            negotiation,
            vectors,
            offset,
            u16::from_le_bytes([a, b]),
        ),
        [a, b, c, d] => write_word(
            selected,
            negotiation,
            offset,
            u32::from_le_bytes([a, b, c, d]),
        ),
        [a, b, c, d, e, f, g, h] if offset >= field::DESCRIPTORS_LOW => {
            let (low, high) = ([a, b, c, d], [e, f, g, h]);
            write_word(selected, negotiation, offset, u32::from_le_bytes(low));
            write_word(selected, negotiation, offset + 4, u32::from_le_bytes(high));
        }
        _ => {}
    }
    Step::None
}

fn write_half(
    selected: &mut Selected,
    negotiation: &mut Negotiation,
    vectors: &Vectors,
    offset: usize,
    value: u16,
) {
    let queue = u32::from(selected.queue);
    match offset {
        field::CONFIG_VECTOR => vectors.set_configuration(value),
        field::QUEUE_SELECT => selected.queue = value,
        field::QUEUE_VECTOR => vectors.set_queue(selected.queue, value),
        field::QUEUE_SIZE => negotiation.set_up(queue, |queue| {
            if !queue.ready {
                queue.size = value;
            }
        }),
        // Only a reset takes a queue back.
        field::QUEUE_ENABLE if value == 1 => negotiation.set_up(queue, |queue| queue.ready = true),
        _ => {}
    }
}

fn write_word(selected: &mut Selected, negotiation: &mut Negotiation, offset: usize, value: u32) {
    match offset {
        field::DEVICE_FEATURE_SELECT => selected.device_half = value,
        field::DRIVER_FEATURE_SELECT => selected.driver_half = value,
        field::DRIVER_FEATURE => negotiation.accept(selected.driver_half, value),
        _ => negotiation.set_up(selected.queue.into(), |queue| place(queue, offset, value)),
    }
}

/// Half of the address of one of a queue's rings, until it is enabled.
fn place(queue: &mut Setup, offset: usize, value: u32) {
    if queue.ready {
        return;
    }
    match offset {
        field::DESCRIPTORS_LOW => set_low(&mut queue.descriptors, value),
        field::DESCRIPTORS_HIGH => set_high(&mut queue.descriptors, value),
        field::AVAILABLE_LOW => set_low(&mut queue.available, value),
        field::AVAILABLE_HIGH => set_high(&mut queue.available, value),
        field::USED_LOW => set_low(&mut queue.used, value),
        field::USED_HIGH => set_high(&mut queue.used, value),
        _ => {}
    }
}
