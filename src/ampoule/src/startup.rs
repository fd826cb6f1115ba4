//! What has to be done before anything else, of what the standard library's runtime would do.
use std::{
    ffi::{CStr, OsStr, OsString},
    os::unix::ffi::OsStrExt,
};

/// Makes writing to a closed pipe an error instead of the end, and sees to it that descriptors 0 to 2 are open: else the
/// next file would become one of them, and be taken for stdin or written to as stderr.
pub(crate) fn prepare() {
    // SAFETY: to ignore a signal needs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let closed = |fd| libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    };
    let mut descriptors = [closed(0), closed(1), closed(2)];
    // SAFETY: the array is live and has three elements.
    unsafe { libc::poll(descriptors.as_mut_ptr(), 3, 0) };
    for _ in descriptors
        .iter()
        .filter(|descriptor| descriptor.revents & libc::POLLNVAL != 0)
    {
        // SAFETY: the path is a string. The lowest number that is free is one of the three.
        unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
    }
}

/// The command line's words.
///
/// # Safety
/// `argv` points to `argc` pointers to strings.
pub(crate) unsafe fn arguments(
    argc: libc::c_int,
    argv: *const *const libc::c_char,
) -> Vec<OsString> {
    let count = usize::try_from(argc).unwrap_or(0);
    (0..count)
        .map(|index| {
            // SAFETY: the caller says that so many pointers are there.
            let word = unsafe { *argv.add(index) };
            // SAFETY: the caller says that each points to a string.
            let word = unsafe { CStr::from_ptr(word) };
            OsStr::from_bytes(word.to_bytes()).to_owned()
        })
        .collect()
}
