//! The driver's memory: pages of the guest's, and buffers that are copied to and from such pages.
use std::{cell::RefCell, ops::Range, ptr::NonNull};

use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// The guest's memory is two regions, and what crosses from one to the other is one buffer to a driver.
const SPLIT: u64 = 40 * PAGE;
const END: u64 = 2048 * PAGE;
const PAGE: u64 = PAGE_SIZE as u64;
/// What lies around every buffer, and what a device finds where it is to write.
const GUARD: u8 = 0xa5;
/// Where a buffer begins in its first page: nothing but rings has to be aligned.
const LEAD: u64 = 0x13;
/// What is left in the pages of a driver that is gone.
const ABANDONED: u8 = 0x77;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    Free,
    Taken,
    Abandoned,
}

struct Pages {
    memory: GuestMemoryMmap,
    pages: Vec<Page>,
}

thread_local! {
    /// The memory of the one machine of this test's thread: the driver asks for it without saying whose.
    static PAGES: RefCell<Option<Pages>> = const { RefCell::new(None) };
}

fn with<T>(ask: impl FnOnce(&mut Pages) -> T) -> T {
    PAGES.with_borrow_mut(|pages| ask(pages.as_mut().expect("a machine of this thread")))
}

/// The memory of a new machine, which is this thread's from now on.
pub(crate) fn power_on() -> GuestMemoryMmap {
    let regions = [
        (GuestAddress(0), usize::try_from(SPLIT).unwrap()),
        (GuestAddress(SPLIT), usize::try_from(END - SPLIT).unwrap()),
    ];
    let memory = GuestMemoryMmap::from_ranges(&regions).unwrap();
    let mut pages = vec![Page::Free; usize::try_from(END / PAGE).unwrap()];
    // To a driver, 0 is no address.
    pages[0] = Page::Abandoned;
    PAGES.set(Some(Pages {
        memory: memory.clone(),
        pages,
    }));
    memory
}

/// Pages that the driver has not given back.
pub(crate) fn taken() -> usize {
    with(|pages| pages.count(Page::Taken))
}

/// The driver is gone without a word: from now on, its pages are another's.
pub(crate) fn abandon() {
    with(|pages| {
        for index in 1..pages.pages.len() {
            if pages.pages[index] == Page::Taken {
                pages.pages[index] = Page::Abandoned;
                let at = Pages::place(index);
                let page = [ABANDONED; PAGE_SIZE];
                pages.memory.write_slice(&page, at).unwrap();
            }
        }
    });
}

/// How many pages were abandoned. Nobody has written to them since.
pub(crate) fn abandoned() -> usize {
    with(|pages| {
        for index in 1..pages.pages.len() {
            if pages.pages[index] == Page::Abandoned {
                let at = Pages::place(index);
                let page = pages.read(at.0..at.0 + PAGE);
                assert!(page.iter().all(|byte| *byte == ABANDONED), "{at:?}");
            }
        }
        pages.count(Page::Abandoned) - 1
    })
}

impl Pages {
    fn place(index: usize) -> GuestAddress {
        GuestAddress(PAGE * u64::try_from(index).unwrap())
    }

    fn count(&self, kind: Page) -> usize {
        self.pages.iter().filter(|page| **page == kind).count()
    }

    /// Takes `count` pages that follow each other.
    fn take(&mut self, count: usize) -> GuestAddress {
        let free = |from: &usize| {
            let run = self.pages.get(*from..from + count);
            run.is_some_and(|run| run.iter().all(|page| *page == Page::Free))
        };
        let from = (1..self.pages.len()).find(free).expect("free pages");
        self.pages[from..from + count].fill(Page::Taken);
        Self::place(from)
    }

    fn give_back(&mut self, at: u64, count: usize) {
        let from = usize::try_from(at / PAGE).unwrap();
        let run = &mut self.pages[from..from + count];
        assert!(run.iter().all(|page| *page == Page::Taken));
        run.fill(Page::Free);
    }

    fn read(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
        self.memory
            .read_slice(&mut bytes, GuestAddress(range.start))
            .unwrap();
        bytes
    }
}

/// Pages for a buffer of `length` bytes.
fn pages_for(length: usize) -> usize {
    (usize::try_from(LEAD).unwrap() + length + 1).div_ceil(PAGE_SIZE)
}

/// The driver's way to all this.
pub(crate) struct GuestPages;

// SAFETY: what is allocated are whole pages that nothing else in this program refers to, mapped as long as the thread's machine is
// there, which the driver does not outlive.
unsafe impl Hal for GuestPages {
    fn dma_alloc(count: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        with(|pages| {
            let at = pages.take(count);
            let zeroes = vec![0; count * PAGE_SIZE];
            pages.memory.write_slice(&zeroes, at).unwrap();
            let pointer = pages.memory.get_host_address(at).unwrap();
            let last = GuestAddress(at.0 + PAGE * u64::try_from(count).unwrap() - 1);
            let end = pages.memory.get_host_address(last).unwrap();
            assert_eq!(end as usize - pointer as usize, zeroes.len() - 1);
            (at.0, NonNull::new(pointer).unwrap())
        })
    }

    unsafe fn dma_dealloc(at: PhysAddr, _: NonNull<u8>, count: usize) -> i32 {
        with(|pages| pages.give_back(at, count));
        0
    }

    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("registers are no memory here")
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        with(|pages| {
            let count = pages_for(buffer.len());
            let start = pages.take(count);
            let at = GuestAddress(start.0 + LEAD);
            let guards = vec![GUARD; count * PAGE_SIZE];
            pages.memory.write_slice(&guards, start).unwrap();
            if direction != BufferDirection::DeviceToDriver {
                // SAFETY: the caller says that it is valid, and that nobody else accesses it.
                let bytes = unsafe { buffer.as_ref() };
                pages.memory.write_slice(bytes, at).unwrap();
            }
            at.0
        })
    }

    unsafe fn unshare(at: PhysAddr, mut buffer: NonNull<[u8]>, direction: BufferDirection) {
        with(|pages| {
            let (start, length) = (at - LEAD, u64::try_from(buffer.len()).unwrap());
            let count = pages_for(buffer.len());
            let end = start + PAGE * u64::try_from(count).unwrap();
            let around = [pages.read(start..at), pages.read(at + length..end)].concat();
            assert!(around.iter().all(|byte| *byte == GUARD), "beside a buffer");
            let now = pages.read(at..at + length);
            // SAFETY: as above.
            let bytes = unsafe { buffer.as_mut() };
            match direction {
                BufferDirection::DriverToDevice => assert!(now == *bytes, "not the device's"),
                _ => bytes.copy_from_slice(&now),
            }
            pages.give_back(start, count);
        });
    }
}
