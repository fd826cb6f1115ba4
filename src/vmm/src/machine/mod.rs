//! A machine: built from opened parts, confined, run to its end. The only place that knows every part.
mod board;
pub mod console;
mod control;
mod outpost;
mod requests;
mod signals;
mod threads;

use std::{
    fmt, io,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use thiserror::Error;
use vm_memory::{Bytes, GuestMemoryMmap};

use self::{
    board::Board,
    console::{Console, Ends},
    control::{Attending, Wish},
    requests::{Request, Requests},
    signals::Signals,
    threads::{spawn_vcpus, start_devices},
};
pub use self::{
    control::{Attendant, Control, ControlError},
    outpost::Outpost,
};
use crate::{
    arch::x86_64::{
        cpuid::Topology,
        layout::{VIRTIO_MMIO_MAX, WARM_BOOT_WORD},
    },
    boot::{
        acpi::AcpiError,
        initrd::{Initrd, InitrdError},
        kernel::{Entry, Kernel, KernelError},
    },
    config::{self, Transport, boot_args},
    kvm::{Hypervisor, KvmError},
    legacy::serial::Wire,
    sandbox::{self, Filter, PathsGone, Role, SandboxError},
    timeline::{Phase, Timeline},
    vcpu::{
        Crash, Exit, Surroundings,
        thread::{Assignment, VcpuThread, install_kick_handler},
    },
    virtio::{Device, transport::SharedDevice},
};

// One limit, told on two floors of which neither sees the other.
const _: () = assert!(config::MAX_DRIVES == VIRTIO_MMIO_MAX as usize);

/// Virtio devices: they outlive a machine's resets.
#[derive(Clone, Default)]
pub struct Devices {
    /// Those that the guest finds.
    pub present: Vec<SharedDevice>,
    /// Those that may come while it runs, each into a PCI slot of its own: at most [`free_slots`](Self::free_slots). Without PCI: none.
    pub spare: Vec<SharedDevice>,
}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} devices, {} spare",
            self.present.len(),
            self.spare.len()
        )
    }
}

impl Devices {
    /// How many slots of a PCI bus nobody sits in, where nobody has to share one.
    pub fn free_slots(&self) -> usize {
        crate::pci::MAX_SLOTS.saturating_sub(self.present.len())
    }

    fn len(&self) -> usize {
        self.present.len() + self.spare.len()
    }

    fn each(&self, mut call: impl FnMut(&mut dyn Device)) {
        for device in self.present.iter().chain(&self.spare) {
            call(&mut *device.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// Everything that a machine is built from, opened: nothing is looked up by path from here on.
#[derive(Debug)]
pub struct Parts {
    /// `/dev/kvm`.
    pub hypervisor: Hypervisor,
    /// Guest RAM.
    pub memory: GuestMemoryMmap,
    /// Bytes of guest RAM.
    pub ram: u64,
    /// The kernel.
    pub kernel: Kernel,
    /// How it is entered.
    pub entry: Entry,
    /// The initial RAM disk.
    pub initrd: Option<Initrd>,
    /// The kernel's command line, without NUL.
    pub command_line: String,
    /// The arrangement of vCPUs.
    pub topology: Topology,
    /// Whether the guest sees a performance monitoring unit.
    pub pmu: bool,
    /// Its virtio devices, at most [`VIRTIO_MMIO_MAX`], without threads.
    pub devices: Devices,
    /// How the guest finds them.
    pub transport: Transport,
    /// What is behind those of its network cards that have no TAP.
    pub outposts: Vec<Outpost>,
}

/// How a machine behaves towards its guest's end.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Power on again when the guest resets, instead of ending.
    pub restart: bool,
    /// How long a guest that was asked to power off may take.
    pub stop_timeout: Duration,
    /// Whether the sandbox stands. Off is for debugging this program, never for running guests.
    pub sandbox: bool,
}

/// Why a machine could not be built or run.
#[derive(Debug, Error)]
pub enum MachineError {
    /// The kernel does not load.
    #[error("kernel: {0}")]
    Kernel(#[from] KernelError),
    /// The initrd does not load.
    #[error("initrd: {0}")]
    Initrd(#[from] InitrdError),
    /// ACPI tables do not fit.
    #[error("{0}")]
    Acpi(#[from] AcpiError),
    /// Boot structures do not fit.
    #[error("guest memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// KVM refused.
    #[error("{0}")]
    Kvm(#[from] KvmError),
    /// The table of CPUID leaves or MSRs does not fit.
    #[error("CPUID or MSRs: {0:?}")]
    Registers(vmm_sys_util::fam::Error),
    /// Two devices at one place: a defect of this program.
    #[error("{0}")]
    Bus(#[from] crate::bus::BusError),
    /// The sandbox does not stand.
    #[error("the sandbox cannot be built: {0}")]
    Sandbox(#[from] SandboxError),
    /// Descriptors or threads ran out.
    #[error("the host refused {0}: {1}")]
    Host(&'static str, io::Error),
}

/// How a machine ended.
#[derive(Debug)]
pub enum Ending {
    /// The guest switched itself off.
    PowerOff,
    /// The guest reset itself.
    Reset,
    /// The guest's kernel panicked, and reset itself.
    Panic,
    /// The guest, or KVM with it, could not go on.
    Crash(Box<Crash>),
    /// It was killed: by a second signal, by its user, or because it did not power off in time.
    Killed(Killed),
}

/// Why a machine was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killed {
    /// It did not power off within the stop time-out.
    TimedOut,
    /// Its user said so.
    ByUser,
}

/// Where in its life a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Built; no guest instruction has run.
    Created,
    /// The guest runs.
    Running,
    /// Every vCPU is out of the guest.
    Paused,
    /// The guest has ended.
    Stopped,
}

/// A machine.
pub struct Machine {
    parts: Parts,
    policy: Policy,
    timeline: Arc<Timeline>,
    state: State,
    requests: Arc<Requests>,
    wire: Arc<Wire>,
    port: console::PortSlot,
    board: Board,
    threads: Vec<VcpuThread>,
    attendants: Vec<Attending>,
    events: EventManager<Box<dyn MutEventSubscriber>>,
    /// When the guest is killed, once it was asked to power off.
    deadline: Option<Instant>,
    /// Which spare devices have come.
    plugged: Vec<bool>,
    paths: Option<PathsGone>,
}

impl Machine {
    /// Builds a machine and confines this process: the last thing that may open anything. Its console's bytes come and go
    /// at `ends`. `attendants` begin to direct it at once, and are answered when it is [run](Self::run).
    ///
    /// # Errors
    /// When a part does not fit the machine, KVM refuses, or the sandbox cannot be built.
    pub fn build(
        mut parts: Parts,
        policy: Policy,
        ends: Ends,
        attendants: Vec<Attendant>,
        timeline: Arc<Timeline>,
    ) -> Result<Self, MachineError> {
        let host = |what| move |error| MachineError::Host(what, error);
        let wire = Arc::new(Wire::new(timeline.clone()).map_err(host("event descriptors"))?);
        let requests = Arc::new(Requests::new().map_err(host("event descriptors"))?);
        let plugged = vec![false; parts.devices.spare.len()];
        let mut board = Board::power_on(&parts, &plugged, &wire, &timeline)?;
        let port = console::PortSlot::new(board.serial.clone());
        let mut events = EventManager::<Box<dyn MutEventSubscriber>>::new_with_capacity(8)
            .map_err(|error| {
                MachineError::Host("an epoll descriptor", io::Error::other(error.to_string()))
            })?;
        let console = Console::new(ends, wire.clone(), port.clone(), requests.clone());
        events.add_subscriber(Box::new(console));
        events.add_subscriber(Box::new(requests::Waker(requests.clone())));
        let signals = Signals::block(requests.clone()).map_err(host("a signal descriptor"))?;
        events.add_subscriber(Box::new(signals));
        install_kick_handler().map_err(host("a signal handler"))?;
        for outpost in std::mem::take(&mut parts.outposts) {
            outpost.start(policy)?;
        }
        let paths = policy.sandbox.then(sandbox::confine_process).transpose()?;
        start_devices(&parts.devices, policy)?;
        let threads = spawn_vcpus(&parts, policy, &requests)?;
        assign(&mut board, &threads);
        let role = machine_role(policy, !attendants.is_empty());
        let attendants = attendants.into_iter();
        let attendants = attendants
            .map(|attendant| attendant.start(&requests, policy))
            .collect::<Result<_, _>>()?;
        if policy.sandbox {
            Filter::new(role).install()?;
        }
        timeline.mark(Phase::Confined);
        Ok(Self {
            parts,
            policy,
            timeline,
            state: State::Created,
            requests,
            wire,
            port,
            board,
            threads,
            attendants,
            events,
            deadline: None,
            plugged,
            paths,
        })
    }

    /// How far paths are out of this process's reach; none without the sandbox.
    pub fn paths_gone(&self) -> Option<PathsGone> {
        self.paths
    }

    /// Where in its life it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// What the vCPUs share since the last power-on, with the counters of their exits.
    pub fn surroundings(&self) -> &Surroundings {
        &self.board.around
    }

    /// Lets the vCPUs run: starts a created machine, resumes a paused one. No effect in other states.
    pub fn resume(&mut self) {
        if matches!(self.state, State::Created | State::Paused) {
            self.parts.devices.each(|device| device.resume());
            self.board.gate.open();
            self.state = State::Running;
        }
    }

    /// Takes every vCPU out of the guest, and comes back when all are out. No effect unless it runs.
    pub fn pause(&mut self) {
        if self.state == State::Running {
            self.board
                .gate
                .shut(|| self.threads.iter().for_each(VcpuThread::kick));
            self.parts.devices.each(|device| device.pause());
            self.state = State::Paused;
        }
    }

    /// Runs the machine until its guest has ended, its last output is written, and its attendants have finished.
    ///
    /// # Errors
    /// When the event loop fails, or the guest resets and cannot be powered on again.
    pub fn run(&mut self) -> Result<Ending, MachineError> {
        let ending = self.run_guest();
        if !self.attendants.is_empty() {
            // None of them is to wait for an answer now.
            self.requests.close();
            self.attendants.iter().for_each(Attending::dismiss);
        }
        ending
    }

    fn run_guest(&mut self) -> Result<Ending, MachineError> {
        let mut ending = None;
        self.resume();
        loop {
            while let Some(request) = self.requests.take() {
                match self.serve(request, ending.is_some())? {
                    Some(killed @ Ending::Killed(_)) => return Ok(ending.unwrap_or(killed)),
                    Some(other) if ending.is_none() => ending = Some(other),
                    _ => {}
                }
            }
            match ending {
                // What the guest said last is still on its way to a slow reader.
                Some(_) if !self.wire.is_empty() => {}
                Some(ending) => return Ok(ending),
                None if self.deadline.is_some_and(|at| at <= Instant::now()) => {
                    return Ok(Ending::Killed(Killed::TimedOut));
                }
                None => {}
            }
            self.events
                .run_with_timeout(self.milliseconds_left())
                .map_err(|error| {
                    MachineError::Host("to wait for events", io::Error::other(error.to_string()))
                })?;
        }
    }

    fn milliseconds_left(&self) -> i32 {
        match self.deadline {
            None => -1,
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now());
                // Rounded up, so as not to wake a little early over and over.
                i32::try_from(left.as_millis().saturating_add(1)).unwrap_or(i32::MAX)
            }
        }
    }

    /// Does what was asked; the machine's ending if that is it.
    fn serve(&mut self, request: Request, ended: bool) -> Result<Option<Ending>, MachineError> {
        Ok(match request {
            Request::Ended(exit) => self.guest_ended(exit)?,
            Request::Kill => Some(Ending::Killed(Killed::ByUser)),
            Request::PowerButton if self.deadline.is_some() || ended => {
                Some(Ending::Killed(Killed::ByUser))
            }
            Request::PowerButton => {
                self.board.press_power_button();
                self.deadline = Some(Instant::now() + self.policy.stop_timeout);
                None
            }
            Request::Ordered(order) => {
                self.obey(order.wish);
                order.answer(self.state);
                None
            }
        })
    }

    fn obey(&mut self, wish: Wish) {
        match wish {
            Wish::Tell => {}
            Wish::Pause => self.pause(),
            Wish::Resume => self.resume(),
            Wish::PressPowerButton => self.board.press_power_button(),
            Wish::Plug(spare) => self.plug(spare),
        }
    }

    /// Puts a spare device into its slot, and tells the guest. Once.
    fn plug(&mut self, spare: usize) {
        let there = self.plugged.get_mut(spare);
        if let Some(there) = there.filter(|there| !**there && self.state != State::Stopped) {
            *there = true;
            self.board.plug(&self.parts, spare);
        }
    }

    fn guest_ended(&mut self, exit: Exit) -> Result<Option<Ending>, MachineError> {
        let ending = match exit {
            Exit::Interrupted => return Ok(None),
            Exit::PowerOff => Ending::PowerOff,
            Exit::Crash(crash) => Ending::Crash(crash),
            Exit::Reset if self.panicked() => Ending::Panic,
            Exit::Reset if self.policy.restart && self.deadline.is_none() => {
                self.power_on_again()?;
                return Ok(None);
            }
            Exit::Reset => Ending::Reset,
        };
        self.state = State::Stopped;
        self.timeline.mark(Phase::Ended);
        Ok(Some(ending))
    }

    /// Whether the guest's kernel panicked before it reset: by our default command line it asks for a warm reset then,
    /// and only then.
    fn panicked(&self) -> bool {
        const WARM: u16 = 0x1234;
        let word = self.parts.memory.read_obj::<u16>(WARM_BOOT_WORD);
        boot_args::marks_panics(&self.parts.command_line) && word.is_ok_and(|word| word == WARM)
    }

    /// A reset in place: the same process, files, console and threads; a new VM in cleared memory.
    fn power_on_again(&mut self) -> Result<(), MachineError> {
        self.board
            .gate
            .stop(|| self.threads.iter().for_each(VcpuThread::kick));
        self.threads
            .iter()
            .for_each(|thread| drop(thread.take_back()));
        self.parts.devices.each(|device| device.reset());
        crate::memory::clear(&self.parts.memory)
            .map_err(|error| MachineError::Host("to clear guest memory", error))?;
        self.board = Board::power_on(&self.parts, &self.plugged, &self.wire, &self.timeline)?;
        self.port.set(self.board.serial.clone());
        assign(&mut self.board, &self.threads);
        self.requests.forget_exits();
        // It may have been paused while its guest was resetting itself.
        if self.state == State::Running {
            self.board.gate.open();
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.requests.close();
        self.board
            .gate
            .stop(|| self.threads.iter().for_each(VcpuThread::kick));
    }
}

fn machine_role(policy: Policy, attended: bool) -> Role {
    match (policy.restart, attended) {
        (true, _) => Role::RestartingMachine,
        (false, true) => Role::AttendedMachine,
        (false, false) => Role::Machine,
    }
}

fn assign(board: &mut Board, threads: &[VcpuThread]) {
    for (vcpu, thread) in board.vcpus.drain(..).zip(threads) {
        thread.assign(Assignment {
            vcpu,
            around: board.around.clone(),
            gate: board.gate.clone(),
        });
    }
}
