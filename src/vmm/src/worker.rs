//! A thread that serves a device: parked before the guest runs, given jobs, paused, and sent home.
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

/// Sleeps until somebody rings `bell`, whose reads block, or it is `until`.
///
/// # Errors
/// What the host says.
pub fn sleep_at(bell: &EventFd, until: Option<Instant>) -> io::Result<()> {
    if let Some(until) = until {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: it is open as long as it is borrowed here.
        let descriptor = unsafe { BorrowedFd::borrow_raw(bell.as_raw_fd()) };
        let mut descriptors = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
        match poll(&mut descriptors, Some(&left)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
            other => other?,
        };
    }
    // What it says does not matter: there is no harm in looking.
    let _ = bell.read();
    Ok(())
}

/// What lies between such a thread and those who direct it. `J` is what it works on, from a driver's start to its reset.
///
/// The bell is the one thing that the thread sleeps at: a driver rings it for new work, and whoever has an order for the thread
/// rings it too.
pub struct Desk<J> {
    papers: Mutex<Papers<J>>,
    changed: Condvar,
    /// Whether the thread should look at the papers before it does more: a driver may keep it busy for ever.
    urgent: AtomicBool,
    bell: EventFd,
}

/// Somebody asked for what stands still only during a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the device is not paused")]
pub struct NotPaused;

struct Papers<J> {
    next: Option<J>,
    /// The thread's job, while it waits for the end of a pause.
    resting: Option<J>,
    stop: bool,
    /// Pauses that have begun and not ended.
    pauses: u32,
    finish: bool,
    /// Whether the thread has a job. Only it clears this.
    busy: bool,
    /// Whether the thread waits for the end of a pause. Only it sets this.
    quiet: bool,
}

impl<J> Desk<J> {
    /// A desk whose thread is still to come, with its bell.
    pub fn new(bell: EventFd) -> Self {
        Self {
            papers: Mutex::new(Papers {
                next: None,
                resting: None,
                stop: false,
                pauses: 0,
                finish: false,
                busy: false,
                quiet: false,
            }),
            changed: Condvar::new(),
            urgent: AtomicBool::new(false),
            bell,
        }
    }

    /// What the thread sleeps at.
    pub fn bell(&self) -> &EventFd {
        &self.bell
    }

    /// Wakes the thread, if it sleeps.
    pub fn ring(&self) {
        // It fails only when the count is full, and then the thread is awake.
        let _ = self.bell.write(1);
    }

    /// Hands `job` over.
    pub fn start(&self, job: J) {
        let mut papers = self.lock();
        papers.next = Some(job);
        papers.busy = true;
        drop(papers);
        self.order();
    }

    /// Takes the job away, and comes back when nothing of it is in flight.
    pub fn stop(&self) {
        let mut papers = self.lock();
        if !papers.busy {
            return;
        }
        papers.stop = true;
        self.order();
        drop(self.wait_while(papers, |papers| papers.busy));
    }

    /// Comes back when nothing is in flight and nothing will be begun, until as many [resumes](Self::resume) as pauses.
    pub fn pause(&self) {
        let mut papers = self.lock();
        papers.pauses += 1;
        if papers.busy {
            self.order();
            drop(self.wait_while(papers, |papers| papers.busy && !papers.quiet));
        }
    }

    /// What `look` sees in the job, if there is one, during a pause: nobody works on it then.
    ///
    /// # Errors
    /// When there is no pause: the thread has its job with it.
    pub fn look<T>(&self, look: impl FnOnce(&J) -> T) -> Result<Option<T>, NotPaused> {
        let papers = self.lock();
        if papers.pauses == 0 {
            return Err(NotPaused);
        }
        // One that was handed over during the pause is still to be taken up.
        let job = papers.next.as_ref().or(papers.resting.as_ref());
        Ok(job.map(look))
    }

    /// Ends a pause, if there is one.
    pub fn resume(&self) {
        let mut papers = self.lock();
        papers.pauses = papers.pauses.saturating_sub(1);
        drop(papers);
        self.order();
    }

    /// Sends the thread home.
    pub fn finish(&self) {
        self.lock().finish = true;
        self.order();
    }

    /// The thread's side: whether there is something to take up at [`next`](Self::next) before anything else is begun.
    pub fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Acquire)
    }

    /// The thread's side, when nothing is in flight: sits out a pause, and takes up or gives up a job. Whether to go on at all.
    pub fn next(&self, job: &mut Option<J>) -> bool {
        let mut papers = self.lock();
        // Who sets it rings as well: none is missed between this and the sleep at the bell.
        self.urgent.store(false, Ordering::Release);
        if papers.pauses > 0 {
            papers.quiet = true;
            papers.resting = job.take();
            self.changed.notify_all();
            papers = self.wait_while(papers, |papers| {
                papers.pauses > 0 && !papers.stop && !papers.finish
            });
            papers.quiet = false;
            *job = papers.resting.take();
        }
        if papers.stop || papers.finish {
            *job = None;
            papers.next = None;
            papers.stop = false;
            papers.busy = false;
            self.changed.notify_all();
        }
        if let Some(next) = papers.next.take() {
            *job = Some(next);
        }
        !papers.finish
    }

    /// The thread looks at its papers, wherever it sleeps and however busy it is.
    pub fn order(&self) {
        self.urgent.store(true, Ordering::Release);
        self.changed.notify_all();
        self.ring();
    }

    fn lock(&self) -> MutexGuard<'_, Papers<J>> {
        self.papers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while `hold` says so.
    fn wait_while<'a>(
        &self,
        papers: MutexGuard<'a, Papers<J>>,
        hold: impl Fn(&Papers<J>) -> bool,
    ) -> MutexGuard<'a, Papers<J>> {
        self.changed
            .wait_while(papers, |papers| hold(papers))
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    /// A thread that adds one to its job at each turn.
    fn at_work() -> (Arc<Desk<u64>>, thread::JoinHandle<()>) {
        let desk = Arc::new(Desk::new(EventFd::new(0).unwrap()));
        let side = desk.clone();
        let thread = thread::spawn(move || {
            let mut job = None;
            while side.next(&mut job) {
                while !side.is_urgent() {
                    match &mut job {
                        Some(count) => *count += 1,
                        None => drop(side.bell().read()),
                    }
                }
            }
        });
        (desk, thread)
    }

    #[test]
    fn a_job_is_seen_during_a_pause_and_stands_still() {
        let (desk, thread) = at_work();
        assert_eq!(desk.look(|count| *count), Err(NotPaused));
        // Handed over during a pause, it is seen at once, and after that as it was left.
        desk.pause();
        assert_eq!(desk.look(|count| *count), Ok(None));
        desk.start(5);
        assert_eq!(desk.look(|count| *count), Ok(Some(5)));
        desk.resume();
        let mut seen = 5;
        for _ in 0..10 {
            desk.pause();
            let count = desk.look(|count| *count).unwrap().unwrap();
            assert!(count >= seen);
            seen = count;
            desk.pause();
            assert_eq!(desk.look(|count| *count), Ok(Some(count)));
            desk.resume();
            assert_eq!(desk.look(|count| *count), Ok(Some(count)));
            desk.resume();
        }
        assert_eq!(desk.look(|count| *count), Err(NotPaused));
        // What is taken away during a pause is gone.
        desk.pause();
        desk.stop();
        assert_eq!(desk.look(|count| *count), Ok(None));
        desk.resume();
        desk.finish();
        thread.join().unwrap();
    }
}
