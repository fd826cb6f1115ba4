//! The thread that serves the socket. It exists, parked, before the machine is confined.
use std::{
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{event::epoll, fs::Timespec, io::Errno, net::SocketFlags};
use vmm_sys_util::eventfd::EventFd;

use super::{
    Common,
    guest::{Job, queue},
    switch::{Switch, Taken},
    table::Token,
};
use crate::{
    virtio::{Confine, Duty, queue::Broken},
    worker::Desk,
};

/// What its thread needs besides its stack for libraries.
const STACK: usize = 128 << 10;
/// Packets, turns of connections and clients that are served before all else is looked at again.
const AT_ONCE: usize = 64;
/// Events that one look brings.
const EVENTS: usize = 128;
/// The longest sleep: a deadline that is further away is looked at again.
const LONGEST_SLEEP: Duration = Duration::from_secs(60 * 60);

/// What an event is about that is about no connection.
const BELL: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;

/// The thread, once it is started, and the desk where it gets its orders.
pub(super) struct Worker {
    desk: Arc<Desk<Job>>,
    bench: Option<Bench>,
    handle: Option<JoinHandle<()>>,
}

impl Worker {
    /// A worker without a thread, who serves the clients of `listener`.
    pub(super) fn new(common: Arc<Common>, listener: OwnedFd) -> io::Result<Self> {
        let desk = Arc::new(Desk::new(EventFd::new(
            libc::EFD_CLOEXEC | libc::EFD_NONBLOCK,
        )?));
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Each ring is told once, so that the count in the bell need not be read.
        let once = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&poll, bell(&desk), epoll::EventData::new_u64(BELL), once)?;
        epoll::add(&poll, &listener, epoll::EventData::new_u64(LISTENER), once)?;
        Ok(Self {
            bench: Some(Bench {
                desk: desk.clone(),
                switch: Switch::new(common.clone(), poll),
                common,
                listener,
                knocking: true,
                shut_out_at: None,
                job: None,
                epoch: 0,
                busy: true,
                told: Vec::with_capacity(EVENTS),
            }),
            desk,
            handle: None,
        })
    }

    /// Starts its thread, called `name`. It calls `confine` before it serves anything.
    pub(super) fn spawn(&mut self, name: &str, confine: Confine) -> io::Result<()> {
        let Some(mut bench) = self.bench.take() else {
            return Ok(());
        };
        let thread = Builder::new().name(name.to_owned()).stack_size(STACK);
        self.handle = Some(thread.spawn(move || {
            confine(Duty::Vsock);
            bench.work();
        })?);
        Ok(())
    }

    pub(super) fn desk(&self) -> &Arc<Desk<Job>> {
        &self.desk
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.desk.finish();
        if let Some(handle) = self.handle.take() {
            // A panic there has been reported where it happened.
            let _ = handle.join();
        }
    }
}

fn bell(desk: &Desk<Job>) -> impl std::os::fd::AsFd + '_ {
    use std::os::fd::{AsRawFd, BorrowedFd};
    // SAFETY: the desk, which is borrowed as long, owns the descriptor.
    unsafe { BorrowedFd::borrow_raw(desk.bell().as_raw_fd()) }
}

/// The thread's side.
struct Bench {
    desk: Arc<Desk<Job>>,
    common: Arc<Common>,
    switch: Switch,
    listener: OwnedFd,
    /// Whether there may be clients who wait to be let in.
    knocking: bool,
    /// How many connections had gone when one could not be let in: the next that goes makes room.
    shut_out_at: Option<u64>,
    job: Option<Job>,
    /// Of the job that the connections belong to; 0 for none.
    epoch: u64,
    /// Whether there is something to do without anything that happens.
    busy: bool,
    /// What the last look has brought: what it is about, and what it says.
    told: Vec<(u64, epoll::EventFlags)>,
}

impl Bench {
    fn work(&mut self) {
        while self.take_orders() {
            while !self.desk.is_urgent() {
                self.turn();
            }
            if let Some(job) = &mut self.job {
                job.settle();
            }
        }
    }

    /// Whether to go on. Nothing of the driver's is held.
    fn take_orders(&mut self) -> bool {
        let go_on = self.desk.next(&mut self.job);
        if let Some(job) = &mut self.job {
            job.drop_stopped();
        }
        self.follow_job();
        self.busy = true;
        go_on
    }

    /// The connections of a driver end with it.
    fn follow_job(&mut self) {
        let epoch = self.job.as_ref().map_or(0, |job| job.epoch);
        if epoch != self.epoch {
            self.epoch = epoch;
            self.switch.start_over(epoch != 0);
        }
    }

    /// Waits for something to happen, unless there is something to do, and does what there is.
    fn turn(&mut self) {
        self.wait();
        self.take_events();
        self.let_in();
        self.switch.expire(Instant::now(), self.job.is_some());
        let gone = self.common.counters.closed.get();
        if self.shut_out_at.is_some_and(|before| before != gone) {
            self.shut_out_at = None;
            self.knocking = true;
        }
        self.busy = self.knocking;
        if self.job.is_some() {
            self.serve();
        }
    }

    /// Takes what the driver has sent, and gives it what it is owed. A queue of which it breaks the rules is not looked at any more; the
    /// others are.
    fn serve(&mut self) {
        let Some(job) = &mut self.job else {
            return;
        };
        let (switch, counters) = (&mut self.switch, &self.common.counters);
        let packets = (job.look_for_packets())
            .and_then(|()| switch.take_packets(job, AT_ONCE))
            .and_then(|taken| {
                counters.interrupts.add(job.interrupt(queue::TX)?.into());
                Ok(taken)
            });
        let buffers = (job.look_for_buffers())
            .and_then(|()| switch.give_packets(job, AT_ONCE))
            .and_then(|starved| {
                // One is at hand when something comes.
                job.has_buffers(1)?;
                counters.interrupts.add(job.interrupt(queue::RX)?.into());
                Ok(starved)
            });
        let events = job.tell_events().and_then(|()| job.interrupt(queue::EVENT));
        let taken = self.kept(queue::TX, packets).unwrap_or(Taken::All);
        let starved = self.kept(queue::RX, buffers).unwrap_or(true);
        self.kept(queue::EVENT, events);
        self.busy |= taken == Taken::More || (self.switch.has_something() && !starved);
        if !self.busy {
            self.busy = self.sleep_lightly(taken == Taken::All, starved);
        }
    }

    /// Asks the driver to ring for what is waited for: its packets, or buffers; whether there is some already.
    fn sleep_lightly(&mut self, packets: bool, buffers: bool) -> bool {
        let Some(job) = &mut self.job else {
            return false;
        };
        let none = || Ok(false);
        let packets = if packets {
            job.wait_for_packets()
        } else {
            none()
        };
        let buffers = if buffers {
            job.wait_for_buffers()
        } else {
            none()
        };
        let events = job.wait_for_events();
        let already = [
            (queue::TX, packets),
            (queue::RX, buffers),
            (queue::EVENT, events),
        ];
        let already = already.map(|(index, already)| self.kept(index, already) == Some(true));
        already.contains(&true)
    }

    /// What came of work on a queue; where the driver broke its rules, it gets nothing there any more.
    fn kept<T>(&mut self, index: u16, outcome: Result<T, Broken>) -> Option<T> {
        let kept = outcome.ok();
        if kept.is_none()
            && let Some(job) = &mut self.job
        {
            job.give_up(index);
            let notices = &self.common.notices;
            notices.say("the guest's driver broke the rules, and has to reset the device");
        }
        kept
    }

    fn wait(&mut self) {
        let now = Instant::now();
        let sleep = match self.switch.table.first_deadline() {
            _ if self.busy => Some(Duration::ZERO),
            Some(deadline) => Some(deadline.saturating_duration_since(now).min(LONGEST_SLEEP)),
            None => None,
        };
        let timeout = sleep.map(|sleep| Timespec {
            tv_sec: i64::try_from(sleep.as_secs()).unwrap_or(0),
            tv_nsec: sleep.subsec_nanos().into(),
        });
        if !self.busy {
            self.common.counters.waits.count();
        }
        self.told.clear();
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        match epoll::wait(self.switch.poll(), &mut events[..], timeout.as_ref()) {
            Ok((told, _)) => self
                .told
                .extend(told.iter().map(|event| (event.data.u64(), event.flags))),
            Err(Errno::INTR) => {}
            Err(error) => panic!("a thread can wait for its own descriptors: {error}"),
        }
    }

    fn take_events(&mut self) {
        let driver = self.job.is_some();
        for (about, flags) in self.told.drain(..) {
            match about {
                BELL => {}
                LISTENER => self.knocking = true,
                bits => self.switch.event(Token::from_bits(bits), flags, driver),
            }
        }
    }

    /// Lets clients in who wait.
    fn let_in(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        for _ in 0..AT_ONCE {
            if !self.knocking {
                return;
            }
            match rustix::net::accept_with(&self.listener, flags) {
                Ok(socket) => self.switch.client(socket),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => self.knocking = false,
                Err(error) => {
                    self.knocking = false;
                    self.shut_out_at = Some(self.common.counters.closed.get());
                    self.common
                        .notices
                        .say(format_args!("cannot let a client in: {error}"));
                }
            }
        }
    }
}
