//! Memory that Linux gives back, and takes again: what counts is what the host has of it.
use std::fs;

use ampoule_tests::{
    Guest,
    api::Socket,
    linux::{Image, linux},
    shell::power_off,
    wait_until,
};

const TRANSPORTS: [&str; 2] = ["mmio", "pci"];

/// A guest with 256 MiB at its shell, with a balloon, and its control socket.
fn with_balloon(balloon: &str, more: &str) -> (Guest, Socket) {
    let socket = Socket::default();
    let arguments = format!(
        "--api-sock {} --balloon {balloon} {more}",
        socket.argument()
    );
    let guest = linux().initrd(Image::DriversInitrd).with_more(&arguments);
    let mut guest = guest.start();
    guest.wait_for("user space");
    guest.wait_for("# ");
    (guest, socket)
}

/// MiB that the guest's process has of the host's memory.
fn resident_mib(guest: &Guest) -> u64 {
    let rollup = format!("/proc/{}/smaps_rollup", guest.pid().as_raw_nonzero());
    let rollup = fs::read_to_string(rollup).expect("the guest is alive");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_else(|| panic!("{rollup}")) / 1024
}

/// MiB that a guest fills: its file system in memory takes no more than half of what it has.
const FILLED: u64 = 100;

/// Lets the guest fill memory, and have it free again.
fn fill_and_free(guest: &mut Guest) {
    guest.type_line(&format!(
        "dd if=/dev/zero of=/fill bs=1M count={FILLED} 2>/dev/null && rm /fill && echo 3 > /proc/sys/vm/drop_caches && echo fi''lled"
    ));
    guest.wait_for("filled");
}

/// Asks the guest for `mib` MiB in all, and waits until it has given them.
fn inflate(socket: &Socket, mib: u64) {
    socket.patch("/balloon", &format!(r#"{{"amount_mib": {mib}}}"#));
    wait_until("the balloon has its size", || {
        socket.number("/balloon/statistics", "actual_mib") == Some(mib)
    });
}

#[test]
fn memory_that_a_guest_gives_is_the_hosts_until_it_takes_it_back() {
    for more in ["--transport mmio", "--transport pci --shared-memory"] {
        let (mut guest, socket) = with_balloon("0", more);
        fill_and_free(&mut guest);
        let before = resident_mib(&guest);
        assert!(before >= FILLED, "{before}");
        // More than it has never touched, and less than leaves its kernel nothing.
        inflate(&socket, 160);
        let given = resident_mib(&guest);
        assert!(given + 40 <= before, "{before} to {given} MiB, {more}");
        // Of the guest's memory no more is there than it has kept; the rest is the program's own.
        assert!(given <= 256 - 160 + 8, "{given} MiB, {more}");
        inflate(&socket, 0);
        fill_and_free(&mut guest);
        let again = resident_mib(&guest);
        assert!(again >= given + 40, "{given} to {again} MiB, {more}");
        power_off(guest);
    }
}

#[test]
fn a_guest_at_work_gives_and_takes_and_keeps_what_it_has() {
    let (mut guest, socket) = with_balloon("0", "");
    guest.type_line("dd if=/dev/urandom of=/kept bs=1M count=40 2>/dev/null && sum=$(md5sum < /kept) && echo ke''pt");
    guest.wait_for("kept");
    guest.type_line(
        "(while [ ! -e /stop ]; do dd if=/dev/zero bs=1M count=20 2>/dev/null | tr '\\0' x > /work; md5sum < /work; done | sort -u | wc -l > /sums; echo sto''pped) &",
    );
    for _ in 0..2 {
        inflate(&socket, 100);
        inflate(&socket, 10);
    }
    guest.type_line("touch /stop");
    guest.wait_for("stopped");
    guest.type_line("now=$(md5sum < /kept); echo was $sum, is $now, sums=$(cat /sums)");
    guest.wait_for("sums=1");
    guest.type_line("[ \"$now\" = \"$sum\" ] && echo sa''me");
    guest.wait_for("same");
    power_off(guest);
}

#[test]
fn statistics_come_when_they_are_asked_for() {
    let (mut guest, socket) = with_balloon("16,stats_polling_interval_s=1", "");
    let told = |key| socket.number("/balloon/statistics", key);
    wait_until("the guest tells of its memory", || {
        told("total_memory").is_some()
    });
    let total = told("total_memory").unwrap_or(0) >> 20;
    assert!((100..256).contains(&total), "{total} MiB");
    wait_until("the balloon is in it", || told("actual_mib") == Some(16));
    assert_eq!(told("target_pages"), Some(4096));
    // It tells first before there is a program that could fault, and a guest at rest has nothing new to tell.
    wait_until("programs run", || told("minor_faults") > Some(0));
    let faults = told("minor_faults");
    guest.type_line("cat /proc/meminfo");
    wait_until("the next come", || told("minor_faults") > faults);
    power_off(guest);
}

#[test]
fn a_guest_that_runs_short_takes_memory_back_where_it_may() {
    let balloon = "0,deflate_on_oom,stats_polling_interval_s=1";
    let (mut guest, socket) = with_balloon(balloon, "");
    // As much as it can give: it is asked for all that it has.
    socket.patch("/balloon", r#"{"amount_mib": 256}"#);
    let told = |key| socket.number("/balloon/statistics", key);
    wait_until("less than 64 MiB are left", || {
        let free = told("free_memory");
        free.is_some_and(|free| free < 50 << 20)
    });
    // One program wants as much at once, and has it.
    guest.type_line("dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null && echo mana''ged");
    guest.wait_for("managed");
    socket.patch("/balloon", r#"{"amount_mib": 0}"#);
    wait_until("all is back", || told("actual_mib") == Some(0));
    power_off(guest);
}

#[test]
fn free_memory_goes_back_unasked_where_it_is_reported() {
    let (mut guest, _socket) = with_balloon("0,free_page_reporting", "--transport pci");
    fill_and_free(&mut guest);
    // It reports blocks of 2 MiB, some seconds after they became free.
    wait_until("reported memory is the host's", || {
        resident_mib(&guest) < 90
    });
    fill_and_free(&mut guest);
    power_off(guest);
}

#[test]
fn free_memory_goes_back_when_it_is_asked_for() {
    let (mut guest, socket) = with_balloon("0,free_page_hinting", "");
    fill_and_free(&mut guest);
    let before = resident_mib(&guest);
    assert!(before >= FILLED, "{before}");
    for _ in 0..2 {
        socket.patch("/balloon/hinting/start", "");
        let status = |key| socket.number("/balloon/hinting/status", key);
        wait_until("the run is through", || {
            (status("host_cmd"), status("guest_cmd")) == (Some(1), Some(0))
        });
    }
    let after = resident_mib(&guest);
    assert!(after + 50 <= before, "{before} to {after} MiB");
    // It has its memory back.
    fill_and_free(&mut guest);
    power_off(guest);
}

#[test]
fn a_driver_that_leaves_and_comes_back_serves_the_same_balloon() {
    for transport in TRANSPORTS {
        let more = format!("--transport {transport}");
        let (mut guest, socket) = with_balloon("32", &more);
        let actual = || socket.number("/balloon/statistics", "actual_mib");
        for _ in 0..3 {
            wait_until("the guest has given", || actual() == Some(32));
            guest.type_line(
                "cd /sys/bus/virtio/drivers/virtio_balloon; d=$(ls -d virtio*); echo $d > unbind; echo le''ft",
            );
            guest.wait_for("left");
            assert_eq!(actual(), Some(0));
            guest.type_line("echo $d > bind; echo ba''ck");
            guest.wait_for("back");
        }
        power_off(guest);
    }
}
