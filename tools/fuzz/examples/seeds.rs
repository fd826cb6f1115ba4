//! Writes the corpus that is checked in and made by program: `cargo run --example seeds`, from this directory.
use std::fs;
use std::io;
use std::path::Path;

use vmm::testing::kernel_image::{BzImage, Compression, Elf};

fn main() -> io::Result<()> {
    kernels(&directory("kernel_loading")?)?;
    disks(&directory("block")?)?;
    cards(&directory("net")?)?;
    drivers(&directory("transports")?)?;
    sockets(&directory("vsock")?)?;
    names(&directory("dns")?)?;
    frames(&directory("usernet")?)
}

fn directory(target: &str) -> io::Result<std::path::PathBuf> {
    let directory = Path::new("corpus").join(target);
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

fn kernels(directory: &Path) -> io::Result<()> {
    let small = Elf::new(0x100_0000)
        .load(0x100_0000, &[0xf4; 64], 0x2000)
        .load(0x200_0000, &[0; 64], 64)
        .pvh(0x100_0000)
        .build();
    fs::write(directory.join("vmlinux"), &small)?;
    fs::write(directory.join("bzimage-whole"), BzImage::new(b"?").build())?;
    for compression in Compression::ALL {
        let name = format!("{compression:?}").to_lowercase();
        let image = BzImage::new(&compression.payload(&small)).build();
        fs::write(directory.join(format!("bzimage-{name}")), image)?;
        let file = compression.compress(&small);
        fs::write(directory.join(format!("vmlinux-{name}")), file)?;
    }
    Ok(())
}

/// Where the target has the rings, and where requests are here.
const AVAILABLE: usize = 0x400;
const HEADER: usize = 0x800;
const DATA: usize = 0x900;
const STATUS: usize = 0xb00;

/// Requests of each type, one in a queue: a header, data, a status.
fn disks(directory: &Path) -> io::Result<()> {
    for (name, kind, data_flags) in [
        ("read", 0, 2),
        ("write", 1, 0),
        ("flush", 4, 2),
        ("get-id", 8, 2),
        ("discard", 11, 0),
        ("write-zeroes", 13, 0),
    ] {
        let mut ram = vec![0; 0xb01];
        describe(&mut ram, 0, HEADER, 16, 1, 1);
        describe(&mut ram, 1, DATA, 512, data_flags | 1, 2);
        describe(&mut ram, 2, STATUS, 1, 2, 0);
        ram[AVAILABLE + 2] = 1;
        ram[HEADER] = kind;
        ram[HEADER + 8] = 3;
        // A range, for those that take some: 8 sectors from sector 16 on.
        ram[DATA] = 16;
        ram[DATA + 8] = 8;
        ram.insert(0, kind & 3);
        fs::write(directory.join(name), ram)?;
    }
    Ok(())
}

/// Where the target has the second queue, and the third.
const SENDING: usize = 0x800;
const CONTROL: usize = 0x1000;
const FRAME: usize = 0x2000;

/// Frames both ways and a command: all features, of each queue one chain.
fn cards(directory: &Path) -> io::Result<()> {
    for (name, kind, length) in [("plain", 0, 100), ("long", 1, 4000), ("runt", 0, 20)] {
        let mut ram = vec![0; FRAME + 4000];
        // To receive into, to be sent, to be answered.
        describe(&mut ram, 0, 0x4000, 2048, 2, 0);
        describe(&mut ram, SENDING / 16, FRAME, 12, 1, 1);
        describe(&mut ram, SENDING / 16 + 1, FRAME + 12, length, 0, 0);
        describe(&mut ram, CONTROL / 16, 0x1800, 4, 1, 1);
        describe(&mut ram, CONTROL / 16 + 1, 0x1804, 1, 2, 0);
        for queue in [0, SENDING, CONTROL] {
            ram[queue + AVAILABLE + 2] = 1;
        }
        ram[0x1800..0x1804].copy_from_slice(&[4, 0, 1, 0]);
        let header = [kind, kind, 54, 0, 0xa8, 5, 34 * kind, 0, 16 * kind, 0, 0, 0];
        ram[FRAME..FRAME + 12].copy_from_slice(&header);
        ram[FRAME + 18..FRAME + 24].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        let mut input = vec![0x41];
        input.extend(u64::MAX.to_le_bytes());
        input.extend(ram);
        fs::write(directory.join(name), input)?;
    }
    Ok(())
}

fn describe(ram: &mut [u8], index: usize, address: usize, length: u32, flags: u16, next: u16) {
    let at = 16 * index;
    ram[at..at + 8].copy_from_slice(&(address as u64).to_le_bytes());
    ram[at + 8..at + 12].copy_from_slice(&length.to_le_bytes());
    ram[at + 12..at + 14].copy_from_slice(&flags.to_le_bytes());
    ram[at + 14..at + 16].copy_from_slice(&next.to_le_bytes());
}

/// One of the target's operations: its kind, an offset of 24 bits, a value.
fn operation(kind: u8, offset: u32, value: u32) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&offset.to_le_bytes()[..3]);
    bytes.extend_from_slice(&value.to_le_bytes());
    bytes
}

/// Accesses of one, two and four bytes.
const BYTE: u8 = 0;
const WORD: u8 = 1 << 6;
const LONG: u8 = 2 << 6;

/// Drivers that get as far as a request.
fn drivers(directory: &Path) -> io::Result<()> {
    let request = [
        operation(11, 8, 64),         // descriptor 0: 64 bytes,
        operation(11, 12, 2),         // to be written
        operation(11, 0x102, 1),      // available
        operation(14, 0, 0),          // served, over MMIO
        operation(14 | 1 << 4, 0, 0), // and on PCI
        operation(LONG | 1, 0x70, 0), // reset
    ];
    // Rings at 0, 0x100 and 0x200.
    let mmio = [operation(10, 0, 0x0201_0000)];
    fs::write(
        directory.join("mmio"),
        [&mmio[..], &request].concat().concat(),
    )?;
    let common = |size, offset, value| operation(size | 3, offset, value);
    let pci = [
        operation(LONG | 7, 0x0804, 7), // 00:01.0 answers and may use memory
        common(BYTE, 0x14, 1),
        common(BYTE, 0x14, 3),
        common(LONG, 0x08, 1),
        common(LONG, 0x0c, 1),
        common(LONG, 0x08, 0),
        common(LONG, 0x0c, 0x3000_0005),
        common(BYTE, 0x14, 11),
        common(WORD, 0x16, 0),
        common(WORD, 0x18, 16),
        common(LONG, 0x28, 0x100),
        common(LONG, 0x30, 0x200),
        common(WORD, 0x1c, 1),
        common(BYTE, 0x14, 15),
    ];
    fs::write(
        directory.join("pci"),
        [&pci[..], &request].concat().concat(),
    )
}

/// A guest's packets, and buffers for those that it gets.
fn sockets(directory: &Path) -> io::Result<()> {
    const REQUEST: u8 = 1;
    const RESPONSE: u8 = 2;
    const RST: u8 = 3;
    const SHUTDOWN: u8 = 4;
    const RW: u8 = 5;
    const CREDIT_REQUEST: u8 = 7;
    for (name, host, ops) in [
        ("stray", 9, &[RW, RESPONSE, SHUTDOWN, RST][..]),
        ("connect", 1, &[REQUEST, RW, RW, CREDIT_REQUEST, SHUTDOWN]),
        ("reset", 1, &[REQUEST, RW, RST, REQUEST, REQUEST]),
        ("refused", 2, &[REQUEST, RW]),
    ] {
        let mut ram = vec![0; 0x3000];
        // Buffers of 1 KiB at 0x4000, packets at 0x1000, each of 0x100 bytes with a header in its first 44.
        for index in 0..8u16 {
            let at = usize::from(index);
            describe(&mut ram, at, 0x4000 + 0x400 * at, 0x400, 2, 0);
            ram[0x104 + 2 * at..][..2].copy_from_slice(&index.to_le_bytes());
        }
        ram[0x102] = 8;
        for (at, op) in ops.iter().enumerate() {
            describe(&mut ram[0x300..], at, 0x1000 + 0x100 * at, 0x100, 0, 0);
            ram[0x404 + 2 * at] = u8::try_from(at).unwrap_or(0);
            let packet = &mut ram[0x1000 + 0x100 * at..][..0x100];
            (packet[0], packet[8], packet[16], packet[20]) = (3, 2, 77, host);
            (packet[28], packet[30]) = (1, *op);
            packet[24] = if *op == RW { 100 } else { 0 };
            packet[32] = if *op == SHUTDOWN { 3 } else { 0 };
            packet[38] = 1;
        }
        ram[0x402] = u8::try_from(ops.len()).unwrap_or(0);
        for features in 0..4 {
            let mut bytes = ram.clone();
            bytes.insert(0, features);
            fs::write(directory.join(format!("{name}-{features}")), bytes)?;
        }
    }
    Ok(())
}

/// A question for the addresses of `a.example.org`, behind its length, and what a resolver may say to it.
fn names(directory: &Path) -> io::Result<()> {
    const A: u8 = 1;
    const CNAME: u8 = 5;
    const AAAA: u8 = 28;
    let name = b"\x01a\x07example\x03org\0";
    let question = |kind| [&name[..], &[0, kind, 0, 1]].concat();
    // Of the question's name, or of the one that begins at byte 12 + `at`.
    let record = |at: u8, kind, data: &[u8]| {
        let length = u8::try_from(data.len()).unwrap_or(0);
        let head = [0xc0, 12 + at, 0, kind, 0, 1, 0, 0, 0, 60, 0, length];
        [&head[..], data].concat()
    };
    let edns = [0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0];
    let loopback = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let public = [0x26, 6, 0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    // An alias that the question's name has in it, and a circle.
    let below = [0xc0, 14];
    let itself = [0xc0, 12];
    for (name, kind, flags, records) in [
        ("address", A, 0x80, vec![record(0, A, &[93, 184, 216, 34])]),
        ("rebinding", A, 0x80, vec![record(0, A, &[127, 0, 0, 1])]),
        (
            "ipv6",
            AAAA,
            0x80,
            vec![record(0, AAAA, &public), record(0, AAAA, &loopback)],
        ),
        (
            "alias",
            A,
            0x80,
            vec![record(0, CNAME, &below), record(2, A, &[1, 1, 1, 1])],
        ),
        ("circle", A, 0x80, vec![record(0, CNAME, &itself)]),
        ("error", A, 0x83, vec![]),
    ] {
        let count = u8::try_from(records.len()).unwrap_or(0);
        let head = |flags: [u8; 2], answers, additional| {
            [
                7, 7, flags[0], flags[1], 0, 1, 0, answers, 0, 0, 0, additional,
            ]
        };
        let query = [&head([1, 0], 0, 1)[..], &question(kind), &edns].concat();
        let head = head([0x81, flags], count, 0);
        let answer = [&head[..], &question(kind), &records.concat()].concat();
        let length = [u8::try_from(query.len()).unwrap_or(0)];
        fs::write(
            directory.join(name),
            [&length[..], &query, &answer].concat(),
        )?;
    }
    Ok(())
}

/// As the target has the guest, its neighbour and the port of the server.
const GUEST_MAC: [u8; 6] = [0x06, 0, 0xac, 0x10, 0, 2];
const NEIGHBOUR_MAC: [u8; 6] = [0x52, 0x55, 0x0a, 0, 2, 2];
const GUEST: [u8; 4] = [10, 0, 2, 15];
const GATEWAY: [u8; 4] = [10, 0, 2, 2];
const SERVER_PORT: [u8; 2] = [0x41, 0x41];

/// Frames of a guest's: a stream from its beginning to its end, datagrams, echoes, and the link's own protocols.
fn frames(directory: &Path) -> io::Result<()> {
    let stream = [
        segment(0, 0, SYN, &[2, 4, 5, 0xb4, 3, 3, 7, 0], b""),
        segment(1, 1, ACK, b"", b""),
        segment(1, 1, ACK, b"", b"a request"),
        segment(10, 10, ACK, b"", b""),
        segment(10, 10, FIN | ACK, b"", b""),
        segment(11, 11, ACK, b"", b""),
    ];
    fs::write(directory.join("stream"), messages(0, &stream))?;
    fs::write(directory.join("cut"), messages(2, &stream))?;
    let broken = [&stream[..3], &[segment(10, 1, RST, b"", b"")]].concat();
    fs::write(directory.join("reset"), messages(1, &broken))?;
    let lost = [
        &stream[..3],
        &[
            segment(20, 1, ACK, b"", b"early"),
            segment(10, 1, ACK, b"", b""),
        ],
    ];
    fs::write(directory.join("lost"), messages(0, &lost.concat()))?;

    let udp = |port: [u8; 2], data: &[u8]| {
        let length = u16::try_from(8 + data.len()).expect("a short one");
        let length = length.to_be_bytes();
        ipv4(
            17,
            &[&[0x10, 0][..], &port, &length, &[0, 0], data].concat(),
        )
    };
    let question = b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";
    let datagrams = [
        udp(SERVER_PORT, b"data"),
        udp([0, 53], question),
        udp([0, 9], b""),
    ];
    fs::write(directory.join("datagrams"), messages(1, &datagrams))?;
    let mut discover = vec![1, 1, 6, 0, 1, 2, 3, 4];
    discover.resize(28, 0);
    discover.extend(GUEST_MAC);
    discover.resize(236, 0);
    discover.extend([99, 130, 83, 99, 53, 1, 1, 55, 2, 3, 6, 255]);
    fs::write(
        directory.join("dhcp"),
        messages(0, &[udp([0, 67], &discover)]),
    )?;
    let echo = [8, 0, 0xf7, 0xfd, 0, 1, 0, 1];
    fs::write(directory.join("echo"), messages(0, &[ipv4(1, &echo)]))?;
    let who_has = [
        &[0, 1, 8, 0, 6, 4, 0, 1][..],
        &GUEST_MAC,
        &GUEST,
        &[0; 6],
        &GATEWAY,
    ];
    fs::write(
        directory.join("arp"),
        messages(0, &[ethernet([8, 6], &who_has.concat())]),
    )?;
    let mut solicit = vec![0x60, 0, 0, 0, 0, 8, 58, 255];
    solicit.extend([&[0xfe, 0x80][..], &[0; 13], &[1]].concat());
    solicit.extend([&[0xff, 2][..], &[0; 13], &[2]].concat());
    solicit.extend([133, 0, 0x7c, 0x38, 0, 0, 0, 0]);
    fs::write(
        directory.join("router"),
        messages(0, &[ethernet([0x86, 0xdd], &solicit)]),
    )
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

fn segment(seq: u32, ack: u32, flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).expect("a short one");
    let (seq, ack) = (seq.to_be_bytes(), ack.to_be_bytes());
    let head = [
        &[0x10, 0][..],
        &SERVER_PORT,
        &seq,
        &ack,
        &[words << 4, flags],
    ];
    let rest = [&[0xff, 0xff, 0, 0, 0, 0][..], options, data];
    ipv4(6, &[head.concat(), rest.concat()].concat())
}

/// A packet to the gateway.
fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("a short one");
    let [high, low] = length.to_be_bytes();
    let mut header = [
        &[0x45, 0, high, low, 0, 0, 0, 0, 64, protocol, 0, 0][..],
        &GUEST,
        &GATEWAY,
    ]
    .concat();
    let words = header
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let sum = (sum >> 16) + (sum & 0xffff);
    header[10..12].copy_from_slice(&(!sum).to_be_bytes()[2..]);
    ethernet([8, 0], &[&header, payload].concat())
}

/// A frame behind a header that leaves its checksum to be completed.
fn ethernet(kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let mut header = [0; 12];
    header[0] = 1;
    [&header[..], &NEIGHBOUR_MAC, &GUEST_MAC, &kind, payload].concat()
}

/// What the target takes: a byte that chooses features, and messages behind their lengths.
fn messages(features: u8, messages: &[Vec<u8>]) -> Vec<u8> {
    let mut input = vec![features];
    for message in messages {
        let length = u16::try_from(message.len()).expect("a short one");
        input.extend(length.to_le_bytes());
        input.extend(message);
    }
    input
}
