//! Drivers of balloons, honest and not.
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use std::sync::Mutex;

use super::{config::feature, *};
use crate::{
    memory::{self, Backing, Pages},
    testing::{
        journey::{Pieces, Request, Subject, take_through},
        virtqueue::{DriverQueue, Edges},
    },
    virtio::transport::SharedDevice,
};

/// Where the driver's rings are, one queue behind the other.
const RINGS: u64 = 0x10_0000;
const RING_BYTES: u64 = 0x8000;
/// Where it keeps what it tells.
const BUFFER: u64 = 0x1000;
/// Pages that it can do without.
const FREE: u64 = 0x20_0000;
const PAGE: u64 = config::PAGE;
const MEMORY: u64 = 4 << 20;

struct Guest {
    balloon: Balloon,
    memory: GuestMemoryMmap,
    edges: Arc<Edges>,
    queues: Vec<DriverQueue>,
}

impl Guest {
    /// A driver that takes all that a balloon of `options` offers.
    fn with(options: Options) -> Self {
        Self::on(options, Backing::default())
    }

    fn on(options: Options, backing: Backing) -> Self {
        let memory = memory::map(&[(GuestAddress(0), MEMORY)], backing).unwrap();
        let mut balloon = Balloon::new(options).unwrap();
        let none: Confine = Arc::new(|_| ());
        balloon.start_threads(&none).unwrap();
        let (edges, line) = Edges::line();
        let place = |index: usize| RINGS + RING_BYTES * u64::try_from(index).unwrap();
        let queues: Vec<_> = (0..balloon.queue_sizes().len())
            .map(|index| DriverQueue::new(memory.clone(), place(index), QUEUE_SIZE))
            .collect();
        let frozen = queues
            .iter()
            .map(|queue| Some(queue.setup().freeze(&memory, false).unwrap()));
        let (features, frozen) = (balloon.features(), frozen.collect());
        balloon.activate(features, frozen, &Interrupt::new(line));
        Self {
            balloon,
            memory,
            edges,
            queues,
        }
    }

    fn ring(&self) {
        let _ = self.balloon.doorbell(0).unwrap().write(1);
    }

    /// Offers pieces on queue `index`.
    fn offer(&mut self, index: usize, readable: &[(u64, u32)], writable: &[(u64, u32)]) {
        self.queues[index].offer(readable, writable);
        self.ring();
    }

    fn wait_for_used(&mut self, index: usize) {
        let Self { edges, queues, .. } = self;
        edges.wait_until(|| queues[index].used().is_some());
    }

    /// Offers pieces, and waits until they are back.
    fn tell(&mut self, index: usize, readable: &[(u64, u32)], writable: &[(u64, u32)]) {
        self.offer(index, readable, writable);
        self.wait_for_used(index);
    }

    /// Offers the numbers of pages on queue `index`, and waits until they are back.
    fn tell_pages(&mut self, index: usize, numbers: &[u32]) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.memory
            .write_slice(&bytes, GuestAddress(BUFFER))
            .unwrap();
        let length = u32::try_from(bytes.len()).unwrap();
        self.tell(index, &[(BUFFER, length)], &[]);
    }

    /// Writes to `count` pages from `FREE` on.
    fn touch(&self, count: u64) {
        for page in 0..count {
            let at = GuestAddress(FREE + page * PAGE);
            self.memory.write_obj(u64::MAX, at).unwrap();
        }
    }

    /// Which of `count` pages from `FREE` on have lost what was written.
    fn gone(&self, count: u64) -> Vec<u64> {
        let is_gone = |page: &u64| {
            let at = GuestAddress(FREE + page * PAGE);
            self.memory.read_obj::<u64>(at).unwrap() == 0
        };
        (0..count).filter(is_gone).collect()
    }

    fn config(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.balloon.config().read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Tells a statistic, without waiting for the buffer.
    fn tell_statistic(&mut self, tag: u16, value: u64) {
        let entry = [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
        self.memory
            .write_slice(&entry, GuestAddress(BUFFER))
            .unwrap();
        self.offer(2, &[(BUFFER, 10)], &[]);
    }

    fn wait_for_statistics(&self, number: u64) {
        while self.balloon.counters().statistics.get() < number {
            std::thread::yield_now();
        }
    }
}

fn page(index: u64) -> u32 {
    u32::try_from(FREE / PAGE + index).unwrap()
}

#[test]
fn pages_that_a_guest_gives_are_gone_and_come_back_empty() {
    for shared in [false, true] {
        let pages = Pages::Small;
        let mut guest = Guest::on(Options::default(), Backing { shared, pages });
        guest.touch(8);
        guest.tell_pages(0, &[page(6), page(1), page(2), page(2)]);
        assert_eq!(guest.gone(8), [1, 2, 6]);
        guest.tell_pages(1, &[page(1), page(2), page(6)]);
        guest.touch(8);
        assert!(guest.gone(8).is_empty());
        let counters = guest.balloon.counters();
        assert_eq!(counters.released_bytes.get(), 3 * PAGE);
        assert_eq!(counters.deflations.get(), 1);
    }
}

#[test]
fn pages_that_are_not_there_are_skipped() {
    let mut guest = Guest::with(Options::default());
    guest.touch(2);
    let beyond = u32::try_from(MEMORY / PAGE).unwrap();
    guest.tell_pages(0, &[u32::MAX, page(1), beyond]);
    assert_eq!(guest.gone(2), [1]);
    assert_eq!(guest.balloon.counters().refused.get(), 2);
}

#[test]
fn a_request_of_more_pages_than_anybody_sends_is_refused() {
    let mut guest = Guest::with(Options::default());
    guest.offer(0, &[(0, 0x4_0001)], &[]);
    let Guest { edges, balloon, .. } = &guest;
    edges.wait_until(|| edges.count() > 0);
    assert_eq!(balloon.counters().inflations.get(), 1);
    assert_eq!(balloon.counters().interrupts.get(), 0);
}

#[test]
fn a_new_target_is_told_by_an_interrupt_and_the_driver_says_how_far_it_is() {
    let options = Options {
        target_mib: 3,
        ..Options::default()
    };
    let mut guest = Guest::with(options);
    assert_eq!((guest.config(0), guest.config(4)), (768, 0));
    let handle = guest.balloon.handle();
    handle.set_target(5);
    assert_eq!(guest.edges.count(), 1);
    assert_eq!(guest.config(0), 1280);
    guest.balloon.write_config(4, &600u32.to_le_bytes());
    // Everything else is not the driver's to write.
    guest.balloon.write_config(0, &[0xff; 4]);
    guest.balloon.write_config(5, &[0xff; 4]);
    guest.balloon.write_config(4, &[0xff; 8]);
    let report = handle.report();
    assert_eq!((report.target_mib, report.actual_mib), (5, 2));
    assert_eq!((report.target_pages, report.actual_pages), (1280, 600));
    guest.balloon.reset();
    assert_eq!((guest.config(0), guest.config(4)), (1280, 0));
}

#[test]
fn statistics_are_kept_until_the_guest_tells_others() {
    let mut guest = Guest::with(Options::default());
    guest.tell_statistic(4, 1 << 30);
    guest.wait_for_statistics(1);
    let statistics = |guest: &Guest| guest.balloon.handle().report().statistics;
    assert_eq!(statistics(&guest).free_memory, Some(1 << 30));
    // Nobody asks, so the buffer stays. A driver that tells all the same gets the older one back.
    assert!(guest.queues[2].used().is_none());
    guest.tell_statistic(99, 1);
    guest.wait_for_used(2);
    guest.tell_statistic(10, 7);
    guest.wait_for_statistics(3);
    let now = statistics(&guest);
    assert_eq!((now.free_memory, now.oom_kill), (Some(1 << 30), Some(7)));
    assert_eq!(now.swap_in, None);
}

#[test]
fn statistics_are_asked_for_when_somebody_wants_them() {
    let mut guest = Guest::with(Options::default());
    guest.tell_statistic(0, 1);
    guest.wait_for_statistics(1);
    guest.balloon.handle().set_interval(1);
    guest.wait_for_used(2);
    // The next comes by itself.
    guest.tell_statistic(0, 2);
    guest.wait_for_used(2);
    let report = guest.balloon.handle().report();
    assert_eq!(report.statistics.swap_in, Some(2));
}

#[test]
fn reported_ranges_are_gone_without_being_asked_for() {
    let options = Options {
        reporting: true,
        ..Options::default()
    };
    let mut guest = Guest::with(options);
    guest.touch(8);
    let length = u32::try_from(2 * PAGE).unwrap();
    guest.tell(3, &[], &[(FREE, length), (FREE + 5 * PAGE, length)]);
    assert_eq!(guest.gone(8), [0, 1, 5, 6]);
}

#[test]
fn hints_count_only_in_the_run_that_is_wanted() {
    let options = Options {
        hinting: true,
        ..Options::default()
    };
    let mut guest = Guest::with(options);
    let handle = guest.balloon.handle();
    let command = |guest: &mut Guest, number: u32| {
        guest
            .memory
            .write_obj(number, GuestAddress(BUFFER))
            .unwrap();
        guest.tell(3, &[(BUFFER, 4)], &[]);
    };
    let page_of = |index: u64| (FREE + index * PAGE, u32::try_from(PAGE).unwrap());
    guest.touch(8);
    // No run.
    guest.tell(3, &[], &[page_of(0)]);
    handle.start_hints(true);
    let run = guest.config(8);
    assert!(run >= 2);
    // Not told yet which run this is of.
    guest.tell(3, &[], &[page_of(1)]);
    command(&mut guest, run);
    guest.tell(3, &[], &[page_of(2)]);
    assert_eq!(handle.hint_status().guest_cmd, Some(run));
    // It is through: it has its pages back at once.
    command(&mut guest, 0);
    assert_eq!(guest.config(8), 1);
    guest.tell(3, &[], &[page_of(3)]);
    assert_eq!(guest.gone(8), [2]);
    // The next is another one, and ends when somebody says so.
    handle.start_hints(false);
    assert_ne!(guest.config(8), run);
    let next = guest.config(8);
    command(&mut guest, next);
    command(&mut guest, 0);
    assert_eq!(guest.config(8), next);
    handle.stop_hints();
    assert_eq!(handle.hint_status().host_cmd, 1);
}

#[test]
fn a_stopped_queue_is_served_no_more_and_the_others_are() {
    let mut guest = Guest::with(Options::default());
    guest.balloon.stop_queue(1);
    guest.offer(1, &[(BUFFER, 4)], &[]);
    guest.touch(1);
    guest.tell_pages(0, &[page(0)]);
    assert_eq!(guest.gone(1), [0]);
    assert!(guest.queues[1].used().is_none());
}

#[test]
fn a_paused_balloon_touches_nothing() {
    let mut guest = Guest::with(Options::default());
    guest.touch(1);
    guest.balloon.pause();
    let number = page(0);
    guest
        .memory
        .write_obj(number, GuestAddress(BUFFER))
        .unwrap();
    guest.offer(0, &[(BUFFER, 4)], &[]);
    assert!(guest.gone(1).is_empty());
    guest.balloon.resume();
    guest.wait_for_used(0);
    assert_eq!(guest.gone(1), [0]);
}

/// Balloons of one guest, asked for pages and given them back.
#[derive(Default)]
struct Balloons {
    handle: Option<Handle>,
}

impl Subject for Balloons {
    fn build(&mut self) -> SharedDevice {
        let mut balloon = Balloon::new(Options::default()).unwrap();
        balloon
            .start_threads(&(Arc::new(|_| ()) as Confine))
            .unwrap();
        self.handle = Some(balloon.handle());
        Arc::new(Mutex::new(balloon))
    }

    /// The request's own page is the one that is given, by the number that stands behind its middle: so it is there to be read.
    fn ask(&mut self, memory: &GuestMemoryMmap, request: Request) -> Pieces {
        let number = u32::try_from(request.page / PAGE).unwrap();
        memory
            .write_obj(u64::MAX, GuestAddress(request.page))
            .unwrap();
        let at = request.page + PAGE / 2;
        memory.write_obj(number, GuestAddress(at)).unwrap();
        (vec![(at, 4)], vec![])
    }

    fn check(&mut self, memory: &GuestMemoryMmap, request: Request, written: u32) {
        let found: u64 = memory.read_obj(GuestAddress(request.page)).unwrap();
        let expected = if request.queue == 0 { 0 } else { u64::MAX };
        assert_eq!((found, written), (expected, 0));
    }
}

#[test]
fn a_balloon_goes_on_where_another_was_paused() {
    take_through(&mut Balloons::default(), 2);
}

#[test]
fn what_was_asked_and_told_moves_with_the_balloon() {
    let options = Options {
        hinting: true,
        ..Options::default()
    };
    let mut guest = Guest::with(options);
    let handle = guest.balloon.handle();
    handle.set_target(3);
    handle.set_interval(0);
    handle.start_hints(false);
    guest.balloon.write_config(4, &700u32.to_le_bytes());
    guest.tell_statistic(4, 99);
    guest.wait_for_statistics(1);
    assert_eq!(guest.balloon.progress(), Err(NotPaused));
    guest.balloon.pause();
    let progress = guest.balloon.progress().unwrap();
    // The buffer that is held was not taken, as far as anybody else knows.
    assert_eq!(progress[2], Some(Progress::default()));
    let saved = guest.balloon.save();
    let text = serde_json::to_string(&saved).unwrap();
    let saved: OwnState = serde_json::from_str(&text).unwrap();
    let mut other = Balloon::new(options).unwrap();
    assert!(other.fits(&saved) && !other.fits(&OwnState::Nothing));
    other.restore(&saved);
    assert_eq!(other.handle().report(), handle.report());
    assert_eq!(other.handle().report().statistics.free_memory, Some(99));
    assert_eq!(other.handle().report().actual_pages, 700);
    // The run ended with the old one, and the next is another.
    assert_eq!(other.handle().hint_status().host_cmd, 1);
    other.handle().start_hints(true);
    assert_eq!(other.handle().hint_status().host_cmd, 3);
}

#[test]
fn features_follow_the_options() {
    let options = Options {
        deflate_on_oom: true,
        hinting: true,
        reporting: true,
        ..Options::default()
    };
    let balloon = Balloon::new(options).unwrap();
    let all = feature::STATS_VQ | feature::DEFLATE_ON_OOM;
    let all = all | feature::FREE_PAGE_HINT | feature::PAGE_REPORTING;
    assert_eq!(balloon.features(), all);
    assert_eq!(balloon.queue_sizes().len(), 5);
    let plain = Balloon::new(Options::default()).unwrap();
    assert_eq!(plain.features(), feature::STATS_VQ);
}

/// A descriptor: address, length, flags, the next.
type Descriptor = (u64, u32, u16, u16);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any descriptors on any queue: no panic, no hang, and the balloon can be reset.
    #[test]
    fn a_hostile_driver_harms_nobody_but_itself(
        descriptors in proptest::collection::vec(
            (
                prop_oneof![0..MEMORY, any::<u64>()],
                prop_oneof![0..0x2000u32, any::<u32>()],
                0..8u16,
                0..16u16,
            ),
            16,
        ),
        heads in proptest::collection::vec((0..5usize, 0..16u16), 1..20),
        memory in proptest::collection::vec(any::<u8>(), 64),
    ) {
        let options = Options { hinting: true, reporting: true, interval: 1, ..Options::default() };
        let mut guest = Guest::with(options);
        guest.balloon.handle().start_hints(true);
        guest.memory.write_slice(&memory, GuestAddress(BUFFER)).unwrap();
        for queue in &guest.queues {
            for (index, descriptor) in (0..).zip(&descriptors) {
                let &(address, length, flags, next): &Descriptor = descriptor;
                queue.describe(index, address, length, flags, next);
            }
        }
        for (queue, head) in heads {
            guest.queues[queue].offer_head(head);
            guest.ring();
        }
        guest.balloon.pause();
        guest.balloon.resume();
        guest.balloon.reset();
    }
}
