//! The thread that serves a block device's queue. It exists, parked, before the machine is confined.
use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder, JoinHandle},
};

use vmm_sys_util::eventfd::EventFd;

use super::{disk::Disk, request};
use crate::{
    metrics::Counter,
    virtio::{
        Confine, Interrupt,
        queue::{Broken, Chain, Queue},
    },
};

/// What its thread needs besides its stack for libraries.
const STACK: usize = 128 << 10;

/// What the device did, since it exists.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests that ended, whatever their status.
    pub requests: Counter,
    /// Those that the host refused.
    pub errors: Counter,
    /// Interrupts raised.
    pub interrupts: Counter,
    /// Times that the thread was woken.
    pub wakeups: Counter,
}

/// A queue in use, and how its driver is told.
struct Job {
    queue: Queue,
    interrupt: Interrupt,
}

/// What lies between the thread and those who direct it.
#[derive(Default)]
struct Desk {
    papers: Mutex<Papers>,
    changed: Condvar,
    /// Whether the thread should look at the papers before its next request: a driver may keep it busy for ever.
    urgent: AtomicBool,
}

#[derive(Default)]
struct Papers {
    next: Option<Job>,
    stop: bool,
    pause: bool,
    finish: bool,
    /// Whether the thread has a queue. Only it clears this.
    busy: bool,
    /// Whether the thread waits for the end of a pause. Only it sets this.
    quiet: bool,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Papers> {
        self.papers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while `hold` says so.
    fn wait_while<'a>(
        &self,
        papers: MutexGuard<'a, Papers>,
        hold: impl Fn(&Papers) -> bool,
    ) -> MutexGuard<'a, Papers> {
        self.changed
            .wait_while(papers, |papers| hold(papers))
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread, once it is started, and the doorbell that it sleeps at.
pub(super) struct Worker {
    desk: Arc<Desk>,
    doorbell: Arc<EventFd>,
    handle: Option<JoinHandle<()>>,
}

impl Worker {
    /// A worker without a thread.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            desk: Arc::default(),
            // Blocking: to wait for the driver and for orders is one system call.
            doorbell: Arc::new(EventFd::new(libc::EFD_CLOEXEC)?),
            handle: None,
        })
    }

    /// Starts its thread, called `name`, for `disk`. It calls `confine` first.
    pub(super) fn spawn(
        &mut self,
        name: &str,
        disk: Arc<Disk>,
        counters: Arc<Counters>,
        confine: Confine,
    ) -> io::Result<()> {
        let mut bench = Bench {
            desk: self.desk.clone(),
            doorbell: self.doorbell.clone(),
            disk,
            counters,
            job: None,
            chain: Chain::default(),
        };
        let thread = Builder::new().name(name.to_owned()).stack_size(STACK);
        self.handle = Some(thread.spawn(move || {
            confine();
            bench.work();
        })?);
        Ok(())
    }

    pub(super) fn doorbell(&self) -> &EventFd {
        &self.doorbell
    }

    /// Hands `queue` over.
    pub(super) fn start(&self, queue: Queue, interrupt: Interrupt) {
        let mut papers = self.desk.lock();
        papers.next = Some(Job { queue, interrupt });
        papers.busy = true;
        drop(papers);
        self.ring();
    }

    /// Takes the queue away, and comes back when no request is in flight.
    pub(super) fn stop(&self) {
        let mut papers = self.desk.lock();
        if !papers.busy {
            return;
        }
        papers.stop = true;
        self.wake();
        drop(self.desk.wait_while(papers, |papers| papers.busy));
    }

    /// Comes back when no request is in flight and none will be taken.
    pub(super) fn pause(&self) {
        let mut papers = self.desk.lock();
        if papers.busy {
            papers.pause = true;
            self.wake();
            let moving = |papers: &Papers| papers.busy && !papers.quiet;
            drop(self.desk.wait_while(papers, moving));
        }
    }

    /// Ends a pause, if there is one.
    pub(super) fn resume(&self) {
        if std::mem::take(&mut self.desk.lock().pause) {
            self.wake();
        }
    }

    /// The thread looks at its papers, wherever it sleeps and however busy it is.
    fn wake(&self) {
        self.desk.urgent.store(true, Ordering::Release);
        self.desk.changed.notify_all();
        self.ring();
    }

    fn ring(&self) {
        // It fails only when the count is full, and then the thread is awake.
        let _ = self.doorbell.write(1);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.desk.lock().finish = true;
        self.wake();
        if let Some(handle) = self.handle.take() {
            // A panic there has been reported where it happened.
            let _ = handle.join();
        }
    }
}

/// The thread's side.
struct Bench {
    desk: Arc<Desk>,
    doorbell: Arc<EventFd>,
    disk: Arc<Disk>,
    counters: Arc<Counters>,
    job: Option<Job>,
    chain: Chain,
}

impl Bench {
    fn work(&mut self) {
        while self.take_orders() {
            if let Some(job) = &mut self.job
                && job
                    .serve(
                        &mut self.chain,
                        &self.disk,
                        &self.counters,
                        &self.desk.urgent,
                    )
                    .is_err()
            {
                job.interrupt.needs_reset();
                self.job = None;
            }
            // What it says does not matter: there is no harm in looking.
            let _ = self.doorbell.read();
            self.counters.wakeups.count();
        }
    }

    /// Whether to go on.
    fn take_orders(&mut self) -> bool {
        let mut papers = self.desk.lock();
        // Who sets it rings as well: none is missed between this and the sleep at the bell.
        self.desk.urgent.store(false, Ordering::Release);
        if papers.pause {
            papers.quiet = true;
            self.desk.changed.notify_all();
            papers = self.desk.wait_while(papers, |papers| {
                papers.pause && !papers.stop && !papers.finish
            });
            papers.quiet = false;
        }
        if papers.stop || papers.finish {
            self.job = None;
            papers.next = None;
            papers.stop = false;
            papers.busy = false;
            self.desk.changed.notify_all();
        }
        if let Some(job) = papers.next.take() {
            self.job = Some(job);
        }
        !papers.finish
    }
}

impl Job {
    /// Serves what is there, until there is nothing and the driver will ring for more, or something is `urgent`.
    fn serve(
        &mut self,
        chain: &mut Chain,
        disk: &Disk,
        counters: &Counters,
        urgent: &AtomicBool,
    ) -> Result<(), Broken> {
        let Self { queue, interrupt } = self;
        loop {
            queue.disable_doorbell()?;
            let mut served = false;
            while !urgent.load(Ordering::Acquire) && queue.pop(chain)? {
                let outcome = request::serve(chain, queue.memory(), disk)?;
                queue.push(chain.head, outcome.written)?;
                counters.requests.count();
                if outcome.error.is_some() {
                    counters.errors.count();
                }
                served = true;
            }
            if served && queue.wants_interrupt()? {
                counters.interrupts.count();
                interrupt.used_buffers();
            }
            if !queue.enable_doorbell()? || urgent.load(Ordering::Acquire) {
                return Ok(());
            }
        }
    }
}
