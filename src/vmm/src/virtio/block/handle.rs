use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{config, disk::Disk, image::Image, worker::Job};
use crate::{
    rate_limit::Rate,
    virtio::{ConfigSpace, Interrupt},
    worker::Desk,
};

/// A disk in the hands of those who change it while its guest runs. Clones are the same disk.
#[derive(Clone)]
pub struct Handle {
    disk: Arc<Disk>,
    config: Arc<ConfigSpace>,
    desks: Arc<[Arc<Desk<Job>>]>,
    interrupt: Arc<Mutex<Option<Interrupt>>>,
}

impl Handle {
    pub(super) fn new(
        disk: Arc<Disk>,
        config: Arc<ConfigSpace>,
        desks: Vec<Arc<Desk<Job>>>,
        interrupt: Arc<Mutex<Option<Interrupt>>>,
    ) -> Self {
        Self {
            disk,
            config,
            desks: desks.into(),
            interrupt,
        }
    }

    /// Looks at the image's size again and tells the driver (virtio 1.3 §5.2.5); its sectors.
    ///
    /// # Errors
    /// What the host says.
    pub fn resize(&self) -> io::Result<u64> {
        let sectors = self.disk.measure()?;
        self.config.put(config::CAPACITY, &sectors.to_le_bytes());
        if let Some(interrupt) = &*lock(&self.interrupt) {
            interrupt.configuration_changed();
        }
        Ok(sectors)
    }

    /// Puts `image` in the place of the disk's, between two requests, and tells the driver its size; its sectors. What the guest
    /// has written is on the host's disk by then: a flush that comes behind is the new image's.
    ///
    /// # Errors
    /// What the host says of its size, or of what was written: then the disk is as before.
    pub fn replace(&self, image: Image) -> io::Result<u64> {
        image.bytes()?;
        self.desks.iter().for_each(|desk| desk.pause());
        let sectors = self.disk.settle().and_then(|()| {
            self.disk.replace(image);
            self.resize()
        });
        self.desks.iter().for_each(|desk| desk.resume());
        sectors
    }

    /// Sets each limit that is given, `None` inside to lift it, with a full bucket; what waits for the old one waits no longer.
    pub fn limit(&self, bandwidth: Option<Option<Rate>>, ops: Option<Option<Rate>>) {
        self.disk.limiter.change(bandwidth, ops);
        self.desks.iter().for_each(|desk| desk.order());
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
