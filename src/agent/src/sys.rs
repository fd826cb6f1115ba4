//! The system calls that there is need for.
use alloc::{ffi::CString, vec::Vec};
use core::{
    arch::asm,
    ffi::{CStr, c_char},
    ptr,
};

use linux_raw_sys::general::{AT_FDCWD, O_CLOEXEC, O_DIRECTORY, O_NOCTTY, O_RDONLY, timespec};
use syscalls::{Errno, Sysno, syscall};

/// What a system call gives.
pub type Result<T> = core::result::Result<T, Errno>;

const STDERR: usize = 2;
/// Where a guest tells its monitor that user space is reached, and by what.
const MARKER_PORT: u16 = 0x80;
const MARKER: u8 = 0x41;

/// The most that a file may have which is read whole: `/proc` and the list of modules have less.
const MAX_FILE: usize = 1 << 20;

/// An open file.
#[derive(Debug)]
pub struct File(usize);

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this value's, which is gone.
        let _ = unsafe { syscall!(Sysno::close, self.0) };
    }
}

impl File {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &CStr) -> Result<Self> {
        open(path, O_RDONLY | O_NOCTTY)
    }

    /// Fills `buffer` from `offset`, in bytes. Says whether there was so much.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = &mut buffer[filled..];
            // SAFETY: the kernel writes no more than the buffer's length.
            let count = unsafe {
                syscall!(
                    Sysno::pread64,
                    self.0,
                    rest.as_mut_ptr(),
                    rest.len(),
                    offset + filled as u64
                )
            }?;
            if count == 0 {
                return Ok(false);
            }
            filled += count;
        }
        Ok(true)
    }

    /// Loads it as a kernel module (`finit_module(2)`), which it must be.
    ///
    /// # Errors
    /// The kernel's; `EEXIST` where it is loaded.
    pub fn load_module(&self) -> Result<()> {
        // SAFETY: the string of parameters is empty; what a module does to the kernel is its business.
        unsafe { syscall!(Sysno::finit_module, self.0, c"".as_ptr(), 0) }.map(drop)
    }
}

fn open(path: &CStr, flags: u32) -> Result<File> {
    let flags = flags | O_CLOEXEC;
    // SAFETY: the path is a string, and lives.
    unsafe { syscall!(Sysno::openat, AT_FDCWD, path.as_ptr(), flags, 0) }.map(File)
}

/// Reads a file whole, up to a mebibyte.
///
/// # Errors
/// The kernel's.
pub fn read_file(path: &CStr) -> Result<Vec<u8>> {
    const PIECE: usize = 4096;
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    loop {
        let filled = bytes.len();
        bytes.resize(filled + PIECE, 0);
        // SAFETY: the kernel writes no more than what is there from that offset on.
        let count = unsafe { syscall!(Sysno::read, file.0, bytes[filled..].as_mut_ptr(), PIECE) }?;
        bytes.truncate(filled + count);
        if count == 0 || bytes.len() >= MAX_FILE {
            return Ok(bytes);
        }
    }
}

/// Writes to the console.
///
/// # Errors
/// The kernel's.
pub fn write_to_console(mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the kernel reads the bytes.
        let count = unsafe { syscall!(Sysno::write, STDERR, bytes.as_ptr(), bytes.len()) }?;
        bytes = &bytes[count..];
    }
    Ok(())
}

/// Mounts. `data` are options of the file system's.
///
/// # Errors
/// The kernel's.
pub fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u32, data: &CStr) -> Result<()> {
    // SAFETY: five strings, which live.
    unsafe {
        syscall!(
            Sysno::mount,
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr()
        )
    }
    .map(drop)
}

/// Unmounts at once, or as soon as nobody uses it any more.
///
/// # Errors
/// The kernel's.
pub fn unmount(target: &CStr) -> Result<()> {
    const MNT_DETACH: usize = 2;
    // SAFETY: the path is a string, and lives.
    unsafe { syscall!(Sysno::umount2, target.as_ptr(), MNT_DETACH) }.map(drop)
}

/// Changes the working directory.
///
/// # Errors
/// The kernel's.
pub fn change_directory(path: &CStr) -> Result<()> {
    // SAFETY: the path is a string, and lives.
    unsafe { syscall!(Sysno::chdir, path.as_ptr()) }.map(drop)
}

/// Changes the root directory.
///
/// # Errors
/// The kernel's.
pub fn change_root(path: &CStr) -> Result<()> {
    // SAFETY: the path is a string, and lives.
    unsafe { syscall!(Sysno::chroot, path.as_ptr()) }.map(drop)
}

/// Removes a file.
///
/// # Errors
/// The kernel's.
pub fn remove(path: &CStr) -> Result<()> {
    // SAFETY: the path is a string, and lives.
    unsafe { syscall!(Sysno::unlink, path.as_ptr()) }.map(drop)
}

/// Whether there is a directory of that name.
#[must_use]
pub fn is_directory(path: &CStr) -> bool {
    open(path, O_RDONLY | O_DIRECTORY).is_ok()
}

/// Becomes another program.
///
/// # Safety
/// `arguments` and `environment` are lists of strings that a null pointer ends.
pub unsafe fn execute(
    path: &CStr,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> Errno {
    // SAFETY: as the caller says; it returns only when it fails.
    let result = unsafe { syscall!(Sysno::execve, path.as_ptr(), arguments, environment) };
    result.err().unwrap_or(Errno::EINVAL)
}

/// Whether this is the process that the kernel starts.
#[must_use]
pub fn is_first_process() -> bool {
    // SAFETY: asks for a number.
    unsafe { syscall!(Sysno::getpid) }.is_ok_and(|id| id == 1)
}

/// Waits so many milliseconds, less than a second.
pub fn sleep(milliseconds: u32) {
    let time = timespec {
        tv_sec: 0,
        tv_nsec: i64::from(milliseconds % 1000) * 1_000_000,
    };
    // SAFETY: the time lives, and what is left of it nobody wants.
    let _ = unsafe { syscall!(Sysno::nanosleep, &raw const time, ptr::null::<timespec>()) };
}

/// Tells the monitor that user space is reached, where this process may.
pub fn mark_user_space() {
    // SAFETY: gives this process one port, and touches no memory.
    if unsafe { syscall!(Sysno::ioperm, MARKER_PORT, 1, 1) }.is_ok() {
        // SAFETY: the port is ours by now, and a write to it is what it is for.
        unsafe {
            asm!("out dx, al", in("dx") MARKER_PORT, in("al") MARKER, options(nomem, nostack, preserves_flags));
        };
        // SAFETY: takes it away again: who comes after this program shall not inherit it.
        let _ = unsafe { syscall!(Sysno::ioperm, MARKER_PORT, 1, 0) };
    }
}

/// Ends this process.
pub fn exit(code: u8) -> ! {
    loop {
        // SAFETY: nothing of this process is left that could mind.
        let _ = unsafe { syscall!(Sysno::exit_group, usize::from(code)) };
    }
}

/// Pages for `bytes` bytes, zeroed: for the allocator.
///
/// # Errors
/// The kernel's.
pub fn map(bytes: usize) -> Result<*mut u8> {
    const PROTECTION: usize = 3; // PROT_READ | PROT_WRITE
    const FLAGS: usize = 0x22; // MAP_PRIVATE | MAP_ANONYMOUS
    // SAFETY: a new mapping, where nothing is.
    let address = unsafe { syscall!(Sysno::mmap, 0, bytes, PROTECTION, FLAGS, usize::MAX, 0) }?;
    Ok(ptr::with_exposed_provenance_mut(address))
}

/// A path made of pieces; none where there is a NUL in it.
pub(crate) fn path(pieces: &[&[u8]]) -> Option<CString> {
    CString::new(pieces.concat()).ok()
}
