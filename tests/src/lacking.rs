//! Hosts that lack something.
use std::io;

/// From now on the kernel says of io_uring that there is no such thing, to this process and to those that it becomes and starts.
///
/// It allocates nothing.
pub(crate) fn io_uring() -> io::Result<()> {
    /// `seccomp_data.nr`.
    const NUMBER: u32 = 0;
    let (load, compare, answer) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_RET | libc::BPF_K,
    );
    let number = u32::try_from(libc::SYS_io_uring_setup).expect("a small number");
    let missing = u32::try_from(libc::ENOSYS).expect("a small number");
    let mut filter = [
        step(load, 0, NUMBER),
        step(compare, 1, number),
        step(answer, 0, libc::SECCOMP_RET_ALLOW),
        step(answer, 0, libc::SECCOMP_RET_ERRNO | missing),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).expect("a small number"),
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the program, and what it points to is there as long.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ) == 0
    };
    if installed {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A step of a filter, which skips `skipped` of those behind it where a comparison holds.
fn step(code: u32, skipped: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: u16::try_from(code).expect("a small number"),
        jt: skipped,
        jf: 0,
        k,
    }
}
