//! Guests made by hand: a few hundred bytes of assembly each, so that they run where KVM emulates every instruction.
use std::{arch::global_asm, io::Write, path::Path, ptr, sync::Arc};

use tempfile::NamedTempFile;
use vmm::testing::kernel_image::{Elf, KERNEL_ADDRESS};

use crate::{Guest, Launch};

global_asm!(
    ".pushsection .rodata.handmade, \"a\", @progbits",
    ".globl handmade_start",
    "handmade_start:",
    include_str!("runtime.s"),
    include_str!("boot.s"),
    include_str!("processor.s"),
    include_str!("smp.s"),
    include_str!("console.s"),
    include_str!("virtio.s"),
    include_str!("disk.s"),
    include_str!("balloon.s"),
    ".globl handmade_end",
    "handmade_end:",
    ".popsection",
    options(att_syntax, raw)
);

unsafe extern "C" {
    static handmade_start: u8;
    static handmade_end: u8;
}

/// Bytes that the image may use behind itself.
const BSS: u64 = 0x1000;

/// All guests, as one image.
fn image() -> &'static [u8] {
    let start = &raw const handmade_start;
    let length = (&raw const handmade_end).addr() - start.addr();
    // SAFETY: the assembly above lays out these bytes, constant, between the two symbols.
    unsafe { std::slice::from_raw_parts(start, length) }
}

/// A kernel in a file, which lives as long as this does, and as the guests that booted it.
#[derive(Debug)]
pub struct Kernel(Arc<NamedTempFile>);

impl Kernel {
    /// A kernel that is this file.
    ///
    /// # Panics
    /// When no file can be made.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut file = NamedTempFile::with_prefix("handmade-").expect("a file can be made");
        file.write_all(bytes).expect("a file can be written");
        Self(Arc::new(file))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The same, as an argument.
    ///
    /// # Panics
    /// When the directory for temporary files has a name that is not Unicode.
    pub fn argument(&self) -> &str {
        self.path().to_str().expect("a plain path")
    }

    /// To boot it with these further arguments of `ampoule run`.
    pub fn launch(&self, arguments: &[&str]) -> Launch {
        Launch::run([&["--kernel", self.argument()], arguments].concat()).keeping(self.0.clone())
    }

    /// Boots it with these further arguments of `ampoule run`.
    pub fn run(&self, arguments: &[&str]) -> Guest {
        self.launch(arguments).start()
    }
}

fn address_of(entry: *const u8) -> u64 {
    let offset = entry.addr() - ptr::addr_of!(handmade_start).addr();
    KERNEL_ADDRESS + u64::try_from(offset).expect("addresses have 64 bits")
}

fn elf(entry: *const u8) -> Elf {
    let size = u64::try_from(image().len()).expect("addresses have 64 bits");
    Elf::new(address_of(entry)).load(KERNEL_ADDRESS, image(), size + BSS)
}

macro_rules! guests {
    ($($(#[$doc:meta])* $name:ident = $symbol:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name() -> Kernel {
            unsafe extern "C" {
                static $symbol: u8;
            }
            Kernel::from_bytes(&elf(&raw const $symbol).build())
        }
    )*};
}

guests! {
    /// Tells what the zero page says, and powers off.
    hello = guest_hello;
    /// Uses ports of every width, and powers off.
    ports = guest_ports;
    /// Uses device registers in memory, and powers off.
    registers = guest_registers;
    /// Tells what CPUID says, and powers off.
    cpuid = guest_cpuid;
    /// Says that user space is reached, and powers off.
    marker = guest_marker;
    /// Sleeps for five ticks of its timer, and powers off.
    timer = guest_timer;
    /// Starts all other processors, and powers off.
    smp = guest_smp;
    /// Counts in memory that nobody else touches how often it was booted, and does what it is told: p powers off, r and k reset, x faults, u runs where no memory is, m panics, h says hello, i has itself interrupted;
    /// any other byte it prints as a number in angle brackets.
    commands = guest_commands;
    /// Drives its first disk over MMIO as it is told: r reads a sector, w writes it, m reads it eight times at once, f flushes, d discards, z zeroes, b breaks the rules of virtqueues and starts over; x faults, p powers off.
    disk = guest_disk;
    /// Drives its balloon over MMIO as it is told: g gives a page, s tells a statistic, a waits to be asked for the next, b breaks the rules
    /// of virtqueues and starts over; p powers off.
    balloon = guest_balloon;
    /// Sends back what it receives up to byte 4, by interrupts; then powers off.
    echo = guest_echo;
    /// Sends back what it receives up to byte 4, by polling; then powers off.
    polling_echo = guest_polling_echo;
    /// Prints [`flood_output`], waiting for room, and powers off.
    flood = guest_flood;
    /// Prints [`flood_output`], not waiting for room; powers off when it receives byte 4.
    rude = guest_rude;
    /// Prints for ever.
    chatter = guest_chatter;
    /// Powers off when its power button is pressed; resets when it receives an r.
    button = guest_button;
    /// Says that its power button was pressed, and goes on.
    stubborn = guest_stubborn;
    /// Sleeps, and wakes for nothing.
    deaf = guest_deaf;
    /// Loops, and stops for nothing.
    busy = guest_busy;
}

/// Tells what the PVH start info says, and powers off.
///
/// # Panics
/// Never: the image is small.
pub fn pvh() -> Kernel {
    unsafe extern "C" {
        static guest_pvh: u8;
    }
    let entry = &raw const guest_pvh;
    let address = u32::try_from(address_of(entry)).expect("it is loaded below 4 GiB");
    Kernel::from_bytes(&elf(entry).pvh(address).build())
}

/// What [`flood`] prints: 192 KiB of numbers of sixteen bits, each the number of those before it.
pub fn flood_output() -> Vec<u8> {
    const NUMBERS: u32 = 3 << 15;
    (0..NUMBERS)
        .flat_map(|number| {
            let [low, high, ..] = number.to_le_bytes();
            [low, high]
        })
        .collect()
}
