//! One virtual processor: its run loop, from exit to bus to what to do next.
pub mod coalesced;
pub mod gate;
mod report;
pub mod thread;

use std::sync::{Arc, OnceLock};

use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_memory::GuestMemoryMmap;

pub use report::Crash;

use self::coalesced::Coalesced;
use crate::{
    bus::{Accesses, Bus, Outcome},
    kvm::KvmError,
    metrics::Counter,
    timeline::{Phase, Timeline},
};

/// What the vCPUs of a machine share: where their exits go.
pub struct Surroundings {
    /// Guest RAM; the run loop itself never touches it, a crash report does.
    pub memory: GuestMemoryMmap,
    /// I/O ports.
    pub ports: Bus,
    /// Guest physical addresses that are not RAM.
    pub mmio: Bus,
    /// The registers among them whose writes make no exits of their own.
    pub coalesced: Coalesced,
    /// Counts exits that are no access to a bus.
    pub other_exits: Counter,
    /// Accesses by device when the guest's init said that user space runs.
    pub exits_to_user_space: OnceLock<Vec<Accesses>>,
    /// Stamps the first run and the first exit.
    pub timeline: Arc<Timeline>,
}

impl Surroundings {
    /// Exits to user space so far: accesses by device, and `other`.
    pub fn exits(&self) -> Vec<Accesses> {
        let mut exits = self.ports.accesses();
        exits.extend(self.mmio.accesses());
        exits.push(Accesses {
            device: "other",
            reads: self.other_exits.get(),
            writes: 0,
        });
        exits
    }

    /// The guest's init runs: the first time, this moment is kept.
    fn user_space_reached(&self) {
        self.timeline.mark(Phase::UserSpace);
        self.exits_to_user_space.get_or_init(|| self.exits());
    }
}

/// Why [`Vcpu::run`] came back.
#[derive(Debug)]
pub enum Exit {
    /// A signal: somebody wants this thread's attention.
    Interrupted,
    /// The guest asked for a reset.
    Reset,
    /// The guest switched itself off.
    PowerOff,
    /// The guest, or KVM with it, cannot go on.
    Crash(Box<Crash>),
}

/// A vCPU, not yet or no longer bound to a thread.
pub struct Vcpu {
    fd: VcpuFd,
    index: u8,
}

impl Vcpu {
    /// Takes vCPU number `index`, ready to run.
    ///
    /// # Errors
    /// When the ring of coalesced writes cannot be mapped.
    pub fn new(mut fd: VcpuFd, index: u8) -> Result<Self, KvmError> {
        fd.map_coalesced_mmio_ring()
            .map_err(KvmError::call("map the ring of coalesced writes"))?;
        Ok(Self { fd, index })
    }

    /// The page that this vCPU shares with KVM, for [`thread::interruptible`].
    fn run_page(&mut self) -> *mut kvm_run {
        self.fd.get_kvm_run()
    }

    /// Runs the guest until there is something to tell.
    pub fn run(&mut self, around: &Surroundings) -> Exit {
        around.timeline.mark(Phase::FirstRun);
        loop {
            match self.step(around) {
                Ok(Outcome::Nothing) => {}
                Ok(Outcome::Reset) => return Exit::Reset,
                Ok(Outcome::PowerOff) => return Exit::PowerOff,
                Ok(Outcome::UserSpace) => around.user_space_reached(),
                Err(Failure::Interrupted) => {
                    self.fd.set_kvm_immediate_exit(0);
                    return Exit::Interrupted;
                }
                Err(Failure::Crashed(reason)) => {
                    return Exit::Crash(Box::new(self.crash(reason, &around.memory)));
                }
            }
        }
    }

    /// Enters the guest once and serves its exit.
    fn step(&mut self, around: &Surroundings) -> Result<Outcome, Failure> {
        let exit = self.fd.run();
        around.timeline.mark(Phase::FirstExit);
        match exit {
            Ok(VcpuExit::IoOut(port, data)) => {
                let data: *const [u8] = data;
                let unit = self.io_unit();
                (around.coalesced).settle_port(port, &mut self.fd, &around.ports, &around.mmio);
                // SAFETY: KVM placed the data in the pages it shares with this vCPU, beyond `kvm_run` itself, which is
                // all that `io_unit` borrows; `settle_port` reads another page. Only KVM_RUN on this thread changes them.
                let data = unsafe { &*data };
                Ok(write_ports(&around.ports, port, data, unit))
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                let data: *mut [u8] = data;
                let unit = self.io_unit();
                (around.coalesced).settle_port(port, &mut self.fd, &around.ports, &around.mmio);
                // SAFETY: as above; and this is the only reference to it.
                let data = unsafe { &mut *data };
                data.chunks_mut(unit)
                    .for_each(|chunk| _ = around.ports.read(u64::from(port), chunk));
                Ok(Outcome::Nothing)
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                let data: *mut [u8] = data;
                (around.coalesced).settle_memory(&mut self.fd, &around.ports, &around.mmio);
                // SAFETY: as above; `settle_memory` reads another page that KVM shares.
                around.mmio.read(address, unsafe { &mut *data });
                Ok(Outcome::Nothing)
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                let data: *const [u8] = data;
                (around.coalesced).settle_memory(&mut self.fd, &around.ports, &around.mmio);
                // SAFETY: as above.
                let written = around.mmio.write(address, unsafe { &*data });
                Ok(written.unwrap_or(Outcome::Nothing))
            }
            Ok(exit) => {
                around.other_exits.count();
                other_exit(&exit)
            }
            Err(error) => match error.errno() {
                libc::EINTR => Err(Failure::Interrupted),
                // A vCPU that waited to be started was started.
                libc::EAGAIN => Ok(Outcome::Nothing),
                _ => Err(Failure::Crashed(format!("KVM_RUN failed: {error}"))),
            },
        }
    }

    /// Bytes of each access of a port exit, of which a string instruction has many.
    fn io_unit(&mut self) -> usize {
        // SAFETY: the exit that was just decoded is of the kind that fills in this member.
        let io = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.io };
        usize::from(io.size).max(1)
    }

    fn crash(&mut self, reason: String, memory: &GuestMemoryMmap) -> Crash {
        report::gather(&mut self.fd, self.index, reason, memory)
    }
}

enum Failure {
    Interrupted,
    Crashed(String),
}

fn write_ports(ports: &Bus, port: u16, data: &[u8], unit: usize) -> Outcome {
    for chunk in data.chunks(unit) {
        match ports.write(u64::from(port), chunk) {
            None | Some(Outcome::Nothing) => {}
            Some(outcome) => return outcome,
        }
    }
    Outcome::Nothing
}

fn other_exit(exit: &VcpuExit) -> Result<Outcome, Failure> {
    const EVENT_SHUTDOWN: u32 = kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN;
    const EVENT_RESET: u32 = kvm_bindings::KVM_SYSTEM_EVENT_RESET;
    let crashed = |reason: &str| Err(Failure::Crashed(reason.to_owned()));
    match exit {
        VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::IoapicEoi(_) => {
            Ok(Outcome::Nothing)
        }
        VcpuExit::SystemEvent(EVENT_SHUTDOWN, _) => Ok(Outcome::PowerOff),
        VcpuExit::SystemEvent(EVENT_RESET, _) => Ok(Outcome::Reset),
        VcpuExit::Shutdown => crashed("triple fault"),
        VcpuExit::InternalError => crashed(report::INTERNAL_ERROR),
        VcpuExit::FailEntry(reason, cpu) => Err(Failure::Crashed(format!(
            "the processor refused to enter the guest (reason {reason:#x}, host CPU {cpu})"
        ))),
        other => Err(Failure::Crashed(format!(
            "unexpected exit from KVM: {other:?}"
        ))),
    }
}
