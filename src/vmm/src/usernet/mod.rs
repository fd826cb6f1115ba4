//! User-mode networking: the guest's packets become calls on sockets of an ordinary user's.
//!
//! A network is one thread with two faces. The guest's frames come and go over a socket of packets, whose other end is the
//! device. The host's are its sockets: one for each flow, in a table of bounded size. Nothing is kept but what the kernel keeps:
//! streams are relayed so that the host's sockets are their buffers, datagrams pass or are lost.
mod arp;
mod dhcp;
pub mod dns;
mod engine;
mod frame;
mod head;
mod host;
mod icmp;
mod link;
mod ndp;
mod ping;
pub mod plan;
pub mod policy;
mod publish;
mod relay;
mod table;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, atomic::AtomicU64},
};

use self::{engine::Engine, policy::Policy};
pub use self::{frame::feature, publish::Published};
use crate::{config::MIN_USER_MTU, metrics::Counter};

/// Flows that there may be at once, unless another number is asked for.
pub const FLOWS: usize = 4096;

/// What a network did, since it exists.
#[derive(Debug, Default, serde::Serialize)]
pub struct Counters {
    /// Frames of the guest's.
    pub frames_from_guest: Counter,
    /// Frames for the guest.
    pub frames_to_guest: Counter,
    /// Bytes of streams and datagrams that the guest sent and the host took.
    pub bytes_from_guest: Counter,
    /// Bytes of streams and datagrams for the guest.
    pub bytes_to_guest: Counter,
    /// Flows that began: connections, pairs of ends of datagrams, echoes.
    pub opened: Counter,
    /// Those of them that have gone.
    pub closed: Counter,
    /// Flows that gave way to others.
    pub evicted: Counter,
    /// Flows that the policy denied, and names.
    pub denied: Counter,
    /// Flows that the host could not begin: nobody listens there, or there is no way.
    pub failed: Counter,
    /// Flows for which there was no room, or no descriptor.
    pub exhausted: Counter,
    /// Frames that are none, or nothing that there is.
    pub dropped_malformed: Counter,
    /// Frames with wrong checksums.
    pub dropped_checksum: Counter,
    /// Frames from addresses that are not the guest's.
    pub dropped_spoofed: Counter,
    /// Parts of packets.
    pub dropped_fragments: Counter,
    /// Frames for nobody who is here.
    pub dropped_ignored: Counter,
    /// Datagrams for the guest that are longer than its link takes.
    pub dropped_long: Counter,
    /// What is no stream and found no room.
    pub dropped_full: Counter,
    /// Times that something of a stream was sent to the guest again.
    pub retransmits: Counter,
    /// Questions for names.
    pub names_asked: Counter,
    /// Those of them that no resolver answered.
    pub names_failed: Counter,
    /// Times that the thread waited.
    pub waits: Counter,
}

/// What a network is made of.
#[derive(Debug)]
pub struct Options {
    /// The guest's hardware address: frames from others are dropped.
    pub mac: [u8; 6],
    /// The longest packet on the link, from [`MIN_USER_MTU`] on: what the device says too.
    pub mtu: u16,
    /// The features of virtio-net that the guest's driver agreed to. Those of [`feature`] are looked at, whenever a frame is made: 0 while
    /// there is no driver.
    pub features: Arc<AtomicU64>,
    /// Whether the guest may have IPv6.
    pub ipv6: bool,
    /// Ports of the host's that lead to the guest.
    pub published: Vec<Published>,
    /// Where names are resolved. Nobody does where there are none.
    pub resolvers: Vec<SocketAddr>,
    /// What the guest is to be called.
    pub hostname: Option<String>,
    /// Where the guest is to look for names that are not complete.
    pub search: Vec<String>,
    /// What the guest may reach.
    pub policy: Policy,
    /// Most flows at once, each with a descriptor.
    pub flows: usize,
}

/// A network, to be [run](Self::run) by a thread of its own.
pub struct Network {
    engine: Engine,
    counters: Arc<Counters>,
}

impl Network {
    /// The network that `options` describe, at the other end of whose `frames` the device is: a socket of packets, each a frame behind a
    /// header of 12 bytes.
    ///
    /// # Errors
    /// When the host has no room for another descriptor, or what is published cannot be watched.
    pub fn new(mut options: Options, frames: OwnedFd) -> io::Result<Self> {
        options.mtu = options.mtu.max(MIN_USER_MTU);
        let counters = Arc::<Counters>::default();
        Ok(Self {
            engine: Engine::new(options, frames, counters.clone())?,
            counters,
        })
    }

    /// What it did so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// As on a kernel that does not remember how far a socket was looked into.
    #[cfg(test)]
    fn without_memory_of_peeks(mut self) -> Self {
        self.engine.remembers_peeks = false;
        self
    }

    /// Serves the guest, until the other end of the frames is closed.
    pub fn run(mut self) {
        self.engine.work();
    }
}
