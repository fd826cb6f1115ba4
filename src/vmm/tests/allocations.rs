//! Serving a guest's exits takes nothing from the heap: a guest that exits ten thousand times costs as many allocations
//! as one that exits a hundred times.
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use vmm::{
    arch::x86_64::{cpuid::Topology, layout},
    boot::kernel::{EntryKind, Kernel},
    bus::Accesses,
    kvm::Hypervisor,
    machine::{
        Devices, Ending, Machine, Parts, Policy,
        console::{Ends, PlainKeys},
    },
    memory::{self, Backing, Pages},
    testing::kernel_image::{self, Elf},
    timeline::Timeline,
};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: what is asked is passed on as it is; `realloc` and `alloc_zeroed` come down to these two.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from the same allocator, by the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RAM: u64 = 64 << 20;
const CODE: u32 = 0x10_0000;

/// Writes in a row to the register that selects one of the I/O APIC's.
const SELECTIONS: u32 = 1000;

/// A guest in 32-bit protected mode that makes each kind of exit `times` times, selects registers of the I/O APIC on and on,
/// and powers off.
fn guest(times: u32) -> Vec<u8> {
    let [t0, t1, t2, t3] = times.to_le_bytes();
    let [s0, s1, s2, s3] = SELECTIONS.to_le_bytes();
    let code = [
        0xb9, t0, t1, t2, t3, // mov ecx, times
        0xb0, 0x00, 0xe6,
        0x80, // again: mov al, 0; out 0x80, al        a device that says nothing of it
        0x66, 0xba, 0xfd, 0x03,
        0xec, // mov dx, 0x3fd; in al, dx        the serial port's status
        0xe4,
        0x70, // in al, 0x70                                      a port where nobody answers
        0xa3, 0x00, 0x00, 0xc0,
        0xfe, // mov [0xfec00000], eax           the I/O APIC, memory-mapped: which register
        0xa1, 0x10, 0x00, 0xc0, 0xfe, // mov eax, [0xfec00010]           what it holds
        0xe2, 0xe9, // loop again
        0xb9, s0, s1, s2, s3, // mov ecx, SELECTIONS
        0xa3, 0x00, 0x00, 0xc0, 0xfe, // mov [0xfec00000], eax
        0xe2, 0xf9, // loop to the instruction before
        0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, // mov dx, 0x600; mov al, 0x34; out dx, al
        0xf4, // hlt
    ];
    Elf::new(u64::from(CODE))
        .load(u64::from(CODE), &code, 0x1000)
        .pvh(CODE)
        .build()
}

/// Builds and runs a machine; how many allocations its run took, and what exits it served.
fn run(times: u32) -> (u64, Vec<Accesses>) {
    let kernel = Kernel::open(kernel_image::file(&guest(times)), None).expect("the guest loads");
    let entry = kernel
        .entry(EntryKind::Pvh)
        .expect("the guest has that entry");
    let backing = Backing {
        shared: false,
        pages: Pages::Small,
    };
    let parts = Parts {
        hypervisor: Hypervisor::open().expect("KVM is there"),
        memory: memory::map(&layout::ram_ranges(RAM), backing).expect("there is memory"),
        ram: RAM,
        kernel,
        entry,
        initrd: None,
        command_line: String::new(),
        topology: Topology {
            cpus: 1,
            threads_per_core: 1,
        },
        pmu: false,
        devices: Devices::default(),
        transport: vmm::config::Transport::default(),
        outposts: Vec::new(),
    };
    let policy = Policy {
        restart: false,
        stop_timeout: Duration::from_secs(10),
        // It would stay with the test's process.
        sandbox: false,
    };
    let ends = Ends {
        input: None,
        output: None,
        keys: Box::new(PlainKeys),
    };
    let timeline = Arc::new(Timeline::since_exec());
    let mut machine =
        Machine::build(parts, policy, ends, Vec::new(), timeline).expect("the machine is built");
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let ending = machine.run().expect("the machine runs");
    let after = ALLOCATIONS.load(Ordering::Relaxed);
    assert!(matches!(ending, Ending::PowerOff), "{ending:?}");
    (after - before, machine.surroundings().exits())
}

/// The only test of this binary: others would allocate beside it.
#[test]
fn no_exit_allocates_and_selecting_a_register_is_none() {
    // What a process allocates once and keeps.
    run(1);
    let (few, few_exits) = run(25);
    let (many, many_exits) = run(2500);
    let sum = |exits: &[Accesses]| -> u64 { exits.iter().map(|of| of.reads + of.writes).sum() };
    assert!(
        sum(&few_exits) >= 100 && sum(&many_exits) >= 10_000,
        "{few_exits:?}, {many_exits:?}"
    );
    assert_eq!(
        few, many,
        "allocations for {few_exits:?} and {many_exits:?}"
    );

    let ioapic = many_exits.iter().find(|of| of.device == "ioapic").unwrap();
    assert_eq!(ioapic.reads, 2500);
    // The very first write, and one each time that KVM's page for others is full: it holds 170.
    let full = u64::from(SELECTIONS) / 170;
    assert!((1..=1 + full).contains(&ioapic.writes), "{ioapic:?}");
}
