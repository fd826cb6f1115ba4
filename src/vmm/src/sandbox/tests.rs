//! Each filter against its rules, in forked children: what is allowed passes, everything else is fatal.
use super::{
    Filter, Role,
    rules::{self, Argument, Rule},
};

const ROLES: [Role; 12] = Role::ALL;
/// Beyond the newest system call of any kernel that this was written for.
const NUMBERS: i64 = 512;
/// `uretprobe` and `uprobe`: Linux lets them pass every filter, and they fail but where the kernel itself placed them.
const PROBES: [i64; 2] = [335, 336];
/// The x32 ABI's calls, whose numbers have this bit.
const X32: i64 = 0x4000_0000;

/// How a child ended that made one system call under a filter, and then `exit_group(0)`.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Allowed,
    Fatal,
}

fn try_call(filter: &Filter, number: i64, arguments: [u64; 6]) -> Verdict {
    // SAFETY: the child makes only calls that are safe after a fork of a program with threads: the filter is compiled
    // already, and what follows is raw system calls.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // The test harness has a handler for faults, which makes calls.
        // SAFETY: to have the default takes no handler.
        unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
        // A call that waits for nothing is allowed too.
        // SAFETY: it has no argument that is a pointer.
        unsafe { libc::alarm(1) };
        let privileges = rustix::thread::set_no_new_privs(true);
        let installed = privileges.is_ok() && filter.install().is_ok();
        let [a, b, c, d, e, f] = arguments;
        // SAFETY: every pointer is null or small, so a call that is allowed fails or does nothing.
        unsafe {
            if installed {
                if number == libc::SYS_rt_sigreturn {
                    return_from_no_signal();
                }
                libc::syscall(number, a, b, c, d, e, f);
                libc::syscall(libc::SYS_exit_group, 0);
            }
            libc::syscall(libc::SYS_exit_group, 1);
        }
        unreachable!("exit_group does not return");
    }
    let mut status = 0;
    // SAFETY: the child is ours, and `status` is live.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(
        !libc::WIFEXITED(status) || libc::WEXITSTATUS(status) == 0,
        "the filter was not installed"
    );
    // A call that harms its caller was allowed too: rt_sigreturn without a signal is a fault.
    if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS {
        Verdict::Fatal
    } else {
        Verdict::Allowed
    }
}

/// Makes that call where there is no stack to return from: on one, whatever lies there would be returned to, and might make calls.
///
/// # Safety
/// It is the end of the process.
unsafe fn return_from_no_signal() -> ! {
    // SAFETY: Linux finds no frame at this address, and ends the process.
    unsafe {
        std::arch::asm!(
            "mov rsp, 8", "syscall", "ud2",
            in("rax") libc::SYS_rt_sigreturn,
            options(noreturn)
        )
    }
}

fn value(argument: Argument) -> (usize, u64) {
    match argument {
        Argument::Is(index, value) | Argument::Masked(index, _, value) => {
            (usize::from(index), value)
        }
        Argument::OwnProcess(index) => (usize::from(index), u64::from(std::process::id())),
    }
}

fn holds(argument: Argument, arguments: &[u64; 6]) -> bool {
    let (index, wanted) = value(argument);
    match argument {
        Argument::Masked(_, mask, _) => arguments[index] & mask == wanted,
        Argument::Is(..) | Argument::OwnProcess(_) => arguments[index] & 0xffff_ffff == wanted,
    }
}

/// Arguments that meet every condition of a rule.
fn fitting(rule: &Rule) -> [u64; 6] {
    let mut arguments = [0; 6];
    for &argument in rule.arguments {
        let (index, value) = value(argument);
        arguments[index] = value;
    }
    arguments
}

/// A value that does not meet a condition.
fn violate(argument: Argument, arguments: &mut [u64; 6]) {
    let (index, value) = value(argument);
    arguments[index] = match argument {
        Argument::Masked(_, mask, _) => value ^ mask,
        Argument::Is(..) | Argument::OwnProcess(_) => value ^ 0x0100_0001,
    };
}

#[test]
fn each_rule_allows_its_call() {
    for role in ROLES {
        let filter = Filter::new(role);
        for rule in rules::of(role) {
            let verdict = try_call(&filter, rule.number, fitting(rule));
            assert_eq!(
                verdict,
                Verdict::Allowed,
                "{role:?}: {} for {}",
                rule.name,
                rule.why
            );
        }
    }
}

#[test]
fn each_condition_of_each_rule_matters() {
    for role in ROLES {
        let filter = Filter::new(role);
        for rule in rules::of(role) {
            for &argument in rule.arguments {
                let mut arguments = fitting(rule);
                violate(argument, &mut arguments);
                let allowed_otherwise = rules::of(role)
                    .filter(|other| other.number == rule.number)
                    .any(|other| other.arguments.iter().all(|&a| holds(a, &arguments)));
                let verdict = try_call(&filter, rule.number, arguments);
                assert_eq!(
                    verdict == Verdict::Allowed,
                    allowed_otherwise,
                    "{role:?}: {} {arguments:x?}",
                    rule.name
                );
            }
        }
    }
}

#[test]
fn every_other_system_call_is_fatal() {
    for role in ROLES {
        let filter = Filter::new(role);
        let allowed: Vec<i64> = rules::of(role).map(|rule| rule.number).collect();
        let others = (0..NUMBERS)
            .chain([libc::SYS_write | X32])
            .filter(|number| !allowed.contains(number) && !PROBES.contains(number));
        for number in others {
            assert_eq!(
                try_call(&filter, number, [0; 6]),
                Verdict::Fatal,
                "{role:?}: system call {number}"
            );
        }
    }
}

#[test]
fn no_rule_is_shadowed_by_one_without_conditions() {
    for role in ROLES {
        for rule in rules::of(role).filter(|rule| !rule.arguments.is_empty()) {
            let unconditional = rules::of(role)
                .any(|other| other.number == rule.number && other.arguments.is_empty());
            assert!(!unconditional, "{role:?}: {} for {}", rule.name, rule.why);
        }
    }
}

#[test]
fn a_filter_looks_at_few_instructions_per_call() {
    for role in ROLES {
        let filter = Filter::new(role);
        let deepest = (0..500)
            .map(|number| steps_to_first_argument(filter.instructions(), number))
            .max();
        assert!(
            deepest.is_some_and(|deepest| deepest <= 20),
            "{role:?}: {deepest:?} of {}",
            filter.instructions().len()
        );
    }
}

/// Instructions that run until the verdict on a call, or until its arguments are looked at.
fn steps_to_first_argument(program: &[libc::sock_filter], number: u32) -> usize {
    const ARCHITECTURE: u32 = 0xc000_003e;
    let (mut at, mut loaded, mut steps) = (0, 0, 0);
    loop {
        let step = &program[at];
        steps += 1;
        at += 1 + match (step.code, step.k) {
            (0x20, 0) => {
                loaded = number;
                0
            }
            (0x20, 4) => {
                loaded = ARCHITECTURE;
                0
            }
            (0x05, k) => usize::try_from(k).unwrap(),
            (0x15, k) => usize::from(if loaded == k { step.jt } else { step.jf }),
            (0x35, k) => usize::from(if loaded >= k { step.jt } else { step.jf }),
            _ => return steps,
        };
    }
}

#[test]
fn the_kick_signal_is_the_c_librarys_first_for_programs() {
    assert_eq!(u64::try_from(libc::SIGRTMIN()).unwrap(), rules::KICK_SIGNAL);
}

#[test]
fn a_confined_process_reaches_no_path_and_gains_no_privilege() {
    // SAFETY: as in `try_call`, except that confining allocates: this test forks before any other thread of its own
    // exists, and glibc's and musl's allocators are consistent in the child of a fork.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let confined = super::confine_process();
        // SAFETY: raw calls with valid or null arguments.
        let code = unsafe {
            let open = libc::open(c"/etc/passwd".as_ptr(), libc::O_RDONLY);
            let no_new_privileges = libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
            let mut header = [0x2008_0522_u32, 0];
            let mut data = [0_u32; 6];
            libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr());
            let landlock = confined.is_ok_and(|paths| paths != super::PathsGone::NotAtAll);
            i32::from(landlock && open >= 0)
                | (i32::from(no_new_privileges != 1) << 1)
                | (i32::from(data != [0; 6]) << 2)
        };
        // SAFETY: ends the child.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: the child is ours.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status));
    assert_eq!(
        libc::WEXITSTATUS(status),
        0,
        "1: a path opened, 2: privileges can be gained, 4: capabilities left"
    );
}
