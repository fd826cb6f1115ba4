use std::os::fd::RawFd;

/// Closes every descriptor from 3 on that this process inherited, except those in `keep`. To be called before anything
/// is opened: a guest that breaks out must not find a descriptor that the caller forgot about.
pub fn close_inherited(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep
        .iter()
        .filter_map(|&fd| u32::try_from(fd).ok())
        .filter(|&fd| fd > 2)
        .collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1);
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: no descriptor of this program's own is open yet, so none that a value owns is closed under it. Kernels
    // before 5.9 lack the call, and then inherited descriptors stay.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}
