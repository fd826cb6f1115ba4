//! What quantities are called, and what they may be.
use crate::{
    disk_path::FIO,
    results::Subject,
    user_net_lab::{PASST, SLIRP},
};

/// What a quantity is held against.
#[derive(Clone, Copy, Debug)]
pub enum Against {
    /// Nothing else: the limit is in its own unit.
    Itself,
    /// The floor's.
    Floor,
    /// The least of the rivals'.
    BestRival,
    /// A program's that is no rival.
    Program(&'static str),
    /// The same, by the difference.
    Above(&'static str),
    /// Another quantity of ours.
    Ours(&'static str),
    /// What each further vCPU adds to this quantity of ours, as a share of it.
    AddedVcpus(&'static str, f64),
}

/// What a quantity may be.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The item of the specification.
    pub item: u8,
    /// The quantity.
    pub measure: &'static str,
    /// What it is held against.
    pub against: Against,
    /// What it may be of that.
    pub at_most: f64,
}

const fn limit(item: u8, measure: &'static str, against: Against, at_most: f64) -> Limit {
    Limit {
        item,
        measure,
        against,
        at_most,
    }
}

const BLOCK_LIMITS: [Limit; 8] = [
    limit(2, "read_4k_1", Against::BestRival, 1.0),
    limit(2, "write_4k_1", Against::BestRival, 1.0),
    limit(2, "read_4k_32", Against::BestRival, 1.0),
    limit(2, "write_4k_32", Against::BestRival, 1.0),
    limit(2, "read_128k_1", Against::BestRival, 1.0),
    limit(3, "path_time_32", Against::Program(FIO), 1.0 / 0.9),
    limit(3, "path_time_1", Against::Above(FIO), 2.0),
    limit(4, "disk_dirty", Against::Itself, 0.8),
];

const BOOT_LIMITS: [Limit; 16] = [
    limit(1, "first_byte", Against::Floor, 2.0),
    limit(1, "first_byte", Against::BestRival, 0.5),
    limit(1, "system_calls", Against::Itself, 100.0),
    limit(2, "gone", Against::BestRival, 0.2),
    limit(3, "host_dirty", Against::Itself, 0.2),
    limit(3, "host_pss", Against::Itself, 1.5),
    limit(3, "host_pss_ten", Against::Itself, 0.4),
    limit(3, "lab_dirty_own", Against::Itself, 0.5),
    limit(3, "lab_pss_own", Against::Itself, 2.5),
    limit(4, "exits_own", Against::Itself, 50.0),
    limit(5, "launch_own", Against::Ours("launch_stock"), 1.0 / 3.0),
    limit(5, "launch_own", Against::BestRival, 1.0),
    limit(5, "touched_own", Against::Itself, 20.0),
    limit(
        5,
        "launch_own_2",
        Against::AddedVcpus("launch_own", 1.0),
        0.05,
    ),
    limit(
        5,
        "launch_own_4",
        Against::AddedVcpus("launch_own", 3.0),
        0.05,
    ),
    limit(6, "fifty_failures", Against::Itself, 0.0),
];

const NET_LIMITS: [Limit; 13] = [
    limit(1, "tcp_tx", Against::BestRival, 1.0),
    limit(1, "tcp_rx", Against::BestRival, 1.0),
    limit(1, "calls_tx", Against::Itself, 1.1),
    limit(1, "exits_tx", Against::Itself, 0.0),
    limit(1, "exits_rx", Against::Itself, 0.0),
    limit(1, "udp_tx", Against::BestRival, 1.0),
    limit(1, "udp_rx", Against::BestRival, 1.0),
    limit(2, "user_tx", Against::Program(SLIRP), 0.5),
    limit(2, "user_rx", Against::Program(SLIRP), 0.5),
    limit(2, "user_tx", Against::Program(PASST), 1.0 / 0.8),
    limit(2, "user_rx", Against::Program(PASST), 1.0 / 0.8),
    limit(2, "user_rtt", Against::Program(PASST), 1.0),
    limit(3, "devices_dirty", Against::Itself, 1.2),
];

const VSOCK_LIMITS: [Limit; 3] = [
    limit(2, "vsock_tx", Against::Program("firecracker"), 0.5),
    limit(2, "vsock_rx", Against::Program("firecracker"), 0.5),
    limit(2, "vsock_rtt", Against::Program("firecracker"), 1.0),
];

/// Those of a bench.
pub fn of(subject: Subject) -> &'static [Limit] {
    match subject {
        Subject::Boot => &BOOT_LIMITS,
        Subject::Block => &BLOCK_LIMITS,
        Subject::Net => &NET_LIMITS,
        Subject::Vsock => &VSOCK_LIMITS,
    }
}

/// A quantity in words.
pub fn title(measure: &str) -> &str {
    match measure {
        "first_byte" => "exec to first byte of a hand-made guest",
        "system_calls" => "system calls before the guest runs",
        "gone" => "exec to process gone, of a guest that resets at once",
        "host_dirty" => "private dirty outside guest RAM, idle hand-made guest",
        "host_pss" => "PSS outside guest RAM, idle hand-made guest",
        "host_dirty_ten" => "private dirty each, ten running",
        "host_pss_ten" => "PSS each, ten running",
        "lab_dirty_own" => "private dirty outside guest RAM, Linux idle, own kernel",
        "lab_pss_own" => "PSS outside guest RAM, Linux idle, own kernel",
        "lab_dirty_stock" => "private dirty outside guest RAM, Linux idle, stock kernel",
        "lab_pss_stock" => "PSS outside guest RAM, Linux idle, stock kernel",
        "exits_own" => "exits to user space until init, own kernel, outside the serial port",
        "exits_stock" => "exits to user space until init, stock kernel, outside the serial port",
        "launch_own" => "launch to user space, own kernel, 1 vCPU",
        "launch_own_2" => "launch to user space, own kernel, 2 vCPUs",
        "launch_own_4" => "launch to user space, own kernel, 4 vCPUs",
        "launch_stock" => "launch to user space, stock kernel, 1 vCPU",
        "touched_own" => "guest RAM touched, own kernel",
        "touched_stock" => "guest RAM touched, stock kernel",
        "read_4k_1" => "4 KiB read at random, one under way, guest included",
        "write_4k_1" => "4 KiB written at random, one under way, guest included",
        "read_4k_32" => "4 KiB read at random, 32 under way, guest included",
        "write_4k_32" => "4 KiB written at random, 32 under way, guest included",
        "read_128k_1" => "128 KiB read at random, one under way, guest included",
        "path_reads_1" => "reads of 4 KiB from ring to file and back, one under way",
        "path_reads_32" => "reads of 4 KiB from ring to file and back, 32 under way",
        "path_time_1" => "time of each read, one under way",
        "path_time_32" => "time of each read, 32 under way",
        "disk_dirty" => "private dirty outside guest RAM, Linux idle with a disk",
        "tcp_tx" => "64 KiB that the guest sends by TCP, one stream, guest included",
        "tcp_tx_threads" => "of these, in the monitor's threads without its vCPU",
        "tcp_rx" => "64 KiB that the guest receives by TCP, one stream, guest included",
        "tcp_rx_threads" => "of these, in the monitor's threads without its vCPU, receiving",
        "tcp_rtt" => "a byte by TCP to the guest and back, guest included",
        "tcp_rtt_threads" => "of these, in the monitor's threads without its vCPU, to and fro",
        "user_tx" => {
            "64 KiB that the guest sends by TCP, without a TAP, guest and helpers included"
        }
        "user_rx" => "64 KiB that it receives, without a TAP, guest and helpers included",
        "user_rtt" => "a byte to the guest and back, without a TAP, guest and helpers included",
        "udp_tx" => "a datagram of 64 bytes that the guest sends, guest included",
        "udp_tx_threads" => "of these, in the monitor's threads without its vCPU, datagrams out",
        "udp_rx" => "a datagram of 64 bytes that the guest receives, guest included",
        "udp_rx_threads" => "of these, in the monitor's threads without its vCPU, datagrams in",
        "calls_tx" => "system calls for each 64 KiB that the guest sends by TCP, answers included",
        "calls_udp_tx" => "system calls for each datagram that the guest sends",
        "exits_udp_tx" => "exits to user space for each datagram that the guest sends",
        "calls_udp_rx" => "system calls for each datagram that the guest receives",
        "exits_udp_rx" => "exits to user space for each datagram that the guest receives",
        "frames_tx" => "frames that these 64 KiB are",
        "exits_tx" => "exits to user space for each 64 KiB that the guest sends by TCP",
        "calls_rx" => {
            "system calls for each 64 KiB that the guest receives by TCP, answers included"
        }
        "exits_rx" => "exits to user space for each 64 KiB that the guest receives by TCP",
        "devices_dirty" => {
            "private dirty outside guest RAM, Linux idle with disk, NIC, vsock, balloon"
        }
        "vsock_tx" => "64 KiB that the guest sends by vsock, guest included",
        "vsock_tx_threads" => "of these, in the monitor's threads without its vCPU",
        "vsock_rx" => "64 KiB that the guest receives by vsock, guest included",
        "vsock_rx_threads" => "of these, in the monitor's threads without its vCPU, receiving",
        "vsock_rtt" => "a byte by vsock to the guest and back, guest included",
        "vsock_rtt_threads" => "of these, in the monitor's threads without its vCPU, to and fro",
        "calls_vsock_tx" => "system calls for each 64 KiB that the guest sends by vsock",
        "exits_vsock_tx" => "exits to user space for each 64 KiB that the guest sends by vsock",
        "calls_vsock_rx" => "system calls for each 64 KiB that the guest receives by vsock",
        "exits_vsock_rx" => "exits to user space for each 64 KiB that the guest receives by vsock",
        "calls_vsock_rtt" => "system calls for each byte to the guest and back",
        "exits_vsock_rtt" => "exits to user space for each byte to the guest and back",
        "fifty_at_once" => "fifty launches at once, on two processors",
        "fifty_in_turn" => "fifty launches in turn",
        "fifty_failures" => "launches of the fifties that failed",
        other => other,
    }
}

/// An item in words.
pub fn item_title(subject: Subject, item: u8) -> &'static str {
    match item {
        2 if subject == Subject::Block => "A request",
        3 if subject == Subject::Block => "The path on the host",
        4 if subject == Subject::Block => "Memory outside guest RAM",
        1 if subject == Subject::Net => "Frames",
        2 if subject == Subject::Net => "Networks without privilege",
        2 if subject == Subject::Vsock => "Sockets",
        1 => "Start",
        2 => "Whole life",
        3 => "Memory outside guest RAM",
        4 => "Exits to user space",
        5 => "Linux",
        _ => "Fifty at once",
    }
}
