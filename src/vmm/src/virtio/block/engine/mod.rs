//! How a queue's thread has its calls performed: many at a time, by io_uring where the host has it, else by a few threads.
mod pool;
mod ring;

use std::{io, sync::Arc, time::Instant};

use vmm_sys_util::eventfd::EventFd;

use self::{pool::Pool, ring::Ring};
use super::{image::Image, io::Io};
use crate::virtio::{Confine, Duty};

/// By which a call is known while it is under way: less than the engine's depth.
pub(super) type Tag = u16;

/// A call that the host has answered.
pub(super) struct Answered {
    pub(super) tag: Tag,
    pub(super) io: Io,
    /// As the system call's: a count, or a negative error number.
    pub(super) answer: i32,
}

/// Which engine a queue has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// io_uring, or threads where it is missing or forbidden.
    #[default]
    Best,
    /// Threads.
    Threads,
}

/// What performs calls. It owns them from [`submit`](Self::submit) until [`collect`](Self::collect) gives them back.
pub(super) enum Engine {
    Ring(Box<Ring>),
    Pool(Pool),
}

impl Engine {
    /// The best engine that this host has, for `depth` calls at a time and a thread that sleeps at `bell`. To be made by that
    /// thread, before it is confined; other threads that it needs confine themselves by `confine`.
    pub(super) fn new(
        choice: Choice,
        depth: u16,
        image: &Arc<Image>,
        bell: &EventFd,
        confine: &Confine,
    ) -> io::Result<Self> {
        if choice == Choice::Best
            && let Ok(ring) = Ring::new(depth, image, bell)
        {
            return Ok(Self::Ring(Box::new(ring)));
        }
        let pool = Pool::new(depth, image.clone(), bell.try_clone()?, confine)?;
        Ok(Self::Pool(pool))
    }

    /// What its thread does from now on, by which its sandbox is chosen.
    pub(super) fn duty(&self) -> Duty {
        match self {
            Self::Ring(_) => Duty::BlockRing,
            Self::Pool(_) => Duty::BlockCalls,
        }
    }

    /// Takes a call over. It may not be begun before the next [`wait`](Self::wait). `tag` is not under way.
    pub(super) fn submit(&mut self, tag: Tag, io: Io) {
        match self {
            Self::Ring(ring) => ring.submit(tag, io),
            Self::Pool(pool) => pool.submit(tag, io),
        }
    }

    /// Begins what was submitted, and comes back when a call is answered, the bell was rung, or it is `until`.
    pub(super) fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        match self {
            Self::Ring(ring) => ring.wait(until),
            Self::Pool(pool) => pool.wait(until),
        }
    }

    /// The next call that was answered.
    pub(super) fn collect(&mut self) -> Option<Answered> {
        match self {
            Self::Ring(ring) => ring.collect(),
            Self::Pool(pool) => pool.collect(),
        }
    }

    /// From now on calls are for `image`. Nothing is under way.
    pub(super) fn take_image(&mut self, image: &Arc<Image>) -> io::Result<()> {
        match self {
            Self::Ring(ring) => ring.take_image(image),
            Self::Pool(pool) => {
                pool.take_image(image.clone());
                Ok(())
            }
        }
    }
}
