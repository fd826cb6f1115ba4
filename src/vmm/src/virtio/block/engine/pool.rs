use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{Builder, JoinHandle},
    time::Instant,
};

use vmm_sys_util::eventfd::EventFd;

use super::{super::image::Image, super::io::Io, Answered, Tag};
use crate::{
    virtio::{Confine, Duty},
    worker::sleep_at,
};

/// Threads besides the queue's own: as many calls are under way at a time, and one more.
const HELPERS: usize = 3;
/// What a thread needs besides its stack for libraries.
const STACK: usize = 128 << 10;

/// A few threads that perform calls one by one, for hosts without io_uring.
///
/// The queue's own thread performs the last of a batch itself: a driver that asks for one thing at a time wakes nobody else.
pub(in super::super) struct Pool {
    shared: Arc<Shared>,
    /// Not begun.
    submitted: VecDeque<(Tag, Io)>,
    /// Answered, and not yet collected.
    answered: VecDeque<Answered>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    work: Mutex<Work>,
    /// There is something to do.
    more: Condvar,
    /// Rung when the first answer lies there, by those who are not the queue's own thread.
    bell: EventFd,
}

struct Work {
    image: Arc<Image>,
    waiting: VecDeque<(Tag, Io)>,
    answered: VecDeque<Answered>,
    over: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a helper does until the pool is gone.
    fn help(&self) {
        let mut work = self.lock();
        while !work.over {
            let Some((tag, io)) = work.waiting.pop_front() else {
                work = self.more.wait(work).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let image = work.image.clone();
            drop(work);
            let answer = io.perform(&image);
            work = self.lock();
            work.answered.push_back(Answered { tag, io, answer });
            if work.answered.len() == 1 {
                // It fails only when the count is full, and then the thread is awake.
                let _ = self.bell.write(1);
            }
        }
    }
}

impl Pool {
    pub(super) fn new(
        depth: u16,
        image: Arc<Image>,
        bell: EventFd,
        confine: &Confine,
    ) -> io::Result<Self> {
        let room = usize::from(depth);
        let work = Work {
            image,
            waiting: VecDeque::with_capacity(room),
            answered: VecDeque::with_capacity(room),
            over: false,
        };
        let shared = Arc::new(Shared {
            work: Mutex::new(work),
            more: Condvar::new(),
            bell,
        });
        let mut pool = Self {
            shared: shared.clone(),
            submitted: VecDeque::with_capacity(room),
            answered: VecDeque::with_capacity(room),
            threads: Vec::with_capacity(HELPERS),
        };
        let name = std::thread::current().name().unwrap_or("disk").to_owned();
        for _ in 0..HELPERS {
            let (shared, confine) = (shared.clone(), confine.clone());
            let thread = Builder::new().name(name.clone()).stack_size(STACK);
            pool.threads.push(thread.spawn(move || {
                confine(Duty::BlockCalls);
                shared.help();
            })?);
        }
        Ok(pool)
    }

    pub(super) fn submit(&mut self, tag: Tag, io: Io) {
        self.submitted.push_back((tag, io));
    }

    pub(super) fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        let own = self.submitted.pop_back();
        if !self.submitted.is_empty() {
            let mut work = self.shared.lock();
            let helpers = self.submitted.len().min(HELPERS);
            work.waiting.extend(self.submitted.drain(..));
            drop(work);
            for _ in 0..helpers {
                self.shared.more.notify_one();
            }
        }
        match own {
            Some((tag, io)) => {
                let image = self.shared.lock().image.clone();
                let answer = io.perform(&image);
                self.answered.push_back(Answered { tag, io, answer });
            }
            None if self.shared.lock().answered.is_empty() => sleep_at(&self.shared.bell, until)?,
            None => {}
        }
        self.answered.append(&mut self.shared.lock().answered);
        Ok(())
    }

    pub(super) fn collect(&mut self) -> Option<Answered> {
        self.answered.pop_front()
    }

    pub(super) fn take_image(&mut self, image: Arc<Image>) {
        self.shared.lock().image = image;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.more.notify_all();
        for thread in self.threads.drain(..) {
            // A panic there has been reported where it happened.
            let _ = thread.join();
        }
    }
}
