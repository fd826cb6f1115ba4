//! Prints how many thousand times a second this processor's time stamp counter counts.
use std::{
    arch::x86_64::_rdtsc,
    time::{Duration, Instant},
};

/// Both clocks at the same moment: of several readings the one that took least, which nobody interrupted.
fn now() -> (u64, Instant) {
    let read = || {
        // SAFETY: every x86-64 processor has it, and whoever runs QEMU may read it.
        let before = unsafe { _rdtsc() };
        let instant = Instant::now();
        // SAFETY: as above.
        let after = unsafe { _rdtsc() };
        (after.wrapping_sub(before), before, instant)
    };
    let (_, counter, instant) = (0..1000).map(|_| read()).min().expect("there are some");
    (counter, instant)
}

fn main() {
    let (counter, instant) = now();
    std::thread::sleep(Duration::from_millis(100));
    let (later, end) = now();
    let nanoseconds = (end - instant).as_nanos();
    println!("{}", u128::from(later - counter) * 1_000_000 / nanoseconds);
}
