//! The thread that serves one queue of a disk. It exists, parked, before the machine is confined.
use std::{
    io,
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::Instant,
};

use vmm_sys_util::eventfd::EventFd;

use super::{
    Counters,
    disk::Disk,
    engine::{Answered, Choice, Engine, Tag},
    image::Image,
    io::{Call, Io},
    request::{self, Next, Request, Status, Task},
};
use crate::{
    virtio::{
        Confine, Interrupt,
        patience::Patience,
        queue::{Broken, Chain, Queue},
    },
    worker::Desk,
};

/// What its thread needs besides its stack for libraries.
const STACK: usize = 128 << 10;

/// A queue in use, and how its driver is told.
pub(super) struct Job {
    /// Which of the device's it is.
    pub(super) index: u16,
    pub(super) queue: Queue,
    pub(super) interrupt: Interrupt,
}

/// The thread, once it is started, and the desk where it gets its orders.
pub(super) struct Worker {
    desk: Arc<Desk<Job>>,
    handle: Option<JoinHandle<()>>,
}

/// What all workers of a disk have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) disk: Arc<Disk>,
    pub(super) counters: Arc<Counters>,
    /// Entries of each queue.
    pub(super) depth: u16,
    pub(super) choice: Choice,
}

impl Worker {
    /// A worker without a thread.
    pub(super) fn new() -> io::Result<Self> {
        // Blocking: io_uring waits at it only then, and a thread does so with one system call.
        let bell = EventFd::new(libc::EFD_CLOEXEC)?;
        Ok(Self {
            desk: Arc::new(Desk::new(bell)),
            handle: None,
        })
    }

    /// Starts its thread, called `name`. It calls `confine` before it serves anything.
    pub(super) fn spawn(&mut self, name: &str, common: Common, confine: Confine) -> io::Result<()> {
        let desk = self.desk.clone();
        let thread = Builder::new().name(name.to_owned()).stack_size(STACK);
        self.handle = Some(thread.spawn(move || {
            let bench = Bench::new(desk, common, &confine);
            let mut bench = bench.expect("the host has threads and memory for one queue more");
            confine(bench.engine.duty());
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

/// The thread's side.
struct Bench {
    desk: Arc<Desk<Job>>,
    common: Common,
    image: Arc<Image>,
    engine: Engine,
    job: Option<Job>,
    chain: Chain,
    /// What is under way, by tag.
    requests: Box<[Option<Request>]>,
    /// Tags that are not, with the room for their calls.
    free: Vec<(Tag, Io)>,
    /// Flushes that wait for this thread's turn at the image.
    waiting: Vec<(Tag, Io)>,
    /// Whether one is under way: then it is this thread's turn.
    flushing: bool,
    /// Flushes that end with that one: they came before it began.
    riding: Vec<(Tag, Io)>,
    /// Until when the rate limiter lets nothing more through.
    throttled: Option<Instant>,
    patience: Patience,
}

/// Vectors that a call has room for from the start: what Linux sends, and a segment that crosses from one region to the next.
const USUAL_VECTORS: usize = 8;

impl Bench {
    fn new(desk: Arc<Desk<Job>>, common: Common, confine: &Confine) -> io::Result<Self> {
        let image = common.disk.image();
        let depth = common.depth;
        let engine = Engine::new(common.choice, depth, &image, desk.bell(), confine)?;
        Ok(Self {
            desk,
            image,
            engine,
            job: None,
            chain: Chain::default(),
            requests: (0..depth).map(|_| None).collect(),
            free: (0..depth)
                .map(|tag| (tag, Io::with_capacity(USUAL_VECTORS)))
                .collect(),
            // Room for all, so that no guest makes them grow.
            waiting: Vec::with_capacity(depth.into()),
            flushing: false,
            riding: Vec::with_capacity(depth.into()),
            throttled: None,
            patience: Patience::new(),
            common,
        })
    }

    fn work(&mut self) {
        while self.take_orders() {
            while !self.desk.is_urgent() {
                if self.turn().is_err() {
                    self.give_up();
                }
            }
            self.drain();
        }
    }

    /// Whether to go on. Nothing is under way.
    fn take_orders(&mut self) -> bool {
        let go_on = self.desk.next(&mut self.job);
        // The limits may be others now.
        self.throttled = None;
        let image = self.common.disk.image();
        if !Arc::ptr_eq(&image, &self.image) {
            let taken = self.engine.take_image(&image);
            taken.expect("a ring takes a file in the place of another");
            self.image = image;
        }
        go_on
    }

    /// Begins what the driver asks for, waits for something to happen, and tells the driver what is done.
    fn turn(&mut self) -> Result<(), Broken> {
        self.begin_all()?;
        self.begin_flushes();
        let idle = self.is_idle().then(|| self.patience.begin()).flatten();
        if self.patience.look(idle, || self.is_called()) || self.wants_more()? {
            return Ok(());
        }
        self.wait(self.throttled);
        self.patience.learn(idle);
        if let Some(job) = &mut self.job {
            job.queue.disable_doorbell()?;
        }
        self.finish_answered()
    }

    /// Whether all there is to wait for is the driver.
    fn is_idle(&self) -> bool {
        self.job.is_some() && self.throttled.is_none() && self.nothing_is_under_way()
    }

    fn nothing_is_under_way(&self) -> bool {
        self.free.len() == usize::from(self.common.depth)
    }

    /// Whether the driver asks for something, or somebody for this thread.
    fn is_called(&self) -> bool {
        let driver = self.job.as_ref().map(|job| job.queue.has_more());
        // What is broken is found out where it is taken.
        self.desk.is_urgent() || driver != Some(Ok(false))
    }

    fn wait(&mut self, until: Option<Instant>) {
        let waited = self.engine.wait(until);
        waited.expect("a thread can wait for its own ring");
        self.common.counters.waits.count();
    }

    /// Asks the driver to ring, if more could be taken; whether there is more already.
    fn wants_more(&mut self) -> Result<bool, Broken> {
        match &mut self.job {
            Some(job) if self.throttled.is_none() && !self.free.is_empty() => {
                job.queue.enable_doorbell()
            }
            _ => Ok(false),
        }
    }

    /// Begins what there is in the queue, as far as there is room and the limiter lets it.
    fn begin_all(&mut self) -> Result<(), Broken> {
        if self.throttled.is_some_and(|until| until > Instant::now()) {
            return Ok(());
        }
        self.throttled = None;
        let mut ended = false;
        while self.throttled.is_none() && !self.desk.is_urgent() {
            let Some((tag, mut io)) = self.free.pop() else {
                break;
            };
            match self.read_next(&mut io) {
                Ok(Some((request, Task::Call))) => self.begin(request, tag, io),
                Ok(Some((request, Task::Ended(status)))) => {
                    self.free.push((tag, io));
                    self.conclude(&request, status)?;
                    ended = true;
                }
                nothing => {
                    self.free.push((tag, io));
                    nothing?;
                    break;
                }
            }
        }
        if ended { self.tell() } else { Ok(()) }
    }

    /// The next request in the queue, whose call `io` becomes.
    fn read_next(&mut self, io: &mut Io) -> Result<Option<(Request, Task)>, Broken> {
        let Some(job) = &mut self.job else {
            return Ok(None);
        };
        if !job.queue.pop(&mut self.chain)? {
            return Ok(None);
        }
        let memory = job.queue.memory();
        request::read(&mut self.chain, memory, &self.common.disk, io).map(Some)
    }

    fn begin(&mut self, request: Request, tag: Tag, mut io: Io) {
        if let Err(until) = self.common.disk.limiter.admit(request.bytes) {
            self.common.counters.throttled.count();
            self.throttled = Some(until);
            self.free.push((tag, io));
            if let Some(job) = &mut self.job {
                job.queue.put_back();
            }
            return;
        }
        io.choose_path(self.image.alignment());
        self.requests[usize::from(tag)] = Some(request);
        self.submit(tag, io);
    }

    /// A flush waits for its turn, everything else begins.
    fn submit(&mut self, tag: Tag, io: Io) {
        match io.call {
            Call::Flush => self.waiting.push((tag, io)),
            _ => self.engine.submit(tag, io),
        }
    }

    /// One flush is all that flushes wait for, when it is this thread's turn.
    fn begin_flushes(&mut self) {
        let due = !self.flushing && !self.waiting.is_empty();
        if due
            && self.image.turns.take(&self.desk)
            && let Some((tag, io)) = self.waiting.pop()
        {
            self.flushing = true;
            self.riding.append(&mut self.waiting);
            self.engine.submit(tag, io);
        }
    }

    /// Takes the host's answers, and tells the driver once of all that is done.
    fn finish_answered(&mut self) -> Result<(), Broken> {
        let mut ended = false;
        while let Some(answered) = self.engine.collect() {
            ended |= self.finish(answered)?;
        }
        if ended { self.tell() } else { Ok(()) }
    }

    /// Whether a request ended.
    fn finish(&mut self, answered: Answered) -> Result<bool, Broken> {
        let Answered { tag, io, answer } = answered;
        let answer = io.judge(answer, &self.image);
        match io.call {
            Call::Flush => self.finish_flushes(tag, io, answer),
            _ => self.settle(tag, io, answer),
        }
    }

    /// What was answered to one flush is the answer to those that rode with it.
    fn finish_flushes(&mut self, tag: Tag, io: Io, answer: i32) -> Result<bool, Broken> {
        self.flushing = false;
        self.image.turns.end();
        let mut ended = self.settle(tag, io, answer);
        while let Some((tag, io)) = self.riding.pop() {
            let also = self.settle(tag, io, answer);
            ended = ended.and_then(|ended| Ok(also? || ended));
        }
        ended
    }

    /// Whether the request of this call ended with the host's answer.
    fn settle(&mut self, tag: Tag, mut io: Io, answer: i32) -> Result<bool, Broken> {
        let request = self.requests[usize::from(tag)].take();
        let request = request.expect("a request for each call");
        match request.answered(&mut io, answer, self.common.disk.cache()) {
            Next::Perform => {
                self.requests[usize::from(tag)] = Some(request);
                self.submit(tag, io);
                Ok(false)
            }
            Next::Ended(status, error) => {
                if let Some(error) = error {
                    self.common.counters.errors.count();
                    self.common.disk.complain(&io, &error);
                }
                self.free.push((tag, io));
                self.conclude(&request, status)?;
                Ok(true)
            }
        }
    }

    fn conclude(&mut self, request: &Request, status: Status) -> Result<(), Broken> {
        self.common.counters.requests.count();
        let Some(job) = &mut self.job else {
            return Ok(());
        };
        let written = request.conclude(status, job.queue.memory())?;
        job.queue.push(request.head, written)
    }

    /// An interrupt, if the driver wants one.
    fn tell(&mut self) -> Result<(), Broken> {
        if let Some(job) = &mut self.job
            && job.queue.wants_interrupt()?
        {
            self.common.counters.interrupts.count();
            job.interrupt.used_buffers(job.index);
        }
        Ok(())
    }

    /// Comes back when nothing is under way.
    fn drain(&mut self) {
        while !self.nothing_is_under_way() {
            self.begin_flushes();
            self.wait(None);
            if self.finish_answered().is_err() {
                self.give_up();
            }
        }
    }

    /// The driver broke the rules: it gets nothing back any more.
    fn give_up(&mut self) {
        if let Some(job) = self.job.take() {
            self.common.disk.complain_of_driver();
            job.interrupt.needs_reset();
            // The job's queue keeps the memory that calls under way point to.
            self.drain();
            drop(job);
        }
    }
}
