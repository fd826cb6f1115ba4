//! Where a launch's time went: one stamp per phase, in microseconds since `exec`.
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// The moments of a launch, in the order in which they pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Phase {
    /// `main` was entered.
    Started,
    /// The definition was read and checked.
    Parsed,
    /// Guest RAM was mapped.
    MemoryMapped,
    /// Kernel, initrd and tables lay in guest RAM.
    KernelLoaded,
    /// The VM existed, with its memory and interrupt controllers.
    VmCreated,
    /// Every vCPU existed and had its registers.
    VcpusCreated,
    /// Privileges and paths were given up.
    Confined,
    /// The first `KVM_RUN` was about to begin.
    FirstRun,
    /// The first exit came back: the guest had run.
    FirstExit,
    /// The guest wrote its first byte to the serial port.
    FirstConsoleByte,
    /// The guest's init said so, by writing 0x41 to port 0x80.
    UserSpace,
    /// The guest ended.
    Ended,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 12] = [
        Self::Started,
        Self::Parsed,
        Self::MemoryMapped,
        Self::KernelLoaded,
        Self::VmCreated,
        Self::VcpusCreated,
        Self::Confined,
        Self::FirstRun,
        Self::FirstExit,
        Self::FirstConsoleByte,
        Self::UserSpace,
        Self::Ended,
    ];

    /// Its key in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Parsed => "parsed",
            Self::MemoryMapped => "memory_mapped",
            Self::KernelLoaded => "kernel_loaded",
            Self::VmCreated => "vm_created",
            Self::VcpusCreated => "vcpus_created",
            Self::Confined => "confined",
            Self::FirstRun => "first_run",
            Self::FirstExit => "first_exit",
            Self::FirstConsoleByte => "first_console_byte",
            Self::UserSpace => "user_space",
            Self::Ended => "ended",
        }
    }
}

/// A clock's reading, in microseconds.
fn clock_us(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}

/// Stamps of one process. Marking is a load when the phase has passed already, so it may stand on a hot path.
#[derive(Debug)]
pub struct Timeline {
    origin: u64,
    stamps: [AtomicU64; Phase::ALL.len()],
}

/// One passed phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stamp {
    /// [`Phase::name`].
    pub phase: &'static str,
    /// Microseconds from `exec` to the phase.
    pub microseconds: u64,
}

impl Timeline {
    /// Starts at `exec` of this process, and marks [`Phase::Started`].
    ///
    /// The kernel does not tell when `exec` was called, but until `main` a process does little but run: `exec` was as
    /// long ago as the processor time it has used. That includes its fork, so the origin is a little early, never late.
    pub fn since_exec() -> Self {
        let used = clock_us(ClockId::ProcessCPUTime);
        let timeline = Self {
            origin: clock_us(ClockId::Monotonic).saturating_sub(used),
            stamps: Default::default(),
        };
        timeline.mark(Phase::Started);
        timeline
    }

    /// Stamps `phase` with the present, unless it has passed before.
    #[inline]
    pub fn mark(&self, phase: Phase) {
        let stamp = &self.stamps[phase as usize];
        if stamp.load(Ordering::Relaxed) == 0 {
            let now = clock_us(ClockId::Monotonic)
                .saturating_sub(self.origin)
                .max(1);
            // Two vCPUs may race: the earlier stamp stays.
            let _ = stamp.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// How long after `exec` a phase passed, if it did.
    pub fn at(&self, phase: Phase) -> Option<Duration> {
        match self.stamps[phase as usize].load(Ordering::Relaxed) {
            0 => None,
            microseconds => Some(Duration::from_micros(microseconds)),
        }
    }

    /// The phases that passed, in their order.
    pub fn stamps(&self) -> Vec<Stamp> {
        Phase::ALL
            .into_iter()
            .filter_map(|phase| {
                let microseconds = self.stamps[phase as usize].load(Ordering::Relaxed);
                (microseconds != 0).then(|| Stamp {
                    phase: phase.name(),
                    microseconds,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_keeps_its_first_stamp() {
        let timeline = Timeline::since_exec();
        timeline.mark(Phase::Parsed);
        let first = timeline.at(Phase::Parsed);
        while clock_us(ClockId::Monotonic) - timeline.origin
            <= u64::try_from(first.unwrap().as_micros()).unwrap()
        {}
        timeline.mark(Phase::Parsed);
        assert_eq!(timeline.at(Phase::Parsed), first);
    }

    #[test]
    fn phases_that_did_not_pass_are_left_out() {
        let timeline = Timeline::since_exec();
        timeline.mark(Phase::Confined);
        let names: Vec<_> = timeline.stamps().iter().map(|stamp| stamp.phase).collect();
        assert_eq!(names, ["started", "confined"]);
    }
}
