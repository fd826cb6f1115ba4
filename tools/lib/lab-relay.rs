//! Both ends of the line between `tools/lab` and the command that it runs in its virtual machine.
//!
//! `lab-relay host …` starts QEMU and stands in for the command: it passes standard input on, writes what
//! comes back to standard output and standard error, and ends as the command ended. `lab-relay guest` is the
//! lab's process 1: it runs the command.
//!
//! They speak over one virtio-serial port, in frames: a kind (one byte), a length (four, little-endian), the
//! payload. One port for everything, so that the exit code cannot overtake the output; frames, so that the end
//! of standard input needs no closed port, which the guest could not tell from one not yet opened.
//!
//! One file without dependencies, compiled by `tools/lab` itself: the lab must not wait for the workspace to
//! build, least of all when it is there to test it.

use std::collections::VecDeque;
use std::env;
use std::ffi::{OsStr, OsString, c_int, c_ulong, c_void};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio, exit};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Exit code of the lab's own failures; 126, 127 and 128+n are the command's.
const FAILED: i32 = 125;
/// The guest's first word must come within this. Other labs and builds may share the machine.
const BOOT_TIMEOUT: Duration = Duration::from_secs(300);
/// No sane frame is longer; a request holds the environment and the arguments.
const LONGEST_FRAME: usize = 16 << 20;
const CHUNK: usize = 32 << 10;

// Kinds of frames: to the guest …
const REQUEST: u8 = b'R';
const STDIN: u8 = b'0';
// … and from it.
const HELLO: u8 = b'H';
const STDOUT: u8 = b'1';
const STDERR: u8 = b'2';
const EXIT: u8 = b'X';

unsafe extern "C" {
    fn dup(fd: c_int) -> c_int;
    fn getppid() -> c_int;
    fn pipe(fds: *mut c_int) -> c_int;
    fn poll(fds: *mut PollFd, count: c_ulong, timeout: c_int) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn raise(signal: c_int) -> c_int;
    fn setgid(gid: u32) -> c_int;
    fn setgroups(count: usize, groups: *const u32) -> c_int;
    fn setsid() -> c_int;
    fn setuid(uid: u32) -> c_int;
    fn signal(signal: c_int, handler: usize) -> usize;
    fn sync();
    fn umask(mask: u32) -> u32;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn write(fd: c_int, bytes: *const c_void, count: usize) -> isize;
}

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

const POLLIN: i16 = 1;
const POLLHUP: i16 = 0x10;
const PR_SET_PDEATHSIG: c_int = 1;
const SIGKILL: c_int = 9;
const SIGPIPE: c_int = 13;
const SIG_DFL: usize = 0;

fn main() {
    let mut arguments = env::args_os().skip(1);
    match arguments.next().as_deref().and_then(OsStr::to_str) {
        Some("host") => host(&arguments.collect::<Vec<_>>()),
        // The kernel passes process 1 nothing that we choose; its number says enough.
        Some("guest") | None if std::process::id() == 1 => guest(),
        _ => fail("lab-relay: started by tools/lab, not by hand"),
    }
}

fn fail(why: &str) -> ! {
    eprintln!("lab: {why}");
    exit(FAILED)
}

// ---- frames ----------------------------------------------------------------------------------

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is shorter than LONGEST_FRAME");
    let mut bytes = Vec::with_capacity(5 + payload.len());
    bytes.push(kind);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn read_frame(from: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    from.read_exact(&mut head)?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > LONGEST_FRAME {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            "a frame of impossible length",
        ));
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    Ok((head[0], payload))
}

/// What is to be run, and as whom.
struct Request {
    directory: OsString,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    command: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Request {
    /// Strings that each end with a zero byte, as none can contain one.
    fn encode(&self) -> Vec<u8> {
        let groups: Vec<String> = self.groups.iter().map(u32::to_string).collect();
        let mut bytes = Vec::new();
        let mut put = |parts: &[&[u8]]| {
            for part in parts {
                bytes.extend_from_slice(part);
            }
            bytes.push(0);
        };
        put(&[self.directory.as_bytes()]);
        put(&[self.uid.to_string().as_bytes()]);
        put(&[self.gid.to_string().as_bytes()]);
        put(&[groups.join(" ").as_bytes()]);
        put(&[self.command.len().to_string().as_bytes()]);
        self.command.iter().for_each(|word| put(&[word.as_bytes()]));
        self.environment
            .iter()
            .for_each(|(key, value)| put(&[key.as_bytes(), b"=", value.as_bytes()]));
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut strings = bytes.strip_suffix(&[0])?.split(|&byte| byte == 0);
        let string = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<u32>().ok();
        Some(Self {
            directory: string(strings.next()?),
            uid: number(strings.next()?)?,
            gid: number(strings.next()?)?,
            groups: strings
                .next()?
                .split(|&byte| byte == b' ')
                .filter_map(number)
                .collect(),
            command: {
                let count = number(strings.next()?)?;
                (0..count)
                    .map(|_| strings.next().map(string))
                    .collect::<Option<_>>()?
            },
            environment: strings
                .filter_map(|entry| {
                    // A variable's name may itself begin with `=`, never be empty.
                    let equals = 1 + entry.get(1..)?.iter().position(|&byte| byte == b'=')?;
                    Some((string(&entry[..equals]), string(&entry[equals + 1..])))
                })
                .collect(),
        })
    }
}

// ---- host ------------------------------------------------------------------------------------

/// The last lines that QEMU and the lab's kernel said: shown only if the lab fails.
#[derive(Default)]
struct Tail(VecDeque<u8>);

impl Tail {
    const KEPT: usize = 16 << 10;

    fn collect(mut from: impl Read + Send + 'static, into: Arc<Mutex<Self>>) -> JoinHandle<()> {
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut chunk) {
                let bytes = &mut into
                    .lock()
                    .expect("no thread panics while it holds the tail")
                    .0;
                bytes.extend(&chunk[..count]);
                let excess = bytes.len().saturating_sub(Self::KEPT);
                bytes.drain(..excess);
            }
        })
    }

    fn show(&self) {
        let bytes: Vec<u8> = self.0.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        for line in &lines[lines.len().saturating_sub(60)..] {
            // Firmware and kernel also send what would move the terminal's cursor.
            let line: String = line
                .chars()
                .filter(|character| !character.is_control())
                .collect();
            eprintln!("lab: | {}", line.trim_end());
        }
    }
}

struct Qemu {
    child: Child,
    line: UnixStream,
    said: Arc<Mutex<Tail>>,
    listeners: Vec<JoinHandle<()>>,
}

impl Qemu {
    fn start(command: &[OsString]) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        // SAFETY: `theirs` is an open descriptor. The copy lacks close-on-exec, so QEMU inherits it.
        let inherited = unsafe { dup(theirs.as_raw_fd()) };
        if inherited < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: dup made it for us alone.
        let inherited = unsafe { OwnedFd::from_raw_fd(inherited) };
        let parent = std::process::id();
        let mut qemu = Command::new(&command[0]);
        qemu.args(&command[1..])
            .args([
                "-chardev",
                &format!("socket,id=lab,fd={}", inherited.as_raw_fd()),
            ])
            .args(["-device", "virtserialport,chardev=lab,nr=1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: between fork and exec only system calls are made, no memory is allocated.
        unsafe {
            qemu.pre_exec(move || {
                // However we end, SIGKILL included, QEMU ends with us.
                prctl(PR_SET_PDEATHSIG, c_ulong::from(SIGKILL.unsigned_abs()));
                if u32::try_from(getppid()).ok() == Some(parent) {
                    Ok(())
                } else {
                    Err(io::Error::other("the lab was killed while it started"))
                }
            });
        }
        let mut child = qemu.spawn()?;
        let said = Arc::new(Mutex::new(Tail::default()));
        let stdout = child.stdout.take().expect("piped above");
        let stderr = child.stderr.take().expect("piped above");
        let listeners = vec![
            Tail::collect(stdout, said.clone()),
            Tail::collect(stderr, said.clone()),
        ];
        // With `inherited` and `theirs` dropped here, the line ends when QEMU does.
        Ok(Self {
            child,
            line: ours,
            said,
            listeners,
        })
    }

    fn kill(&mut self) -> ExitStatus {
        // It may have ended by itself: then there is nothing to kill.
        drop(self.child.kill());
        self.child
            .wait()
            .expect("QEMU is our child and waited for once")
    }

    fn fail(mut self, why: &str) -> ! {
        // A machine that has just gone down gets a moment to say why.
        for _ in 0..20 {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(50)),
                _ => break,
            }
        }
        let status = self.kill();
        for listener in self.listeners.drain(..) {
            drop(listener.join());
        }
        self.said.lock().expect("its threads have ended").show();
        fail(&format!("{why} (QEMU: {status})"))
    }
}

/// `lab-relay host UID GID GROUPS WORDS COMMAND… QEMU…`: COMMAND has WORDS words, GROUPS are separated by spaces.
fn host(arguments: &[OsString]) -> ! {
    let number = |index: usize| -> u32 {
        let text = arguments.get(index).and_then(|word| word.to_str());
        text.and_then(|text| text.parse().ok())
            .unwrap_or_else(|| fail("lab-relay: bad arguments"))
    };
    let words = number(3) as usize;
    let Some((command, qemu)) = arguments[4..]
        .split_at_checked(words)
        .filter(|(_, qemu)| !qemu.is_empty())
    else {
        fail("lab-relay: bad arguments")
    };
    let groups = arguments[2].to_str().unwrap_or_default();
    let directory =
        env::current_dir().unwrap_or_else(|error| fail(&format!("the working directory: {error}")));
    let request = Request {
        directory: directory.into_os_string(),
        uid: number(0),
        gid: number(1),
        groups: groups
            .split(' ')
            .filter_map(|group| group.parse().ok())
            .collect(),
        command: command.to_vec(),
        environment: env::vars_os().collect(),
    };

    let mut qemu =
        Qemu::start(qemu).unwrap_or_else(|error| fail(&format!("cannot start QEMU: {error}")));
    if let Err(error) = greet(&mut qemu.line, &request) {
        qemu.fail(&match error.kind() {
            ErrorKind::WouldBlock => format!(
                "the lab did not come up within {} s",
                BOOT_TIMEOUT.as_secs()
            ),
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                "the lab did not come up".into()
            }
            _ => format!("the lab did not come up: {error}"),
        });
    }
    match relay(&mut qemu.line) {
        Ok(code) => {
            qemu.kill();
            exit(code)
        }
        Err(Broken::Reader) => {
            qemu.kill();
            // As the command itself would have ended, had it been run without us.
            // SAFETY: both take plain numbers.
            unsafe {
                signal(SIGPIPE, SIG_DFL);
                raise(SIGPIPE);
            }
            exit(128 + SIGPIPE)
        }
        Err(Broken::Output(error)) => {
            qemu.kill();
            fail(&format!("cannot pass the command's output on: {error}"))
        }
        Err(Broken::Line) => qemu.fail("the lab went down before the command had ended"),
    }
}

/// Waits for the guest, tells it what to run, and starts passing it standard input.
fn greet(line: &mut UnixStream, request: &Request) -> io::Result<()> {
    line.set_read_timeout(Some(BOOT_TIMEOUT))?;
    let (kind, _) = read_frame(line)?;
    if kind != HELLO {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            "it speaks another language",
        ));
    }
    line.set_read_timeout(None)?;
    line.write_all(&frame(REQUEST, &request.encode()))?;
    let mut to_guest = line.try_clone()?;
    // Never joined: it may sit in a read that nothing ends.
    thread::spawn(move || {
        // SAFETY: descriptor 0 is open (the runtime sees to that) and stays so.
        let mut input = unsafe { File::from_raw_fd(0) };
        let mut chunk = vec![0; CHUNK];
        loop {
            match input.read(&mut chunk) {
                Ok(count @ 1..) => {
                    if to_guest.write_all(&frame(STDIN, &chunk[..count])).is_err() {
                        break;
                    }
                }
                Err(error) if is_passing(&error) => thread::sleep(Duration::from_millis(5)),
                // An unreadable standard input has ended, as far as the command is concerned.
                Ok(0) | Err(_) => {
                    drop(to_guest.write_all(&frame(STDIN, &[])));
                    break;
                }
            }
        }
        // Dropping it would close descriptor 0, which the next open would then reuse.
        std::mem::forget(input);
    });
    Ok(())
}

/// Why no exit code will come.
enum Broken {
    /// QEMU is gone.
    Line,
    /// Nobody reads our output any more.
    Reader,
    Output(io::Error),
}

fn relay(line: &mut UnixStream) -> Result<i32, Broken> {
    loop {
        let (kind, payload) = read_frame(line).map_err(|_| Broken::Line)?;
        let descriptor = match kind {
            STDOUT => 1,
            STDERR => 2,
            EXIT => return Ok(payload.first().copied().map_or(FAILED, i32::from)),
            _ => continue,
        };
        write_fully(descriptor, &payload).map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => Broken::Reader,
            _ => Broken::Output(error),
        })?;
    }
}

/// Unbuffered: what the command writes is seen when it is written.
fn write_fully(descriptor: RawFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: `bytes` is readable for its whole length.
        let count = unsafe { write(descriptor, bytes.as_ptr().cast(), bytes.len()) };
        if let Ok(count) = usize::try_from(count) {
            bytes = &bytes[count..];
            continue;
        }
        let error = io::Error::last_os_error();
        if !is_passing(&error) {
            return Err(error);
        }
        // Whoever gave us this descriptor made it non-blocking.
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock)
}

// ---- guest -----------------------------------------------------------------------------------

/// The guest's end of the port. Reading nothing means that the host has not connected yet.
struct Port(File);

impl Read for Port {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer)? {
                0 if !buffer.is_empty() => thread::sleep(Duration::from_millis(5)),
                count => return Ok(count),
            }
        }
    }
}

type Sender = Arc<Mutex<File>>;

fn send(port: &Sender, kind: u8, payload: &[u8]) {
    let mut port = port
        .lock()
        .expect("no thread panics while it holds the port");
    port.write_all(&frame(kind, payload))
        .expect("the port takes what it is given");
}

/// Process 1 of the lab. A panic here is the kernel's too, ends QEMU, and so is reported by the host.
fn guest() -> ! {
    let file = open_port();
    let port: Sender = Arc::new(Mutex::new(file.try_clone().expect("descriptors are left")));
    let mut from_host = Port(file);
    send(&port, HELLO, &[]);
    let (_, payload) = read_frame(&mut from_host).expect("the host is there");
    let request = Request::decode(&payload).expect("the host is of the same build");
    let code = run(request, from_host, &port);
    // What was written to a writable share is to be on the host before we are killed.
    // SAFETY: takes nothing, gives nothing.
    unsafe { sync() };
    send(&port, EXIT, &[code]);
    loop {
        thread::park();
    }
}

/// The one port there is: its first number depends on what other devices the lab has.
fn open_port() -> File {
    // The device answers some time after its driver was loaded.
    for _ in 0..6000 {
        let port = fs::read_dir("/dev").ok().into_iter().flatten().flatten();
        let mut port = port.filter(|entry| entry.file_name().as_bytes().starts_with(b"vport"));
        let open = |path| OpenOptions::new().read(true).write(true).open(path).ok();
        if let Some(file) = port.next().and_then(|entry| open(entry.path())) {
            return file;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("no port to the host appeared");
}

fn run(request: Request, from_host: Port, port: &Sender) -> u8 {
    let mut child = match spawn(request) {
        Ok(child) => child,
        Err((code, why)) => {
            send(port, STDERR, format!("lab: {why}\n").as_bytes());
            return code;
        }
    };
    let mut stdin = child.stdin.take().expect("piped");
    thread::spawn(move || feed(from_host, &mut stdin));
    let mut done = [0; 2];
    // SAFETY: `done` has room for the two descriptors.
    let made = unsafe { pipe(done.as_mut_ptr()) };
    assert_eq!(made, 0, "descriptors are left");
    let stdout = forward(child.stdout.take().expect("piped"), STDOUT, port, done[0]);
    let stderr = forward(child.stderr.take().expect("piped"), STDERR, port, done[0]);

    let code = reap_until(child.id());
    // SAFETY: the descriptor is ours alone; closing it is the signal to the forwarders.
    drop(unsafe { OwnedFd::from_raw_fd(done[1]) });
    drop((stdout.join(), stderr.join()));
    code
}

fn spawn(request: Request) -> Result<Child, (u8, String)> {
    let fail = |what: &str, error: io::Error| (125, format!("{what}: {error}"));
    let Request {
        directory,
        uid,
        gid,
        groups,
        command,
        environment,
    } = request;

    let runtime = format!("/run/user/{uid}");
    fs::create_dir_all("/run/user").map_err(|error| fail("/run/user", error))?;
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&runtime)
        .map_err(|error| fail(&runtime, error))?;
    chown(&runtime, Some(uid), Some(gid)).map_err(|error| fail(&runtime, error))?;
    // As root: the user's own rights to the way there are not asked, as `su` does not.
    env::set_current_dir(&directory).map_err(|error| fail(&directory.to_string_lossy(), error))?;

    let name = &command[0];
    let mut child = Command::new(name);
    child
        .args(&command[1..])
        .env_clear()
        .envs(environment)
        .env("XDG_RUNTIME_DIR", &runtime)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: between fork and exec only system calls are made, no memory is allocated.
    unsafe {
        child.pre_exec(move || {
            let done = |result: c_int| {
                if result < 0 {
                    Err(io::Error::last_os_error())
                } else {
                    Ok(())
                }
            };
            done(setsid())?;
            umask(0o022);
            done(setgroups(groups.len(), groups.as_ptr()))?;
            done(setgid(gid))?;
            done(setuid(uid))
        });
    }
    child.spawn().map_err(|error| {
        let code = if error.kind() == ErrorKind::NotFound {
            127
        } else {
            126
        };
        (code, format!("{}: {error}", name.to_string_lossy()))
    })
}

/// Standard input, until its end. A command that no longer reads must not stop us: what is left is thrown away.
fn feed(mut from_host: Port, stdin: &mut impl Write) {
    let mut reads = true;
    while let Ok((STDIN, bytes)) = read_frame(&mut from_host) {
        if bytes.is_empty() {
            break;
        }
        reads = reads && stdin.write_all(&bytes).is_ok();
    }
}

/// Passes on what the command and its children write, until the pipe ends or, once `done` is closed at the other end,
/// is empty: a daemon that the command left behind does not hold the lab.
fn forward(
    mut from: impl Read + AsRawFd + Send + 'static,
    kind: u8,
    port: &Sender,
    done: RawFd,
) -> JoinHandle<()> {
    let port = port.clone();
    thread::spawn(move || {
        let mut chunk = vec![0; CHUNK];
        loop {
            let mut fds = [from.as_raw_fd(), done].map(|fd| PollFd {
                fd,
                events: POLLIN,
                revents: 0,
            });
            // SAFETY: `fds` is an array of that many.
            if unsafe { poll(fds.as_mut_ptr(), 2, -1) } < 0 {
                continue;
            }
            // In this order: what was written before the end is still to be read.
            if fds[0].revents & POLLIN != 0 {
                match from.read(&mut chunk) {
                    Ok(count @ 1..) => send(&port, kind, &chunk[..count]),
                    _ => break,
                }
            } else if fds[0].revents & POLLHUP != 0 || fds[1].revents != 0 {
                break;
            }
        }
    })
}

/// Waits for the command as process 1 must: whoever else ends is waited for too.
fn reap_until(command: u32) -> u8 {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a place for the result.
        let pid = unsafe { waitpid(-1, &raw mut status, 0) };
        if u32::try_from(pid).ok() == Some(command) {
            let status = ExitStatus::from_raw(status);
            let code = status
                .code()
                .or_else(|| status.signal().map(|signal| 128 + signal));
            return code.and_then(|code| u8::try_from(code).ok()).unwrap_or(125);
        }
        if pid < 0 && io::Error::last_os_error().kind() != ErrorKind::Interrupted {
            return 125;
        }
    }
}
