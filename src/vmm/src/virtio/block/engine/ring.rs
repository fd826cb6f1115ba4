use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    time::Instant,
};

use io_uring::{
    IoUring, opcode,
    register::Restriction,
    squeue::{Entry, Flags},
    types::{Fixed, FsyncFlags, SubmitArgs, Timespec},
};
use vmm_sys_util::eventfd::EventFd;

use super::{super::image::Image, super::io::Call, super::io::Io, Answered, Tag};

/// The bell's answers carry this; it is no tag.
const BELL: u64 = u64::MAX;

/// Files that the ring knows, by number. It can use no other.
mod file {
    pub(super) const CACHED: u32 = 0;
    pub(super) const DIRECT: u32 = 1;
    pub(super) const BELL: u32 = 2;
}

/// An io_uring that can do to three files what a disk needs, and nothing else: its operations pass no seccomp filter, so it has
/// restrictions of its own.
pub(in super::super) struct Ring {
    ring: IoUring,
    /// The calls under way, by tag.
    calls: Box<[Option<Io>]>,
    under_way: usize,
    /// Whether a read of the bell is under way.
    listening: bool,
    /// Where that read puts the count.
    rung: Box<u64>,
}

impl Ring {
    pub(super) fn new(depth: u16, image: &Image, bell: &EventFd) -> io::Result<Self> {
        // A call for each tag, and the bell.
        let entries = u32::from(depth).saturating_add(1).next_power_of_two();
        let ring = build(entries)?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let submitter = ring.submitter();
        let [cached, direct] = descriptors(image);
        submitter.register_files(&[cached, direct, bell.as_raw_fd()])?;
        submitter.register_restrictions(&mut restrictions())?;
        submitter.register_enable_rings()?;
        Ok(Self {
            ring,
            calls: (0..depth).map(|_| None).collect(),
            under_way: 0,
            listening: false,
            rung: Box::new(0),
        })
    }

    pub(super) fn submit(&mut self, tag: Tag, io: Io) {
        let slot = &mut self.calls[usize::from(tag)];
        assert!(slot.is_none(), "a tag is used once at a time");
        let entry = entry(slot.insert(io)).user_data(tag.into());
        self.under_way += 1;
        self.push(entry);
    }

    fn push(&mut self, entry: Entry) {
        // SAFETY: what the entry points to is owned by `self`, at a place that does not move, until its answer has come.
        // There are as many entries as tags and one for the bell, so that there is room.
        unsafe { self.ring.submission().push(&entry) }.expect("an entry for each tag");
    }

    pub(super) fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        if !self.listening {
            let count: *mut u64 = &raw mut *self.rung;
            let entry = opcode::Read::new(Fixed(file::BELL), count.cast(), 8).build();
            self.push(entry.flags(Flags::FIXED_FILE).user_data(BELL));
            self.listening = true;
        }
        let entered = match until {
            None => self.ring.submit_and_wait(1),
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                let left = Timespec::from(left);
                let arguments = SubmitArgs::new().timespec(&left);
                self.ring.submitter().submit_with_args(1, &arguments)
            }
        };
        match entered {
            Ok(_) => Ok(()),
            // A signal, or the time; the ring is full of answers, or the host has no memory for more at the moment: what was not
            // taken is still in the ring, and is taken the next time.
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    pub(super) fn collect(&mut self) -> Option<Answered> {
        loop {
            let entry = self.ring.completion().next()?;
            if entry.user_data() == BELL {
                self.listening = false;
                continue;
            }
            let tag = Tag::try_from(entry.user_data()).expect("a tag");
            let io = self.calls[usize::from(tag)].take().expect("a call");
            self.under_way -= 1;
            return Some(Answered {
                tag,
                io,
                answer: entry.result(),
            });
        }
    }

    pub(super) fn take_image(&mut self, image: &Image) -> io::Result<()> {
        let submitter = self.ring.submitter();
        submitter.register_files_update(file::CACHED, &descriptors(image))?;
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Guest memory and vectors are the kernel's until it has answered.
        while self.under_way > 0 && self.wait(None).is_ok() {
            while self.collect().is_some() {}
        }
        if self.under_way > 0 || self.listening {
            // The kernel may write there until the ring is closed, and that it does later than `close` returns.
            std::mem::forget(std::mem::take(&mut self.calls));
            std::mem::forget(std::mem::take(&mut self.rung));
        }
    }
}

/// The quickest kind of ring that this host has.
fn build(entries: u32) -> io::Result<IoUring> {
    // From Linux 6.1 on: one thread uses the ring, and is interrupted by no answer before it waits for one.
    let newest = IoUring::builder()
        .setup_r_disabled()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(entries);
    newest.or_else(|_| IoUring::builder().setup_r_disabled().build(entries))
}

fn descriptors(image: &Image) -> [RawFd; 2] {
    [image.descriptor(false), image.descriptor(true)]
}

/// The operations of a disk, on registered files only; and, while nothing is under way, another image in the place of this one.
fn restrictions() -> [Restriction; 9] {
    const FILES_UPDATE: u8 = 6;
    [
        Restriction::sqe_op(opcode::Read::CODE),
        Restriction::sqe_op(opcode::Write::CODE),
        Restriction::sqe_op(opcode::Readv::CODE),
        Restriction::sqe_op(opcode::Writev::CODE),
        Restriction::sqe_op(opcode::Fsync::CODE),
        Restriction::sqe_op(opcode::Fallocate::CODE),
        Restriction::sqe_flags_allowed(Flags::FIXED_FILE.bits()),
        Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()),
        Restriction::register_op(FILES_UPDATE),
    ]
}

fn entry(io: &Io) -> Entry {
    let file = Fixed(match io.is_direct() {
        true => file::DIRECT,
        false => file::CACHED,
    });
    let entry = match io.call {
        Call::Read | Call::Write => transfer(io, file),
        Call::Flush => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        Call::Punch | Call::Zero => opcode::Fallocate::new(file, io.length())
            .offset(io.offset())
            .mode(io.allocation_flags())
            .build(),
    };
    entry.flags(Flags::FIXED_FILE)
}

/// The host has less to do for one vector when it need not fetch it.
fn transfer(io: &Io, file: Fixed) -> Entry {
    let offset = io.offset();
    let read = io.call == Call::Read;
    let vectors = io.vectors();
    if let [vector] = vectors
        && let Ok(length) = u32::try_from(vector.iov_len)
    {
        let base = vector.iov_base.cast::<u8>();
        return match read {
            true => opcode::Read::new(file, base, length).offset(offset).build(),
            false => opcode::Write::new(file, base, length)
                .offset(offset)
                .build(),
        };
    }
    let count = u32::try_from(vectors.len()).expect("at most 1024");
    match read {
        true => opcode::Readv::new(file, vectors.as_ptr(), count)
            .offset(offset)
            .build(),
        false => opcode::Writev::new(file, vectors.as_ptr(), count)
            .offset(offset)
            .build(),
    }
}
