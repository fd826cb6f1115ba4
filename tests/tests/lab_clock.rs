//! A host whose clock programs cannot read by themselves, as where processors' counters run apart: each look at it is a system call.
use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use ampoule_tests::{
    api::Socket,
    linux::{Image, linux},
    network::{GUEST, HOST, namespace, tap},
    wait_until,
};

/// The host's clock, another than the usual, until this goes out of scope.
struct Clock(String);

const CURRENT: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

impl Clock {
    /// None but in the lab: another host's clock is not a test's to change.
    fn choose(name: &str) -> Option<Self> {
        let words = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        if !words.contains("lab.modules=") {
            return None;
        }
        let usual = fs::read_to_string(CURRENT).expect("a clock");
        fs::write(CURRENT, name).expect("a clock that the lab has");
        Some(Self(usual))
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        // A test that has failed tells of that.
        let _ = fs::write(CURRENT, self.0.trim());
    }
}

#[test]
fn every_device_works_where_the_clock_has_to_be_asked() {
    if Image::Given.path() == Image::Cloud.path() {
        return; // It is the host's matter.
    }
    let Some(_clock) = Clock::choose("hpet") else {
        return;
    };
    namespace();
    tap("tap0", "", 1500);
    let directory = tempfile::tempdir().expect("a directory can be made");
    let (disk, sockets) = (directory.path().join("disk"), directory.path().join("v"));
    fs::write(&disk, vec![0; 4 << 20]).expect("there is room");
    let socket = Socket::default();
    let guest = linux().initrd(Image::SocatInitrd).with_more(&format!(
        "--disk {},id=data --net tap=tap0 --vsock 3,{} --balloon 8,stats_polling_interval_s=1 --api-sock {}",
        disk.display(),
        sockets.display(),
        socket.argument()
    ));
    let mut guest = guest.start();
    guest.wait_for("user space");
    guest.wait_for("# ");
    let limit = r#"{"drive_id": "data", "rate_limiter": {"bandwidth": {"size": 1048576, "refill_time": 500}}}"#;
    socket.patch("/drives/data", limit);
    guest.type_line(&format!(
        "ip addr add {GUEST}/24 dev eth0; ip link set eth0 up; dd if=/dev/vda of=/dev/null bs=64k iflag=direct && ping -c 2 {HOST} && \
         echo rea''dy; socat VSOCK-LISTEN:52 PIPE"
    ));
    guest.wait_for("ready");
    let mut client = UnixStream::connect(&sockets).expect("the device listens");
    client
        .write_all(b"CONNECT 52 wait=60000\nthere")
        .expect("it is open");
    let mut said = String::new();
    let mut bytes = [0; 64];
    while !said.ends_with("there") {
        let count = client.read(&mut bytes).expect("an answer");
        assert!(count > 0, "{said}");
        said.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    drop(client);
    wait_until("the balloon tells", || {
        socket
            .number("/balloon/statistics", "total_memory")
            .is_some()
    });
    guest.type_line("poweroff -f");
    let finished = guest.finish();
    assert_eq!(finished.code, 0, "{}", finished.stderr);
}
