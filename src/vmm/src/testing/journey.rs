//! The test that every device takes: paused in the middle of its work, saved, and restored as another one that goes on there.
use std::{collections::BTreeMap, sync::Arc, sync::PoisonError};

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{
    virtio_driver::{Attached, Way},
    virtqueue::{DriverQueue, Edges},
};
use crate::virtio::{
    feature,
    transport::{SharedDevice, status},
};

/// Pieces of memory that a request consists of, by address and length: to be read by the device, then to be written. Three of
/// them, at most.
pub type Pieces = (Vec<(u64, u32)>, Vec<(u64, u32)>);

/// What is asked of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Counts from 0, over all queues.
    pub number: u64,
    /// In which queue.
    pub queue: usize,
    /// Where it has a page of the guest's memory for itself.
    pub page: u64,
}

/// A kind of device.
pub trait Subject {
    /// A device, whose threads are started, on what all the others were built on.
    fn build(&mut self) -> SharedDevice;

    /// The features that a driver takes of it, without those that belong to no device.
    fn features(&self) -> u64 {
        0
    }

    /// Makes `request`.
    fn ask(&mut self, memory: &GuestMemoryMmap, request: Request) -> Pieces;

    /// Checks the answer to it, of which `written` bytes are new.
    fn check(&mut self, memory: &GuestMemoryMmap, request: Request, written: u32);
}

const RAM: usize = 1 << 20;
const PAGE: u64 = 4096;
/// Where queues lie, and from one to the next.
const QUEUES: u64 = 0x1000;
const QUEUE_BYTES: u64 = 0x8000;
/// Entries of each: a page each is that of the request whose chain starts there.
const ENTRIES: u16 = 64;
const PAGES: u64 = 0x2_0000;
/// Most queues that have room.
const MAX_QUEUES: u16 = 3;

type Open = BTreeMap<(usize, u32), Request>;

/// A device on its way from one machine to the next, and its driver.
pub struct Journey<'a, S: Subject> {
    /// What is asked and how it is answered.
    pub subject: &'a mut S,
    way: Way,
    features: u64,
    memory: GuestMemoryMmap,
    edges: Arc<Edges>,
    device: SharedDevice,
    attached: Attached,
    queues: Vec<DriverQueue>,
    /// Requests that were not answered yet, by queue and head.
    open: Open,
    next: u64,
}

impl<'a, S: Subject> Journey<'a, S> {
    /// A device that nobody has found yet, whose driver will use `queues` queues, with `features` of those that belong to none.
    ///
    /// # Panics
    /// When there are too many.
    pub fn new(subject: &'a mut S, way: Way, features: u64, queues: u16) -> Self {
        assert!(queues <= MAX_QUEUES);
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).expect("memory");
        let edges = Arc::new(Edges::default());
        let device = subject.build();
        let features = features | subject.features() | feature::VERSION_1;
        let mut journey = Self {
            attached: Attached::new(way, device.clone(), &memory, &edges),
            subject,
            way,
            features,
            edges,
            device,
            queues: Vec::new(),
            memory,
            open: Open::new(),
            next: 0,
        };
        journey.attached.prepare(queues);
        journey.forget(queues);
        journey
    }

    /// The driver's rings, as they are before it uses them.
    fn forget(&mut self, queues: u16) {
        let zeroes = [0; 4096];
        for page in 0..u64::from(queues) * QUEUE_BYTES / PAGE {
            let at = GuestAddress(QUEUES + PAGE * page);
            vm_memory::Bytes::write_slice(&self.memory, &zeroes, at).expect("memory");
        }
        let place = |index: u16| QUEUES + QUEUE_BYTES * u64::from(index);
        self.queues = (0..queues)
            .map(|index| DriverQueue::new(self.memory.clone(), place(index), ENTRIES))
            .collect();
        self.open.clear();
    }

    /// The driver's side of the device.
    pub fn attached(&self) -> &Attached {
        &self.attached
    }

    /// The driver's side of queue `index`.
    pub fn queue(&mut self, index: usize) -> &mut DriverQueue {
        &mut self.queues[index]
    }

    /// Brings the device up, and calls `between` after each step.
    ///
    /// # Panics
    /// When the device does not come up.
    pub fn start(&mut self, mut between: impl FnMut(&mut Self)) {
        self.attached.step(status::ACKNOWLEDGE);
        between(self);
        self.attached.step(status::DRIVER);
        between(self);
        for half in 0..2 {
            let wanted = u32::try_from(self.features >> (32 * half) & 0xffff_ffff);
            self.attached.accept(half, wanted.expect("32 bits"));
            between(self);
        }
        let agreed = self.attached.step(status::FEATURES_OK);
        assert_ne!(agreed & status::FEATURES_OK, 0);
        between(self);
        for index in 0..self.queues.len() {
            let setup = self.queues[index].setup();
            let number = u16::try_from(index).expect("few queues");
            self.attached.set_up(number, &setup);
            between(self);
        }
        let up = self.attached.step(status::DRIVER_OK);
        assert_eq!(
            up & (status::DRIVER_OK | status::NEEDS_RESET),
            status::DRIVER_OK
        );
    }

    /// The driver starts over.
    pub fn start_over(&mut self) {
        self.attached.set_status(0);
        let queues = u16::try_from(self.queues.len()).expect("few queues");
        self.forget(queues);
        self.start(|_| ());
    }

    /// Offers `count` requests in each queue, and rings. No more than 21 have room before they are answered.
    pub fn offer(&mut self, count: usize) {
        for index in 0..self.queues.len() {
            self.offer_in(index, count);
        }
    }

    /// Offers `count` requests in queue `index`, and rings.
    ///
    /// # Panics
    /// When there is no room.
    pub fn offer_in(&mut self, index: usize, count: usize) {
        for _ in 0..count {
            let queue = &mut self.queues[index];
            let request = Request {
                number: self.next,
                queue: index,
                page: page(index, queue.next_head()),
            };
            self.next += 1;
            let (readable, writable) = self.subject.ask(&self.memory, request);
            assert!(readable.len() + writable.len() <= 3);
            let head = queue.offer(&readable, &writable);
            let before = self.open.insert((index, head.into()), request);
            assert_eq!(before, None, "there is no room for so many");
        }
        self.attached
            .ring(u16::try_from(index).expect("few queues"));
    }

    /// Waits for the answers to all that was asked, and checks each.
    ///
    /// # Panics
    /// When there is an answer too many, or a wrong one, or one does not come.
    pub fn hear_all(&mut self) {
        self.hear_until(Open::is_empty);
    }

    /// Waits until nothing is open in queue `index`.
    pub fn hear_all_in(&mut self, index: usize) {
        self.hear_until(|open| open.keys().all(|(queue, _)| *queue != index));
    }

    fn hear_until(&mut self, done: impl Fn(&Open) -> bool) {
        let edges = self.edges.clone();
        edges.wait_until(|| {
            self.attached.acknowledge();
            // Until nothing has come while it was asked for.
            while self.wants_interrupts() {
                self.hear();
            }
            done(&self.open)
        });
    }

    /// Asks for an interrupt with the next answer in each queue; whether there is one already.
    fn wants_interrupts(&self) -> bool {
        let came = |came, queue: &DriverQueue| queue.want_interrupt() | came;
        self.queues.iter().fold(false, came)
    }

    /// Takes the answers that there are.
    fn hear(&mut self) {
        for (index, queue) in self.queues.iter_mut().enumerate() {
            while let Some((head, written)) = queue.used() {
                let request = self.open.remove(&(index, head));
                let request = request.expect("each request is answered once");
                self.subject.check(&self.memory, request, written);
            }
        }
    }

    /// How many requests have no answer yet.
    pub fn open(&mut self) -> usize {
        self.hear();
        self.open.len()
    }

    /// Waits until the device says `bits` of itself.
    pub fn wait_for_status(&self, bits: u32) {
        let edges = &self.edges;
        edges.wait_until(|| self.attached.status() & bits == bits);
    }

    /// Pauses the device.
    pub fn pause(&self) {
        let device = self.device.lock();
        device.unwrap_or_else(PoisonError::into_inner).pause();
    }

    /// The device goes on.
    pub fn resume(&self) {
        let device = self.device.lock();
        device.unwrap_or_else(PoisonError::into_inner).resume();
    }

    /// Saves the device, which is paused, builds another one, and restores it, paused; what was saved.
    ///
    /// # Panics
    /// When it does not fit, or a bell is not connected where it was.
    pub fn move_on(&mut self) -> String {
        let saved = self.attached.save();
        let mut before = self.attached.bells().connected();
        self.device = self.subject.build();
        self.attached = Attached::new(self.way, self.device.clone(), &self.memory, &self.edges);
        self.pause();
        let restored = self.attached.restore(&saved);
        restored.unwrap_or_else(|why| panic!("{why}: {saved}"));
        let mut after = self.attached.bells().connected();
        let key = |ring: &crate::kvm::Ring| format!("{ring:?}");
        before.sort_by_key(key);
        after.sort_by_key(key);
        assert_eq!(before, after);
        saved
    }
}

/// The page of the request whose chain begins at `head` of queue `index`.
fn page(index: usize, head: u16) -> u64 {
    let index = u64::try_from(index).expect("few queues");
    PAGES + PAGE * (u64::from(ENTRIES) * index + u64::from(head))
}

/// Every way to a device, with and without EVENT_IDX.
fn each_way(mut test: impl FnMut(Way, u64)) {
    for way in [Way::Mmio, Way::Pci] {
        for features in [0, feature::EVENT_IDX | feature::INDIRECT_DESC] {
            test(way, features);
        }
    }
}

/// Takes a device through everything: with `queues` of its queues in use, which are all alike.
///
/// # Panics
/// When one does not go on where another was paused.
pub fn take_through(subject: &mut impl Subject, queues: u16) {
    each_way(|way, features| {
        moves_in_the_middle_of_its_work(&mut Journey::new(subject, way, features, queues));
        moves_while_it_is_brought_up(&mut Journey::new(subject, way, features, queues));
        stays_broken(&mut Journey::new(subject, way, features, queues));
        stays_stopped(&mut Journey::new(subject, way, features, queues));
    });
}

/// Requests are under way, wait in the queue, and come while it stands still: each is answered once.
fn moves_in_the_middle_of_its_work(journey: &mut Journey<impl Subject>) {
    journey.start(|_| ());
    for round in 0..6 {
        journey.offer(7);
        journey.pause();
        journey.offer(7);
        let waiting = journey.open();
        assert!(waiting >= 7 * journey.queues.len());
        // One that was restored and never went on is as good as the first.
        for _ in 0..=round % 3 {
            journey.move_on();
            assert_eq!(journey.open(), waiting, "nobody works during a pause");
        }
        journey.offer(7);
        journey.resume();
        journey.hear_all();
    }
    // Nothing is answered once more, and the driver can start over.
    journey.pause();
    assert_eq!(journey.open(), 0);
    journey.move_on();
    journey.resume();
    journey.start_over();
    journey.offer(7);
    journey.hear_all();
}

fn moves_while_it_is_brought_up(journey: &mut Journey<impl Subject>) {
    journey.start(|journey| {
        journey.pause();
        let before = journey.attached().status();
        journey.move_on();
        assert_eq!(journey.attached().status(), before);
        journey.resume();
    });
    journey.offer(7);
    journey.hear_all();
}

/// A queue whose driver broke the rules is given up for good, until a reset; the others go on.
fn stays_broken(journey: &mut Journey<impl Subject>) {
    journey.start(|_| ());
    journey.offer(1);
    journey.hear_all();
    journey.queue(0).claim(ENTRIES + 1);
    journey.attached().ring(0);
    journey.wait_for_status(status::NEEDS_RESET);
    journey.pause();
    journey.move_on();
    journey.resume();
    assert_ne!(journey.attached().status() & status::NEEDS_RESET, 0);
    for index in 1..journey.queues.len() {
        journey.offer_in(index, 7);
        journey.hear_all_in(index);
    }
    journey.start_over();
    journey.offer(7);
    journey.hear_all();
}

/// A queue that its driver stopped is served no more, until a reset; the others go on.
fn stays_stopped(journey: &mut Journey<impl Subject>) {
    journey.start(|_| ());
    journey.offer(7);
    if !journey.attached().stop(0) {
        return;
    }
    journey.pause();
    journey.move_on();
    journey.resume();
    for index in 1..journey.queues.len() {
        journey.offer_in(index, 7);
        journey.hear_all_in(index);
    }
    let waiting = journey.open();
    journey.offer_in(0, 7);
    journey.pause();
    journey.move_on();
    journey.resume();
    // What rings for a queue is answered by the end of a pause, where somebody serves it.
    journey.attached().ring(0);
    journey.pause();
    assert_eq!(journey.open(), waiting + 7);
    journey.resume();
    journey.start_over();
    journey.offer(7);
    journey.hear_all();
}
