//! The thread that a vCPU lives on.
use std::{
    cell::Cell,
    io, ptr,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
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

/// The next assignment, or the word that there is none.
#[derive(Default)]
struct Desk {
    next: Mutex<Option<Next>>,
    filled: Condvar,
    /// The kernel's id of the thread that sits here; 0 before it does.
    thread: AtomicI32,
}

enum Next {
    Run(Box<Assignment>),
    Finish,
}

impl Desk {
    fn put(&self, next: Next) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
        self.filled.notify_one();
    }

    fn take(&self) -> Option<Box<Assignment>> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match next.take() {
                Some(Next::Run(assignment)) => return Some(assignment),
                Some(Next::Finish) => return None,
                None => {
                    next = self
                        .filled
                        .wait(next)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        }
    }
}

/// A thread that runs vCPUs, one after another.
pub struct VcpuThread {
    handle: Option<JoinHandle<()>>,
    desk: Arc<Desk>,
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
                while let Some(assignment) = own.take() {
                    serve(*assignment, exits.as_ref());
                }
            })?;
        Ok(Self {
            handle: Some(handle),
            desk,
        })
    }

    /// Gives the thread its next vCPU.
    pub fn assign(&self, assignment: Assignment) {
        self.desk.put(Next::Run(Box::new(assignment)));
    }

    /// Calls the vCPU out of the guest, if it is there.
    pub fn kick(&self) {
        let thread = self.desk.thread.load(Ordering::Acquire);
        if thread != 0 {
            // `pthread_kill` makes other system calls with each C library, which a filter would have to allow.
            // SAFETY: the signal has a handler, installed before threads are; the thread is joined in `drop` only.
            unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, SIGRTMIN()) };
        }
    }
}

impl Drop for VcpuThread {
    fn drop(&mut self) {
        self.desk.put(Next::Finish);
        if let Some(handle) = self.handle.take() {
            // A panic there has been reported where it happened.
            let _ = handle.join();
        }
    }
}

/// Runs one vCPU until its machine is stopped.
fn serve(assignment: Assignment, exits: &dyn ExitSink) {
    let Assignment {
        mut vcpu,
        around,
        gate,
    } = assignment;
    RUN_PAGE.set(vcpu.run_page());
    while gate.enter() {
        let exit = vcpu.run(&around);
        gate.leave();
        if !matches!(exit, Exit::Interrupted) {
            exits.ended(exit);
            gate.wait_for_stop();
            break;
        }
    }
    RUN_PAGE.set(ptr::null_mut());
}
