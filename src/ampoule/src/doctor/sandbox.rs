//! What confines the monitor.
use super::cgroup;
use super::host::{Host, reason};
use super::report::{Check, Group, Topic};

const LANDLOCK: Topic = Topic {
    group: Group::Sandbox,
    id: "landlock",
    title: "Landlock",
    why: "it takes the host's files away from the monitor before the guest's first instruction",
};
const SECCOMP: Topic = Topic {
    group: Group::Sandbox,
    id: "seccomp",
    title: "seccomp",
    why: "each thread of the monitor runs under a filter of the system calls that it needs",
};
const USER_NAMESPACES: Topic = Topic {
    group: Group::Sandbox,
    id: "user-namespaces",
    title: "User namespaces",
    why: "they give users without root networks and mounts of their own, to confine a guest's helpers in",
};

pub(super) fn examine(host: &Host) -> Vec<Check> {
    let mut checks = vec![landlock(host), seccomp(host), user_namespaces(host)];
    checks.extend(cgroup::examine(host));
    checks
}

fn landlock(host: &Host) -> Check {
    let error = match host.system.landlock_abi() {
        Ok(abi) => return LANDLOCK.ok(format!("ABI {abi}")),
        Err(error) => error,
    };
    match error.raw_os_error() {
        Some(libc::ENOSYS) => LANDLOCK
            .warning("not in this kernel")
            .advise("boot Linux 5.13 or newer, built with CONFIG_SECURITY_LANDLOCK"),
        Some(libc::EOPNOTSUPP) => {
            let others = host
                .read("/sys/kernel/security/lsm")
                .filter(|names| !names.is_empty());
            let others = others.map(|names| format!(",{names}")).unwrap_or_default();
            LANDLOCK
                .warning("in this kernel, but turned off at boot")
                .advise(format!(
                    "add lsm=landlock{others} to the kernel's command line, and reboot"
                ))
        }
        _ => LANDLOCK
            .warning(format!("cannot be used: {}", reason(&error)))
            .advise("in a container: allow landlock_create_ruleset in its seccomp profile"),
    }
}

fn seccomp(host: &Host) -> Check {
    match host.read("/proc/sys/kernel/seccomp/actions_avail") {
        Some(actions)
            if actions
                .split_whitespace()
                .any(|action| action == "kill_process") =>
        {
            SECCOMP.ok("filters, with kill_process")
        }
        Some(actions) => SECCOMP
            .missing(format!("no kill_process, only {actions}"))
            .advise("boot Linux 4.14 or newer"),
        None => SECCOMP
            .missing("not in this kernel")
            .advise("boot a kernel built with CONFIG_SECCOMP_FILTER"),
    }
}

fn user_namespaces(host: &Host) -> Check {
    let who = if host.system.uid() == 0 {
        "root"
    } else {
        "this user"
    };
    let error = match host.system.user_namespace() {
        Ok(()) => return USER_NAMESPACES.ok(format!("work, as {who}")),
        Err(error) => error,
    };
    let is = |path: &str, value: &str| host.read(path).as_deref() == Some(value);
    let (cause, cure) = if is("/proc/sys/user/max_user_namespaces", "0") {
        (
            "user.max_user_namespaces is 0",
            "sudo sysctl user.max_user_namespaces=16384",
        )
    } else if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        (
            "kernel.unprivileged_userns_clone is 0",
            "sudo sysctl kernel.unprivileged_userns_clone=1",
        )
    } else if is(
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
    ) {
        (
            "AppArmor restricts them",
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        )
    } else {
        let found = format!("not for {who}: {}", reason(&error));
        return USER_NAMESPACES
            .warning(found)
            .advise("in a container: allow unshare in its seccomp profile");
    };
    USER_NAMESPACES
        .warning(format!("not for {who}: {cause}"))
        .mend(cure)
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::super::testing::FakeHost;

    #[test]
    fn landlock_that_is_off_at_boot_keeps_the_other_modules_in_its_advice() {
        let host = FakeHost::intel()
            .with_file("/sys/kernel/security/lsm", "capability,yama,apparmor")
            .with_system(|system| system.landlock_abi = Err(libc::EOPNOTSUPP));
        let check = host.check("landlock");
        assert_eq!(check.status, Status::Warning);
        let advice = check.advice.unwrap();
        assert!(
            advice.contains("lsm=landlock,capability,yama,apparmor "),
            "{advice}"
        );
    }

    #[test]
    fn landlock_of_an_old_kernel_is_a_warning() {
        let host = FakeHost::intel().with_system(|system| system.landlock_abi = Err(libc::ENOSYS));
        assert_eq!(host.check("landlock").found, "not in this kernel");
    }

    #[test]
    fn without_seccomp_no_guest_runs() {
        let host = FakeHost::intel().without("/proc/sys/kernel/seccomp/actions_avail");
        assert_eq!(host.check("seccomp").status, Status::Missing);
    }

    #[test]
    fn what_forbids_user_namespaces_is_named_with_the_command_that_allows_them() {
        let cases = [
            (
                "/proc/sys/user/max_user_namespaces",
                "0",
                "sudo sysctl user.max_user_namespaces=16384",
            ),
            (
                "/proc/sys/kernel/unprivileged_userns_clone",
                "0",
                "sudo sysctl kernel.unprivileged_userns_clone=1",
            ),
            (
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                "1",
                "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
            ),
        ];
        for (path, value, mend) in cases {
            let host = FakeHost::intel()
                .with_file(path, value)
                .with_system(|system| system.user_namespace = Err(libc::EPERM));
            let check = host.check("user-namespaces");
            assert_eq!(check.status, Status::Warning);
            assert_eq!(check.mend.as_deref(), Some(mend));
        }
    }

    #[test]
    fn user_namespaces_that_work_are_fine_whatever_the_settings_say() {
        let host = FakeHost::intel().with_file("/proc/sys/kernel/unprivileged_userns_clone", "0");
        assert_eq!(host.check("user-namespaces").status, Status::Ok);
    }
}
