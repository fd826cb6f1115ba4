use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;

use super::control::Order;
use crate::vcpu::{Exit, thread::ExitSink};

/// What somebody wants of the machine.
#[derive(Debug)]
pub(super) enum Request {
    /// A vCPU's guest has ended.
    Ended(Exit),
    /// The guest shall power off; asked again, it is killed.
    PowerButton,
    /// The machine shall end now.
    Kill,
    /// Somebody else's thread wants something, and waits for the answer.
    Ordered(Order),
}

/// The machine's inbox. Any thread may put something in; the machine's thread takes it out.
#[derive(Debug)]
pub(super) struct Requests {
    queue: Mutex<Queue>,
    wake: EventFd,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Request>,
    /// Nobody takes anything out any more.
    closed: bool,
}

impl Requests {
    pub(super) fn new() -> io::Result<Self> {
        let wake = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self {
            queue: Mutex::default(),
            wake,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, request: Request) {
        let mut queue = self.lock();
        if queue.closed {
            return;
        }
        queue.waiting.push_back(request);
        drop(queue);
        // Fails only when the counter is at its limit, and then it is readable already.
        let _ = self.wake.write(1);
    }

    pub(super) fn take(&self) -> Option<Request> {
        self.lock().waiting.pop_front()
    }

    /// Drops what waits, and all that comes: the machine is gone. Who waits for an answer hears of it.
    pub(super) fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        queue.waiting.clear();
    }

    /// Drops what vCPUs of a VM that is gone had to tell.
    pub(super) fn forget_exits(&self) {
        self.lock()
            .waiting
            .retain(|request| !matches!(request, Request::Ended(_)));
    }
}

impl ExitSink for Requests {
    fn ended(&self, exit: Exit) {
        self.put(Request::Ended(exit));
    }
}

/// Ends the event loop's wait when there is a request; the machine takes it then.
pub(super) struct Waker(pub(super) Arc<Requests>);

impl MutEventSubscriber for Waker {
    fn init(&mut self, ops: &mut EventOps) {
        ops.add(Events::new(&self.0.wake, EventSet::IN))
            .expect("an eventfd can be waited for");
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        // Nobody else reads it, and the loop comes again should there be more.
        let _ = self.0.wake.read();
    }
}
