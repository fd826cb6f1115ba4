//! The thread that serves one pair of queues. It exists, parked, before the machine is confined.
use std::{
    io,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use vmm_sys_util::{
    epoll::{ControlOperation, EpollEvent, EventSet},
    eventfd::EventFd,
};

use super::{
    Counters,
    card::{Common, OF_TAP},
    config::feature,
    control,
    header::{self, Terms},
    rx::{self, Receiver},
    tap::Tap,
    tx::{self, Sender},
};
use crate::{
    virtio::{
        Confine, Duty, Interrupt,
        queue::{Broken, Chain, Queue},
    },
    worker::Desk,
};

/// What its thread needs besides its stack for libraries.
const STACK: usize = 128 << 10;
/// Frames of one direction before the other has its turn, and the driver hears of them.
const TURN: usize = 64;

/// How long a host that takes no more is left alone, if it does not say before that it does.
const PATIENCE: Duration = Duration::from_millis(10);

/// A pair in use, and how its driver is told.
pub(super) struct Job {
    /// The receiving queue, and its number.
    pub(super) rx: Option<(u16, Queue)>,
    pub(super) tx: Option<(u16, Queue)>,
    /// The control queue, which the first pair's thread serves.
    pub(super) control: Option<(u16, Queue)>,
    pub(super) features: u64,
    pub(super) interrupt: Interrupt,
}

impl Job {
    /// Takes those queues away that are `stopped`.
    fn stop(&mut self, stopped: u8) {
        let queues = [
            (RX, &mut self.rx),
            (TX, &mut self.tx),
            (CONTROL, &mut self.control),
        ];
        for (bit, queue) in queues {
            if stopped & bit != 0 {
                *queue = None;
            }
        }
    }
}

/// Bits of the queues of a pair that their driver stopped.
pub(super) const RX: u8 = 1;
pub(super) const TX: u8 = 2;
pub(super) const CONTROL: u8 = 4;

/// The thread, once it is started, and the desk where it gets its orders.
pub(super) struct Worker {
    desk: Arc<Desk<Job>>,
    stopped: Arc<AtomicU8>,
    handle: Option<JoinHandle<()>>,
}

impl Worker {
    /// A worker without a thread.
    pub(super) fn new() -> io::Result<Self> {
        let bell = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?;
        Ok(Self {
            desk: Arc::new(Desk::new(bell)),
            stopped: Arc::default(),
            handle: None,
        })
    }

    /// Starts its thread, called `name`, for pair `pair`. It calls `confine` before it serves anything.
    pub(super) fn spawn(
        &mut self,
        name: &str,
        pair: usize,
        common: Common,
        confine: Confine,
    ) -> io::Result<()> {
        let stopped = self.stopped.clone();
        let mut bench = Bench::new(self.desk.clone(), stopped, pair, common)?;
        let thread = Builder::new().name(name.to_owned()).stack_size(STACK);
        self.handle = Some(thread.spawn(move || {
            confine(Duty::Net);
            bench.work();
        })?);
        Ok(())
    }

    pub(super) fn desk(&self) -> &Arc<Desk<Job>> {
        &self.desk
    }

    /// Gives it a driver's queues.
    pub(super) fn start(&self, job: Job) {
        self.stopped.store(0, Ordering::Release);
        self.desk.start(job);
    }

    /// Takes one of them back.
    pub(super) fn stop_queue(&self, bit: u8) {
        self.stopped.fetch_or(bit, Ordering::AcqRel);
        // When it rests it has nothing of any queue's, and it goes on without this one.
        self.desk.pause();
        self.desk.resume();
    }

    /// Those that were taken back.
    pub(super) fn stopped(&self) -> u8 {
        self.stopped.load(Ordering::Acquire)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.desk.finish();
        if let Some(handle) = self.handle.take() {
            // A panic there has been reported where it happened.
            let _ = handle.join();
        }
    }
}

/// The thread's side.
struct Bench {
    desk: Arc<Desk<Job>>,
    stopped: Arc<AtomicU8>,
    common: Common,
    pair: usize,
    job: Option<Job>,
    terms: Terms,
    sender: Sender,
    receiver: Receiver,
    chain: Chain,
    /// Whether the host may have a frame. It says so once, when the first comes.
    readable: bool,
    /// Whether the host took no more.
    full: bool,
    /// Whether the guest left too few buffers.
    starved: bool,
    /// Until when nothing is received, and sent.
    rx_until: Option<Instant>,
    tx_until: Option<Instant>,
}

impl Bench {
    fn new(
        desk: Arc<Desk<Job>>,
        stopped: Arc<AtomicU8>,
        pair: usize,
        common: Common,
    ) -> io::Result<Self> {
        let shared = &common.shared;
        // Each event is told once, and none is ever taken away by a read: a wake-up is one system call.
        let edges = EventSet::EDGE_TRIGGERED | EventSet::IN;
        let bell = desk.bell().as_raw_fd();
        shared.epolls[pair].ctl(ControlOperation::Add, bell, EpollEvent::new(edges, 0))?;
        if !shared.taps[pair].is_spare() {
            shared.listen(pair)?;
        }
        let nature = shared.nature();
        Ok(Self {
            desk,
            stopped,
            pair,
            job: None,
            terms: Terms {
                features: 0,
                mtu: nature.mtu,
                source: nature.pinned,
            },
            sender: Sender::default(),
            receiver: Receiver::new(0, false),
            chain: Chain::default(),
            readable: true,
            full: false,
            starved: false,
            rx_until: None,
            tx_until: None,
            common,
        })
    }

    fn tap(&self) -> &Tap {
        &self.common.shared.taps[self.pair]
    }

    fn work(&mut self) {
        while self.take_orders() {
            while !self.desk.is_urgent() {
                if !self.turn() {
                    self.wait();
                }
            }
            if self.settle().is_err() {
                self.give_up(RX);
            }
        }
    }

    /// Whether to go on. No buffer of the guest's is held.
    fn take_orders(&mut self) -> bool {
        let before = self.job.as_ref().map(|job| job.features);
        let go_on = self.desk.next(&mut self.job);
        // Limits may be others now, and events were missed.
        (self.rx_until, self.tx_until) = (None, None);
        (self.readable, self.full, self.starved) = (true, false, false);
        if let Some(job) = &mut self.job {
            job.stop(self.stopped.load(Ordering::Acquire));
            let features = job.features;
            if before != Some(features) {
                self.begin(features);
            }
        }
        go_on
    }

    /// Agrees with the host on what the driver agreed on.
    fn begin(&mut self, features: u64) {
        // Where it is gone, the first frame tells.
        if self.tap().set_offload(features).is_err() {
            let _ = self.tap().set_offload(0);
        }
        if self.pair == 0 {
            let _ = self.common.use_pairs(self.common.shared.pairs());
        }
        self.tap().purge();
        let nature = self.common.shared.nature();
        self.terms = Terms {
            features,
            mtu: nature.mtu,
            source: nature.pinned,
        };
        let longest = match features & feature::LONG_FRAMES {
            0 => header::longest(nature.mtu),
            _ => header::MAX_FRAME,
        };
        self.receiver = Receiver::new(longest, features & feature::MRG_RXBUF != 0);
    }

    /// Moves frames, some each way; whether there may be more.
    fn turn(&mut self) -> bool {
        let sent = self.send().unwrap_or_else(|_| self.give_up(TX));
        let received = self.receive().unwrap_or_else(|_| self.give_up(RX));
        let answered = self.control().unwrap_or_else(|_| self.give_up(CONTROL));
        sent || received || answered || self.wants_more()
    }

    /// Sends; whether there is more.
    fn send(&mut self) -> Result<bool, Broken> {
        let Some(job) = &mut self.job else {
            return Ok(false);
        };
        let Some((index, queue)) = &mut job.tx else {
            return Ok(false);
        };
        if is_ahead(&mut self.tx_until) {
            return Ok(false);
        }
        let shared = &self.common.shared;
        let way = tx::Way {
            tap: &shared.taps[self.pair],
            terms: &self.terms,
            limiter: &shared.tx_limiter,
            counters: &self.common.counters,
            gone: shared.is_gone(),
        };
        self.full = false;
        let halt = self.sender.send(queue, &way, TURN)?;
        tell(queue, *index, &job.interrupt, &self.common.counters)?;
        match halt {
            tx::Halt::Empty => {}
            tx::Halt::Turn => return Ok(true),
            tx::Halt::Throttled(until) => self.tx_until = Some(until),
            tx::Halt::Full => {
                self.full = true;
                self.tx_until = Some(Instant::now() + PATIENCE);
            }
            tx::Halt::Gone => {
                self.common.lose();
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Receives; whether there is more.
    fn receive(&mut self) -> Result<bool, Broken> {
        let Some(job) = &mut self.job else {
            return Ok(false);
        };
        let Some((index, queue)) = &mut job.rx else {
            return Ok(false);
        };
        if !self.readable {
            // What the guest left is looked at all the same, and is there when a frame comes.
            self.receiver.prepare(queue)?;
            return Ok(false);
        }
        if is_ahead(&mut self.rx_until) {
            return Ok(false);
        }
        let shared = &self.common.shared;
        let way = rx::Way {
            tap: &shared.taps[self.pair],
            limiter: &shared.rx_limiter,
            counters: &self.common.counters,
        };
        let halt = self.receiver.receive(queue, &way, TURN)?;
        tell(queue, *index, &job.interrupt, &self.common.counters)?;
        self.starved = false;
        match halt {
            rx::Halt::Empty => self.readable = false,
            rx::Halt::Turn => return Ok(true),
            rx::Halt::Throttled(until) => self.rx_until = Some(until),
            rx::Halt::Starved(until) => {
                self.common.counters.rx_starved.count();
                self.starved = true;
                self.rx_until = until;
            }
            rx::Halt::Gone => {
                self.readable = false;
                self.common.lose();
            }
        }
        Ok(false)
    }

    fn control(&mut self) -> Result<bool, Broken> {
        let Some(job) = &mut self.job else {
            return Ok(false);
        };
        let Some((index, queue)) = &mut job.control else {
            return Ok(false);
        };
        let (common, features) = (&self.common, job.features);
        let more = control::serve(queue, &mut self.chain, common, features, TURN)?;
        tell(queue, *index, &job.interrupt, &self.common.counters)?;
        Ok(more)
    }

    /// Asks the driver to ring for what could be taken; whether there is something already.
    fn wants_more(&mut self) -> bool {
        let (sends, receives) = (self.tx_until.is_none(), self.starved || !self.readable);
        let Some(job) = &mut self.job else {
            return false;
        };
        let queues = [
            (CONTROL, &mut job.control, true),
            (TX, &mut job.tx, sends),
            (RX, &mut job.rx, receives && self.receiver.wants_more()),
        ];
        let (mut more, mut broken) = (false, 0);
        for (bit, queue, wanted) in queues {
            let Some((_, queue)) = queue else { continue };
            let outcome = match wanted {
                true => queue.enable_doorbell(),
                false => queue.disable_doorbell().map(|()| false),
            };
            match outcome {
                Ok(there) => more |= there,
                Err(Broken) => broken |= bit,
            }
            if bit == RX && outcome == Ok(true) {
                self.rx_until = None;
            }
        }
        for bit in [RX, TX, CONTROL] {
            if broken & bit != 0 {
                self.give_up(bit);
            }
        }
        more
    }

    fn wait(&mut self) {
        let until = [self.rx_until, self.tx_until].into_iter().flatten().min();
        let mut events = [EpollEvent::default(); 2];
        let epoll = &self.common.shared.epolls[self.pair];
        let waited = epoll.wait(milliseconds(until), &mut events);
        self.common.counters.waits.count();
        let count = match waited {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => panic!("a thread cannot wait for its own events: {error}"),
        };
        for event in &events[..count] {
            if event.data() != OF_TAP {
                // Perhaps it is about buffers to receive into.
                if self.starved {
                    self.rx_until = None;
                }
                continue;
            }
            let set = event.event_set();
            let over = EventSet::ERROR | EventSet::HANG_UP;
            self.readable |= set.intersects(EventSet::IN | over);
            if self.full && set.intersects(EventSet::OUT | over) {
                (self.full, self.tx_until) = (false, None);
            }
        }
        if let Some(job) = &mut self.job
            && let Some((_, queue)) = &mut job.tx
        {
            // What comes while frames are moved is seen without a bell. A ring that cannot be written is found out by the next look.
            let _ = queue.disable_doorbell();
        }
    }

    /// Holds nothing of the guest's any more.
    fn settle(&mut self) -> Result<(), Broken> {
        let Some(job) = &mut self.job else {
            return Ok(());
        };
        let Some((index, queue)) = &mut job.rx else {
            return Ok(());
        };
        self.receiver.settle(queue)?;
        tell(queue, *index, &job.interrupt, &self.common.counters)
    }

    /// The driver broke the rules of a queue: it gets nothing back any more. There is nothing more of it.
    fn give_up(&mut self, bit: u8) -> bool {
        if let Some(job) = &mut self.job {
            job.stop(bit);
            let notices = &self.common.shared.notices;
            notices.say(
                "the guest's driver broke the rules: a queue of its card stands still until a reset",
            );
            if bit == RX {
                self.receiver.forget();
            }
            job.interrupt.needs_reset();
        }
        false
    }
}

/// Whether the time is still to come; it is forgotten when it has.
fn is_ahead(until: &mut Option<Instant>) -> bool {
    if until.is_some_and(|until| until > Instant::now()) {
        return true;
    }
    *until = None;
    false
}

/// Milliseconds from now, not too few; -1 for ever.
fn milliseconds(until: Option<Instant>) -> i32 {
    match until {
        None => -1,
        Some(until) => {
            let left = until.saturating_duration_since(Instant::now());
            i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        }
    }
}

/// An interrupt, if the driver wants one.
fn tell(
    queue: &mut Queue,
    index: u16,
    interrupt: &Interrupt,
    counters: &Counters,
) -> Result<(), Broken> {
    if queue.has_news() && queue.wants_interrupt()? {
        counters.interrupts.count();
        interrupt.used_buffers(index);
    }
    Ok(())
}
