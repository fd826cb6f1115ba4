//! The system calls that the probes make.
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::Access;
use rustix::thread::UnshareFlags;

use super::kvm::{self, KvmFacts};

pub(super) trait System {
    /// Effective user ID.
    fn uid(&self) -> u32;
    /// The machine's name for its architecture, as `uname -m`.
    fn machine(&self) -> String;
    /// The kernel's release, as `uname -r`.
    fn release(&self) -> String;
    fn open_device(&self, path: &Path) -> io::Result<()>;
    fn is_writable(&self, path: &Path) -> bool;
    fn kvm(&self, device: &Path) -> io::Result<KvmFacts>;
    /// The version of Landlock's interface, 1 or more.
    fn landlock_abi(&self) -> io::Result<u32>;
    /// Makes a user namespace, and with its powers a mount and a network namespace, and drops them.
    fn user_namespace(&self) -> io::Result<()>;
    /// Makes an io_uring and drops it.
    fn io_uring(&self) -> io::Result<()>;
}

pub(super) struct RealSystem;

impl System for RealSystem {
    fn uid(&self) -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn machine(&self) -> String {
        rustix::system::uname()
            .machine()
            .to_string_lossy()
            .into_owned()
    }

    fn release(&self) -> String {
        rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned()
    }

    fn open_device(&self, path: &Path) -> io::Result<()> {
        let mut options = File::options();
        let options = options
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK);
        options.open(path).map(drop)
    }

    fn is_writable(&self, path: &Path) -> bool {
        let flags = rustix::fs::AtFlags::EACCESS;
        rustix::fs::accessat(rustix::fs::CWD, path, Access::WRITE_OK, flags).is_ok()
    }

    fn kvm(&self, device: &Path) -> io::Result<KvmFacts> {
        kvm::probe(device)
    }

    fn landlock_abi(&self) -> io::Result<u32> {
        /// `LANDLOCK_CREATE_RULESET_VERSION` of `linux/landlock.h`.
        const VERSION: libc::c_uint = 1;
        // SAFETY: with this flag the kernel takes no attributes (a null pointer and a size of 0) and only returns a number.
        let abi = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                std::ptr::null::<libc::c_void>(),
                0_usize,
                VERSION,
            )
        };
        u32::try_from(abi).map_err(|_negative| io::Error::last_os_error())
    }

    fn user_namespace(&self) -> io::Result<()> {
        // Only a process of one thread may make a user namespace, so a forked child tries. It never runs a program: the
        // closure always fails, and what it fails with comes back as the error of `spawn`.
        const MADE: i32 = libc::ECANCELED;
        let mut command = Command::new("/proc/self/exe");
        let attempt = || -> io::Result<()> {
            // SAFETY: a new user namespace takes no file descriptor or memory from this process.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }?;
            // AppArmor's restriction grants the user namespace but not the powers in it, so use one.
            // SAFETY: as above, for mounts and networks.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::NEWNET) }?;
            Err(io::Error::from_raw_os_error(MADE))
        };
        // SAFETY: between fork and the end of the child the closure makes system calls only: no allocation, no lock.
        unsafe { command.pre_exec(attempt) };
        match command.spawn() {
            Err(error) if error.raw_os_error() == Some(MADE) => Ok(()),
            Err(error) => Err(error),
            Ok(mut child) => {
                child.wait()?;
                Err(io::Error::other("the attempt had no outcome"))
            }
        }
    }

    fn io_uring(&self) -> io::Result<()> {
        let mut parameters = rustix::io_uring::io_uring_params::default();
        // SAFETY: all-zero parameters name no other ring and no memory of ours; the ring is dropped unused.
        unsafe { rustix::io_uring::io_uring_setup(1, &mut parameters) }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trying_a_user_namespace_runs_no_program_and_leaves_this_process_where_it_was() {
        let namespace = || std::fs::read_link("/proc/self/ns/user").unwrap();
        let before = namespace();
        if let Err(error) = RealSystem.user_namespace() {
            assert!(error.raw_os_error().is_some(), "{error}");
        }
        assert_eq!(namespace(), before);
    }

    #[test]
    fn the_other_probes_return_or_fail_with_an_error_of_the_kernels() {
        let failed = [RealSystem.io_uring().err(), RealSystem.landlock_abi().err()];
        for error in failed.into_iter().flatten() {
            assert!(error.raw_os_error().is_some(), "{error}");
        }
    }
}
