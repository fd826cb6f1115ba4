//! The control queue (virtio 1.3 §5.1.6.5): what a driver asks of the card as a whole.
use vm_memory::Bytes;

use super::{
    card::Common,
    config::{self, feature, status},
};
use crate::virtio::{
    buffers,
    queue::{Broken, Chain, Queue},
};

/// `class` and `command`.
const MAC_ADDR_SET: [u8; 2] = [1, 1];
const ANNOUNCE_ACK: [u8; 2] = [3, 0];
const VQ_PAIRS_SET: [u8; 2] = [4, 0];

const OK: u8 = 0;
const ERROR: u8 = 1;

/// Serves up to `most` commands; whether there may be more.
pub(super) fn serve(
    queue: &mut Queue,
    chain: &mut Chain,
    common: &Common,
    features: u64,
    most: usize,
) -> Result<bool, Broken> {
    for _ in 0..most {
        if !queue.pop(chain)? {
            return Ok(false);
        }
        let answer = match answer(queue, chain, common, features) {
            Some(()) => OK,
            None => ERROR,
        };
        let place = chain.writable.iter().find(|segment| segment.length > 0);
        let place = place.ok_or(Broken)?.address;
        let written = queue.memory().write_obj(answer, place);
        written.map_err(|_| Broken)?;
        queue.push(chain.head, 1)?;
    }
    Ok(true)
}

/// Does what a command says, unless it says something else than what was agreed on.
fn answer(queue: &Queue, chain: &Chain, common: &Common, features: u64) -> Option<()> {
    let has = |bit: u64| features & bit != 0;
    let command: [u8; 2] = read(queue, chain)?;
    match command {
        VQ_PAIRS_SET if has(feature::MQ) => {
            let [_, _, low, high] = read(queue, chain)?;
            common.use_pairs(u16::from_le_bytes([low, high]))
        }
        MAC_ADDR_SET if has(feature::CTRL_MAC_ADDR) => {
            let [_, _, mac @ ..]: [u8; 8] = read(queue, chain)?;
            common.config.put(config::MAC, &mac);
            Some(())
        }
        ANNOUNCE_ACK if has(feature::GUEST_ANNOUNCE) => {
            common.change_status(|status| status & !status::ANNOUNCE);
            Some(())
        }
        _ => None,
    }
}

/// The first bytes of a command, if it has as many.
fn read<const N: usize>(queue: &Queue, chain: &Chain) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let read = buffers::copy_in(queue.memory(), &chain.readable, &mut bytes);
    read.is_ok().then_some(bytes)
}
