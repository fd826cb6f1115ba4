//! The thread that a vCPU lives on.
use std::{
    cell::Cell,
    io, ptr,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
    thread::{Builder, JoinHandle},
};

use kvm_bindings::kvm_run;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use super::{Exit, Surroundings, Vcpu, gate::Gate};

/// What a thread needs besides its stack for libraries: it recurses nowhere and keeps no large buffers there.
const STACK: usize = 128 << 10;
thread_local! {
    static RUN_PAGE: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };
}

/// Makes the next `KVM_RUN` of this thread return at once, or the one that the signal interrupted.
extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // Constant-initialised and without a destructor: reading it in a signal handler is only a load.
    let page = RUN_PAGE.get();
    if !page.is_null() {
        // SAFETY: the page belongs to the vCPU that this thread runs, which clears the pointer before it goes. KVM
        // documents that this field may be written while KVM_RUN is under way.
        unsafe { ptr::addr_of_mut!((*page).immediate_exit).write_volatile(1) };
    }
}

/// Prepares this process for [`VcpuThread::kick`].
///
/// # Errors
/// When the signal handler cannot be installed.
pub fn install_kick_handler() -> io::Result<()> {
    register_signal_handler(SIGRTMIN(), on_kick).map_err(io::Error::from)
}

/// Where a thread tells how its guest ended.
pub trait ExitSink: Send + Sync {
    /// Takes the exit of one vCPU; called on its thread, at most once per power-on.
    fn ended(&self, exit: Exit);
}

/// A vCPU and all it needs from one power-on to the next reset.
pub struct Assignment {
    /// The vCPU.
    pub vcpu: Vcpu,
    /// Where its exits go.
    pub around: Arc<Surroundings>,
    /// When it may run.
    pub gate: Arc<Gate>,
}

/// Where a thread finds its next assignment and leaves its last one.
#[derive(Default)]
struct Desk {
    papers: Mutex<Papers>,
    changed: Condvar,
    /// The kernel's id of the thread that sits here; 0 before it does.
    thread: AtomicI32,
}

#[derive(Default)]
struct Papers {
    next: Option<Next>,
    done: Option<Box<Assignment>>,
}

enum Next {
    Run(Box<Assignment>),
    Finish,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Papers> {
        self.papers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Papers)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `found` finds something.
    fn wait_for<T>(&self, found: impl Fn(&mut Papers) -> Option<T>) -> T {
        let mut papers = self.lock();
        loop {
            if let Some(value) = found(&mut papers) {
                return value;
            }
            papers = self
                .changed
                .wait(papers)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A thread that runs vCPUs, one after another.
pub struct VcpuThread {
    handle: Option<JoinHandle<()>>,
    desk: Arc<Desk>,
    /// This process, asked for while the sandbox still lets one ask.
    process: u32,
}

impl VcpuThread {
    /// Starts a thread named `vcpuINDEX`. It calls `confine` first, and waits for an assignment.
    ///
    /// # Errors
    /// When the host has no room for another thread.
    pub fn spawn(
        index: u8,
        exits: Arc<dyn ExitSink>,
        confine: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let own = desk.clone();
        let handle = Builder::new()
            .name(format!("vcpu{index}"))
            .stack_size(STACK)
            .spawn(move || {
                own.thread.store(
                    rustix::thread::gettid().as_raw_nonzero().get(),
                    Ordering::Release,
                );
                confine();
                while let Next::Run(mut assignment) = own.wait_for(|papers| papers.next.take()) {
                    serve(&mut assignment, exits.as_ref());
                    own.change(|papers| papers.done = Some(assignment));
                }
            })?;
        Ok(Self {
            handle: Some(handle),
            desk,
            process: std::process::id(),
        })
    }

    /// Gives the thread its next vCPU.
    pub fn assign(&self, assignment: Assignment) {
        let next = Next::Run(Box::new(assignment));
        self.desk.change(|papers| papers.next = Some(next));
    }

    /// Takes back the assignment of a thread whose gate has been stopped. To close its vCPU is for the caller: the thread
    /// itself cannot, since its sandbox lets it close nothing.
    pub fn take_back(&self) -> Assignment {
        *self.desk.wait_for(|papers| papers.done.take())
    }

    /// Calls the vCPU out of the guest, if it is there.
    pub fn kick(&self) {
        let thread = self.desk.thread.load(Ordering::Acquire);
        if thread != 0 {
            // `pthread_kill` makes other system calls with each C library, which a filter would have to allow.
            // SAFETY: the signal has a handler, installed before threads are; the thread is joined in `drop` only.
            unsafe { libc::syscall(libc::SYS_tgkill, self.process, thread, SIGRTMIN()) };
        }
    }
}

impl Drop for VcpuThread {
    fn drop(&mut self) {
        self.desk.change(|papers| papers.next = Some(Next::Finish));
        if let Some(handle) = self.handle.take() {
            // A panic there has been reported where it happened.
            let _ = handle.join();
        }
    }
}

/// Runs one vCPU until its machine is stopped.
fn serve(assignment: &mut Assignment, exits: &dyn ExitSink) {
    let Assignment { vcpu, around, gate } = assignment;
    RUN_PAGE.set(vcpu.run_page());
    while gate.enter() {
        let exit = vcpu.run(around);
        gate.leave();
        if !matches!(exit, Exit::Interrupted) {
            exits.ended(exit);
            gate.wait_for_stop();
            break;
        }
    }
    RUN_PAGE.set(ptr::null_mut());
}
