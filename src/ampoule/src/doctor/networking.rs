//! What connects guests.
use super::host::{Host, reason};
use super::report::{Check, Group, Status, Topic};

const TUN: Topic = Topic {
    group: Group::Networking,
    id: "tun",
    title: "TUN and TAP",
    why: "a guest's network card can be a TAP interface of the host",
};
const VHOST_NET: Topic = Topic {
    group: Group::Networking,
    id: "vhost-net",
    title: "vhost-net",
    why: "the host's kernel can move packets itself; without it the monitor does",
};
const VHOST_VSOCK: Topic = Topic {
    group: Group::Networking,
    id: "vhost-vsock",
    title: "vhost-vsock",
    why: "the host's kernel can carry vsock itself; without it the monitor does, over Unix sockets",
};

pub(super) fn examine(host: &Host) -> Vec<Check> {
    vec![
        device(host, &TUN, Status::Warning, "/dev/net/tun", "tun"),
        device(
            host,
            &VHOST_NET,
            Status::Info,
            "/dev/vhost-net",
            "vhost_net",
        ),
        device(
            host,
            &VHOST_VSOCK,
            Status::Info,
            "/dev/vhost-vsock",
            "vhost_vsock",
        ),
    ]
}

/// A device that guests can do without; `otherwise` is how bad that is.
fn device(host: &Host, topic: &Topic, otherwise: Status, path: &str, module: &str) -> Check {
    let worse = |found: String| match otherwise {
        Status::Info => topic.info(found),
        _ => topic.warning(found),
    };
    if !host.exists(path) {
        return host.load(worse(format!("no {path}")), module);
    }
    let Err(error) = host.open_device(path) else {
        return topic.ok(path);
    };
    let check = worse(format!("{path} does not open: {}", reason(&error)));
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => host.load(check, module),
        Some(libc::EACCES) if path == "/dev/net/tun" => {
            check.mend(format!("sudo chmod 666 {path}"))
        }
        Some(libc::EACCES) if host.has_group("kvm") => {
            check.mend(format!("sudo chgrp kvm {path} && sudo chmod 660 {path}"))
        }
        Some(libc::EACCES) => check.mend(format!("sudo chmod 666 {path}")),
        _ => check,
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::super::testing::FakeHost;

    #[test]
    fn without_tun_a_module_mends_it() {
        let check = FakeHost::intel().without("/dev/net/tun").check("tun");
        assert_eq!(
            (check.status, check.mend.as_deref()),
            (Status::Warning, Some("sudo modprobe tun"))
        );
    }

    #[test]
    fn a_kernel_that_takes_no_modules_is_not_told_to_load_one() {
        let check = FakeHost::intel()
            .without("/proc/modules")
            .check("vhost-net");
        assert_eq!(check.mend, None);
        assert!(
            check
                .advice
                .unwrap()
                .contains("boot one that has vhost_net")
        );
    }

    #[test]
    fn a_tun_that_only_root_may_open_is_mended_by_chmod() {
        let host = FakeHost::intel()
            .with_system(|system| system.forbidden.push("/dev/net/tun".to_owned()));
        let check = host.check("tun");
        assert_eq!(check.found, "/dev/net/tun does not open: Permission denied");
        assert_eq!(check.mend.as_deref(), Some("sudo chmod 666 /dev/net/tun"));
    }

    #[test]
    fn vhost_is_a_gain_not_a_need() {
        let check = FakeHost::intel().check("vhost-net");
        assert_eq!(
            (check.status, check.mend.as_deref()),
            (Status::Info, Some("sudo modprobe vhost_net"))
        );
    }
}
