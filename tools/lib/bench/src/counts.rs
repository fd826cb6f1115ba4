//! What the kernel counts of a program while something is measured: the time of its threads, their system calls, exits to user space.
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Nanoseconds that threads have run. In the lab each is an instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Those that run the guest, the guest included.
    pub vcpus: u64,
    /// All others of the program, and those of the kernel's that serve it alone (vhost).
    pub others: u64,
}

/// A thread of a program's, or of the kernel's for it.
struct Thread {
    id: u32,
    directory: PathBuf,
    name: String,
}

impl Thread {
    fn of(directory: PathBuf) -> Option<Self> {
        Some(Self {
            id: directory.file_name()?.to_str()?.parse().ok()?,
            name: fs::read_to_string(directory.join("comm")).ok()?,
            directory,
        })
    }

    fn runs_the_guest(&self) -> bool {
        is_vcpu(&self.name)
    }
}

/// `vcpu0`, `fc_vcpu 0`, `CPU 0/KVM`.
fn is_vcpu(name: &str) -> bool {
    let name = name.to_lowercase();
    name.contains("vcpu") || (name.starts_with("cpu ") && name.contains("/kvm"))
}

fn threads(pid: u32) -> io::Result<Vec<Thread>> {
    let of = |directory: &str| {
        let entries = fs::read_dir(directory)?.flatten();
        Ok::<_, io::Error>(entries.filter_map(|entry| Thread::of(entry.path())))
    };
    let mut threads: Vec<_> = of(&format!("/proc/{pid}/task"))?.collect();
    let helper = format!("vhost-{pid}");
    threads.extend(of("/proc")?.filter(|thread| thread.name.trim_end() == helper));
    Ok(threads)
}

/// How long the threads of a process have run until now.
///
/// # Errors
/// When it has gone, or the kernel does not count.
pub fn times(pid: u32) -> io::Result<Times> {
    let mut times = Times::default();
    for thread in threads(pid)? {
        let text = match fs::read_to_string(thread.directory.join("schedstat")) {
            // It has ended since it was listed; those that ended before are not counted either.
            Err(_) if !thread.directory.exists() => continue,
            text => text?,
        };
        let ran = text
            .split_whitespace()
            .next()
            .and_then(|word| word.parse().ok());
        let ran: u64 = ran.ok_or_else(|| io::Error::other("schedstat has no times"))?;
        match thread.runs_the_guest() {
            true => times.vcpus += ran,
            false => times.others += ran,
        }
    }
    Ok(times)
}

impl Times {
    /// What has been added since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_sub(before.vcpus),
            others: self.others.saturating_sub(before.others),
        }
    }
}

/// What a program did while it was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// System calls of all threads but the vCPUs', by their names.
    pub calls: BTreeMap<String, u64>,
    /// Times that the guest was left for user space.
    pub exits: u64,
}

impl Counted {
    /// All system calls.
    pub fn all_calls(&self) -> u64 {
        self.calls.values().sum()
    }
}

const CALLS: &str = "raw_syscalls/sys_enter";
const EXITS: &str = "kvm/kvm_userspace_exit";
const CALLS_HISTOGRAM: &str = "hist:keys=common_pid,id:size=4096";
const EXITS_HISTOGRAM: &str = "hist:keys=common_pid,reason:size=4096";

/// Counts by the kernel's own trace events, which add them up where they happen: nobody is stopped.
#[derive(Debug)]
pub struct Counter {
    events: PathBuf,
}

impl Counter {
    /// Counts from now on. What is timed is timed without it.
    ///
    /// # Errors
    /// When the kernel has no such events, or they are not for this user.
    pub fn start() -> io::Result<Self> {
        let events = PathBuf::from("/sys/kernel/tracing/events");
        let counter = Self { events };
        counter.set(CALLS, CALLS_HISTOGRAM)?;
        counter.set(EXITS, EXITS_HISTOGRAM)?;
        Ok(counter)
    }

    fn set(&self, event: &str, what: &str) -> io::Result<()> {
        let trigger = self.events.join(event).join("trigger");
        fs::write(&trigger, what)
            .map_err(|error| io::Error::other(format!("{}: {error}", trigger.display())))
    }

    fn histogram(&self, event: &str) -> io::Result<Vec<Bucket>> {
        let text = fs::read_to_string(self.events.join(event).join("hist"))?;
        Ok(buckets(&text))
    }

    /// What process `pid` has done since.
    ///
    /// # Errors
    /// When it has gone.
    pub fn finish(self, pid: u32) -> io::Result<Counted> {
        let (calls, exits) = (self.histogram(CALLS)?, self.histogram(EXITS)?);
        Ok(sum(&threads(pid)?, &calls, &exits))
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        for (event, what) in [(CALLS, CALLS_HISTOGRAM), (EXITS, EXITS_HISTOGRAM)] {
            // Where it was never set there is nothing to take away.
            let _ = self.set(event, &format!("!{what}"));
        }
    }
}

/// A line of a histogram: a thread, what it did, how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    thread: u32,
    what: u32,
    count: u64,
}

fn sum(threads: &[Thread], calls: &[Bucket], exits: &[Bucket]) -> Counted {
    let thread = |bucket: &Bucket| threads.iter().find(|thread| thread.id == bucket.thread);
    let mut counted = Counted::default();
    for call in calls {
        if thread(call).is_some_and(|thread| !thread.runs_the_guest()) {
            *counted.calls.entry(call_name(call.what)).or_default() += call.count;
        }
    }
    let exits = exits.iter().filter(|exit| thread(exit).is_some());
    counted.exits = exits.map(|exit| exit.count).sum();
    counted
}

/// `{ common_pid:        123, id:         20 } hitcount:         45`.
fn buckets(text: &str) -> Vec<Bucket> {
    let bucket = |line: &str| {
        let (keys, count) = line.strip_prefix('{')?.split_once('}')?;
        let mut values = keys
            .split(',')
            .map(|key| key.split_once(':')?.1.trim().parse().ok());
        Some(Bucket {
            thread: values.next()??,
            what: values.next()??,
            count: count.split_once(':')?.1.trim().parse().ok()?,
        })
    };
    text.lines().filter_map(bucket).collect()
}

/// Of x86-64, those that monitors move data with.
fn call_name(number: u32) -> String {
    let name = match number {
        0 => "read",
        1 => "write",
        7 => "poll",
        16 => "ioctl",
        19 => "readv",
        20 => "writev",
        45 => "recvfrom",
        46 => "sendmsg",
        47 => "recvmsg",
        202 => "futex",
        228 => "clock_gettime",
        232 => "epoll_wait",
        233 => "epoll_ctl",
        271 => "ppoll",
        281 => "epoll_pwait",
        286 => "timerfd_settime",
        426 => "io_uring_enter",
        441 => "epoll_pwait2",
        _ => return format!("call {number}"),
    };
    name.into()
}

/// Frames and bytes that an interface of this network namespace has received: what its guest has sent.
///
/// # Errors
/// When there is no such interface.
pub fn received(interface: &str) -> io::Result<u64> {
    let text = fs::read_to_string(Path::new("/proc/net/dev"))?;
    frames(&text, interface).ok_or_else(|| io::Error::other(format!("no interface {interface}")))
}

fn frames(text: &str, interface: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| {
        let (name, counts) = line.split_once(':')?;
        (name.trim() == interface).then_some(counts)
    })?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HISTOGRAM: &str = "\
# event histogram
#
# trigger info: hist:keys=common_pid,id:vals=hitcount:sort=hitcount:size=4096 [active]
#

{ common_pid:        123, id:         20 } hitcount:         45
{ common_pid:        123, id:        334 } hitcount:          1
{ common_pid:        124, id:         16 } hitcount:        200
{ common_pid:        999, id:         20 } hitcount:       1000

Totals:
    Hits: 1246
    Entries: 4
    Dropped: 0
";

    fn thread(id: u32, name: &str) -> Thread {
        Thread {
            id,
            directory: PathBuf::new(),
            name: name.into(),
        }
    }

    #[test]
    fn calls_are_those_of_the_programs_own_threads_but_its_vcpus() {
        let threads = [thread(123, "net0\n"), thread(124, "vcpu0\n")];
        let calls = buckets(HISTOGRAM);
        assert_eq!(calls.len(), 4);
        let exits = buckets("{ common_pid:        124, reason:          2 } hitcount:          3");
        let counted = sum(&threads, &calls, &exits);
        let expected = BTreeMap::from([("writev".into(), 45), ("call 334".into(), 1)]);
        assert_eq!((counted.all_calls(), counted.exits), (46, 3));
        assert_eq!(counted.calls, expected);
    }

    #[test]
    fn vcpus_are_told_by_every_monitors_names_for_them() {
        for name in ["vcpu0", "fc_vcpu 0", "CPU 0/KVM\n"] {
            assert!(is_vcpu(name), "{name}");
        }
        for name in ["net0", "qemu-system-x86", "vhost-12", "cpuset"] {
            assert!(!is_vcpu(name), "{name}");
        }
    }

    #[test]
    fn what_a_guest_sent_is_what_its_tap_received() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
  tap0: 1234567     890    0    0    0     0          0         0      111      22    0    0    0     0       0          0
";
        assert_eq!(frames(text, "tap0"), Some(890));
        assert_eq!(frames(text, "tap1"), None);
    }

    #[test]
    fn the_time_of_this_very_process_is_known() {
        assert!(times(std::process::id()).unwrap().others > 0);
    }
}
