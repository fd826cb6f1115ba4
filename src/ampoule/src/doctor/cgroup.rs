//! Control groups: which version, and what this process may use of them.
use super::host::Host;
use super::report::{Check, Group, Topic};

const VERSION: Topic = Topic {
    group: Group::Sandbox,
    id: "cgroup",
    title: "cgroup version",
    why: "limits on a whole guest, monitor included, are set through cgroup v2; guests run without",
};
const CONTROLLERS: Topic = Topic {
    group: Group::Sandbox,
    id: "cgroup-controllers",
    title: "cgroup controllers",
    why: "only controllers that are delegated to whoever starts a guest can limit it",
};

/// What limits a guest.
const WANTED: &[&str] = &["cpu", "memory", "pids"];

const UNIFIED: &str =
    "add systemd.unified_cgroup_hierarchy=1 to the kernel's command line, and reboot";
const DELEGATE: &str = "printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' | sudo install -D -m 644 /dev/stdin \
                        /etc/systemd/system/user@.service.d/delegate.conf && sudo systemctl daemon-reload";

pub(super) fn examine(host: &Host) -> Vec<Check> {
    if host.exists("/sys/fs/cgroup/cgroup.controllers") {
        let controllers = unified_controllers(host, "/sys/fs/cgroup");
        vec![VERSION.ok("v2"), controllers]
    } else if host.exists("/sys/fs/cgroup/unified/cgroup.controllers") {
        let version = VERSION
            .warning("hybrid: v1 controllers beside a v2 tree")
            .advise(UNIFIED);
        vec![version, old_controllers(host)]
    } else if ["memory", "cpu", "pids", "systemd"]
        .iter()
        .any(|name| host.exists(&format!("/sys/fs/cgroup/{name}")))
    {
        vec![VERSION.warning("v1").advise(UNIFIED), old_controllers(host)]
    } else {
        let version = VERSION
            .warning("none mounted")
            .mend("sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup");
        vec![version, CONTROLLERS.info("not checked")]
    }
}

/// Of this process's own group in the v2 tree: may it make groups below, and what could those limit?
fn unified_controllers(host: &Host, tree: &str) -> Check {
    let groups = host.read("/proc/self/cgroup").unwrap_or_default();
    let own = groups
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/");
    if own.split('/').any(|part| part == "..") {
        return CONTROLLERS.warning("none: this process's group is outside of what is mounted");
    }
    let directory = format!("{tree}{}", own.trim_end_matches('/'));
    let available = host
        .read(&format!("{directory}/cgroup.controllers"))
        .unwrap_or_default();
    let available: Vec<&str> = available.split_whitespace().collect();
    let writable = ["", "/cgroup.procs", "/cgroup.subtree_control"]
        .iter()
        .all(|name| {
            host.system
                .is_writable(&host.path(&format!("{directory}{name}")))
        });
    if !writable {
        return CONTROLLERS
            .warning(format!("none: {own} is not delegated to this user"))
            .mend("systemd-run --user --scope --property=Delegate=yes -- \"$SHELL\"")
            .advise("start guests from the shell that this gives");
    }
    let absent: Vec<&str> = WANTED
        .iter()
        .copied()
        .filter(|name| !available.contains(name))
        .collect();
    if absent.is_empty() {
        return CONTROLLERS.ok(available.join(" "));
    }
    let check = CONTROLLERS.warning(format!("{}; not {}", list(&available), absent.join(", ")));
    if host.system.uid() == 0 {
        check
    } else {
        check
            .mend(DELEGATE)
            .advise("log in again for it to take effect")
    }
}

fn old_controllers(host: &Host) -> Check {
    let groups = host.read("/proc/self/cgroup").unwrap_or_default();
    let mut usable = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(names), Some(own)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let directory = format!("/sys/fs/cgroup/{names}{}", own.trim_end_matches('/'));
        let is_controller = !names.is_empty() && !names.starts_with("name=") && !own.contains("..");
        if is_controller && host.system.is_writable(&host.path(&directory)) {
            usable.extend(names.split(','));
        }
    }
    usable.sort_unstable();
    CONTROLLERS.info(format!("v1 only: {}", list(&usable)))
}

fn list(names: &[&str]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::super::testing::FakeHost;

    const OWN: &str = "/sys/fs/cgroup/user.slice/own.scope";

    fn unified(controllers: &str) -> FakeHost {
        FakeHost::intel()
            .with_file(
                "/sys/fs/cgroup/cgroup.controllers",
                "cpuset cpu io memory pids",
            )
            .with_file(&format!("{OWN}/cgroup.controllers"), controllers)
            .with_file("/proc/self/cgroup", "0::/user.slice/own.scope\n")
    }

    fn delegated(controllers: &str) -> FakeHost {
        let files =
            ["", "/cgroup.procs", "/cgroup.subtree_control"].map(|name| format!("{OWN}{name}"));
        unified(controllers).with_system(|system| system.writable.extend(files))
    }

    #[test]
    fn a_delegated_v2_group_is_fine() {
        let host = delegated("cpu memory pids");
        assert_eq!(
            (
                host.check("cgroup").status,
                host.check("cgroup").found.as_str()
            ),
            (Status::Ok, "v2")
        );
        let check = host.check("cgroup-controllers");
        assert_eq!(
            (check.status, check.found.as_str()),
            (Status::Ok, "cpu memory pids")
        );
    }

    #[test]
    fn a_v2_group_that_lacks_a_controller_is_mended_by_a_drop_in() {
        let check = delegated("memory pids").check("cgroup-controllers");
        assert_eq!(check.found, "memory pids; not cpu");
        assert!(check.mend.unwrap().contains("Delegate=cpu"));
    }

    #[test]
    fn a_v2_group_that_is_not_ours_is_mended_by_a_scope() {
        let check = unified("cpu memory pids").check("cgroup-controllers");
        assert_eq!(check.status, Status::Warning);
        assert!(
            check
                .mend
                .unwrap()
                .starts_with("systemd-run --user --scope")
        );
    }

    #[test]
    fn a_group_outside_of_the_mounted_tree_is_not_looked_for() {
        let host = unified("cpu").with_file("/proc/self/cgroup", "0::/../../other\n");
        assert!(host.check("cgroup-controllers").found.contains("outside"));
    }

    #[test]
    fn v1_lists_the_controllers_that_this_user_may_use() {
        let host = FakeHost::intel()
            .with_file("/sys/fs/cgroup/memory/ours/tasks", "")
            .with_file("/sys/fs/cgroup/pids/tasks", "")
            .with_file(
                "/proc/self/cgroup",
                "9:name=systemd:/\n4:memory:/ours\n3:pids:/\n",
            )
            .with_system(|system| {
                system
                    .writable
                    .push("/sys/fs/cgroup/memory/ours".to_owned())
            });
        assert_eq!(
            (
                host.check("cgroup").status,
                host.check("cgroup").found.as_str()
            ),
            (Status::Warning, "v1")
        );
        assert_eq!(host.check("cgroup-controllers").found, "v1 only: memory");
    }

    #[test]
    fn hybrid_is_told_from_v1() {
        let host = FakeHost::intel()
            .with_file("/sys/fs/cgroup/memory/tasks", "")
            .with_file("/sys/fs/cgroup/unified/cgroup.controllers", "")
            .with_file("/proc/self/cgroup", "4:memory:/\n0::/\n");
        let check = host.check("cgroup");
        assert!(check.found.starts_with("hybrid"), "{}", check.found);
        assert!(
            check
                .advice
                .unwrap()
                .contains("systemd.unified_cgroup_hierarchy=1")
        );
    }

    #[test]
    fn without_any_cgroup_the_report_says_so() {
        assert_eq!(FakeHost::intel().check("cgroup").found, "none mounted");
    }
}
