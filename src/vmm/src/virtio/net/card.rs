//! What all pairs of a card have in common: its link, its limits, how many of them are in use.
use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{
    Counters,
    config::{self, status},
    tap::{Offload, Tap},
};
use crate::{
    notices::Notices,
    rate_limit::Limiter,
    virtio::{ConfigSpace, Interrupt},
};

/// By which a pair's thread knows events of its TAP from those of its bell.
pub(super) const OF_TAP: u64 = 1;

/// A card as all its pairs see it.
pub(super) struct Shared {
    /// The host's side of each pair.
    pub(super) taps: Vec<Tap>,
    /// Where each pair's thread waits.
    pub(super) epolls: Vec<Epoll>,
    nature: Mutex<Nature>,
    pub(super) rx_limiter: Limiter,
    pub(super) tx_limiter: Limiter,
    /// Whether the host's interface is there no more.
    gone: AtomicBool,
    /// How many pairs the driver uses.
    pairs: AtomicU16,
    /// Whether the driver is to tell its neighbours where it is, once it runs.
    announce: AtomicBool,
    /// By which the driver hears of another status, while there is a driver.
    pub(super) interrupt: Mutex<Option<Interrupt>>,
    pub(super) notices: Notices,
}

/// What a card is like: of a spare one it becomes known when it gets its TAP, before there is a driver.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nature {
    /// The address that the guest must send from, if it must.
    pub(super) pinned: Option<[u8; 6]>,
    pub(super) mtu: u16,
    pub(super) offload: Offload,
}

/// What all workers of a card have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) shared: Arc<Shared>,
    pub(super) config: Arc<ConfigSpace>,
    pub(super) counters: Arc<Counters>,
}

impl Shared {
    /// A card on `taps`.
    ///
    /// # Errors
    /// When the host has no room for another descriptor.
    pub(super) fn new(taps: Vec<Tap>, nature: Nature, notices: Notices) -> io::Result<Self> {
        let epolls = taps.iter().map(|_| Epoll::new());
        Ok(Self {
            epolls: epolls.collect::<Result<_, _>>()?,
            taps,
            nature: Mutex::new(nature),
            rx_limiter: Limiter::default(),
            tx_limiter: Limiter::default(),
            gone: AtomicBool::new(false),
            pairs: AtomicU16::new(1),
            announce: AtomicBool::new(false),
            interrupt: Mutex::default(),
            notices,
        })
    }

    pub(super) fn nature(&self) -> Nature {
        *self.nature.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_nature(&self, nature: Nature) {
        *self.nature.lock().unwrap_or_else(PoisonError::into_inner) = nature;
    }

    /// Has the thread of pair `pair` hear of its TAP: of each event once.
    ///
    /// # Errors
    /// What the host says.
    pub(super) fn listen(&self, pair: usize) -> io::Result<()> {
        let tap = self.taps[pair].descriptor();
        let edges = EventSet::EDGE_TRIGGERED | EventSet::IN | EventSet::OUT;
        self.epolls[pair].ctl(ControlOperation::Add, tap, EpollEvent::new(edges, OF_TAP))
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub(super) fn pairs(&self) -> u16 {
        self.pairs.load(Ordering::Acquire)
    }

    /// Says how the next driver finds the card.
    pub(super) fn set_rest(&self, rest: Rest) {
        self.pairs.store(rest.pairs, Ordering::Release);
        self.announce.store(rest.announce, Ordering::Release);
    }

    /// Whether the driver, which agreed to be told so, is to tell where it is. Once.
    pub(super) fn takes_announcement(&self) -> bool {
        self.announce.swap(false, Ordering::AcqRel)
    }
}

/// How a card is found by a driver.
pub(super) struct Rest {
    /// Pairs in use.
    pub(super) pairs: u16,
    /// Whether it has come to another place.
    pub(super) announce: bool,
}

impl Common {
    /// Lets the host use the first `pairs` pairs, if there are as many.
    pub(super) fn use_pairs(&self, pairs: u16) -> Option<()> {
        let count = usize::from(pairs);
        let taps = &self.shared.taps;
        if !(1..=taps.len()).contains(&count) {
            return None;
        }
        let mut changed = taps.iter().enumerate();
        changed.try_for_each(|(index, tap)| tap.attach(index < count).ok())?;
        self.shared.pairs.store(pairs, Ordering::Release);
        Some(())
    }

    /// Changes the status, and tells the driver.
    pub(super) fn change_status(&self, change: impl FnOnce(u16) -> u16) {
        let mut bytes = [0; 2];
        self.config.read(config::STATUS as u64, &mut bytes);
        let status = change(u16::from_le_bytes(bytes));
        self.config.put(config::STATUS, &status.to_le_bytes());
        let interrupt = &self.shared.interrupt;
        let interrupt = interrupt.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(interrupt) = &*interrupt {
            interrupt.configuration_changed();
        }
    }

    /// The host's interface is gone: the guest sees a cable that was pulled out.
    pub(super) fn lose(&self) {
        if !self.shared.gone.swap(true, Ordering::Relaxed) {
            self.shared.notices.say(
                "its interface is gone from the host: the guest's link is down until it is started again",
            );
            self.change_status(|status| status & !status::LINK_UP);
        }
    }
}
