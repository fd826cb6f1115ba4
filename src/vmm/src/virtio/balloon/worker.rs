//! The thread that serves a balloon's queues. It exists, parked, before the machine is confined.
use std::{sync::Arc, time::Instant};

use vm_memory::{Bytes, GuestMemoryMmap};

use super::{
    Counters,
    config::{self, Role},
    handle::{Hints, Shared, command, lock},
    pages,
};
use crate::{
    notices::Notices,
    virtio::{
        Confine, Duty, Interrupt,
        queue::{Broken, Chain, Progress, Queue},
    },
    worker::{Desk, sleep_at},
};

/// Queues in use, and how their driver is told.
pub(super) struct Job {
    queues: Vec<Served>,
    interrupt: Interrupt,
    /// The buffer with the last statistics. The driver gets it back when it is to tell the next.
    held: Option<u16>,
    /// When that is.
    due: Option<Instant>,
}

/// A queue that the driver set up, and what it is for.
struct Served {
    index: u16,
    role: Role,
    queue: Queue,
}

impl Job {
    /// `queues` of a driver that took `features`.
    pub(super) fn new(features: u64, queues: Vec<Option<Queue>>, interrupt: Interrupt) -> Self {
        let numbered = (0..).zip(config::queues(features)).zip(queues);
        let served = numbered
            .filter_map(|((index, role), queue)| queue.map(|queue| Served { index, role, queue }));
        Self {
            queues: served.collect(),
            interrupt,
            held: None,
            due: None,
        }
    }

    /// How far it has got with each of `queues` queues. The buffer that it holds is the next to be taken again: who goes on from here
    /// reads it once more, and holds it.
    pub(super) fn progress(&self, queues: usize) -> Vec<Option<Progress>> {
        let mut all = vec![None; queues];
        for served in &self.queues {
            let mut progress = served.queue.progress();
            if served.role == Role::Statistics && self.held.is_some() {
                progress.next_available = progress.next_available.wrapping_sub(1);
            }
            if let Some(place) = all.get_mut(usize::from(served.index)) {
                *place = Some(progress);
            }
        }
        all
    }
}

impl Served {
    /// Tells the driver of what it got back, if it wants to hear of it.
    fn tell(&mut self, interrupt: &Interrupt, counters: &Counters) -> Result<(), Broken> {
        if self.queue.wants_interrupt()? {
            counters.interrupts.count();
            interrupt.used_buffers(self.index);
        }
        Ok(())
    }
}

/// The thread's side.
pub(super) struct Worker {
    desk: Arc<Desk<Job>>,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    notices: Notices,
    job: Option<Job>,
    chain: Chain,
}

impl Worker {
    pub(super) fn new(desk: Arc<Desk<Job>>, shared: Arc<Shared>, counters: Arc<Counters>) -> Self {
        Self {
            desk,
            shared,
            counters,
            notices: Notices::of("balloon".into()),
            job: None,
            chain: Chain::default(),
        }
    }

    /// Serves until it is sent home.
    pub(super) fn run(mut self, confine: &Confine) {
        confine(Duty::Balloon);
        while self.desk.next(&mut self.job) {
            self.take_orders();
            while !self.desk.is_urgent() {
                self.turn();
            }
        }
    }

    /// Queues may have been stopped; and statistics are asked for at once, if at all: the interval may be another.
    fn take_orders(&mut self) {
        if let Some(job) = &mut self.job {
            job.queues
                .retain(|served| !self.shared.is_stopped(served.index));
            job.due = self.shared.interval().map(|_| Instant::now());
        }
    }

    /// Serves what there is in the queues, and waits for more.
    fn turn(&mut self) {
        let mut more = false;
        self.each_queue(|worker, job, served| {
            worker.ask_if_due(job, served)?;
            worker.serve(job, served)?;
            more |= served.queue.enable_doorbell()?;
            Ok(())
        });
        if more {
            return;
        }
        // A driver that holds no statistics ready is not waited for.
        let until = self.job.as_ref().and_then(|job| job.held.and(job.due));
        sleep_at(self.desk.bell(), until).expect("a thread can wait for its own bell");
        self.each_queue(|_, _, served| served.queue.disable_doorbell());
    }

    /// Does this with each queue. One with which the driver broke the rules is given up: it gets nothing back there any more.
    fn each_queue(
        &mut self,
        mut each: impl FnMut(&mut Self, &mut Job, &mut Served) -> Result<(), Broken>,
    ) {
        let Some(mut job) = self.job.take() else {
            return;
        };
        let mut queues = std::mem::take(&mut job.queues);
        queues.retain_mut(|served| {
            let sound = each(self, &mut job, served).is_ok();
            if !sound {
                self.notices
                    .say("its driver broke the rules of virtqueues, and must reset it");
                job.interrupt.needs_reset();
            }
            sound
        });
        job.queues = queues;
        self.job = Some(job);
    }

    /// Gives the buffer for statistics back, when the next are due: the driver fills it and offers it again.
    fn ask_if_due(&self, job: &mut Job, served: &mut Served) -> Result<(), Broken> {
        if served.role == Role::Statistics
            && job.due.is_some_and(|due| due <= Instant::now())
            && let Some(head) = job.held.take()
        {
            job.due = None;
            served.queue.push(head, 0)?;
            served.tell(&job.interrupt, &self.counters)?;
        }
        Ok(())
    }

    /// Serves the queue until it is empty, or the thread has orders.
    fn serve(&mut self, job: &mut Job, served: &mut Served) -> Result<(), Broken> {
        let side = Side {
            shared: &self.shared,
            counters: &self.counters,
        };
        let mut ended = false;
        while !self.desk.is_urgent() && served.queue.pop(&mut self.chain)? {
            side.perform(served.role, &self.chain, served.queue.memory())?;
            let back = match served.role {
                Role::Statistics => {
                    job.due = self.shared.interval().map(|every| Instant::now() + every);
                    job.held.replace(self.chain.head)
                }
                _ => Some(self.chain.head),
            };
            if let Some(head) = back {
                served.queue.push(head, 0)?;
                ended = true;
            }
        }
        if ended {
            served.tell(&job.interrupt, &self.counters)?;
        }
        Ok(())
    }
}

/// What requests are performed with.
struct Side<'a> {
    shared: &'a Shared,
    counters: &'a Counters,
}

impl Side<'_> {
    fn perform(&self, role: Role, chain: &Chain, memory: &GuestMemoryMmap) -> Result<(), Broken> {
        match role {
            Role::Inflate => {
                self.counters.inflations.count();
                pages::give_back(chain, memory, self.counters)
            }
            // The guest has its pages as soon as it touches them.
            Role::Deflate => {
                self.counters.deflations.count();
                Ok(())
            }
            Role::Statistics => {
                self.counters.statistics.count();
                lock(&self.shared.statistics).take_answer(&chain.readable, memory)
            }
            Role::Hints => self.hint(chain, memory),
            Role::Reports => {
                self.counters.hints.count();
                pages::give_back_ranges(&chain.writable, memory, self.counters);
                Ok(())
            }
        }
    }

    /// A command, pages that are free in the run that it began, or both (§5.5.6.4).
    fn hint(&self, chain: &Chain, memory: &GuestMemoryMmap) -> Result<(), Broken> {
        self.counters.hints.count();
        // Held while pages go: none goes once somebody has ended the run.
        let mut hints = lock(&self.shared.hints);
        if let Some(segment) = chain.readable.first() {
            let told = memory.read_obj::<[u8; 4]>(segment.address);
            let told = u32::from_le_bytes(told.map_err(|_| Broken)?);
            hints.told = Some(told);
            self.end_if_through(&mut hints, told);
        }
        if hints.wanted >= command::FIRST && hints.told == Some(hints.wanted) {
            pages::give_back_ranges(&chain.writable, memory, self.counters);
        }
        Ok(())
    }

    fn end_if_through(&self, hints: &mut Hints, told: u32) {
        if told == command::STOP && hints.wanted >= command::FIRST && hints.ends_by_itself {
            hints.wanted = command::DONE;
            self.shared.announce(config::COMMAND, command::DONE);
        }
    }
}
