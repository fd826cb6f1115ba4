//! The guest's side of measured transfers: it connects to the host, by TCP or by vsock, and does what it is told there until it is told to
//! end. An order is a letter and a count of 8 bytes, least significant first:
//!
//! - `s` sends so many bytes, 64 KiB at a time;
//! - `r` receives so many bytes, and then answers with one;
//! - `e` answers each of so many bytes with a byte;
//! - `u` sends so many datagrams by UDP, `v` receives them and answers with how many came;
//! - `q` ends.
//!
//! Nothing but the standard library: `rustc` alone makes it.

use std::{
    env,
    fs::File,
    io::{self, Read, Write},
    net::{TcpStream, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

const PIECE: usize = 64 << 10;
const DATAGRAM: usize = 64;
/// How long a datagram is waited for that should be there already.
const PATIENCE: Duration = Duration::from_secs(2);

const AF_VSOCK: u16 = 40;
const SOCK_STREAM: i32 = 1;
const HOST: u32 = 2;
const SOL_SOCKET: i32 = 1;
const SO_RCVBUFFORCE: i32 = 33;

/// `struct sockaddr_vm` (vsock(7)).
#[repr(C)]
struct Address {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    flags: [u8; 4],
}

unsafe extern "C" {
    fn socket(domain: i32, kind: i32, protocol: i32) -> i32;
    fn connect(socket: i32, address: *const Address, length: u32) -> i32;
    fn setsockopt(socket: i32, level: i32, name: i32, value: *const i32, length: u32) -> i32;
}

fn main() -> io::Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["tcp", address] => {
            let datagrams = UdpSocket::bind("0.0.0.0:5000")?;
            datagrams.connect(address)?;
            datagrams.set_read_timeout(Some(PATIENCE))?;
            make_room(&datagrams)?;
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            obey(File::from(OwnedFd::from(stream)), Some(&datagrams))
        }
        ["vsock", port] => obey(dial(port.parse().map_err(io::Error::other)?)?, None),
        _ => Err(io::Error::other(
            "usage: guest-traffic tcp ADDRESS:PORT | vsock PORT",
        )),
    }
}

/// Connects to a port of the host's by vsock.
fn dial(port: u32) -> io::Result<File> {
    // SAFETY: numbers in, a new descriptor or -1 out.
    let descriptor = unsafe { socket(i32::from(AF_VSOCK), SOCK_STREAM, 0) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    let stream = unsafe { File::from_raw_fd(descriptor) };
    let address = Address {
        family: AF_VSOCK,
        reserved: 0,
        port,
        cid: HOST,
        flags: [0; 4],
    };
    // SAFETY: the address lives during the call and is as long as said.
    match unsafe { connect(descriptor, &raw const address, 16) } {
        0 => Ok(stream),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Room for all datagrams of a measurement at once, so that none is lost.
fn make_room(socket: &UdpSocket) -> io::Result<()> {
    let bytes = 16 << 20;
    // SAFETY: the value lives during the call and is as long as said.
    match unsafe {
        setsockopt(
            socket.as_raw_fd(),
            SOL_SOCKET,
            SO_RCVBUFFORCE,
            &raw const bytes,
            4,
        )
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn obey(mut stream: File, datagrams: Option<&UdpSocket>) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let (mut letter, mut count) = ([0], [0; 8]);
        stream.read_exact(&mut letter)?;
        stream.read_exact(&mut count)?;
        let count = u64::from_le_bytes(count);
        match (letter[0], datagrams) {
            (b's', _) => send(&mut stream, &piece, count)?,
            (b'r', _) => receive(&mut stream, &mut piece, count)?,
            (b'e', _) => echo(&mut stream, count)?,
            (b'u', Some(datagrams)) => {
                for _ in 0..count {
                    datagrams.send(&piece[..DATAGRAM])?;
                }
            }
            (b'v', Some(datagrams)) => {
                let came = (0..count).take_while(|_| datagrams.recv(&mut piece).is_ok());
                stream.write_all(&(came.count() as u64).to_le_bytes())?;
            }
            (b'q', _) => return Ok(()),
            _ => return Err(io::Error::other("no such order")),
        }
    }
}

fn send(stream: &mut File, piece: &[u8], count: u64) -> io::Result<()> {
    let mut left = count;
    while left > 0 {
        let now = left.min(PIECE as u64);
        stream.write_all(&piece[..now as usize])?;
        left -= now;
    }
    Ok(())
}

fn receive(stream: &mut File, piece: &mut [u8], count: u64) -> io::Result<()> {
    let mut left = count;
    while left > 0 {
        let most = left.min(PIECE as u64) as usize;
        match stream.read(&mut piece[..most])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => left -= got as u64,
        }
    }
    stream.write_all(&[1])
}

fn echo(stream: &mut File, count: u64) -> io::Result<()> {
    let mut byte = [0];
    for _ in 0..count {
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
    }
    Ok(())
}
