//! What disks and state need.
use std::io;

use super::host::{Host, reason, word};
use super::report::{Check, Group, Topic};
use crate::paths::StateError;

const IO_URING: Topic = Topic {
    group: Group::Storage,
    id: "io-uring",
    title: "io_uring",
    why: "it is the quickest way to a guest's disks; without it they take more system calls",
};
const STATE: Topic = Topic {
    group: Group::Storage,
    id: "state-directory",
    title: "State directory",
    why: "running guests keep their sockets there, for ps, stop and exec to find; nobody else may write in it",
};

pub(super) fn examine(host: &Host) -> Vec<Check> {
    vec![io_uring(host), state(host)]
}

fn io_uring(host: &Host) -> Check {
    let Err(error) = host.system.io_uring() else {
        return IO_URING.ok("works");
    };
    let setting = host.read("/proc/sys/kernel/io_uring_disabled");
    match setting.as_deref() {
        Some(value @ ("1" | "2")) => IO_URING
            .warning(format!("turned off: kernel.io_uring_disabled is {value}"))
            .mend("sudo sysctl kernel.io_uring_disabled=0"),
        _ if error.raw_os_error() == Some(libc::ENOSYS) => IO_URING
            .warning("not in this kernel")
            .advise("boot a kernel built with CONFIG_IO_URING"),
        _ => IO_URING
            .warning(format!("cannot be used: {}", reason(&error)))
            .advise("in a container: allow io_uring_setup in its seccomp profile"),
    }
}

fn state(host: &Host) -> Check {
    let path = &host.paths.state;
    let error = match host.paths.open_existing_state() {
        Ok(_directory) => return STATE.ok(path.display().to_string()),
        Err(error) => error,
    };
    if let StateError::Open { source, .. } = &error
        && source.kind() == io::ErrorKind::NotFound
    {
        let parent = path.parent().unwrap_or(path);
        return if host.system.is_writable(parent) {
            STATE.ok(format!("{}, when the first guest starts", path.display()))
        } else {
            STATE
                .missing(format!(
                    "{} cannot be made in {}",
                    path.display(),
                    parent.display()
                ))
                .mend("export XDG_RUNTIME_DIR=\"$(mktemp -d)\"")
        };
    }
    let check = STATE.missing(error.to_string());
    match &error {
        StateError::Mode { path, .. } => check.mend(format!("chmod 700 {}", word(path))),
        _ => check.advise(error.hint()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::report::Status;
    use super::super::testing::FakeHost;

    #[test]
    fn an_io_uring_that_a_setting_forbids_is_mended_by_the_setting() {
        let host = FakeHost::intel()
            .with_file("/proc/sys/kernel/io_uring_disabled", "2\n")
            .with_system(|system| system.io_uring = Err(libc::EPERM));
        let check = host.check("io-uring");
        assert_eq!(check.status, Status::Warning);
        assert_eq!(
            check.mend.as_deref(),
            Some("sudo sysctl kernel.io_uring_disabled=0")
        );
    }

    #[test]
    fn an_io_uring_that_a_container_forbids_has_advice() {
        let host = FakeHost::intel()
            .with_file("/proc/sys/kernel/io_uring_disabled", "0\n")
            .with_system(|system| system.io_uring = Err(libc::EPERM));
        assert!(host.check("io-uring").advice.unwrap().contains("seccomp"));
    }

    #[test]
    fn a_state_directory_that_others_may_write_keeps_guests_from_running() {
        let host = FakeHost::intel().with_file("/run/ampoule/x", "");
        let state = host.root().join("run/ampoule");
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
        let check = host.check("state-directory");
        assert_eq!(check.status, Status::Missing);
        assert!(check.mend.unwrap().starts_with("chmod 700 "));
    }

    #[test]
    fn a_state_directory_that_is_yet_to_be_made_is_fine_where_it_can_be() {
        let host = FakeHost::intel();
        assert_eq!(host.check("state-directory").status, Status::Missing);
        let host = host.with_system(|system| system.writable.push("/run".to_owned()));
        assert_eq!(host.check("state-directory").status, Status::Ok);
    }
}
